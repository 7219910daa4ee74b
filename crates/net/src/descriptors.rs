//! Open sockets from one process to another, over a Unix socket (SCM_RIGHTS, unix(7)).
//!
//! It decides how they are named and bounded on the way. It deliberately does not know what they are for, nor who may have
//! them: whoever can open the Unix socket can.
//!
//! Form: one line of text for each, in their order, then `end`. Version 1 of it says so in its first line, so that another
//! version of this program can refuse what it does not understand.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// At most so many go over: the kernel takes 253 in one message.
pub const MAX_DESCRIPTORS: usize = 250;
/// And so much text.
const MAX_TEXT: usize = 64 << 10;
const VERSION: &str = "fusewire sockets 1";
const END: &str = "end";

/// Sends `sockets`, each with its name. The stream is blocking; its own write timeout bounds this.
///
/// # Errors
/// `InvalidInput` where there are more than [`MAX_DESCRIPTORS`], or a name holds a line feed; else the kernel's.
pub fn send_descriptors(stream: &UnixStream, sockets: &[(String, BorrowedFd<'_>)]) -> io::Result<()> {
    let bad_name = |name: &str| name.contains('\n') || name == END;
    if sockets.len() > MAX_DESCRIPTORS || sockets.iter().any(|(name, _)| bad_name(name)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut text = format!("{VERSION}\n");
    for (name, _) in sockets {
        text += name;
        text.push('\n');
    }
    text += END;
    text.push('\n');
    if text.len() > MAX_TEXT {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, descriptor)| *descriptor).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    let sent = sendmsg(stream, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    // they went with the first byte; what is left of the text goes by itself
    io::Write::write_all(&mut &*stream, &text.as_bytes()[sent..])
}

/// What [`send_descriptors`] sent at the other end. They are closed on exec. The stream is blocking; its own read timeout
/// bounds this.
///
/// # Errors
/// `InvalidData` where the other end says something else, `UnexpectedEof` where it went away, else the kernel's.
pub fn receive_descriptors(stream: &UnixStream) -> io::Result<Vec<(String, OwnedFd)>> {
    let (mut text, mut received) = (Vec::new(), Vec::new());
    let end = format!("\n{END}\n");
    while !text.ends_with(end.as_bytes()) {
        let mut part = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut part)];
        let message = recvmsg(stream, into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for ancillary in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = ancillary {
                received.extend(descriptors);
            }
        }
        if message.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        text.extend_from_slice(&part[..message.bytes]);
        if message.flags.contains(ReturnFlags::CTRUNC) || text.len() > MAX_TEXT || received.len() > MAX_DESCRIPTORS {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let text = String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut lines = text.lines();
    if lines.next() != Some(VERSION) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it speaks another version"));
    }
    let names: Vec<&str> = lines.take_while(|line| *line != END).collect();
    if names.len() != received.len() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(names.into_iter().map(str::to_owned).zip(received).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    #[test]
    fn a_listener_goes_on_to_accept_in_the_hands_of_another() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        send_descriptors(&ours, &[("tcp 127.0.0.1:0".into(), listener.as_fd())]).unwrap();
        drop(listener);
        let mut waiting = TcpStream::connect(address).expect("the socket is on its way, and open");
        let mut received = receive_descriptors(&theirs).unwrap();
        let (name, descriptor) = received.pop().unwrap();
        assert_eq!((name.as_str(), received.len()), ("tcp 127.0.0.1:0", 0));
        let (mut accepted, _) = TcpListener::from(descriptor).accept().unwrap();
        waiting.write_all(b"x").unwrap();
        let mut byte = [0];
        accepted.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn as_many_as_may_go_over_and_none_are_none() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let many: Vec<_> = (0..MAX_DESCRIPTORS).map(|n| (format!("tcp [::1]:{n}"), listener.as_fd())).collect();
        let receiving = std::thread::spawn(move || {
            let first = receive_descriptors(&theirs).unwrap();
            (first, receive_descriptors(&theirs).unwrap().len())
        });
        send_descriptors(&ours, &many).unwrap();
        send_descriptors(&ours, &[]).unwrap();
        let (received, none) = receiving.join().unwrap();
        assert_eq!((received.len(), none), (MAX_DESCRIPTORS, 0));
        assert!(received.iter().zip(&many).all(|((name, _), (sent, _))| name == sent));
        let too_many: Vec<_> = (0..=MAX_DESCRIPTORS).map(|n| (n.to_string(), listener.as_fd())).collect();
        assert_eq!(send_descriptors(&ours, &too_many).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn what_is_cut_short_or_something_else_is_an_error() {
        for (said, kind) in [
            ("", io::ErrorKind::UnexpectedEof),
            ("fusewire sockets 1\ntcp 127.0.0.1:1\n", io::ErrorKind::UnexpectedEof),
            ("fusewire sockets 1\ntcp 127.0.0.1:1\nend\n", io::ErrorKind::InvalidData),
            ("fusewire sockets 2\nend\n", io::ErrorKind::InvalidData),
            ("\u{1}\nend\n", io::ErrorKind::InvalidData),
        ] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(said.as_bytes()).unwrap();
            drop(ours);
            assert_eq!(receive_descriptors(&theirs).unwrap_err().kind(), kind, "{said:?}");
        }
    }
}
