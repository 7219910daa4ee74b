//! A control plane in Kubernetes: an API server in memory, real control planes and real sidecars.
//!
//! Pods are addresses of loopback, one for each, so that every sidecar has the port that injected ones have.

#![allow(clippy::unwrap_used)]

use fusewire_testkit::client::{App, get};
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::process::accepts;
use fusewire_testkit::{KubeApi, Mesh, Process, eventually, free_port};
use http::Response;
use http_body_util::Full;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");
const NAMES: [&str; 2] = ["a", "b"];
const A: usize = 0;
const B: usize = 1;

/// An API server, and one or two control planes that look at it.
struct Town {
    controls: [Option<Process>; 2],
    ports: [u16; 2],
    api: KubeApi,
    mesh: Mesh,
}

impl Town {
    /// With one control plane.
    fn new(yaml: &str) -> Self {
        let mesh = Mesh::without_control(FUSEWIRE);
        std::fs::create_dir(mesh.path("config")).unwrap();
        mesh.configure(yaml);
        let api = KubeApi::start();
        api.namespace("shop", json!({}));
        std::fs::write(mesh.path("kubeconfig"), api.kubeconfig()).unwrap();
        let mut town = Self { controls: [None, None], ports: [free_port(), free_port()], api, mesh };
        town.start(A);
        town
    }

    fn start(&mut self, which: usize) {
        let (name, port) = (NAMES[which], self.ports[which]);
        let mut command = self.mesh.command();
        command.env("KUBECONFIG", self.mesh.path("kubeconfig")).arg("control").arg("--kubernetes");
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--config", "config"]);
        command.args(["--data-dir", name, "--replica", name, "--admin-listen", "127.0.0.1:0"]);
        self.controls[which] = Some(Process::start(&mut command, self.mesh.path(&format!("{name}.log"))));
        let socket = self.mesh.path(&format!("{name}/control.sock"));
        eventually(&format!("{name} listens"), || accepts(port) && socket.exists());
    }

    /// SIGKILL.
    fn kill(&mut self, which: usize) {
        self.controls[which] = None;
    }

    fn log(&self, which: usize) -> String {
        std::fs::read_to_string(self.mesh.path(&format!("{}.log", NAMES[which]))).unwrap_or_default()
    }

    #[track_caller]
    fn ok(&self, which: usize, arguments: &[&str]) -> String {
        let socket = format!("{}/control.sock", NAMES[which]);
        let out = self.mesh.command().args(arguments).args(["--socket", &socket]).output().unwrap();
        let (said, complained) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{arguments:?}: {said}{complained}");
        said
    }

    fn status(&self, which: usize) -> Value {
        let socket = format!("{}/control.sock", NAMES[which]);
        let out = self.mesh.command().args(["status", "-o", "json", "--socket", &socket]).output().unwrap();
        serde_json::from_slice(&out.stdout).unwrap_or(Value::Null)
    }

    /// The roots as pods of `namespace` would mount them.
    fn roots(&self, namespace: &str) -> Option<String> {
        let map = self.api.get("configmaps", namespace, "fusewire-trust")?;
        map["data"]["ca.pem"].as_str().map(str::to_owned)
    }

    /// A sidecar as an injected one: it joins by its service account's token. `pod`: whose inbound it is.
    fn sidecar(&self, name: &str, account: &str, token: &str, pod: Option<&Pod>) -> Sidecar {
        let mut roots = None;
        eventually("the roots are there", || {
            roots = self.roots("shop");
            roots.is_some()
        });
        let (token_file, trust_file) = (self.mesh.path(&format!("{name}.token")), self.mesh.path("ca.pem"));
        std::fs::write(&token_file, token).unwrap();
        std::fs::write(&trust_file, roots.unwrap()).unwrap();
        let [a, b] = self.ports;
        let inbound =
            pod.map(|pod| format!("  inbound: {{listen: {0}:15008, app: {0}}}\n", pod.ip)).unwrap_or_default();
        let section = format!(
            "  workload: spiffe://fusewire.local/ns/shop/sa/{account}\n  control: [127.0.0.1:{a}, 127.0.0.1:{b}]\n  \
             token_file: {}\n  trust_file: {}\n{inbound}",
            token_file.display(),
            trust_file.display(),
        );
        self.mesh.sidecar_alone(&pod.map_or(name.to_owned(), |pod| format!("uid-{}", pod.name)), None, &section, "")
    }

    /// One whose token is good.
    fn joins(&self, name: &str, account: &str, pod: Option<&Pod>) -> Sidecar {
        let token = format!("head.{account}.signed");
        self.api.token(&token, &format!("system:serviceaccount:shop:{account}"), &["fusewire"]);
        let sidecar = self.sidecar(name, account, &token, pod);
        sidecar.wait_ready();
        sidecar
    }

    /// Service `web` with these pods, each ready or not.
    fn serves(&self, name: &str, pods: &[(&Pod, bool)]) {
        for (pod, _) in pods {
            if self.api.get("pods", "shop", &pod.name).is_none() {
                pod.put(&self.api, "default", json!({}));
            }
        }
        let endpoint = |(pod, ready): &(&Pod, bool)| {
            json!({
                "addresses": [pod.ip.to_string()], "conditions": {"ready": ready, "serving": ready, "terminating": false},
                "targetRef": {"kind": "Pod", "name": pod.name, "uid": format!("uid-{}", pod.name)},
            })
        };
        let port = pods.first().map_or(1, |(pod, _)| pod.app.port);
        self.api.put(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "namespace": "shop", "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name},
            },
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
            "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
        }));
    }

    fn service(&self, name: &str, ip: &str) {
        self.api.put(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name},
            "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
        }));
    }
}

/// An application at an address of its own.
struct Pod {
    name: String,
    ip: Ipv4Addr,
    app: App,
    /// It answers 500.
    fails: Arc<AtomicBool>,
}

impl Pod {
    /// All pods of a test have one port, as those of a Service do. `port` 0: the first, which finds one.
    fn start(name: &str, port: u16) -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, 1 + high % 250, low, COUNT.fetch_add(1, Ordering::Relaxed));
        let text = name.to_owned();
        let fails: Arc<AtomicBool> = Arc::default();
        let failing = fails.clone();
        let app = App::start_at(SocketAddr::from((ip, port)), move |_| {
            let code = if failing.load(Ordering::Relaxed) { 500 } else { 200 };
            std::future::ready(Response::builder().status(code).body(Full::new(text.clone().into())).unwrap())
        });
        Self { name: name.into(), ip, app, fails }
    }

    fn injected(&self, api: &KubeApi, account: &str) {
        self.put(api, account, json!({"fusewire.io/injected": "true"}));
    }

    fn put(&self, api: &KubeApi, account: &str, labels: Value) {
        api.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "namespace": "shop", "name": self.name, "uid": format!("uid-{}", self.name), "labels": labels,
            },
            "spec": {"serviceAccountName": account, "containers": []},
            "status": {"phase": "Running", "podIPs": [{"ip": self.ip.to_string()}]},
        }));
    }
}

/// An object of ours for `web`, applied as kubectl does.
fn declare(town: &Town, kind: &str, name: &str, spec: Value) {
    town.api.put(json!({
        "apiVersion": "fusewire.io/v1alpha1", "kind": kind, "metadata": {"namespace": "shop", "name": name}, "spec": spec,
    }));
}

/// A condition's status, and what it says of the sidecars.
fn condition(town: &Town, resource: &str, name: &str, kind: &str) -> (String, String) {
    let object = town.api.get(resource, "shop", name).unwrap_or_default();
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let current = |one: &&Value| one["type"] == kind && one["observedGeneration"] == object["metadata"]["generation"];
    let one = all.iter().find(current).cloned().unwrap_or_default();
    let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("message"))
}

#[track_caller]
fn is_enforced(town: &Town, resource: &str, name: &str, says: &str) {
    let resource = format!("fusewire.io/v1alpha1/{resource}");
    let wanted = ("True".to_owned(), says.to_owned());
    eventually(&format!("{resource}/{name}: {says}"), || condition(town, &resource, name, "Enforced") == wanted);
}

fn said(caller: &Sidecar, host: &str) -> (u16, String) {
    get(caller.outbound, host, "/").map(|answer| (answer.status, answer.text())).unwrap_or_default()
}

#[track_caller]
fn is_served(caller: &Sidecar, host: &str, by: &str) {
    eventually(&format!("{host} is served by {by}"), || said(caller, host) == (200, by.to_owned()));
}

#[test]
fn services_are_called_by_every_name_that_kubernetes_gives_them_with_a_sidecar_and_without() {
    let town = Town::new("");
    let (meshed, plain) = (Pod::start("meshed", 0), Pod::start("plain", 0));
    meshed.injected(&town.api, "web");
    town.service("web", "10.96.0.1");
    town.service("old", "10.96.0.2");
    town.serves("web", &[(&meshed, true)]);
    town.serves("old", &[(&plain, true)]);
    let web = town.joins("web", "web", Some(&meshed));
    let caller = town.joins("caller", "front", None);
    for host in
        ["web", "web:80", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local:80", "WEB.shop.svc.cluster.local"]
    {
        is_served(&caller, host, "meshed");
    }
    is_served(&caller, "10.96.0.1:80", "meshed");
    is_served(&caller, "old", "plain");
    eventually("its sidecar knows who called", || {
        web.access_log().iter().any(|line| line["peer"] == "spiffe://fusewire.local/ns/shop/sa/front")
    });
    let (code, _) = said(&caller, "web.shop:81");
    assert_eq!(code, 404, "no such port");
    let told: Value = serde_json::from_str(&town.ok(A, &["endpoints", "web.shop", "-o", "json"])).unwrap();
    assert_eq!(told["instances"][0]["sources"], json!(["kubernetes"]), "{told}");
}

#[test]
fn what_becomes_ready_is_called_and_what_is_not_ready_is_not() {
    let town = Town::new("");
    let one = Pod::start("one", 0);
    let two = Pod::start("two", one.app.port);
    town.service("web", "10.96.0.1");
    town.serves("web", &[(&one, true), (&two, false)]);
    let caller = town.joins("caller", "front", None);
    is_served(&caller, "web", "one");
    assert!((0..20).all(|_| said(&caller, "web").1 == "one"));
    town.serves("web", &[(&one, false), (&two, true)]);
    is_served(&caller, "web", "two");
    assert!((0..20).all(|_| said(&caller, "web").1 == "two"));
    town.serves("web", &[(&one, false), (&two, false)]);
    eventually("nobody is called", || said(&caller, "web").0 == 503);
    town.api.remove("services", "shop", "web");
    eventually("there is no such service", || said(&caller, "web").0 == 404);
}

#[test]
fn what_was_known_is_called_while_the_api_server_is_away_and_what_changed_after() {
    let town = Town::new("");
    let one = Pod::start("one", 0);
    let two = Pod::start("two", one.app.port);
    town.service("web", "10.96.0.1");
    town.serves("web", &[(&one, true)]);
    let caller = town.joins("caller", "front", None);
    is_served(&caller, "web", "one");
    // it no longer has what happened
    town.api.expire();
    town.serves("web", &[(&two, true)]);
    is_served(&caller, "web", "two");
    town.api.go_down();
    let source = |failing: bool| {
        let status = town.status(A);
        let found = status["sources"].as_array().into_iter().flatten().find(|s| s["source"] == "kubernetes").cloned();
        found.is_some_and(|source| source["failing"].is_null() != failing)
    };
    eventually("it is said that the cluster is not heard", || source(true));
    town.serves("web", &[(&one, true)]);
    assert_eq!(said(&caller, "web"), (200, "two".into()), "the last known stays");
    town.api.come_up();
    is_served(&caller, "web", "one");
    eventually("and that it is again", || source(false));
}

#[test]
fn a_route_for_one_name_is_for_every_name_and_address_of_the_service() {
    let town = Town::new(
        "services: {web.shop: , canary.shop: }\nroutes:\n  web:\n    authority: web.shop.svc.cluster.local:80\n    \
         to: canary.shop\n",
    );
    let (stable, canary) = (Pod::start("stable", 0), Pod::start("canary", 0));
    town.service("web", "10.96.0.1");
    town.service("canary", "10.96.0.2");
    town.serves("web", &[(&stable, true)]);
    town.serves("canary", &[(&canary, true)]);
    let caller = town.joins("caller", "front", None);
    for host in ["web", "web.shop", "web.shop.svc.cluster.local", "10.96.0.1:80"] {
        is_served(&caller, host, "canary");
    }
}

/// As it is without a mesh: peers of a cluster of their own, and who collects metrics, mean one pod.
#[test]
fn who_calls_a_pods_own_address_reaches_that_pod_and_no_other() {
    let town = Town::new("");
    let a = Pod::start("pod-a", 0);
    let b = Pod::start("pod-b", a.app.port);
    town.service("web", "10.96.0.1");
    town.serves("web", &[(&a, true), (&b, true)]);
    let caller = town.joins("caller", "front", None);
    for pod in [&a, &b] {
        let own = format!("{}:{}", pod.ip, pod.app.port);
        is_served(&caller, &own, &pod.name);
        let answers: BTreeSet<String> = (0..20).map(|_| said(&caller, &own).1).collect();
        assert_eq!(answers, BTreeSet::from([pod.name.clone()]));
    }
    a.fails.store(true, Ordering::Relaxed);
    assert_eq!(said(&caller, &format!("{}:{}", a.ip, a.app.port)), (500, "pod-a".into()), "no other in its place");
}

#[test]
fn only_a_token_made_for_the_mesh_and_for_this_account_is_given_a_certificate() {
    let town = Town::new("");
    town.api.token("head.other-audience.signed", "system:serviceaccount:shop:web", &["https://kubernetes.default.svc"]);
    town.api.token("head.other-account.signed", "system:serviceaccount:shop:front", &["fusewire"]);
    let cases = [
        ("head.other-audience.signed", "audience: fusewire"),
        ("head.other-account.signed", "ns/shop/sa/front"),
        ("head.unknown.signed", "not valid here"),
    ];
    for (index, (token, why)) in cases.into_iter().enumerate() {
        let sidecar = town.sidecar(&format!("refused-{index}"), "web", token, None);
        eventually(why, || sidecar.process.output().contains(why));
        assert!(sidecar.get("/ready").is_none_or(|(status, _)| status != 200));
        assert!(!sidecar.process.output().contains(token) && !town.log(A).contains(token), "a token is never logged");
    }
    town.joins("good", "web", None);
}

#[test]
fn either_replica_may_be_killed_and_the_other_goes_on_with_everything() {
    let mut town = Town::new("");
    town.start(B);
    let pod = Pod::start("pod", 0);
    town.service("web", "10.96.0.1");
    town.serves("web", &[(&pod, true)]);
    let caller = town.joins("caller", "front", None);
    is_served(&caller, "web", "pod");
    let root = town.status(A)["root_hash"].clone();
    assert!(root.is_string() && town.status(B)["root_hash"] == root, "one authority");
    std::fs::write(town.mesh.path("more.yaml"), "services: {kept: {protocol: http1}}").unwrap();
    town.ok(A, &["apply", "-f", "more.yaml"]);
    eventually("b knows what was applied at a", || town.ok(B, &["get", "-o", "yaml"]).contains("kept"));

    let holder = || {
        let lease =
            town.api.get("coordination.k8s.io/v1/leases", "fusewire-system", "fusewire-leader").unwrap_or_default();
        lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    };
    eventually("one leads", || NAMES.contains(&holder().as_str()));
    let leader = usize::from(holder() == NAMES[B]);
    let other = 1 - leader;
    town.kill(leader);
    let pods = Pod::start("after", pod.app.port);
    town.serves("web", &[(&pods, true)]);
    is_served(&caller, "web", "after");
    eventually("the other leads", || {
        let lease =
            town.api.get("coordination.k8s.io/v1/leases", "fusewire-system", "fusewire-leader").unwrap_or_default();
        lease["spec"]["holderIdentity"] == NAMES[other]
    });
    town.api.namespace("late", json!({}));
    eventually("and writes", || town.roots("late").is_some());
    assert_eq!(town.roots("kube-system"), None);
    assert_eq!(town.status(other)["root_hash"], root);
    assert!(town.ok(other, &["get", "-o", "yaml"]).contains("kept"));
    // what was on its disk is gone with it
    std::fs::remove_dir_all(town.mesh.path(NAMES[leader])).unwrap();
    town.start(leader);
    assert_eq!(town.status(leader)["root_hash"], root);
    assert!(town.ok(leader, &["get", "-o", "yaml"]).contains("kept"));
    town.joins("new", "other", None);
}

#[test]
fn what_is_declared_is_in_force_at_the_sidecars_it_concerns_and_its_status_says_so() {
    let mut town = Town::new("");
    town.start(B);
    let web = Pod::start("web", 0);
    web.injected(&town.api, "web");
    town.service("web", "10.96.0.1");
    town.serves("web", &[(&web, true)]);
    let _web = town.joins("web", "web", Some(&web));
    let (front, other) = (town.joins("front", "front", None), town.joins("other", "other", None));
    for caller in [&front, &other] {
        is_served(caller, "web", "web");
    }
    let target = json!([{"kind": "Service", "name": "web"}]);
    let allow = |account: &str| {
        let allow = json!([{"namespace": "shop", "serviceAccount": account}]);
        json!({"targetRefs": target, "allow": allow})
    };
    declare(&town, "AuthorizationPolicy", "web", allow("front"));
    // it concerns the one sidecar in front of it, whichever replica that is connected to
    is_enforced(&town, "authorizationpolicies", "web", "1 of 1 sidecars run with it");
    assert_eq!(said(&other, "web").0, 403, "once it is enforced it is in force");
    assert_eq!(said(&front, "web"), (200, "web".into()));
    declare(&town, "AuthorizationPolicy", "web", allow("other"));
    is_enforced(&town, "authorizationpolicies", "web", "1 of 1 sidecars run with it");
    assert_eq!((said(&front, "web").0, said(&other, "web").0), (403, 200));

    // a policy concerns who calls, and who lets in
    declare(
        &town,
        "ResiliencePolicy",
        "web",
        json!({"targetRefs": target, "limit": {"rate": {"requests": 1, "per": "1h"}}}),
    );
    let rp = "fusewire.io/v1alpha1/resiliencepolicies";
    eventually("it is accepted", || condition(&town, rp, "web", "Accepted").0 == "True");
    is_enforced(&town, "resiliencepolicies", "web", "3 of 3 sidecars run with it");
    declare(&town, "ResiliencePolicy", "web", json!({"targetRefs": target, "limit": {"rate": "no"}}));
    eventually("its fault is said", || {
        let (status, message) = condition(&town, rp, "web", "Accepted");
        status == "False" && message.contains("spec.limit.rate") && message.ends_with("generation 1 stays in force")
    });
    town.api.remove("fusewire.io/v1alpha1/authorizationpolicies", "shop", "web");
    eventually("who may call is forgotten", || said(&front, "web").0 != 403);
}

#[test]
fn a_route_of_the_gateway_api_is_taken_by_name_and_by_address_and_its_status_says_so() {
    let town = Town::new("");
    let (stable, canary) = (Pod::start("stable", 0), Pod::start("canary", 0));
    town.service("web", "10.96.0.1");
    town.service("canary", "10.96.0.2");
    town.serves("web", &[(&stable, true)]);
    town.serves("canary", &[(&canary, true)]);
    let caller = town.joins("caller", "front", None);
    for host in ["web", "10.96.0.1:80"] {
        is_served(&caller, host, "stable");
    }
    let route = |backend: &str| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
                "rules": [{
                    "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                    "backendRefs": [{"name": backend, "port": 80}],
                }],
            },
        })
    };
    town.api.put(route("canary"));
    for host in ["web", "web.shop", "web.shop.svc.cluster.local:80", "10.96.0.1:80"] {
        is_served(&caller, host, "canary");
    }
    let says = |kind: &str, status: &str, reason: &str| {
        let object = town.api.get("gateway.networking.k8s.io/v1/httproutes", "shop", "web").unwrap();
        let parents = object["status"]["parents"].as_array().cloned().unwrap_or_default();
        let conditions = parents.iter().flat_map(|parent| parent["conditions"].as_array().cloned().unwrap_or_default());
        conditions.into_iter().any(|one| one["type"] == kind && one["status"] == status && one["reason"] == reason)
    };
    eventually("it is accepted", || {
        says("Accepted", "True", "Accepted") && says("ResolvedRefs", "True", "ResolvedRefs")
    });
    town.api.put(route("nowhere"));
    eventually("its backend is missed", || says("ResolvedRefs", "False", "BackendNotFound"));
    eventually("and that is answered", || said(&caller, "web").0 == 500);
    town.api.remove("gateway.networking.k8s.io/v1/httproutes", "shop", "web");
    is_served(&caller, "web", "stable");
}

#[test]
fn a_circuit_that_opens_and_closes_is_told_as_events_of_its_service() {
    let town =
        Town::new("policies: {default: {lb: {policy: round_robin}, breaker: {instance: {open: {base: 1s, max: 1s}}}}}");
    let good = Pod::start("good", 0);
    let bad = Pod::start("bad", good.app.port);
    town.service("web", "10.96.0.1");
    town.serves("web", &[(&good, true), (&bad, true)]);
    let caller = town.joins("caller", "front", None);
    is_served(&caller, "web", "bad");
    let told = |reason: &str| {
        let all = town.api.all("events.k8s.io/v1/events");
        all.iter().any(|event| {
            event["reason"] == reason
                && event["regarding"]["kind"] == "Service"
                && event["regarding"]["name"] == "web"
                && event["note"].as_str().is_some_and(|note| note.contains("the circuit of bad in web.shop"))
        })
    };
    // what is open when somebody begins to lead was told by whoever led before, so that its closing is the first news
    let fail = |fails: bool| bad.fails.store(fails, Ordering::Relaxed);
    fail(true);
    let mut calls = 0;
    eventually("it failed for longer than it takes to report it", || {
        calls += 1;
        said(&caller, "web");
        calls > 400
    });
    fail(false);
    eventually("the circuit's closing is told", || {
        said(&caller, "web");
        told("CircuitClosed")
    });
    fail(true);
    eventually("and that it opened again", || {
        said(&caller, "web");
        told("CircuitOpened")
    });
}
