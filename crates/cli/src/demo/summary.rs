//! What is said in the end: the client's numbers, and how to go on.

use super::load::Seen;
use super::schedule::Schedule;
use super::town::inventory;
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) struct Summary {
    pub(crate) seen: Seen,
    pub(crate) schedule: Schedule,
    pub(crate) transitions: u64,
    pub(crate) openings: u64,
    pub(crate) sidecar_memory_kib: Option<u64>,
    pub(crate) breakers: bool,
    pub(crate) elapsed: Duration,
}

impl Summary {
    pub(crate) fn json(&self) -> Value {
        let faults: Vec<Value> = self
            .schedule
            .faults
            .iter()
            .map(|f| json!({ "kind": f.kind.word(), "instance": inventory(f.instance), "failed": f.failed }))
            .collect();
        json!({
            "requests": self.seen.requests,
            "failed": self.seen.failed,
            "not_sent": self.seen.not_sent,
            "faults": faults,
            "failed_without_fault": self.schedule.unexplained,
            "transitions": self.transitions,
            "openings": self.openings,
            "breakers": self.breakers,
            "seconds": (self.elapsed.as_secs_f64() * 10.0).round() / 10.0,
            "sidecar_memory_kib": self.sidecar_memory_kib,
        })
    }

    pub(crate) fn text(&self) -> String {
        let Seen { requests, failed, not_sent } = self.seen;
        let percent = 100.0 * failed as f64 / requests.max(1) as f64;
        let with = if self.breakers { "with circuit breakers" } else { "WITHOUT circuit breakers" };
        let seconds = self.elapsed.as_secs_f64();
        let failures = format!("{failed} failed for the client ({percent:.2}%)");
        let mut out = format!("{requests} requests in {seconds:.0}s {with}: {failures}\n");
        for f in &self.schedule.faults {
            out += &format!("  fault {:<6} on {}: {:>4} failed\n", f.kind.word(), inventory(f.instance), f.failed);
        }
        if self.schedule.unexplained > 0 {
            out += &format!("  without a fault: {} failed\n", self.schedule.unexplained);
        }
        if not_sent > 0 {
            out += &format!("  {not_sent} more were not sent, because too many were waiting\n");
        }
        out += &format!("{} transitions of circuits, {} of them openings\n", self.transitions, self.openings);
        if let Some(kib) = self.sidecar_memory_kib {
            out += &format!("memory of a sidecar: {:.1} MiB on average\n", kib as f64 / 1024.0);
        }
        let other = if self.breakers { "fusewire demo --without-breakers" } else { "fusewire demo" };
        out + &format!("compare: {other}\n\n{}", next())
    }
}

/// Commands to paste, with the folder that this program lies in first on the path.
fn next() -> String {
    let program = std::env::current_exe().ok();
    let folder = program.as_deref().and_then(std::path::Path::parent).map(|p| p.display().to_string());
    NEXT.replace("{folder}", folder.as_deref().unwrap_or("."))
}

const NEXT: &str = r#"Mesh a program of your own: paste this into a shell. README.md explains it and goes on.

  export PATH="{folder}:$PATH" && cd "$(mktemp -d)"
  mkdir www && echo 'hello from the mesh' > www/index.html
  python3 -m http.server 8101 --bind 127.0.0.1 --directory www >/dev/null 2>&1 &
  echo 'services: {files: {instances: [{id: files-1, address: "127.0.0.1:8101", sidecar: "127.0.0.1:8201"}]}}' > mesh.yaml
  fusewire control --config mesh.yaml & sleep 1
  fusewire token create files > token
  echo 'sidecar: {workload: files, instance: files-1, control: "127.0.0.1:15010", token_file: token,
    data_dir: data, inbound: "127.0.0.1:8201", outbound: "127.0.0.1:8300"}' > sidecar.yaml
  fusewire sidecar --config sidecar.yaml &
  curl --retry 5 --retry-connrefused -H 'Host: files' http://127.0.0.1:8300/
  fusewire breaker list --socket data/sidecar.sock; kill $(jobs -p)
"#;
