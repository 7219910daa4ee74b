//! A resolver upstream whose every word a test says itself, over UDP and TCP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

pub(crate) struct Upstream {
    pub(crate) udp: UdpSocket,
    pub(crate) tcp: TcpListener,
}

const PATIENCE: Option<Duration> = Some(Duration::from_secs(15));

impl Upstream {
    pub(crate) fn new() -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind(tcp.local_addr().unwrap()).unwrap();
        udp.set_read_timeout(PATIENCE).unwrap();
        Self { udp, tcp }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.udp.local_addr().unwrap()
    }

    /// The next message over UDP, and from whom it is.
    pub(crate) fn heard(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 4096];
        let (length, from) = self.udp.recv_from(&mut buffer).unwrap();
        (buffer[..length].to_vec(), from)
    }

    pub(crate) fn says(&self, message: &[u8], to: SocketAddr) {
        self.udp.send_to(message, to).unwrap();
    }
}

/// Of one family, class IN.
pub(crate) fn question(id: u8, name: &str, kind: u8) -> Vec<u8> {
    let mut message = vec![0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, kind, 0, 1]);
    message
}

/// The answer to a question for IPv4, with one record of ten seconds.
pub(crate) fn answer(question: &[u8], ip: [u8; 4]) -> Vec<u8> {
    let mut said = question.to_vec();
    said[2] |= 0x80;
    said[7] = 1;
    said.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 10, 0, 4]);
    said.extend_from_slice(&ip);
    said
}

/// Somebody who asks over UDP, and may wait.
pub(crate) fn client(resolver: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(resolver).unwrap();
    socket.set_read_timeout(PATIENCE).unwrap();
    socket
}

pub(crate) fn hears(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

/// One message over TCP.
pub(crate) fn write(stream: &mut TcpStream, message: &[u8]) {
    let length = (message.len() as u16).to_be_bytes();
    stream.write_all(&[&length, message].concat()).unwrap();
}

pub(crate) fn read(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(PATIENCE).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message).unwrap();
    message
}
