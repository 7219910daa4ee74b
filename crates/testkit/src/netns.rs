//! Network namespaces with real addresses: hosts on one switch, for tests of what the kernel does with packets.
//!
//! It needs root and `ip`, and fails with the remedy where either is missing. What it makes bears the process's id, and is
//! gone with its handle.

mod tap;

pub use tap::Tap;

use crate::process::tool;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Hosts that reach each other and nobody else: host `n` (from 1) is 10.77.0.n and fd77::n.
#[derive(Debug)]
pub struct Network {
    name: String,
    switch: Host,
    hosts: Vec<Host>,
    /// How many there ever were.
    plugged: AtomicUsize,
}

/// Gone, with all that is in it, once it is dropped.
#[derive(Debug)]
pub struct Host {
    namespace: String,
    pub v4: String,
    pub v6: String,
}

impl Network {
    pub fn new(hosts: usize) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        assert!(is_root(), "network namespaces need root: run the tests as root, such as `sudo cargo xtask test`");
        let name = format!("fw{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let switch = Host::new(format!("{name}-0"), 0);
        let mut network = Self { name, switch, hosts: Vec::new(), plugged: AtomicUsize::new(0) };
        network.at_switch(&["link", "add", "br0", "type", "bridge"]);
        network.at_switch(&["link", "set", "br0", "up"]);
        for _ in 0..hosts {
            let host = network.attach();
            network.hosts.push(host);
        }
        network
    }

    /// One more host, for as long as it is held.
    pub fn attach(&self) -> Host {
        let n = self.plugged.fetch_add(1, Ordering::Relaxed) + 1;
        let (host, port) = (Host::new(format!("{}-{n}", self.name), n), format!("host{n}"));
        let inside = |arguments: &[&str]| ip(&[&["-n", host.namespace.as_str()], arguments].concat());
        inside(&["link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &self.switch.namespace]);
        self.at_switch(&["link", "set", &port, "master", "br0", "up"]);
        inside(&["addr", "add", &format!("{}/24", host.v4), "dev", "eth0"]);
        // without duplicate address detection, which takes a second
        inside(&["addr", "add", &format!("{}/64", host.v6), "dev", "eth0", "nodad"]);
        inside(&["link", "set", "lo", "up"]);
        inside(&["link", "set", "eth0", "up"]);
        host
    }

    fn at_switch(&self, arguments: &[&str]) {
        ip(&[&["-n", self.switch.namespace.as_str()], arguments].concat());
    }

    /// Pulls host `n`'s cable out of the switch: nothing says so to anybody, packets are lost.
    pub fn cut(&self, n: usize) {
        self.at_switch(&["link", "set", &format!("host{n}"), "down"]);
    }

    pub fn mend(&self, n: usize) {
        self.at_switch(&["link", "set", &format!("host{n}"), "up"]);
    }

    /// From 1.
    pub fn host(&self, n: usize) -> &Host {
        &self.hosts[n - 1]
    }

    /// Where every frame passes.
    pub fn switch(&self) -> &Host {
        &self.switch
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new(tool("ip")).args(["netns", "del", &self.namespace]).output();
    }
}

impl Host {
    fn new(namespace: String, n: usize) -> Self {
        ip(&["netns", "add", &namespace]);
        Self { namespace, v4: format!("10.77.0.{n}"), v6: format!("fd77::{n:x}") }
    }

    /// `program` there.
    pub fn command(&self, program: impl Into<PathBuf>) -> Command {
        let mut command = Command::new(tool("nsenter"));
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg(program.into());
        command
    }

    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(tool(program)).args(arguments).output().unwrap()
    }

    /// A socket of that host in this process, which itself is elsewhere. `made`: its making in Python, and what is done with
    /// `made` in further lines.
    pub fn socket(&self, made: &str) -> OwnedFd {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let script =
            format!("import socket\nmade = {made}\nsocket.send_fds(socket.socket(fileno=0), [b'.'], [made.fileno()])");
        let mut python = self.command(tool("python3"));
        let sent = python.args(["-c", &script]).stdin(OwnedFd::from(theirs)).output().unwrap();
        assert!(sent.status.success(), "{made}: {}", String::from_utf8_lossy(&sent.stderr));
        let (mut byte, mut space) = ([0], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&ours, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        let received = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        received.unwrap()
    }

    /// Loses every packet between this host and `other` from here on, without a word to either.
    pub fn lose(&self, other: &Host) {
        let table = format!(
            "add table inet lost\n\
             add chain inet lost in {{ type filter hook prerouting priority -400; }}\n\
             add chain inet lost out {{ type filter hook postrouting priority 400; }}\n\
             add rule inet lost in ip saddr {v4} drop\nadd rule inet lost in ip6 saddr {v6} drop\n\
             add rule inet lost out ip daddr {v4} drop\nadd rule inet lost out ip6 daddr {v6} drop\n",
            v4 = other.v4,
            v6 = other.v6,
        );
        self.told("nft", &[&table]);
    }

    /// Ends what [`Host::lose`] began.
    pub fn restore(&self) {
        self.told("nft", &["delete table inet lost"]);
    }

    /// What it prints; it has to succeed.
    pub fn told(&self, program: &str, arguments: &[&str]) -> String {
        let out = self.run(program, arguments);
        assert!(out.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

fn ip(arguments: &[&str]) {
    let out = Command::new(tool("ip")).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "ip {arguments:?}: {said}\nnetwork namespaces need root and a kernel that has them");
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
}
