//! What both ways of finding out what a connection speaks promise: the verdict depends on the bytes alone, however they come,
//! and every byte is given back. Arbitrary bytes, made of what matters to them, in arbitrary pieces.

use crate::{Patience, detect, opening};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const CASES: u64 = 4_000;
/// More than either looks at.
const ROOM: usize = 64 << 10;
const PARTS: &[&[u8]] = &[
    b"GET ",
    b"CONNECT ",
    b"M-SEARCH",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"PRI * HTTP/2.0\r\n",
    b"/",
    b"http://shop:81/",
    b" HTTP/1.1",
    b" HTTP/1.0\r\n",
    b"HTTP/",
    b"\r\n",
    b"\n",
    b"\r",
    b"Host: shop",
    b"host:",
    b" ",
    b"\t",
    b":",
    b"\x16\x03\x01",
    b"\0",
    b"\xff",
    b"EHLO shop\r\n",
    &[b'x'; 31],
    &[b'x'; 65],
    &[b'y'; 5_000],
];

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % most as u64).unwrap()
    }

    /// What matters, one after the other, with a byte changed here and there, and cut off anywhere.
    fn bytes(&mut self) -> Vec<u8> {
        let parts = self.below(12);
        let mut bytes: Vec<u8> = (0..parts).flat_map(|_| PARTS[self.below(PARTS.len())]).copied().collect();
        if !bytes.is_empty() && self.below(3) == 0 {
            let at = self.below(bytes.len());
            bytes[at] = self.below(256) as u8;
        }
        if self.below(2) == 0 {
            bytes.truncate(self.below(bytes.len() + 1));
        }
        bytes
    }

    /// Mostly near the beginning, where the verdict is made.
    fn pieces(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut cuts: Vec<usize> = (0..self.below(8))
            .map(|_| {
                let most = if self.below(2) == 0 { bytes.len() } else { bytes.len().min(100) };
                self.below(most + 1)
            })
            .collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|cut| bytes[cut[0]..cut[1]].to_vec()).collect()
    }
}

/// What `look` makes of bytes that come in `pieces`, and what it gives back.
async fn seen<T, V>(pieces: Vec<Vec<u8>>, look: impl AsyncFnOnce(DuplexStream) -> (V, T)) -> (V, Vec<u8>)
where
    T: tokio::io::AsyncRead + Unpin,
{
    let (mut a, b) = tokio::io::duplex(ROOM);
    let writing = tokio::spawn(async move {
        for piece in pieces {
            a.write_all(&piece).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let (verdict, mut io) = look(b).await;
    writing.await.unwrap();
    let mut all = Vec::new();
    io.read_to_end(&mut all).await.unwrap();
    (verdict, all)
}

#[tokio::test(start_paused = true)]
async fn arbitrary_bytes_in_arbitrary_pieces_get_the_same_verdict_and_come_back() {
    const LONG: Duration = Duration::from_secs(5);
    let patience = Patience { silence: LONG, pause: Some(LONG), all: LONG };
    let by_opening = async |io| opening(io, patience).await.unwrap();
    let by_detect = async |io| detect(io, LONG).await.unwrap();
    for seed in 0..CASES {
        let mut random = Random(seed);
        let bytes = random.bytes();
        let pieces = random.pieces(&bytes);
        let shown = || format!("seed {seed}: {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(200)]));
        let (whole, split) = (vec![bytes.clone()], pieces);
        let (verdict, back) = seen(whole.clone(), by_opening).await;
        assert_eq!(seen(split.clone(), by_opening).await, (verdict, back.clone()), "{}", shown());
        assert!(back == bytes, "{}", shown());
        let (verdict, back) = seen(whole, by_detect).await;
        assert_eq!(seen(split, by_detect).await, (verdict, back.clone()), "{}", shown());
        assert!(back == bytes, "{}", shown());
    }
}
