//! A body on its way in, as hyper hands it over, with the two things about HTTP/2's ends that hyper leaves open.
//!
//! *The end must have been said.* hyper takes a stream that was reset with NO_ERROR for one that ended (RFC 9113, section
//! 8.1, lets a server stop an upload so); for a body that is forwarded this would make a cut one whole.
//!
//! *Whoever was answered early does not know it yet.* A stream that is let go of is reset at once and soon forgotten, and
//! what is on its way for it counts as violations, which end the connection under everybody else; a body that does not
//! keep to its Content-Length would get away with NO_ERROR. So the rest of a request is awaited for a moment.

use crate::upstream::connect::STREAM_WINDOW;
use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// The body was cut.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    #[error(transparent)]
    Broke(#[from] hyper::Error),
    #[error("the stream was reset before its end")]
    Reset,
}

/// How long an answered caller may take to end its body, and how much of it is thrown away meanwhile: less than half of
/// the stream's window, so that the window is not opened again and nothing is on its way when the stream is reset.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What a request that goes nowhere is given to show that it is malformed, before it gets our answer.
pub(crate) const FIRST_WORDS: Duration = Duration::from_millis(20);
const THROWN_AWAY: usize = (STREAM_WINDOW / 2 - 1) as usize;

/// Of an answer that nobody gets.
const ANSWER_THROWN_AWAY: usize = 64 << 10;

/// # Drop behavior
/// A request's body is read, and thrown away, to its end, if that comes soon. A response's is reset.
#[derive(Debug)]
pub(crate) struct Unread {
    /// `None` once dropped.
    body: Option<Incoming>,
    is_stream: bool,
    of: Message,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    Request,
    Response,
}

impl Unread {
    pub(crate) fn new(body: Incoming, version: Version, of: Message) -> Self {
        Self { body: Some(body), is_stream: version == Version::HTTP_2, of }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        Poll::Ready(match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(frame) => Some(frame.map_err(Cut::Broke)),
            None if self.is_stream && !body.is_end_stream() => Some(Err(Cut::Reset)),
            None => None,
        })
    }
    /// Throws away what comes within `limit`, or less where the end comes first.
    pub(crate) async fn throw_away(&mut self, limit: Duration) {
        if let Some(body) = &mut self.body
            && self.is_stream
            && !body.is_end_stream()
        {
            let _ = tokio::time::timeout(limit, throw_away(body)).await;
        }
    }
    /// Throws away what is left, and whether its end came within `limit` and before there was too much.
    pub(crate) async fn is_spent_within(&mut self, limit: Duration) -> bool {
        let Some(body) = &mut self.body else { return true };
        let spent = async {
            let mut thrown = 0;
            while let Some(frame) = body.frame().await {
                thrown += frame.map_err(|_| ())?.data_ref().map_or(0, Bytes::len);
                if thrown > ANSWER_THROWN_AWAY {
                    return Err(());
                }
            }
            Ok(())
        };
        matches!(tokio::time::timeout(limit, spent).await, Ok(Ok(())))
    }
    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }
    pub(crate) fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let Some(body) = self.body.take() else { return };
        if !self.is_stream || self.of == Message::Response || body.is_end_stream() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(LAST_WORDS, async move { throw_away(&mut { body }).await }));
        }
    }
}

async fn throw_away(body: &mut Incoming) {
    let mut thrown = 0;
    while let Some(Ok(frame)) = body.frame().await {
        thrown += frame.data_ref().map_or(0, Bytes::len);
        if thrown >= THROWN_AWAY {
            return std::future::pending().await; // its sender's window is used up: nothing more comes
        }
    }
}
