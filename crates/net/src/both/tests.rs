use super::*;
use crate::splice::spare;
use socket2::SockRef;
use std::future::poll_fn;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::{JoinHandle, yield_now};

const MIB: usize = 1 << 20;

#[expect(clippy::unnecessary_wraps, reason = "a `Socket`")]
fn socket(stream: &TcpStream) -> Option<&TcpStream> {
    Some(stream)
}

fn no_socket(_: &TcpStream) -> Option<&TcpStream> {
    None
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (dialled, listener.accept().await.unwrap().0)
}

/// Two ends, and what is copied between them.
struct Joined {
    near: TcpStream,
    far: TcpStream,
    copying: JoinHandle<(Result<(), Broken>, Moved)>,
}

async fn joined(by: Socket<TcpStream>) -> Joined {
    let ((near, mut inner), (mut outer, far)) = (pair().await, pair().await);
    let copying = tokio::spawn(async move {
        let (moved, mut both) = (Moved::default(), Both::default());
        let copied = poll_fn(|cx| both.poll(cx, (&mut inner, by), (&mut outer, by), &moved)).await;
        if copied.is_err() {
            crate::reset_on_close(&inner);
            crate::reset_on_close(&outer);
        }
        (copied, moved)
    });
    Joined { near, far, copying }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() % most as u64).unwrap()
    }
    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n / 8 + 1).flat_map(|_| self.next().to_le_bytes()).take(n).collect()
    }
    /// Others have a few turns.
    async fn dawdle(&mut self) {
        for _ in 0..self.below(8) {
            yield_now().await;
        }
    }
}

async fn say(mut to: OwnedWriteHalf, bytes: Vec<u8>, mut random: Random) {
    let mut left = bytes.as_slice();
    while !left.is_empty() {
        let most = if random.below(4) == 0 { 100 } else { 300_000 };
        let (now, later) = left.split_at((1 + random.below(most)).min(left.len()));
        to.write_all(now).await.unwrap();
        random.dawdle().await;
        left = later;
    }
    to.shutdown().await.unwrap();
}

async fn hear(mut from: OwnedReadHalf, mut random: Random) -> Vec<u8> {
    let mut heard = Vec::new();
    let mut buffer = vec![0; 200_000];
    loop {
        let most = 1 + random.below(buffer.len());
        match from.read(&mut buffer[..most]).await.unwrap() {
            0 => return heard,
            n => heard.extend_from_slice(&buffer[..n]),
        }
        random.dawdle().await;
    }
}

#[tokio::test]
async fn every_byte_arrives_once_and_in_order_however_the_two_sides_read_and_write() {
    for (seed, by) in (0..4).flat_map(|seed| [(seed, socket as Socket<TcpStream>), (seed, no_socket)]) {
        let Joined { near, far, copying } = joined(by).await;
        let mut random = Random(seed);
        let (there, back) = (MIB + random.below(2 * MIB), random.below(2 * MIB));
        let (there, back) = (random.bytes(there), random.bytes(back));
        let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
        let ((), heard_there, (), heard_back) = tokio::join!(
            say(near_write, there.clone(), Random(seed + 100)),
            hear(far_read, Random(seed + 200)),
            say(far_write, back.clone(), Random(seed + 300)),
            hear(near_read, Random(seed + 400)),
        );
        assert!(heard_there == there && heard_back == back, "seed {seed}");
        let (copied, moved) = copying.await.unwrap();
        copied.unwrap();
        let counted = (moved.near.into_inner(), moved.far.into_inner());
        assert_eq!(counted, (there.len() as u64, back.len() as u64), "seed {seed}");
    }
    assert!((1..=8).contains(&spare()), "pipes were used, and few are kept: {}", spare());
}

#[tokio::test]
async fn the_end_of_one_half_is_said_to_the_other_side_and_the_other_half_goes_on() {
    for turned in [false, true] {
        let Joined { near, far, copying } = joined(socket).await;
        let (first, second) = if turned { (far, near) } else { (near, far) };
        let ((mut first_read, first_write), (second_read, mut second_write)) =
            (first.into_split(), second.into_split());
        let asked = Random(7).bytes(3 * MIB);
        let ((), heard) = tokio::join!(say(first_write, asked.clone(), Random(1)), hear(second_read, Random(2)));
        assert!(heard == asked);
        assert!(!copying.is_finished(), "half of it is open");
        for word in ["one", "two"] {
            second_write.write_all(word.as_bytes()).await.unwrap();
            let mut answer = [0; 3];
            first_read.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, word.as_bytes());
        }
        drop(second_write);
        assert_eq!(first_read.read(&mut [0]).await.unwrap(), 0);
        copying.await.unwrap().0.unwrap();
    }
}

#[tokio::test]
async fn a_reset_on_either_side_ends_both_while_much_is_on_its_way() {
    for (turned, bytes) in [(false, 0), (false, 2 * MIB), (true, 0), (true, 2 * MIB)] {
        let Joined { near, far, copying } = joined(socket).await;
        let (breaks, mut other) = if turned { (far, near) } else { (near, far) };
        if bytes > 0 {
            let (mut read, mut write) = other.into_split();
            let flood = tokio::spawn(async move { while write.write_all(&[7; 65536]).await.is_ok() {} });
            let mut breaks = breaks;
            let mut heard = vec![0; bytes];
            breaks.read_exact(&mut heard).await.unwrap();
            crate::reset_on_close(&breaks);
            drop(breaks);
            flood.await.unwrap();
            let mut rest = Vec::new();
            assert!(read.read_to_end(&mut rest).await.is_err() || rest.is_empty(), "it is told");
        } else {
            crate::reset_on_close(&breaks);
            drop(breaks);
            let told = other.read(&mut [0]).await.unwrap_err();
            assert_eq!(told.kind(), io::ErrorKind::ConnectionReset);
        }
        let broken = copying.await.unwrap().0.unwrap_err();
        // with bytes underway the other end may be the first to be found broken: it gave up too
        assert!(bytes > 0 || broken.end == if turned { End::Far } else { End::Near });
    }
}

/// It takes nothing more, and has said something before.
#[tokio::test]
async fn the_last_words_of_an_end_that_resets_arrive_before_its_reset() {
    for (by, words, turned) in [
        (no_socket as Socket<TcpStream>, 9, false),
        (no_socket, 100_000, true),
        (socket, 9, true),
        (socket, 100_000, false),
    ] {
        let Joined { near, far, copying } = joined(by).await;
        let (mut breaks, mut other) = if turned { (near, far) } else { (far, near) };
        let before = vec![1; 2 * MIB]; // enough for a pipe
        let mut heard = vec![0; before.len()];
        let (said, read) = tokio::join!(breaks.write_all(&before), other.read_exact(&mut heard));
        assert_eq!((said.unwrap(), read.unwrap()), ((), before.len()));
        other.write_all(b"ready").await.unwrap();
        breaks.read_exact(&mut [0; 5]).await.unwrap();
        // all of it while the copying has no turn: a question is there, and by now nobody who would take it
        let last = vec![2; words];
        assert_eq!(other.try_write(b"question").unwrap(), 8);
        assert_eq!(breaks.try_write(&last).unwrap(), words);
        crate::reset_on_close(&breaks);
        drop(breaks);
        let mut heard = vec![0; words];
        other.read_exact(&mut heard).await.expect("the last words");
        assert!(heard == last);
        assert_eq!(other.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "and no end");
        let broken = copying.await.unwrap().0.unwrap_err();
        assert_eq!(broken.end, if turned { End::Near } else { End::Far });
    }
}

#[tokio::test]
async fn an_end_that_is_reset_after_its_half_close_is_found_by_looking() {
    for turned in [false, true] {
        let ((near, mut inner), (mut outer, far)) = (pair().await, pair().await);
        let (mut ends, mut silent) = if turned { (far, near) } else { (near, far) };
        let (moved, mut both) = (Moved::default(), Both::default());
        ends.shutdown().await.unwrap();
        let heard = async { silent.read(&mut [0]).await.unwrap() };
        tokio::select! {
            biased;
            _ = poll_fn(|cx| both.poll(cx, (&mut inner, socket), (&mut outer, socket), &moved)) => panic!("half is open"),
            heard = heard => assert_eq!(heard, 0, "its end"),
        }
        assert!(both.is_half_over());
        assert_eq!(both.gone(Some(&inner), Some(&outer)), None);
        crate::reset_on_close(&ends);
        drop(ends);
        let found = async {
            loop {
                match both.gone(Some(&inner), Some(&outer)) {
                    Some(end) => break end,
                    None => yield_now().await,
                }
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(20), found).await.expect("it is found");
        assert_eq!(found, if turned { End::Far } else { End::Near });
    }
}

/// splice(2) stops before it for good, and a read steps over it.
#[tokio::test]
async fn urgent_data_in_the_middle_of_much_holds_nothing_up() {
    let Joined { near, mut far, copying } = joined(socket).await;
    let bytes = Random(3).bytes(4 * MIB);
    let (before, after) = bytes.split_at(2 * MIB);
    let hearing = tokio::spawn(async move {
        let mut heard = vec![0; 4 * MIB];
        far.read_exact(&mut heard).await.unwrap();
        (heard, far)
    });
    let mut near = near;
    near.write_all(before).await.unwrap();
    near.writable().await.unwrap();
    while SockRef::from(&near).send_out_of_band(b"!").is_err() {
        yield_now().await;
    }
    near.write_all(after).await.unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(20), hearing).await.expect("nothing is held up");
    assert!(heard.unwrap().0 == bytes);
    drop(near);
    copying.abort();
}

/// What one connection moves is not all that its thread does.
#[tokio::test]
async fn others_have_their_turn_while_much_moves() {
    let Joined { near, far, copying } = joined(socket).await;
    let ((_near_read, mut near_write), (mut far_read, _far_write)) = (near.into_split(), far.into_split());
    let flood = tokio::spawn(async move { while near_write.write_all(&[7; 1 << 20]).await.is_ok() {} });
    let drink = tokio::spawn(async move {
        let mut cup = vec![0; MIB];
        while far_read.read(&mut cup).await.is_ok_and(|n| n > 0) {}
    });
    for _ in 0..1000 {
        yield_now().await; // which would not come back
    }
    flood.abort();
    drink.abort();
    copying.abort();
    assert!(copying.await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn many_connections_leave_no_more_descriptors_than_a_thread_keeps() {
    for round in 0..40 {
        let Joined { near, far, copying } = joined(socket).await;
        let ((_near_read, near_write), (far_read, _far_write)) = (near.into_split(), far.into_split());
        let bytes = vec![1; 2 * MIB];
        let writing = tokio::spawn(say(near_write, bytes, Random(round)));
        let mut far_read = far_read;
        let mut some = vec![0; MIB];
        far_read.read_exact(&mut some).await.unwrap();
        // cut off with bytes in the pipe, or run to the end
        if round % 2 == 0 {
            copying.abort();
            writing.abort();
        }
        drop(far_read);
    }
    assert!(spare() <= 8, "{}", spare());
}
