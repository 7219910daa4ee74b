//! The life of one pod, as the kubelet leads it; read [`Kubelet::live`].
//!
//! It decides the order of things: volumes; init containers one after the other, where one that is a sidecar
//! (`restartPolicy: Always`) has only to be started, by its startup probe; the application's containers; probes, from the node
//! and for as long as the pod lives; at its end `preStop`, SIGTERM to the application, and only then to the sidecars, last
//! first. What comes of it is in the pod's status, from which controllers make the rest. It deliberately has no back-off that
//! grows, and updates no ConfigMap that is mounted.

use crate::container::{self, Shell};
use crate::node::Node;
use crate::probes::Probes;
use crate::volumes;
use fusewire_testkit::Process;
use fusewire_testkit::netns::Host;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Between two looks at a pod.
const TICK: Duration = Duration::from_millis(50);
/// Before a container that ended is started again.
const BACK_OFF: Duration = Duration::from_secs(1);
/// That sidecars have at least, once the application is gone.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// What somebody wants of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// `kubectl delete`.
    Delete,
    /// It is gone at once, with its machine.
    Crash,
}

/// How programs are run in a pod's containers, by their names.
pub(crate) type Shells = Arc<Mutex<BTreeMap<String, Shell>>>;

/// What the containers of a pod share.
pub(crate) struct Sandbox {
    pub(crate) pod: Value,
    pub(crate) host: Host,
    pub(crate) dir: PathBuf,
    /// By volume, the folder that is mounted.
    pub(crate) volumes: BTreeMap<String, PathBuf>,
    /// What a service account's pod finds of the API server.
    pub(crate) account: PathBuf,
    pub(crate) environment: Vec<(String, String)>,
}

impl Sandbox {
    /// The downward API: `metadata.labels['app']`, `status.podIP`.
    pub(crate) fn field(&self, path: &str) -> String {
        let (object, key) = match path.split_once("['") {
            Some((object, key)) => (object, Some(key.trim_end_matches("']"))),
            None => (path, None),
        };
        let found = object.split('.').fold(&self.pod, |value, step| &value[step]);
        key.map_or(found, |key| &found[key]).as_str().unwrap_or_default().to_owned()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Init,
    Sidecar,
    App,
}

struct Container {
    spec: Value,
    part: Part,
    process: Process,
    shell: Shell,
    probes: Probes,
    /// Since when, and how.
    ended: Option<(Instant, ExitStatus)>,
    /// When SIGKILL follows SIGTERM.
    kill_at: Option<Instant>,
    restarts: u32,
}

pub(crate) struct Kubelet {
    node: Arc<Node>,
    containers: Vec<Container>,
    sandbox: Sandbox,
    shells: Shells,
    orders: Receiver<Order>,
    phase: &'static str,
    /// What began is ended, and not begun again.
    ending: bool,
}

impl Kubelet {
    /// `pod` as the API server has it.
    pub(crate) fn new(node: Arc<Node>, mut pod: Value, orders: Receiver<Order>, shells: Shells) -> Self {
        let host = node.host_of_pod();
        pod["metadata"]["labels"]["topology.kubernetes.io/zone"] = "z1".into();
        pod["spec"]["nodeName"] = "node".into();
        pod["status"] = json!({"phase": "Pending", "hostIP": node.ip(), "podIP": host.v4, "podIPs": [{"ip": host.v4}]});
        let dir = node.dir_of(&pod);
        let environment = node.environment(&pod);
        let (volumes, account) = (BTreeMap::new(), dir.join("account"));
        let sandbox = Sandbox { pod, host, dir, volumes, account, environment };
        Self { node, containers: Vec::new(), sandbox, shells, orders, phase: "Pending", ending: false }
    }

    pub(crate) fn live(mut self) {
        let order = match self.begin().and_then(|()| self.watch()) {
            Ok(()) => self.wait_for_order(), // it ended by itself, and is still to be seen
            Err(order) => order,
        };
        if order == Order::Delete {
            let _ = self.terminate();
        }
        self.containers.clear();
        self.node.gone(&self.sandbox.pod);
    }

    fn begin(&mut self) -> Result<(), Order> {
        self.tell();
        while !volumes::mount(&self.node, &mut self.sandbox) {
            self.pause(TICK)?; // the ConfigMap is not there yet
        }
        for spec in list(&self.sandbox.pod["spec"]["initContainers"]) {
            if spec["restartPolicy"] == "Always" {
                self.start(spec, Part::Sidecar);
                self.until(|pod| pod.containers.last().is_some_and(Container::is_started))?;
            } else {
                self.complete(&spec)?;
            }
        }
        for spec in list(&self.sandbox.pod["spec"]["containers"]) {
            self.start(spec, Part::App);
        }
        self.phase = "Running";
        Ok(())
    }

    /// Runs an init container, until it succeeds.
    fn complete(&mut self, spec: &Value) -> Result<(), Order> {
        loop {
            self.start(spec.clone(), Part::Init);
            self.until(|pod| pod.containers.last().is_some_and(|c| c.ended.is_some()))?;
            let ended = self.containers.pop().and_then(|c| c.ended);
            if ended.is_some_and(|(_, status)| status.success()) {
                return Ok(());
            }
            self.pause(BACK_OFF)?;
        }
    }

    /// Until the application has ended by itself, and its sidecars after it.
    fn watch(&mut self) -> Result<(), Order> {
        self.until(|pod| pod.of(Part::App).all(|c| c.ended.is_some() && !c.begins_again(pod)))?;
        self.ending = true;
        self.end(Part::Sidecar, Instant::now() + self.grace())?;
        let succeeded = self.of(Part::App).all(|c| c.ended.is_some_and(|(_, status)| status.success()));
        self.phase = if succeeded { "Succeeded" } else { "Failed" };
        self.tell();
        Ok(())
    }

    /// As for a pod that was deleted.
    fn terminate(&mut self) -> Result<(), Order> {
        self.ending = true;
        let until = Instant::now() + self.grace();
        self.sandbox.pod["metadata"]["deletionTimestamp"] = "2026-11-22T19:00:00Z".into();
        self.tell();
        let hooks: Vec<(Shell, Value)> =
            self.of(Part::App).map(|c| (c.shell.clone(), c.spec["lifecycle"]["preStop"].clone())).collect();
        for (shell, hook) in hooks {
            if let Some(seconds) = hook["sleep"]["seconds"].as_u64() {
                let awake = Instant::now() + Duration::from_secs(seconds);
                self.until(|_| Instant::now() >= awake)?;
            } else if hook["exec"].is_object() {
                let _ = shell.command(&words(&hook["exec"]["command"])).output();
            }
        }
        self.end(Part::App, until)?;
        self.end(Part::Sidecar, until.max(Instant::now() + LEAST_GRACE))
    }

    /// SIGTERM, and SIGKILL after `until`: to the application's containers together, to sidecars last first.
    fn end(&mut self, part: Part, until: Instant) -> Result<(), Order> {
        let all: Vec<usize> = (0..self.containers.len()).rev().filter(|n| self.containers[*n].part == part).collect();
        for n in all {
            self.containers[n].stop(until);
            if part == Part::Sidecar {
                self.until(|pod| pod.containers[n].ended.is_some())?;
            }
        }
        self.until(|pod| pod.of(part).all(|c| c.ended.is_some()))
    }

    fn start(&mut self, spec: Value, part: Part) {
        let name = spec["name"].as_str().unwrap().to_owned();
        let (process, shell) = container::start(&self.sandbox, &spec, self.sandbox.dir.join(format!("{name}.log")));
        self.shells.lock().unwrap().insert(name, shell.clone());
        let probes = Probes::new(&spec);
        let fresh = Container { spec, part, process, shell, probes, ended: None, kill_at: None, restarts: 0 };
        self.containers.push(fresh);
    }

    fn restart(&mut self, n: usize) {
        let (spec, part) = (self.containers[n].spec.clone(), self.containers[n].part);
        self.start(spec, part);
        // the new one takes its place
        let before = self.containers.swap_remove(n);
        self.containers[n].restarts = before.restarts + 1;
    }

    /// Goes on with everything, until `done`.
    fn until(&mut self, done: impl Fn(&Self) -> bool) -> Result<(), Order> {
        loop {
            self.look();
            if done(self) {
                return Ok(());
            }
            self.pause(TICK)?;
        }
    }

    fn pause(&self, time: Duration) -> Result<(), Order> {
        match self.orders.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(Order::Delete) if self.ending && self.phase == "Running" => Ok(()),
            Ok(order) => Err(order),
            Err(RecvTimeoutError::Disconnected) => Err(Order::Crash),
        }
    }

    fn wait_for_order(&self) -> Order {
        self.orders.recv().unwrap_or(Order::Crash)
    }

    /// Once over the containers: who ended, who is to begin again, who is well.
    fn look(&mut self) {
        let now = Instant::now();
        for n in 0..self.containers.len() {
            let container = &mut self.containers[n];
            if container.ended.is_none() {
                container.ended = container.process.ended().map(|status| (now, status));
            }
            match container.ended {
                None => {
                    let shell = &container.shell;
                    container.probes.ask(now, self.node.host(), &self.sandbox.host.v4, shell);
                    if container.probes.is_dead() && !self.ending {
                        let until = now + self.grace();
                        self.containers[n].stop(until);
                    }
                    self.containers[n].kill_when_due(now);
                }
                Some((since, _)) => {
                    container.probes = Probes::new(&container.spec);
                    if now > since + BACK_OFF && self.containers[n].begins_again(self) {
                        self.restart(n);
                    }
                }
            }
        }
        self.tell();
    }

    fn of(&self, part: Part) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(move |container| container.part == part)
    }

    fn grace(&self) -> Duration {
        Duration::from_secs(self.sandbox.pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30))
    }

    /// Puts the status into the API server.
    fn tell(&mut self) {
        let is_ready = self.phase == "Running" && self.containers.iter().all(Container::is_ready);
        let ready = if is_ready { "True" } else { "False" };
        let status = &mut self.sandbox.pod["status"];
        status["phase"] = self.phase.into();
        status["conditions"] =
            json!([{"type": "Ready", "status": ready}, {"type": "ContainersReady", "status": ready}]);
        for (key, part) in [("initContainerStatuses", Part::Sidecar), ("containerStatuses", Part::App)] {
            let of_part = self.containers.iter().filter(|container| container.part == part);
            self.sandbox.pod["status"][key] = of_part.map(Container::status).collect();
        }
        self.node.put(&self.sandbox.pod);
    }
}

impl Container {
    fn is_started(&self) -> bool {
        self.ended.is_none() && self.probes.has_started()
    }

    fn is_ready(&self) -> bool {
        self.ended.is_none() && self.probes.is_ready()
    }

    fn begins_again(&self, pod: &Kubelet) -> bool {
        let policy = pod.sandbox.pod["spec"]["restartPolicy"].as_str().unwrap_or("Always");
        let failed = self.ended.is_some_and(|(_, status)| !status.success());
        let wanted = policy == "Always" || self.part == Part::Sidecar || (policy == "OnFailure" && failed);
        wanted && self.part != Part::Init && !pod.ending
    }

    fn stop(&mut self, until: Instant) {
        if self.ended.is_none() && self.kill_at.is_none() {
            self.process.signal("TERM");
            self.kill_at = Some(until);
        }
    }

    fn kill_when_due(&mut self, now: Instant) {
        if self.kill_at.is_some_and(|at| now >= at) {
            self.process.signal("KILL");
        }
    }

    fn status(&self) -> Value {
        let state = match &self.ended {
            None => json!({"running": {}}),
            Some((_, status)) => json!({"terminated": {"exitCode": status.code().unwrap_or(137)}}),
        };
        json!({
            "name": self.spec["name"], "started": self.is_started(), "ready": self.is_ready(),
            "restartCount": self.restarts, "state": state,
        })
    }
}

pub(crate) fn words(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}
