//! An admin answer that goes on: it lives while it is written to and read, and its place comes back when it ends.

use fusewire_telemetry::admin::{Asked, Listener, Socket, Writer, serve, stream, text};
use http::StatusCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// A server whose `/stream` goes on by the hand of the test, and whose `/uid` says who asks.
async fn server(dir: &tempfile::TempDir) -> mpsc::Receiver<Writer> {
    let socket = Socket::bind(&dir.path().join("s.sock")).await.unwrap();
    let (hand, writers) = mpsc::channel(8);
    let hand = Arc::new(Mutex::new(hand));
    tokio::spawn(serve(Listener::Unix(socket), move |asked: Asked| {
        let hand = hand.lock().unwrap().clone();
        async move {
            if asked.path == "/stream" {
                let (answer, writer) = stream("text/plain");
                hand.send(writer).await.unwrap();
                return answer;
            }
            text(StatusCode::OK, "text/plain", format!("{:?}", asked.uid))
        }
    }));
    writers
}

async fn ask(dir: &tempfile::TempDir, path: &str) -> UnixStream {
    let mut socket = UnixStream::connect(dir.path().join("s.sock")).await.unwrap();
    socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    socket
}

#[tokio::test(start_paused = true)]
async fn a_stream_outlives_every_other_connection_and_ends_with_its_writer() {
    let dir = tempfile::tempdir().unwrap();
    let mut writers = server(&dir).await;
    let mut reader = ask(&dir, "/stream").await;
    let writer = writers.recv().await.unwrap();
    writer.write("first\n").await.unwrap();
    tokio::time::advance(Duration::from_secs(3_600)).await;
    writer.write("an hour later\n").await.unwrap();
    drop(writer);
    let mut all = String::new();
    reader.read_to_string(&mut all).await.unwrap();
    assert!(all.contains("connection: close") && all.contains("first\n"), "{all}");
    assert!(all.ends_with("an hour later\n\r\n0\r\n\r\n"), "{all}");
}

#[tokio::test(start_paused = true)]
async fn who_reads_nothing_for_a_minute_loses_the_stream_and_who_leaves_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let mut writers = server(&dir).await;
    let _deaf = ask(&dir, "/stream").await;
    let writer = writers.recv().await.unwrap();
    let chunk = vec![b'x'; 1 << 20];
    let mut written = 0;
    while writer.write(chunk.clone()).await.is_ok() {
        written += 1;
        assert!(written < 100, "more is kept for it than one chunk and what sockets hold");
    }
    let leaving = ask(&dir, "/stream").await;
    let writer = writers.recv().await.unwrap();
    drop(leaving);
    tokio::time::timeout(Duration::from_secs(5), writer.reader_gone()).await.unwrap();
}

#[tokio::test]
async fn over_a_unix_socket_the_kernel_says_who_asks() {
    let dir = tempfile::tempdir().unwrap();
    let _writers = server(&dir).await;
    let mut reader = ask(&dir, "/uid").await;
    let mut answer = [0_u8; 512];
    let n = reader.read(&mut answer).await.unwrap();
    let mine = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(dir.path()).unwrap());
    let answer = String::from_utf8_lossy(&answer[..n]);
    assert!(answer.ends_with(&format!("Some({mine})")), "{answer}");
}
