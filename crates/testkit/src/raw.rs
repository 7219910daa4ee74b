//! HTTP/1.1 and bytes by hand, over blocking sockets: for what a well-behaved library would never send.
//!
//! Every read is bounded by [`crate::process::PATIENCE`]; a test that waits for what never comes fails there.

use crate::process::{PATIENCE, loopback};
use std::io::{BufRead, BufReader, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// One end of a connection: the caller's, or an application's.
#[derive(Debug)]
pub struct Conn(BufReader<TcpStream>);

/// A start line and its fields.
#[derive(Debug, Clone)]
pub struct Head {
    pub first: String,
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
    fn word(&self, n: usize) -> &str {
        self.first.split(' ').nth(n).unwrap_or("")
    }
    pub fn status(&self) -> u16 {
        self.word(1).parse().unwrap_or(0)
    }
    pub fn method(&self) -> &str {
        self.word(0)
    }
    pub fn path(&self) -> &str {
        self.word(1)
    }
    fn length(&self) -> usize {
        self.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0)
    }
    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|t| t.eq_ignore_ascii_case("chunked"))
    }
}

impl Conn {
    pub fn connect(port: u16) -> Self {
        Self::new(TcpStream::connect(loopback(port)).unwrap())
    }
    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::with_capacity(64 << 10, stream))
    }
    pub fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }
    /// A second handle to write with, while this one reads.
    pub fn writer(&self) -> TcpStream {
        self.stream().try_clone().unwrap()
    }
    /// To read from as a stream, what is buffered first.
    pub fn reader(&mut self) -> &mut (dyn Read + Send) {
        &mut self.0
    }
    pub fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_say(bytes).unwrap();
    }
    pub fn try_say(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.0.get_mut().write_all(bytes.as_ref())
    }
    /// One chunk of a chunked body.
    pub fn say_chunk(&mut self, data: impl AsRef<[u8]>) {
        let mut chunk = format!("{:x}\r\n", data.as_ref().len()).into_bytes();
        chunk.extend_from_slice(data.as_ref());
        chunk.extend_from_slice(b"\r\n");
        self.say(chunk);
    }
    pub fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\r\n").or_else(|| line.strip_suffix(b"\n")) {
            Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
            None => Err(ErrorKind::UnexpectedEof.into()),
        }
    }
    /// The next message's head; an error where the connection ends first.
    pub fn head(&mut self) -> Result<Head> {
        let first = self.line()?;
        Ok(Head { first, fields: self.fields()? })
    }
    fn fields(&mut self) -> Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { return Ok(fields) };
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    pub fn exact(&mut self, n: usize) -> Result<Vec<u8>> {
        let mut buffer = vec![0; n];
        self.0.read_exact(&mut buffer)?;
        Ok(buffer)
    }
    /// The next chunk; empty at the end, where [`Conn::trailers`] come next.
    pub fn chunk(&mut self) -> Result<Vec<u8>> {
        let line = self.line()?;
        let size = usize::from_str_radix(line.trim(), 16)
            .map_err(|_| std::io::Error::other(format!("no chunk size: {line:?}")))?;
        let data = self.exact(size)?;
        if size > 0 {
            self.exact(2)?;
        }
        Ok(data)
    }
    pub fn trailers(&mut self) -> Result<Vec<(String, String)>> {
        self.fields()
    }
    /// The body that `head` announces, by length or in chunks.
    pub fn body(&mut self, head: &Head) -> Result<Vec<u8>> {
        if !head.is_chunked() {
            return self.exact(head.length());
        }
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                self.trailers()?;
                return Ok(body);
            }
            body.extend_from_slice(&chunk);
        }
    }
    /// A whole answer, interim ones left out.
    pub fn answer(&mut self) -> Result<(Head, String)> {
        let head = self.head()?;
        if head.status() / 100 == 1 && head.status() != 101 {
            return self.answer();
        }
        let body = self.body(&head)?;
        Ok((head, String::from_utf8_lossy(&body).into_owned()))
    }
    /// Everything up to the other side's end.
    pub fn rest(&mut self) -> Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest)?;
        Ok(rest)
    }
    /// Whether nothing has come by now. Not a wait: what matters is that it has not come before.
    pub fn is_silent(&mut self) -> bool {
        self.0.buffer().is_empty() && {
            self.stream().set_nonblocking(true).unwrap();
            let peeked = self.stream().peek(&mut [0]);
            self.stream().set_nonblocking(false).unwrap();
            peeked.is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
        }
    }
    /// No more bytes from here; reading goes on.
    pub fn finish(&self) {
        self.stream().shutdown(Shutdown::Write).unwrap();
    }
    /// Ends the connection with a TCP reset.
    pub fn reset(self) {
        socket2::SockRef::from(self.stream()).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// An application by hand: `serve` gets each connection, on a thread of its own. Stops listening with the handle.
#[derive(Debug)]
pub struct Server {
    pub port: u16,
    accepted: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Server {
    pub fn start(serve: impl Fn(Conn) + Send + Sync + 'static) -> Self {
        let listener = listener();
        let server =
            Self { port: listener.local_addr().unwrap().port(), accepted: Arc::default(), over: Arc::default() };
        let (accepted, over, serve) = (server.accepted.clone(), server.over.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let serve = serve.clone();
                accepted.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || serve(Conn::new(stream.unwrap())));
            }
        });
        server
    }
    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
    /// HTTP/1.1 with keep-alive: `serve` reads the rest of each request and writes its answer; false ends the connection.
    pub fn http(serve: impl Fn(&mut Conn, &Head) -> bool + Send + Sync + 'static) -> Self {
        Self::start(move |mut conn| {
            while let Ok(head) = conn.head() {
                if !serve(&mut conn, &head) {
                    return;
                }
            }
        })
    }
}

/// With room for as many connections at once as any test opens: on a busy machine this thread may not accept for long.
fn listener() -> TcpListener {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&loopback(0).into()).unwrap();
    socket.listen(2048).unwrap();
    socket.into()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(loopback(self.port)); // wakes the accept
    }
}

/// An application that listens and accepts nothing.
#[derive(Debug)]
pub struct Deaf {
    pub port: u16,
    listener: socket2::Socket,
    waiting: Vec<TcpStream>,
}

impl Deaf {
    #[expect(clippy::new_without_default, reason = "it does things")]
    pub fn new() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&loopback(0).into()).unwrap();
        listener.listen(1).unwrap();
        let port = listener.local_addr().unwrap().as_socket().unwrap().port();
        Self { port, listener, waiting: Vec::new() }
    }
    /// Takes one connection after all, and answers what is asked on it, once.
    pub fn answer_one(&self) {
        let mut conn = Conn::new(self.listener.accept().unwrap().0.into());
        conn.head().unwrap();
        conn.say("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    }
    /// Its backlog is full from here on.
    pub fn fill(&mut self) {
        while let Ok(stream) = TcpStream::connect_timeout(&loopback(self.port), Duration::from_millis(300)) {
            self.waiting.push(stream);
            assert!(self.waiting.len() < 100, "a backlog of one takes them all");
        }
    }
}
