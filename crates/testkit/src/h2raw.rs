//! HTTP/2 frame by frame over blocking sockets: for what no library would send, as a client and as a server.
//!
//! It deliberately knows no streams, windows or tables: whoever uses it says each byte. Header blocks are written as
//! literals that enter no table, and the other side is told to use none, so that a status can be read without one.
//! Writing never fails a test: what the other side makes of it is read.

use crate::process::{PATIENCE, loopback};
use std::io::{Read, Write};
use std::net::TcpStream;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
/// Of HEADERS: five bytes of priority come first.
pub const WITH_PRIORITY: u8 = 0x20;

pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEADER_TABLE_SIZE: u16 = 1;
pub const ENABLE_PUSH: u16 = 2;
pub const MAX_CONCURRENT_STREAMS: u16 = 3;
pub const INITIAL_WINDOW_SIZE: u16 = 4;
pub const MAX_FRAME_SIZE: u16 = 5;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
    /// The error code of RST_STREAM or GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        self.payload.get(at..at + 4).map_or(u32::MAX, |b| u32::from_be_bytes(b.try_into().unwrap()))
    }
    /// The value of a setting.
    pub fn setting(&self, id: u16) -> Option<u32> {
        let pair = self.payload.chunks_exact(6).find(|p| p[..2] == id.to_be_bytes())?;
        Some(u32::from_be_bytes(pair[2..].try_into().unwrap()))
    }
    /// `:status` of a response's HEADERS; 0 where it is not its first field.
    pub fn status(&self) -> u16 {
        let block = if self.has(WITH_PRIORITY) { &self.payload[5..] } else { &self.payload[..] };
        let size_updates = block.iter().take_while(|b| **b & 0xe0 == 0x20).count();
        status(&block[size_updates..]).unwrap_or(0)
    }
}

/// How a stream, or the connection under it, came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Status, and how many bytes of body.
    Answer(u16, usize),
    /// RST_STREAM with this code.
    Stream(u32),
    /// GOAWAY with this code, which is no farewell.
    Connection(u32),
    /// TCP ended.
    Closed,
}

/// What carries the frames: TCP, or TLS.
pub trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// One end of a connection.
pub struct Peer {
    wire: Box<dyn Wire>,
    /// The other side's first SETTINGS.
    pub settings: Frame,
    /// Added to every request of [`Peer::head`], such as the port on the wire between sidecars.
    pub extra: Vec<(String, String)>,
    pub authority: String,
}

impl Peer {
    /// A TCP connection, nothing said yet.
    pub fn connect(port: u16) -> Self {
        Self::over(tcp(port))
    }
    pub fn over(wire: impl Wire + 'static) -> Self {
        let settings = Frame { kind: SETTINGS, flags: 0, stream: 0, payload: Vec::new() };
        Self { wire: Box::new(wire), settings, extra: Vec::new(), authority: "nowhere".into() }
    }
    /// The client's preface and `settings`, and the server's first SETTINGS, acknowledged.
    pub fn start(&mut self, settings: &[(u16, u32)]) {
        self.raw(PREFACE);
        self.set(&[&[(HEADER_TABLE_SIZE, 0)], settings].concat());
        self.begun();
    }
    /// The server's side of the same.
    pub fn begin(&mut self, settings: &[(u16, u32)]) {
        let mut preface = [0; 24];
        self.wire.read_exact(&mut preface).unwrap();
        assert_eq!(preface, PREFACE);
        self.set(settings);
        self.begun();
    }
    fn begun(&mut self) {
        self.settings = self.read().expect("the other side's SETTINGS");
        assert_eq!((self.settings.kind, self.settings.flags), (SETTINGS, 0), "SETTINGS come first");
        self.send(SETTINGS, ACK, 0, []);
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        let _ = self.wire.write_all(bytes);
        let _ = self.wire.flush();
    }
    /// The same, for who must know when nobody listens any more.
    pub fn try_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.wire.write_all(bytes)?;
        self.wire.flush()
    }
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) {
        self.raw(&frame(kind, flags, stream, payload.as_ref()));
    }
    pub fn set(&mut self, settings: &[(u16, u32)]) {
        let payload: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        self.send(SETTINGS, 0, 0, payload);
    }
    /// The header block of a request.
    pub fn head(&self, method: &str, more: &[(&str, &str)]) -> Vec<u8> {
        let mut fields =
            vec![(":method", method), (":scheme", "http"), (":path", "/"), (":authority", &self.authority)];
        fields.extend_from_slice(more);
        fields.extend(self.extra.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        block(&fields)
    }
    /// A whole request without a body.
    pub fn get(&mut self, stream: u32) {
        self.ask(stream, "GET", &[], END_STREAM);
    }
    pub fn ask(&mut self, stream: u32, method: &str, more: &[(&str, &str)], flags: u8) {
        let head = self.head(method, more);
        self.send(HEADERS, flags | END_HEADERS, stream, head);
    }

    /// The next frame as it came; `None` where TCP ended.
    pub fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        let mut payload = vec![0; length];
        self.exact(&mut payload)?;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }
    fn exact(&mut self, buffer: &mut [u8]) -> Option<()> {
        match self.wire.read_exact(buffer) {
            Ok(()) => Some(()),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                panic!("no frame within {PATIENCE:?}")
            }
            Err(_) => None,
        }
    }
    /// The next frame that is not for the connection's upkeep: SETTINGS and PING are answered, windows noted by nobody.
    pub fn receive(&mut self) -> Option<Frame> {
        loop {
            let frame = self.read()?;
            match frame.kind {
                SETTINGS if !frame.has(ACK) => self.send(SETTINGS, ACK, 0, []),
                PING if !frame.has(ACK) => self.send(PING, ACK, 0, &frame.payload),
                SETTINGS | PING | WINDOW_UPDATE => {}
                _ => return Some(frame),
            }
        }
    }
    /// How `stream` ends; what belongs to others is passed over, an error of the connection is not.
    pub fn end(&mut self, stream: u32) -> End {
        let (mut status, mut length) = (0, 0);
        loop {
            let Some(frame) = self.receive() else { return End::Closed };
            match frame.kind {
                GOAWAY if frame.code() != NO_ERROR => return End::Connection(frame.code()),
                RST_STREAM if frame.stream == stream => return End::Stream(frame.code()),
                HEADERS if frame.stream == stream && frame.status() / 100 != 1 => status = frame.status().max(status),
                DATA if frame.stream == stream => length += frame.payload.len(),
                _ => continue,
            }
            if frame.stream == stream && frame.has(END_STREAM) {
                return End::Answer(status, length);
            }
        }
    }
    /// How the connection ends: whatever streams say is passed over.
    pub fn ends(&mut self) -> End {
        loop {
            match self.receive() {
                Some(frame) if frame.kind == GOAWAY && frame.code() != NO_ERROR => {
                    return End::Connection(frame.code());
                }
                Some(_) => {}
                None => return End::Closed,
            }
        }
    }
    /// Whether a ping comes back, with everything that stood before it passed over.
    pub fn pong(&mut self, payload: [u8; 8]) -> bool {
        self.send(PING, 0, 0, payload);
        while let Some(frame) = self.read() {
            if frame.kind == PING && frame.has(ACK) && frame.payload == payload {
                return true;
            }
        }
        false
    }
}

/// A TCP connection that waits no longer than a test may.
pub fn tcp(port: u16) -> TcpStream {
    let stream = TcpStream::connect(loopback(port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields as literals without indexing (RFC 7541, section 6.2.2), no Huffman.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name.as_bytes());
        string(&mut block, value.as_bytes());
    }
    block
}

/// A string as HPACK has it, in clear.
pub fn string(block: &mut Vec<u8>, text: &[u8]) {
    integer(block, 0, 7, text.len());
    block.extend_from_slice(text);
}

/// An integer behind `pattern` with a prefix of `bits` (RFC 7541, section 5.1).
pub fn integer(block: &mut Vec<u8>, pattern: u8, bits: u32, value: usize) {
    let most = (1usize << bits) - 1;
    if value < most {
        block.push(pattern | u8::try_from(value).unwrap());
        return;
    }
    block.push(pattern | u8::try_from(most).unwrap());
    let mut rest = value - most;
    while rest >= 128 {
        block.push(0x80 | u8::try_from(rest % 128).unwrap());
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// A status at the beginning of a block: an entry of the static table, or a literal whose digits may be Huffman codes.
fn status(block: &[u8]) -> Option<u16> {
    const KNOWN: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let first = *block.first()?;
    if first & 0x80 != 0 {
        return KNOWN.get(usize::from(first & 0x7f).checked_sub(8)?).copied();
    }
    let length = usize::from(*block.get(1)? & 0x7f);
    let text = block.get(2..2 + length)?;
    if block[1] & 0x80 == 0 {
        return std::str::from_utf8(text).ok()?.parse().ok();
    }
    let mut bits = text.iter().flat_map(|b| (0..8).rev().map(move |n| u16::from(b >> n & 1)));
    let mut value = 0;
    for _ in 0..3 {
        // 0, 1 and 2 have codes of five bits, 3 to 9 of six, from 0x19 (RFC 7541, appendix B)
        let five = (0..5).try_fold(0, |code, _| Some(code << 1 | bits.next()?))?;
        let digit = if five < 3 { five } else { (five << 1 | bits.next()?) - 0x19 + 3 };
        value = value * 10 + digit;
    }
    Some(value)
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("authority", &self.authority).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_from_the_table_in_clear_and_in_huffman_codes() {
        assert_eq!(status(&[0x8d]), Some(404));
        assert_eq!(status(b"\x48\x03503"), Some(503));
        // 302 is `6402` and 307 `640eff` in RFC 7541, appendix C
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
        assert_eq!(status(&[0x48, 0x83, 0x64, 0x0e, 0xff]), Some(307));
    }
}
