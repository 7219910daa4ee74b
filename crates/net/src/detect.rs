//! What the first bytes of a connection say it speaks.
//!
//! It reads only as much as the verdict needs, and gives every byte back through [`Prefixed`]. It deliberately does not
//! wait for a server-first protocol: listeners with a declared protocol never come here.
//!
//! Invariant: the verdict depends on the bytes alone, not on how they were split into reads.

use crate::Prefixed;
use bytes::BytesMut;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// RFC 9113, section 3.4.
pub(crate) const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A method and the beginning of a target that are longer are left to HTTP/1's parser as well.
const MAX_WORDS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    Http1,
    Http2,
    /// A TLS handshake record.
    Tls,
    /// Closed before a byte came, or no request line of HTTP at all.
    Nothing,
    /// Nothing came in time.
    Silent,
}

/// Reads until the first bytes decide, at most for `limit`.
pub async fn detect<T: AsyncRead + Unpin>(mut io: T, limit: Duration) -> io::Result<(Detected, Prefixed<T>)> {
    let mut head = BytesMut::with_capacity(1024); // the verdict falls within a first line of 64 bytes: never grown
    let reading = async {
        loop {
            if let Some(verdict) = verdict(&head) {
                return io::Result::Ok(verdict);
            }
            if io.read_buf(&mut head).await? == 0 {
                // what is cut short is left to HTTP/1's parser, which has an answer for it
                return Ok(if head.is_empty() { Detected::Nothing } else { Detected::Http1 });
            }
        }
    };
    let verdict = match tokio::time::timeout(limit, reading).await {
        Ok(verdict) => verdict?,
        Err(_) if head.is_empty() => Detected::Silent,
        Err(_) => Detected::Http1,
    };
    Ok((verdict, Prefixed::new(head.freeze(), io)))
}

fn verdict(head: &[u8]) -> Option<Detected> {
    match head.first()? {
        0x16 => Some(Detected::Tls),
        _ if head.len() >= H2_PREFACE.len() && head.starts_with(H2_PREFACE) => Some(Detected::Http2),
        _ if head.len() < H2_PREFACE.len() && H2_PREFACE.starts_with(head) => None,
        _ => request_line(head),
    }
}

/// Told by the request's target and version (RFC 9112, section 3): what has neither is no HTTP, and gets no answer, which
/// its sender could only misread. That is how an invalid preface of HTTP/2 must end (RFC 9113, section 3.4). Everything else is left
/// to HTTP/1's parser.
fn request_line(head: &[u8]) -> Option<Detected> {
    let http1 = Some(Detected::Http1);
    // what stands behind has not been seen where the bytes came one by one
    let head = &head[..head.len().min(MAX_WORDS)];
    let mut words = head.split(|b| *b == b' ');
    let method = words.next()?;
    let is_connect = method == b"CONNECT" && method.len() < head.len(); // with what ends the word
    if method.is_empty() || is_connect || !method.iter().all(u8::is_ascii_alphabetic) {
        return http1;
    }
    match (words.next(), words.next()) {
        (Some(target), _) if target.iter().any(|b| matches!(b, b'/' | b':' | b'*' | b'\r' | b'\n')) => http1,
        (Some(_), Some(version)) if version.starts_with(b"HTTP/") => http1,
        (Some(target), Some(version)) if !target.is_empty() && !b"HTTP/".starts_with(version) => {
            Some(Detected::Nothing)
        }
        _ if head.len() >= MAX_WORDS => http1,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fed(parts: &[&[u8]]) -> (Detected, Vec<u8>) {
        let (mut a, b) = tokio::io::duplex(4096);
        let parts: Vec<Vec<u8>> = parts.iter().map(|p| p.to_vec()).collect();
        let writer = tokio::spawn(async move {
            for part in parts {
                tokio::io::AsyncWriteExt::write_all(&mut a, &part).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let (verdict, mut io) = detect(b, Duration::from_secs(5)).await.unwrap();
        writer.await.unwrap();
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.unwrap();
        (verdict, all)
    }

    #[tokio::test(start_paused = true)]
    async fn any_split_of_the_first_bytes_gives_the_same_verdict_and_loses_nothing() {
        let cases: [(&[u8], Detected); 14] = [
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0", Detected::Http2),
            (b"PRI / HTTP/1.1\r\nhost: a\r\n\r\n", Detected::Http1),
            (b"GET / HTTP/1.1\r\n\r\n", Detected::Http1),
            (b"\x16\x03\x01\x02\x00", Detected::Tls),
            (b"P", Detected::Http1),
            (b"INVALID CONNECTION PREFACE\r\n\r\n", Detected::Nothing),
            (b"OPTIONS * HTTP/1.1\r\n\r\n", Detected::Http1),
            (b"CONNECT shop HTTP/1.1\r\n\r\n", Detected::Http1),
            (b"CONNECTED shop x y\r\n", Detected::Nothing),
            (b"\r\nGET / HTTP/1.1\r\n\r\n", Detected::Http1),
            (b"GET x\r\n\r\n", Detected::Http1),
            (b"GET x HTTP/1.1\r\n\r\n", Detected::Http1),
            (b"GET x HTT\r\n\r\n", Detected::Nothing),
            (b" GET / HTTP/1.1\r\n\r\n", Detected::Http1),
        ];
        for (bytes, wanted) in cases {
            for at in 1..=bytes.len() {
                let (verdict, all) = fed(&[&bytes[..at], &bytes[at..]]).await;
                assert_eq!((verdict, all.as_slice()), (wanted, bytes), "split at {at}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_given_up_in_time() {
        let (_a, b) = tokio::io::duplex(64);
        assert_eq!(detect(b, Duration::from_millis(50)).await.unwrap().0, Detected::Silent);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_closed_without_a_byte_is_nothing() {
        assert_eq!(fed(&[]).await.0, Detected::Nothing);
    }
}
