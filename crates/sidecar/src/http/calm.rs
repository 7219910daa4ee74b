//! A budget of frames that carry nothing, for each HTTP/2 connection, on whichever side of it we are.
//!
//! The h2 library bounds what its peer can make it *keep*; it does not bound how often the peer may make it *work*: a
//! SETTINGS frame of fifteen bytes visits every stream, a RST_STREAM takes back a request that was already routed and sent
//! on. [`Calm`] reads the frame heads that pass by and charges for those; frames that carry something earn. Who overdraws
//! is told so by GOAWAY with ENHANCE_YOUR_CALM.
//!
//! Pings have a budget of their own, which nothing earns: whoever *receives* a bulk transfer sends them (gRPC one for each
//! round trip, to measure the window it needs), and sends no DATA beside them.
//!
//! It deliberately looks at no payload, keeps no stream's state and never touches a clock while there is something left
//! to spend: on the fast path a frame costs one match. Flow control frames are free: what they cost us is in proportion to
//! what we then send. Empty DATA and CONTINUATION are bounded by h2 itself.
//!
//! Invariant: h2 sees whole frames only. The connection ends between two frames, by frames of ours that h2 itself answers
//! with the GOAWAY, so that nothing has to be written past it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// What may be overdrawn at once by an application, and what comes back each second.
const BURST: i64 = 20_000;
const PER_SECOND: i64 = 2_000;
/// A peer's sidecar carries many callers' requests over one connection.
const WIRE: i64 = 4;

/// A SETTINGS or GOAWAY frame is rare in any honest connection, and visits every stream.
const FOR_ALL_STREAMS: i64 = 200;
/// Pings at once, and what comes back of them each second, whoever the peer is: a sidecar sends one in ten seconds, and
/// who waits for each before the next cannot reach so many. Each is answered, for under a fiftieth of a request.
const PINGS: i64 = 20_000;
/// Twice what a request earns: half of what is asked for may be taken back for ever.
const RESET: i64 = 8;
const REQUEST: i64 = 4;
/// DATA earns by its size, so that frames of a byte pay for nothing: one for each of these, up to [`DATA`] a frame.
const DATA_BYTES: i64 = 128;
const DATA: i64 = 10;

const HEAD: usize = 9;
const PREFACE: usize = 24;

/// HEADERS without END_HEADERS on the last stream there could be, and more empty CONTINUATION frames than h2 bears.
const OVER: [[u8; HEAD]; 32] = {
    let mut frames = [[0, 0, 0, 9, 0, 0x7f, 0xff, 0xff, 0xff]; 32];
    frames[0][3] = 1;
    frames
};

/// Whom the other end speaks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crowd {
    One,
    Many,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Of the frame's head, this much has been seen.
    Head(usize),
    /// Bytes of payload (or of the client's preface) yet to come.
    Payload(usize),
    /// Overdrawn: this much of [`OVER`] was handed out.
    Over(usize),
}

pub(crate) struct Calm<T> {
    inner: T,
    stage: Stage,
    head: [u8; HEAD],
    work: Budget,
    pings: Budget,
    overdrawn: bool,
}

struct Budget {
    left: i64,
    most: i64,
    per_second: i64,
    /// Up to when `left` was filled.
    filled: Instant,
}

impl Budget {
    fn full(most: i64, per_second: i64) -> Self {
        Self { left: most, most, per_second, filled: Instant::now() }
    }

    fn earn(&mut self, what: i64) {
        self.left = (self.left + what).min(self.most);
    }

    /// Whether that much was there.
    fn spend(&mut self, what: i64) -> bool {
        self.left -= what;
        if self.left < 0 {
            let now = Instant::now();
            let back = (now.duration_since(self.filled).as_secs_f64() * self.per_second as f64) as i64;
            if back > 0 {
                self.filled = now;
                self.earn(back);
            }
        }
        self.left >= 0
    }
}

impl<T> Calm<T> {
    /// Around the connection of a client, which begins with the preface.
    pub(crate) fn client(inner: T, crowd: Crowd) -> Self {
        Self::new(inner, crowd, Stage::Payload(PREFACE))
    }
    /// Around the connection to a server.
    pub(crate) fn server(inner: T, crowd: Crowd) -> Self {
        Self::new(inner, crowd, Stage::Head(0))
    }
    fn new(inner: T, crowd: Crowd, stage: Stage) -> Self {
        let scale = if crowd == Crowd::Many { WIRE } else { 1 };
        let work = Budget::full(BURST * scale, PER_SECOND * scale);
        Self { inner, stage, head: [0; HEAD], work, pings: Budget::full(PINGS, PINGS), overdrawn: false }
    }

    /// Accounts for what was read; how much of it may be passed on.
    fn pass(&mut self, read: &[u8]) -> usize {
        let mut at = 0;
        while at < read.len() {
            match self.stage {
                Stage::Payload(rest) => {
                    let here = rest.min(read.len() - at);
                    at += here;
                    self.stage = if here == rest { Stage::Head(0) } else { Stage::Payload(rest - here) };
                }
                Stage::Head(seen) => {
                    let here = (HEAD - seen).min(read.len() - at);
                    self.head[seen..seen + here].copy_from_slice(&read[at..at + here]);
                    at += here;
                    if seen + here < HEAD {
                        self.stage = Stage::Head(seen + here);
                        return at;
                    }
                    self.stage = self.frame();
                }
                Stage::Over(_) => return at,
            }
            if self.overdrawn && self.stage == Stage::Head(0) {
                self.stage = Stage::Over(0);
            }
        }
        at
    }

    /// A frame's head is whole: what it earns or costs, and what follows.
    fn frame(&mut self) -> Stage {
        let [a, b, c, kind, flags, ..] = self.head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let is_ack = flags & 1 != 0;
        let enough = match kind {
            0 => self.earn((length as i64 / DATA_BYTES).min(DATA)),
            1 => self.earn(REQUEST),
            3 => self.work.spend(RESET),
            4 if !is_ack => self.work.spend(FOR_ALL_STREAMS),
            6 if !is_ack => self.pings.spend(1),
            7 => self.work.spend(FOR_ALL_STREAMS),
            4 | 6 | 8 | 9 => true,   // see above
            _ => self.work.spend(1), // PRIORITY, PUSH_PROMISE (which ends the connection), and what we do not know
        };
        if !enough && !self.overdrawn {
            self.overdrawn = true;
            tracing::info!("an HTTP/2 connection is ended: too many frames that carry nothing");
        }
        if length == 0 { Stage::Head(0) } else { Stage::Payload(length) }
    }

    fn earn(&mut self, what: i64) -> bool {
        self.work.earn(what);
        true
    }

    fn say_over(&mut self, said: usize, buf: &mut ReadBuf<'_>) {
        let frames = OVER.as_flattened();
        let here = (frames.len() - said).min(buf.remaining());
        buf.put_slice(&frames[said..said + here]); // nothing, which is the end, once all was said
        self.stage = Stage::Over(said + here);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Calm<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Stage::Over(said) = self.stage {
            self.say_over(said, buf);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let passed = self.pass(&buf.filled()[before..]);
        buf.set_filled(before + passed);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Calm<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    /// What comes out of `bytes` that arrive in pieces of `piece`.
    async fn through(bytes: Vec<u8>, piece: usize) -> Vec<u8> {
        let (mut a, b) = tokio::io::duplex(piece);
        let writer = tokio::spawn(async move {
            let _ = a.write_all(&bytes).await;
        });
        let mut all = Vec::new();
        Calm::server(b, Crowd::One).read_to_end(&mut all).await.unwrap();
        let _ = writer.await;
        all
    }

    fn said_over(all: &[u8]) -> bool {
        all.ends_with(OVER.as_flattened())
    }

    #[tokio::test(start_paused = true)]
    async fn what_carries_something_passes_unchanged_however_it_is_cut() {
        let honest: Vec<u8> =
            (0..3000).flat_map(|_| [frame(1, 4, b"ab"), frame(0, 0, b"data"), frame(6, 0, &[7; 8])].concat()).collect();
        for piece in [1, 8, 9, 10, 23, 4096] {
            assert_eq!(through(honest.clone(), piece).await, honest, "in pieces of {piece}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_flood_ends_between_two_frames() {
        let floods =
            [frame(4, 0, &[0, 4, 0, 0, 0, 0]), frame(6, 0, &[0; 8]), frame(3, 0, &[0; 4]), frame(2, 0, &[0; 5])];
        for flood in floods {
            for piece in [7, 4096] {
                let all = through(flood.repeat(30_000), piece).await;
                assert!(said_over(&all), "kind {}", flood[3]);
                let passed = &all[..all.len() - OVER.as_flattened().len()];
                assert_eq!(passed.len() % flood.len(), 0, "kind {}", flood[3]);
                assert!(passed.len() / flood.len() <= 23_000, "kind {}", flood[3]);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn half_of_what_is_asked_for_may_be_taken_back_for_ever() {
        let two: Vec<u8> = [frame(1, 5, b"ab").repeat(2), frame(3, 0, &[0; 4])].concat();
        assert!(!said_over(&through(two.repeat(20_000), 4096).await));
        let all = [frame(1, 5, b"ab"), frame(3, 0, &[0; 4])].concat();
        assert!(said_over(&through(all.repeat(100_000), 4096).await), "but not all of it without a limit");
    }

    #[tokio::test(start_paused = true)]
    async fn frames_of_a_byte_pay_for_nothing_and_full_ones_do() {
        for carried in [&frame(3, 0, &[0; 4]), &frame(4, 0, &[0, 4, 0, 0, 0, 0])] {
            let tiny = [frame(1, 4, b"ab"), frame(0, 1, b"x"), carried.clone()].concat();
            assert!(said_over(&through(tiny.repeat(30_000), 4096).await), "kind {}", carried[3]);
        }
        let mut data = vec![0, 5, 0, 0, 0, 0, 0, 0, 1]; // 1280 bytes
        data.resize(HEAD + 1280, 7);
        let full = [frame(1, 4, b"ab"), data, frame(3, 0, &[0; 4])].concat();
        assert!(!said_over(&through(full.repeat(10_000), 4096).await));
    }

    /// As a gRPC client does that receives a stream: pings and windows, and no DATA.
    #[tokio::test(start_paused = true)]
    async fn pings_at_the_pace_of_round_trips_are_never_cut_and_a_flood_of_them_is() {
        let pings = [frame(6, 0, &[7; 8]), frame(8, 0, &[0, 0, 1, 0])].concat().repeat(1_000);
        let mut calm = Calm::server((), Crowd::One);
        for second in 0..60 {
            assert_eq!(calm.pass(&pings), pings.len(), "after {second} s");
            tokio::time::advance(std::time::Duration::from_secs(1)).await;
        }
        let passed = (0..100).take_while(|_| calm.pass(&pings) == pings.len()).count();
        assert!((19..=41).contains(&passed), "{passed} thousand at once");
    }
}
