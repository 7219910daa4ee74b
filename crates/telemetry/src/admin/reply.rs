//! The body of an admin answer: whole, or a stream that its writer goes on with.
//!
//! A stream holds one chunk at a time: who writes waits for who reads, so a slow reader costs no memory here. What it
//! misses meanwhile is the writer's to say.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, WeakSender, channel};

use super::Answer;

/// A reader that has taken nothing for this long has its stream ended.
const STALLED: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub enum Reply {
    Whole(Full<Bytes>),
    Stream { chunks: Receiver<Bytes>, writer: WeakSender<Bytes> },
}

/// The other end of a stream, which ends when this is dropped.
#[derive(Debug)]
pub struct Writer(Sender<Bytes>);

/// An answer that goes on until its writer is dropped. The connection takes no other request.
pub fn stream(content_type: &'static str) -> (Answer, Writer) {
    let (sender, chunks) = channel(1);
    let mut answer = Response::new(Reply::Stream { chunks, writer: sender.downgrade() });
    *answer.status_mut() = StatusCode::OK;
    let fields = answer.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
    (answer, Writer(sender))
}

impl Writer {
    /// Waits until the chunk before has been taken. `Err`: the reader is gone, or has taken nothing for a minute.
    ///
    /// # Cancel safety
    /// A dropped future has written nothing.
    pub async fn write(&self, chunk: impl Into<Bytes>) -> Result<(), ReaderGone> {
        match tokio::time::timeout(STALLED, self.0.reserve()).await {
            Ok(Ok(place)) => {
                place.send(chunk.into());
                Ok(())
            }
            Ok(Err(_)) | Err(_) => Err(ReaderGone),
        }
    }

    /// Resolves when nobody reads any more.
    pub async fn reader_gone(&self) {
        self.0.closed().await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody reads the stream any more")]
pub struct ReaderGone;

impl Reply {
    /// For as long as somebody writes to it, its connection may live.
    pub(super) fn writer(&self) -> Option<WeakSender<Bytes>> {
        match self {
            Self::Whole(_) => None,
            Self::Stream { writer, .. } => Some(writer.clone()),
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Stream { chunks, .. } => chunks.poll_recv(cx).map(|chunk| chunk.map(|c| Ok(Frame::data(c)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Stream { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Stream { .. } => SizeHint::default(),
        }
    }
}
