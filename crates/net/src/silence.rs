//! Whether the machine at the other end of a connection still answers, by what the kernel knows of it (TCP_INFO, Linux).
//!
//! It decides how a reader that pauses differs from a machine that is gone: the kernel of the former acknowledges every probe
//! of its closed window, however long it pauses. Only where something is on its way, was sent again, and nothing at all was
//! heard since the first look that found it so, is the other end lost. It deliberately does nothing about it, and says
//! nothing of connections on which nothing is on its way: keepalive is for those.

use crate::socket::UNANSWERED;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Sent again so often, it was no single packet that was lost: the probes of a window that has long been closed are minutes
/// apart.
const TIMES: u8 = 3;

/// What one look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Everything that was sent has arrived, as far as can be known.
    Everything,
    /// Something is on its way.
    NotYet,
    /// The other end has been silent for too long.
    Nothing,
}

/// One connection's, over the looks at it.
#[derive(Debug, Default)]
pub struct Silence {
    /// Since when something has been sent again in vain.
    since: Option<Instant>,
}

impl Silence {
    pub fn look(&mut self, stream: &TcpStream, now: Instant) -> Heard {
        self.look_within(stream, now, UNANSWERED)
    }

    fn look_within(&mut self, stream: &TcpStream, now: Instant, limit: Duration) -> Heard {
        tcp_info(stream).map_or(Heard::Everything, |info| self.judge(info, now, limit))
    }

    fn judge(&mut self, info: Info, now: Instant, limit: Duration) -> Heard {
        if info.repeated == 0 {
            self.since = None;
            return if info.is_waiting { Heard::NotYet } else { Heard::Everything };
        }
        let since = *self.since.get_or_insert(now);
        let silent = now.duration_since(since);
        if info.heard_before < silent {
            self.since = Some(now);
        } else if silent >= limit && info.repeated >= TIMES {
            return Heard::Nothing;
        }
        Heard::NotYet
    }
}

/// What matters of TCP_INFO.
#[derive(Clone, Copy, Debug)]
struct Info {
    /// Something is not acknowledged, or not sent.
    is_waiting: bool,
    /// How often it was sent again, or the closed window was probed, without any answer.
    repeated: u8,
    /// How long ago anything came.
    heard_before: Duration,
}

#[cfg(target_os = "linux")]
fn tcp_info(stream: &TcpStream) -> Option<Info> {
    use std::ffi::{c_int, c_void};
    use std::os::fd::AsRawFd;

    const IPPROTO_TCP: c_int = 6;
    const TCP_INFO: c_int = 11;
    /// `struct tcp_info` of linux/tcp.h up to `tcpi_notsent_bytes`, by 32 bits; the first two are eight bytes.
    const WORDS: usize = 37;
    const UNACKED: usize = 6;
    const LAST_DATA_RECV: usize = 13;
    const LAST_ACK_RECV: usize = 14;
    const NOT_SENT: usize = 36;

    #[expect(unsafe_code, reason = "no library has a safe call for it")]
    unsafe extern "C" {
        fn getsockopt(socket: c_int, level: c_int, name: c_int, value: *mut c_void, length: *mut u32) -> c_int;
    }

    let mut words = [0u32; WORDS];
    let mut length = u32::try_from(size_of_val(&words)).ok()?;
    // SAFETY: the descriptor is open for as long as `stream` is borrowed; the kernel writes at most `length` bytes to `words`,
    // which has as many and may hold any bits, and to `length`; it keeps neither pointer.
    #[expect(unsafe_code, reason = "as above")]
    let said =
        unsafe { getsockopt(stream.as_raw_fd(), IPPROTO_TCP, TCP_INFO, (&raw mut words).cast(), &raw mut length) };
    if said != 0 || length as usize != size_of_val(&words) {
        return None;
    }
    let [_state, _, retransmits, probes] = words[0].to_ne_bytes();
    Some(Info {
        is_waiting: words[UNACKED] > 0 || words[NOT_SENT] > 0,
        repeated: retransmits.max(probes),
        heard_before: Duration::from_millis(words[LAST_DATA_RECV].min(words[LAST_ACK_RECV]).into()),
    })
}

#[cfg(not(target_os = "linux"))]
fn tcp_info(_: &TcpStream) -> Option<Info> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(13);

    fn info(is_waiting: bool, repeated: u8, heard_before: u64) -> Info {
        Info { is_waiting, repeated, heard_before: Duration::from_secs(heard_before) }
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_is_lost_once_it_was_sent_the_same_again_for_so_long_and_nothing_was_heard() {
        let began = Instant::now();
        let mut silence = Silence::default();
        let mut at = |second, info| silence.judge(info, began + Duration::from_secs(second), LIMIT);
        assert_eq!(at(0, info(false, 0, 500)), Heard::Everything);
        assert_eq!(at(1, info(true, 0, 501)), Heard::NotYet);
        // nothing was heard for long before: nothing was asked
        assert_eq!(at(2, info(true, 1, 502)), Heard::NotYet);
        assert_eq!(at(14, info(true, 5, 514)), Heard::NotYet);
        assert_eq!(at(15, info(true, 6, 515)), Heard::Nothing);
        assert_eq!(at(16, info(false, 0, 0)), Heard::Everything, "the answer was late");
        assert_eq!(at(17, info(true, 1, 1)), Heard::NotYet);
        assert_eq!(at(29, info(true, 1, 3)), Heard::NotYet, "something came meanwhile");
        assert_eq!(at(41, info(true, 2, 15)), Heard::NotYet);
        assert_eq!(at(42, info(true, 2, 16)), Heard::NotYet, "two packets may be lost");
        assert_eq!(at(60, info(true, 3, 34)), Heard::Nothing);
    }

    /// The reader pauses for longer than the limit; its kernel answers each probe of the window that it closed.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_reader_that_pauses_is_not_lost_and_hears_everything_in_the_end() {
        const SHORT: Duration = Duration::from_secs(1);
        const BYTES: usize = 16 << 20;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = crate::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut reader, _) = listener.accept().await.unwrap();
        let mut sent = 0;
        let mut silence = Silence::default();
        let mut closed = None;
        loop {
            while let Ok(more) = stream.try_write(&[7; 65536][..65536.min(BYTES - sent).max(1)]) {
                sent += more;
            }
            let heard = silence.look_within(&stream, Instant::now(), SHORT);
            assert_ne!(heard, Heard::Nothing);
            let since = closed.get_or_insert_with(Instant::now);
            if since.elapsed() > 3 * SHORT {
                assert_eq!(heard, Heard::NotYet);
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await; // bounded wait: the reader pauses
        }
        assert!(sent < BYTES, "the window is closed");
        let reading = tokio::spawn(async move {
            let mut heard = Vec::new();
            reader.read_to_end(&mut heard).await.map(|_| heard.len())
        });
        stream.shutdown().await.unwrap();
        assert_eq!(reading.await.unwrap().expect("it was not cut off"), sent);
    }
}
