//! What passes a switch, frame by frame: for tests of what must not be readable on a wire.
//!
//! It decides nothing about protocols beyond the port that a TCP segment over IPv4 goes to. A frame is seen where it comes in
//! and where it goes out, so counts say "none" or "some".

use super::Network;
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Looks from its beginning until it is dropped.
#[derive(Debug)]
pub struct Tap {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// By needle, the frames that held it.
    held: BTreeMap<&'static str, usize>,
    /// By port, the segments with a payload that went there.
    sent: BTreeMap<u16, usize>,
}

impl Tap {
    /// `needles`: what is looked for.
    pub fn new(network: &Network, needles: &'static [&'static str]) -> Self {
        // of all protocols, and with room for bursts: 33 is SO_RCVBUFFORCE
        let made = "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))\n\
                    made.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)";
        // its type only says how it is read
        let socket = UdpSocket::from(network.switch().socket(made));
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let (told, stopped) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut frame = vec![0; 1 << 17];
            while !stopped.load(Ordering::Relaxed) {
                let Ok(length) = socket.recv(&mut frame) else { continue };
                told.lock().unwrap().look(&frame[..length], needles);
            }
        });
        Self { seen, stop, thread: Some(thread) }
    }

    /// How many frames held `needle`.
    pub fn held(&self, needle: &str) -> usize {
        self.seen.lock().unwrap().held.get(needle).copied().unwrap_or(0)
    }

    /// How many TCP segments with a payload went to `port`.
    pub fn sent(&self, port: u16) -> usize {
        self.seen.lock().unwrap().sent.get(&port).copied().unwrap_or(0)
    }
}

impl Seen {
    fn look(&mut self, frame: &[u8], needles: &[&'static str]) {
        for needle in needles {
            if frame.windows(needle.len()).any(|part| part == needle.as_bytes()) {
                *self.held.entry(needle).or_default() += 1;
            }
        }
        if let Some(port) = payload_to(frame) {
            *self.sent.entry(port).or_default() += 1;
        }
    }
}

fn payload_to(frame: &[u8]) -> Option<u16> {
    let packet = frame.get(14..).filter(|_| frame[12..14] == [8, 0])?;
    let (head, length) = (usize::from(packet.first()? & 15) * 4, usize::from(be(packet, 2)?));
    let segment = packet.get(head..length).filter(|_| packet[9] == 6)?;
    let offset = usize::from(segment.get(12)? >> 4) * 4;
    be(segment, 2).filter(|_| segment.len() > offset)
}

fn be(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
