//! A real etcd of one member, whose data outlives its process.

use crate::process::{Process, eventually, free_port, tool};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Killed with this handle; [`Etcd::restart`] goes on with the same data on the same ports.
#[derive(Debug)]
pub struct Etcd {
    process: Process,
    dir: PathBuf,
    ports: Ports,
    extra: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    client: u16,
    peer: u16,
    /// In clear even where clients need TLS.
    health: u16,
}

impl Ports {
    fn free() -> Self {
        Self { client: free_port(), peer: free_port(), health: free_port() }
    }
}

impl Etcd {
    /// Waits until it serves. `dir` gets its data and its log.
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[])
    }

    /// As [`Etcd::start`], with more arguments. `--cert-file` makes it speak TLS to its clients.
    pub fn start_with(dir: &Path, extra: &[&str]) -> Self {
        Self::start_on(dir, Ports::free(), extra.iter().map(|&argument| argument.into()).collect())
    }

    fn start_on(dir: &Path, ports: Ports, extra: Vec<String>) -> Self {
        let etcd = Self { process: run(dir, ports, &extra), dir: dir.to_owned(), ports, extra };
        etcd.wait();
        etcd
    }

    /// For clients.
    pub fn port(&self) -> u16 {
        self.ports.client
    }

    pub fn url(&self) -> String {
        client_url(self.ports, &self.extra)
    }

    /// SIGKILL, as a crash.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Stopped, it keeps its connections and answers nothing; until [`Etcd::go_on`].
    pub fn freeze(&self) {
        self.process.signal("STOP");
    }

    pub fn go_on(&self) {
        self.process.signal("CONT");
    }

    /// After [`Etcd::kill`]. Waits until it serves.
    pub fn restart(&mut self) {
        self.process = run(&self.dir, self.ports, &self.extra);
        self.wait();
    }

    /// After [`Etcd::kill`]: goes on with the same data on another port, so that its clients do not find it.
    pub fn elsewhere(&self) -> Self {
        Self::start_on(&self.dir, Ports::free(), self.extra.clone())
    }

    /// After [`Etcd::kill`]: goes back to what `etcdctl snapshot save` wrote.
    pub fn restore(&self, backup: &Path) {
        let data = self.dir.join("etcd");
        std::fs::remove_dir_all(&data).unwrap();
        let peer = format!("http://127.0.0.1:{}", self.ports.peer);
        let mut command = Command::new(tool("etcdctl"));
        command.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(backup).arg("--data-dir").arg(data);
        command.args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("default={peer}")]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs `etcdctl` against it.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(tool("etcdctl"));
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(self.url()).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn wait(&self) {
        eventually("etcd serves", || healthy(self.ports.health).unwrap_or(false));
    }
}

fn client_url(ports: Ports, extra: &[String]) -> String {
    let scheme = if extra.iter().any(|argument| argument == "--cert-file") { "https" } else { "http" };
    format!("{scheme}://127.0.0.1:{}", ports.client)
}

fn run(dir: &Path, ports: Ports, extra: &[String]) -> Process {
    let client = client_url(ports, extra);
    let (peer, health) = (format!("http://127.0.0.1:{}", ports.peer), format!("http://127.0.0.1:{}", ports.health));
    let mut command = Command::new(tool("etcd"));
    command.arg("--data-dir").arg(dir.join("etcd"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}"), "--listen-metrics-urls", &health]);
    command.args(["--log-level", "warn"]).args(extra);
    Process::start(&mut command, dir.join("etcd.log"))
}

/// Whether it has a leader and takes proposals.
fn healthy(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET /health HTTP/1.0\r\nHost: etcd\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.contains("\"health\":\"true\""))
}
