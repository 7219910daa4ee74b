//! The probes of one container, from the node.
//!
//! It decides that periods are half as long as they say, so that tests wait less; how long an answer may take is as it says.

use crate::container::Shell;
use crate::kubelet::words;
use fusewire_testkit::netns::Host;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Of periods.
const SECOND: Duration = Duration::from_millis(500);

pub(crate) struct Probes {
    startup: Option<Probe>,
    readiness: Option<Probe>,
    liveness: Option<Probe>,
}

struct Probe {
    spec: Value,
    next: Option<Instant>,
    /// The last answer, and how often in a row.
    row: (bool, u64),
    /// Once it was the same often enough.
    verdict: Option<bool>,
}

impl Probes {
    pub(crate) fn new(container: &Value) -> Self {
        let probe = |name: &str| {
            let mut spec = container.get(name)?.clone();
            if let Some(port) = spec.pointer_mut("/httpGet/port") {
                *port = number(port, container).into();
            }
            Some(Probe { spec, next: None, row: (false, 0), verdict: None })
        };
        Self { startup: probe("startupProbe"), readiness: probe("readinessProbe"), liveness: probe("livenessProbe") }
    }

    /// Those that are due.
    pub(crate) fn ask(&mut self, now: Instant, node: &Host, ip: &str, shell: &Shell) {
        if !self.has_started() {
            return self.startup.iter_mut().for_each(|probe| probe.ask(now, node, ip, shell));
        }
        [&mut self.readiness, &mut self.liveness]
            .into_iter()
            .flatten()
            .for_each(|probe| probe.ask(now, node, ip, shell));
    }

    pub(crate) fn has_started(&self) -> bool {
        self.startup.as_ref().is_none_or(|probe| probe.verdict == Some(true))
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.has_started() && self.readiness.as_ref().is_none_or(|probe| probe.verdict == Some(true))
    }

    /// It is to be ended, and begun again.
    pub(crate) fn is_dead(&self) -> bool {
        [&self.startup, &self.liveness].into_iter().flatten().any(|probe| probe.verdict == Some(false))
    }
}

impl Probe {
    fn ask(&mut self, now: Instant, node: &Host, ip: &str, shell: &Shell) {
        let seconds = |key: &str, default| SECOND * u32::try_from(self.spec[key].as_u64().unwrap_or(default)).unwrap();
        let next = *self.next.get_or_insert(now + seconds("initialDelaySeconds", 0));
        if now < next {
            return;
        }
        self.next = Some(now + seconds("periodSeconds", 10));
        let good = asked(&self.spec, node, ip, shell);
        self.row = if self.row.0 == good { (good, self.row.1 + 1) } else { (good, 1) };
        let threshold = if good { ("successThreshold", 1) } else { ("failureThreshold", 3) };
        if self.row.1 >= self.spec[threshold.0].as_u64().unwrap_or(threshold.1) {
            self.verdict = Some(good);
        }
    }
}

/// A redirect is good, and is not followed.
fn asked(spec: &Value, node: &Host, ip: &str, shell: &Shell) -> bool {
    let timeout = spec["timeoutSeconds"].as_u64().unwrap_or(1).to_string();
    if spec["exec"].is_object() {
        let command = [&["timeout", timeout.as_str()][..], &words(&spec["exec"]["command"])].concat();
        return shell.command(&command).output().is_ok_and(|out| out.status.success());
    }
    let http = &spec["httpGet"];
    assert!(http["port"].is_u64(), "a probe that this kubelet does not know: {spec}");
    let url = format!("http://{ip}:{}{}", http["port"], http["path"].as_str().unwrap_or("/"));
    let out = node.run("curl", &["-s", "-o", "/dev/null", "--max-time", &timeout, "-w", "%{http_code}", &url]);
    let status: u16 = String::from_utf8_lossy(&out.stdout).parse().unwrap_or(0);
    (200..400).contains(&status)
}

/// A port of a container, by its number or its name.
pub(crate) fn number(port: &Value, container: &Value) -> Option<u64> {
    let declared = || container["ports"].as_array()?.iter().find(|declared| declared["name"] == *port);
    port.as_u64().or_else(|| declared()?["containerPort"].as_u64())
}
