//! The verdict on a connection's first bytes does not depend on how they came, and none of them is lost.

use fusewire_net::{Detected, Opening, Patience, detect, opening};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// The verdict falls within so many bytes.
const DECIDED: usize = 32;
const MAX: usize = 4096;

/// Bytes that come in two pieces, or one by one where `at` is `None`, and then the end.
struct Pieces<'a> {
    rest: &'a [u8],
    at: Option<usize>,
    read: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let piece = match self.at {
            None => 1,
            Some(at) if self.read < at => at - self.read,
            Some(_) => self.rest.len(),
        };
        let (now, later) = self.rest.split_at(piece.min(self.rest.len()).min(buf.remaining()));
        buf.put_slice(now);
        self.read += now.len();
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}

async fn verdict(data: &[u8], at: Option<usize>) -> Detected {
    let io = Pieces { rest: data, at, read: 0 };
    let (verdict, mut io) = detect(io, Duration::from_secs(5)).await.expect("reading memory does not fail");
    let mut all = Vec::new();
    io.read_to_end(&mut all).await.expect("reading memory does not fail");
    assert_eq!(all, data, "bytes were lost at {at:?}");
    verdict
}

/// The same of a connection that nothing is known about.
async fn opened(data: &[u8], at: Option<usize>) -> Opening {
    let io = Pieces { rest: data, at, read: 0 };
    let limit = Duration::from_secs(5);
    let patience = Patience { silence: limit, pause: Some(limit), all: limit };
    let (verdict, mut io) = opening(io, patience).await.expect("reading memory does not fail");
    let mut all = Vec::new();
    io.read_to_end(&mut all).await.expect("reading memory does not fail");
    assert_eq!(all, data, "bytes were lost at {at:?}");
    verdict
}

pub(super) fn check(data: &[u8]) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    let data = &data[..data.len().min(MAX)];
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let whole = verdict(data, Some(data.len())).await;
            assert!(!data.is_empty() || whole == Detected::Nothing);
            assert_eq!(verdict(data, None).await, whole, "byte by byte");
            let known = opened(data, Some(data.len())).await;
            assert_eq!(opened(data, None).await, known, "byte by byte");
            for at in 1..data.len().min(DECIDED) {
                assert_eq!(verdict(data, Some(at)).await, whole, "split at {at}");
                assert_eq!(opened(data, Some(at)).await, known, "split at {at}");
            }
        });
    });
}
