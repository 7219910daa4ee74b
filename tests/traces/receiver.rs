//! An OTLP receiver that is not ours: Python, on OpenTelemetry's own messages.

use fusewire_testkit::process::{accepts, python};
use fusewire_testkit::{Mesh, Process, eventually, free_port};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

pub(crate) struct Receiver {
    process: Process,
    pub(crate) grpc: u16,
    pub(crate) http: u16,
}

impl Receiver {
    /// `mode`: how it behaves, as the script's head has it.
    pub(crate) fn start(mesh: &Mesh, mode: &str) -> Self {
        let (grpc, http) = (free_port(), free_port());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/otlp_receiver.py");
        let mut command = Command::new(python());
        command.arg(script).args([grpc.to_string(), http.to_string()]).args(Some(mode).filter(|m| !m.is_empty()));
        let process = Process::start(&mut command, mesh.path(&format!("receiver-{grpc}.log")));
        eventually("the receiver listens", || accepts(grpc) && accepts(http));
        Self { process, grpc, http }
    }

    fn told(&self, what: &str) -> Vec<Value> {
        let output = self.process.output();
        let lines = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line.get(what).is_some()).collect()
    }

    /// All spans of requests so far.
    pub(crate) fn spans(&self) -> Vec<Value> {
        self.told("span").into_iter().filter(|span| !is_work(span)).collect()
    }

    /// All spans of what sidecars did beside requests.
    pub(crate) fn work(&self) -> Vec<Value> {
        self.told("span").into_iter().filter(is_work).collect()
    }

    /// The spans of a trace, once there are `count`.
    pub(crate) fn trace(&self, id: &str, count: usize) -> Vec<Value> {
        let mut found = Vec::new();
        eventually(&format!("{count} spans of {id} arrive"), || {
            found = self.spans().into_iter().filter(|span| span["trace"] == id).collect();
            found.len() >= count
        });
        assert_eq!(found.len(), count, "{found:#?}");
        found
    }

    /// The latest of a metric from a service.
    pub(crate) fn metric(&self, service: &str, name: &str) -> Option<Value> {
        let all = self.told("metric");
        all.into_iter().rev().find(|m| m["metric"] == name && m["resource"]["service.name"] == service)
    }
}

fn is_work(span: &Value) -> bool {
    span["span"].as_str().is_some_and(|name| name.starts_with("fusewire."))
}

/// The one span of `service` of this kind (1 internal, 2 server, 3 client) whose name begins so.
pub(crate) fn one<'a>(spans: &'a [Value], service: &str, kind: u64, name: &str) -> &'a Value {
    let found: Vec<_> = spans
        .iter()
        .filter(|s| s["resource"]["service.name"] == service && s["kind"] == kind && s["span"] == name)
        .collect();
    assert_eq!(found.len(), 1, "{service} {kind} {name}: {spans:#?}");
    found[0]
}

/// The names of a span's events.
pub(crate) fn events(span: &Value) -> Vec<&str> {
    span["events"].as_array().map(|all| all.iter().filter_map(|e| e["name"].as_str()).collect()).unwrap_or_default()
}
