//! Child processes that cannot outlive their parent, and the folder they share.
//!
//! A child ends when its standard input does: the kernel closes that pipe however the parent ends, `kill -9` included.
//! Children are in process groups of their own, so that Ctrl-C reaches the parent alone and a sidecar does not begin to
//! drain while the demo still counts.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Set for `fusewire control` and `fusewire sidecar` as children.
pub(crate) const EXIT_WITH_PARENT: &str = "FUSEWIRE_EXIT_WITH_PARENT";
/// Of a log, in an error message.
const TAIL_LINES: usize = 12;

/// Ends this process when its standard input ends; then removes `folder`, if its owner could not.
pub(crate) fn exit_with_parent(folder: Option<PathBuf>) {
    std::thread::spawn(move || {
        let mut sink = [0_u8; 64];
        let mut stdin = std::io::stdin().lock();
        while matches!(stdin.read(&mut sink), Ok(n) if n > 0) {}
        if let Some(folder) = folder {
            // the others are ending at this moment, and may still write
            for _ in 0..20 {
                std::thread::park_timeout(Duration::from_millis(100));
                if std::fs::remove_dir_all(&folder).is_ok() {
                    break;
                }
            }
        }
        std::process::exit(0);
    });
}

/// A folder of our own that goes when this does, unless it is to be kept.
pub(crate) struct Scratch {
    path: PathBuf,
    pub(crate) keep: bool,
}

impl Scratch {
    pub(crate) fn new(keep: bool) -> Result<Self> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("fusewire-demo-{}-{:x}", std::process::id(), since.subsec_nanos());
        let path = std::env::temp_dir().join(name);
        // not recursive: what already exists is somebody else's
        DirBuilder::new().mode(0o700).create(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path, keep })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// One child, killed when this is dropped.
pub(crate) struct Running {
    pub(crate) name: String,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Running {
    /// This program again, with other arguments; what it says goes to `<folder>/<name>.log`.
    pub(crate) fn start<A: AsRef<OsStr>>(name: &str, folder: &Path, arguments: &[A]) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| log.display().to_string())?;
        let program = std::env::current_exe().context("cannot tell which program this is")?;
        let child = Command::new(&program)
            .args(arguments)
            .env(EXIT_WITH_PARENT, "1")
            .stdin(Stdio::piped())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {} for {name}", program.display()))?;
        Ok(Self { name: name.to_owned(), child: Mutex::new(child), log })
    }

    /// An error with the end of its log, if it has ended.
    pub(crate) fn check(&self) -> Result<()> {
        let ended = self.child().try_wait()?;
        match ended {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}); the end of its log:\n{}", self.name, self.log_tail()),
        }
    }

    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// Resident memory.
    pub(crate) fn memory_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child().id())).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }
}
