//! The demo, run as people run it: real processes, and what is left of them.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);

/// A folder for temporary files that marks every process which was given it.
struct Mark(PathBuf);

impl Mark {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("fw-demo-test-{}-{n}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn demo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fusewire"));
        command.arg("demo").args(arguments).env("TMPDIR", &self.0).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Processes and files that carry the mark.
    fn left(&self) -> Vec<String> {
        let mark = self.0.as_os_str().as_encoded_bytes();
        let marked = |path: &Path| std::fs::read(path).is_ok_and(|b| contains(&b, mark));
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(|e| Some(e.ok()?.path()));
        let processes = processes.filter(|p| marked(&p.join("cmdline")) || marked(&p.join("environ")));
        let files = std::fs::read_dir(&self.0).unwrap().filter_map(|e| Some(e.ok()?.path()));
        processes.chain(files).map(|p| p.display().to_string()).collect()
    }

    #[expect(clippy::disallowed_methods, reason = "polls the process table, which nobody announces")]
    fn nothing_is_left(&self) {
        let began = Instant::now();
        while !self.left().is_empty() && began.elapsed() < SOON {
            std::thread::sleep(Duration::from_millis(50)); // bounded wait
        }
        assert_eq!(self.left(), Vec::<String>::new());
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|w| w == part)
}

/// Reads what the demo says beside its JSON until requests flow: what it has said, and where the rest comes from.
fn wait_for_traffic(child: &mut Child) -> (String, BufReader<std::process::ChildStderr>) {
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let (mut line, mut all) = (String::new(), String::new());
    while said.read_line(&mut line).unwrap() > 0 {
        if line.contains("requests/s") {
            return (all, said);
        }
        all += &std::mem::take(&mut line);
    }
    panic!("the demo ended before requests flowed:\n{all}");
}

fn summary(stdout: &[u8]) -> Value {
    let text = String::from_utf8_lossy(stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap()
}

#[test]
fn with_breakers_the_client_sees_at_most_15_failures_of_each_fault_and_nothing_is_left() {
    let mark = Mark::new();
    let output = mark.demo(&["--seconds", "14", "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1);
    let summary = summary(&output.stdout);
    assert!(summary["requests"].as_u64().unwrap() > 1_000, "{summary}");
    let faults = summary["faults"].as_array().unwrap();
    let kinds: Vec<_> = faults.iter().map(|f| f["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["errors", "hang"]);
    for fault in faults {
        assert!(fault["failed"].as_u64().unwrap() <= 15, "{summary}\n{said}");
    }
    let failed: u64 = faults.iter().map(|f| f["failed"].as_u64().unwrap()).sum();
    let total = failed + summary["failed_without_fault"].as_u64().unwrap();
    assert_eq!(summary["failed"], total, "every failure is accounted for: {summary}");
    assert!(summary["transitions"].as_u64().unwrap() >= 2, "{summary}");
    mark.nothing_is_left();
}

#[test]
fn ctrl_c_ends_the_demo_with_its_summary_and_nothing_is_left() {
    let mark = Mark::new();
    let mut child = mark.demo(&["--json"]).spawn().unwrap();
    let (said, mut rest) = wait_for_traffic(&mut child);
    let address = said.lines().find_map(|line| line.strip_prefix("traces and service map: http://127.0.0.1:")).unwrap();
    let port = address.trim_end_matches('/').parse().unwrap();
    let page = fusewire_testkit::client::get(port, "127.0.0.1", "/").unwrap();
    assert!(page.status == 200 && page.text().contains("Service map"), "{address}");
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    std::io::copy(&mut rest, &mut std::io::sink()).unwrap();
    let mut stdout = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(summary(&stdout)["faults"], Value::Array(Vec::new()));
    mark.nothing_is_left();
}

#[test]
fn a_demo_that_is_killed_takes_everything_with_it() {
    let mark = Mark::new();
    let mut child = mark.demo(&["--json"]).spawn().unwrap();
    let (_, _rest) = wait_for_traffic(&mut child);
    assert!(mark.left().len() > 13, "{:?}", mark.left());
    child.kill().unwrap();
    child.wait().unwrap();
    mark.nothing_is_left();
}
