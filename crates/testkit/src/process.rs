//! Child processes whose output is kept, and waiting for what they do.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a condition may take that holds at once on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A process that is killed with this handle; its output goes to a file that is shown when the test panics.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pub log: PathBuf,
}

impl Process {
    /// Starts `command`; `log` gets what it prints.
    pub fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
        Self { child, log }
    }
    pub fn id(&self) -> u32 {
        self.child.id()
    }
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
    /// SIGKILL, as a crash.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status().unwrap();
        assert!(sent.success(), "kill -{name}");
    }
    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }
    /// SIGTERM, and its end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        let mut status = None;
        eventually("the process ends after SIGTERM", || {
            status = self.ended();
            status.is_some()
        });
        status.unwrap()
    }
    /// Resident memory, in KiB.
    pub fn rss_kib(&self) -> u64 {
        rss_kib(self.id())
    }
}

/// Resident memory of a process, in KiB; 0 once it is gone.
pub fn rss_kib(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let output = self.output();
            let tail: Vec<&str> = output.lines().rev().take(40).collect();
            eprintln!("--- {}", self.log.display());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Waits until `condition` holds, at most [`PATIENCE`]; `what` says what was waited for.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "the one place that polls; its thread has nothing else to do")]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20)); // bounded wait
    }
}

/// A port that is free, and that this process has not named before. Below those that the kernel gives to outgoing
/// connections, and beginning elsewhere in each process, so that tests in parallel get different ones.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static NAMED: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let next = std::process::id().wrapping_mul(61).wrapping_add(NAMED.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + next % COUNT).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Whether something accepts connections on `port`.
pub fn accepts(port: u16) -> bool {
    std::net::TcpStream::connect(loopback(port)).is_ok()
}

/// Fails, naming the remedy, where a tool that a test drives is missing: a test never skips in silence.
pub fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([Path::new("/usr/sbin").to_owned()])
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: run `cargo xtask test`, which installs what tests need"))
}

/// The Python that has the packages of tests/requirements.txt.
pub fn python() -> PathBuf {
    let set = std::env::var_os("FUSEWIRE_TEST_PYTHON").map(PathBuf::from);
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-python/bin/python");
    let found = set.unwrap_or(venv);
    assert!(found.is_file(), "{}: run `cargo xtask test`, which makes the Python environment", found.display());
    found
}
