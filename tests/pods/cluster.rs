//! A cluster with Fusewire in it, as `fusewire install` leaves it, and what `kubectl` does.

use crate::admission::admitted;
use crate::kubelet::{Kubelet, Order, Shells};
use crate::node::{Node, key};
use fusewire_kubernetes::yaml;
use fusewire_testkit::eventually;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Of each log, when a test failed.
const LINES: usize = 12;
const SYSTEM: &str = "fusewire-system";

pub(crate) struct Cluster {
    pub(crate) node: Arc<Node>,
    /// By namespace and name.
    pods: BTreeMap<String, Running>,
    /// Of which the control plane's pods are made.
    control: Value,
}

struct Running {
    orders: SyncSender<Order>,
    shells: Shells,
    thread: JoinHandle<()>,
}

impl Cluster {
    /// With one control plane, which is ready.
    pub(crate) fn new() -> Self {
        let mut cluster = Self { node: Arc::new(Node::new()), pods: BTreeMap::new(), control: Value::Null };
        let mut install = Command::new(env!("CARGO_BIN_EXE_fusewire"));
        let printed = install.args(["install", "--print", "--single-replica"]).output().unwrap();
        cluster.apply(&String::from_utf8(printed.stdout).unwrap());
        cluster.start_control("1");
        cluster
    }

    /// A pod of the Deployment, as its controller makes it.
    pub(crate) fn start_control(&mut self, suffix: &str) {
        let name = format!("fusewire-control-{suffix}");
        let mut pod = self.control.clone();
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["namespace"] = SYSTEM.into();
        pod["metadata"]["name"] = name.as_str().into();
        self.create(pod);
        self.wait_ready(SYSTEM, &name);
    }

    /// `kubectl apply -f -`.
    pub(crate) fn apply(&mut self, manifests: &str) {
        for mut object in yaml::read(manifests).unwrap() {
            match object["kind"].as_str().unwrap() {
                "Pod" => self.create(object),
                "Deployment" => self.control = object["spec"]["template"].take(),
                "Namespace" => {
                    object["metadata"]["labels"]["kubernetes.io/metadata.name"] = object["metadata"]["name"].clone();
                    self.node.put(&object);
                }
                _ => drop(self.node.put(&object)),
            }
        }
    }

    /// As controllers do, again and again until the API server takes it.
    fn create(&mut self, pod: Value) {
        let mut taken = Err(String::new());
        eventually("the pod is admitted", || {
            let before = std::mem::replace(&mut taken, admitted(&self.node, pod.clone()));
            if let Err(why) = &taken
                && before.as_ref().err() != Some(why)
            {
                eprintln!("{}: {why}", key(&pod));
            }
            taken.is_ok()
        });
        let stored = self.node.put(&taken.unwrap());
        let (orders, received) = sync_channel(4);
        let (node, shells, name) = (self.node.clone(), Shells::default(), key(&stored));
        let shared = shells.clone();
        let thread = std::thread::spawn(move || Kubelet::new(node, stored, received, shared).live());
        self.pods.insert(name, Running { orders, shells, thread });
    }

    /// `kubectl delete --wait=false`, or the end of its machine.
    pub(crate) fn order(&self, namespace: &str, name: &str, order: Order) {
        self.pods[&format!("{namespace}/{name}")].orders.send(order).unwrap();
    }

    pub(crate) fn delete(&self, name: &str) {
        self.order("shop", name, Order::Delete);
    }

    /// SIGKILL to what runs in the control plane's pod; nothing is begun again.
    pub(crate) fn crash_control(&self, suffix: &str) {
        let name = format!("fusewire-control-{suffix}");
        self.order(SYSTEM, &name, Order::Crash);
        eventually("the control plane is gone", || self.node.api.get("pods", SYSTEM, &name).is_none());
    }

    /// A pod of `shop`; null once it is gone.
    pub(crate) fn pod(&self, name: &str) -> Value {
        self.node.api.get("pods", "shop", name).unwrap_or_default()
    }

    pub(crate) fn is_ready(&self, name: &str) -> bool {
        is_ready(&self.pod(name))
    }

    pub(crate) fn wait_ready(&self, namespace: &str, name: &str) {
        let ready = || is_ready(&self.node.api.get("pods", namespace, name).unwrap_or_default());
        eventually(&format!("pod {name} is ready"), ready);
    }

    /// `kubectl logs`.
    pub(crate) fn log(&self, pod: &str, container: &str) -> String {
        self.log_in("shop", pod, container)
    }

    pub(crate) fn log_in(&self, namespace: &str, pod: &str, container: &str) -> String {
        let dir = self.node.dir_of(&json!({"metadata": {"namespace": namespace, "name": pod}}));
        std::fs::read_to_string(dir.join(format!("{container}.log"))).unwrap_or_default()
    }

    /// What its sidecar says of each request.
    pub(crate) fn access_log(&self, pod: &str) -> Vec<Value> {
        let log = self.log(pod, "fusewire");
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(Value::is_object).collect()
    }

    /// `kubectl exec`: what it prints; it has to succeed.
    pub(crate) fn exec(&self, namespace: &str, pod: &str, container: &str, program: &[&str]) -> String {
        let shell = self.pods[&format!("{namespace}/{pod}")].shells.lock().unwrap()[container].clone();
        let out = shell.command(program).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{program:?}: {said}{}", String::from_utf8_lossy(&out.stderr));
        said
    }

    /// The process of a container.
    pub(crate) fn pid(&self, pod: &str, container: &str) -> u32 {
        self.pods[&format!("shop/{pod}")].shells.lock().unwrap()[container].pid
    }

    /// What a control plane's own command says.
    pub(crate) fn control(&self, suffix: &str, arguments: &[&str]) -> String {
        let program = [&["/usr/bin/fusewire"], arguments, &["--socket", "/var/lib/fusewire/control.sock"]].concat();
        self.exec(SYSTEM, &format!("fusewire-control-{suffix}"), "control", &program)
    }
}

impl Cluster {
    /// For whoever looks why a test failed.
    fn show(&self, pod: &Value) {
        eprintln!("=== {} {}", key(pod), pod["status"]);
        for container in
            ["initContainers", "containers"].iter().flat_map(|part| pod["spec"][*part].as_array()).flatten()
        {
            let name = container["name"].as_str().unwrap_or_default();
            let log = std::fs::read_to_string(self.node.dir_of(pod).join(format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- {name}\n{}", lines[lines.len().saturating_sub(LINES)..].join("\n"));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.node.api.all("pods").iter().for_each(|pod| self.show(pod));
        }
        for (name, Running { orders, thread, .. }) in std::mem::take(&mut self.pods) {
            let _ = orders.try_send(Order::Crash);
            drop(orders);
            if thread.join().is_err() {
                eprintln!("the kubelet of {name} failed");
            }
        }
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
