//! Network namespaces with real addresses: hosts on one switch, for tests of what the kernel does with packets.
//!
//! It needs root and `ip`, and fails with the remedy where either is missing. What it makes bears the process's id, and is
//! gone with its handle.

use crate::process::tool;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// Hosts that reach each other and nobody else: host `n` (from 1) is 10.77.0.n and fd77::n.
#[derive(Debug)]
pub struct Network {
    switch: String,
    hosts: Vec<Host>,
}

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
        let mut network = Self { switch: format!("{name}-0"), hosts: Vec::new() };
        ip(&["netns", "add", &network.switch]);
        ip(&["-n", &network.switch, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &network.switch, "link", "set", "br0", "up"]);
        for n in 1..=hosts {
            let host = Host { namespace: format!("{name}-{n}"), v4: format!("10.77.0.{n}"), v6: format!("fd77::{n}") };
            ip(&["netns", "add", &host.namespace]);
            network.hosts.push(host);
            network.plug(n);
        }
        network
    }

    fn plug(&self, n: usize) {
        let (host, port) = (&self.hosts[n - 1], format!("host{n}"));
        let inside = |arguments: &[&str]| ip(&[&["-n", host.namespace.as_str()], arguments].concat());
        inside(&["link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &self.switch]);
        ip(&["-n", &self.switch, "link", "set", &port, "master", "br0", "up"]);
        inside(&["addr", "add", &format!("{}/24", host.v4), "dev", "eth0"]);
        // without duplicate address detection, which takes a second
        inside(&["addr", "add", &format!("{}/64", host.v6), "dev", "eth0", "nodad"]);
        inside(&["link", "set", "lo", "up"]);
        inside(&["link", "set", "eth0", "up"]);
    }

    /// Pulls host `n`'s cable out of the switch: nothing says so to anybody, packets are lost.
    pub fn cut(&self, n: usize) {
        ip(&["-n", &self.switch, "link", "set", &format!("host{n}"), "down"]);
    }

    pub fn mend(&self, n: usize) {
        ip(&["-n", &self.switch, "link", "set", &format!("host{n}"), "up"]);
    }

    /// From 1.
    pub fn host(&self, n: usize) -> &Host {
        &self.hosts[n - 1]
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in self.hosts.iter().map(|host| &host.namespace).chain([&self.switch]) {
            let _ = Command::new(tool("ip")).args(["netns", "del", namespace]).output();
        }
    }
}

impl Host {
    /// `program` there.
    pub fn command(&self, program: impl Into<PathBuf>) -> Command {
        let mut command = Command::new(tool("nsenter"));
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg(program.into());
        command
    }

    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(tool(program)).args(arguments).output().unwrap()
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
