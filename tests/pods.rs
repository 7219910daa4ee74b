//! Injected pods on a node. What the API server would store is made by the admission webhook of a control plane that was
//! installed as `fusewire install` does, and what a kubelet would do with it is done: in network namespaces, with the
//! containers, users, volumes, probes and the order of ends that stand in the pod.
//!
//! `kubelet.rs` has a pod's life, `container.rs` one container, `node.rs` what Kubernetes has beside them.

#![allow(clippy::unwrap_used)]

#[path = "pods/admission.rs"]
mod admission;
#[path = "pods/cluster.rs"]
mod cluster;
#[path = "pods/container.rs"]
mod container;
#[path = "pods/controllers.rs"]
mod controllers;
#[path = "pods/kubelet.rs"]
mod kubelet;
#[path = "pods/node.rs"]
mod node;
#[path = "pods/probes.rs"]
mod probes;
#[path = "pods/volumes.rs"]
mod volumes;

use cluster::Cluster;
use fusewire_testkit::eventually;
use fusewire_testkit::netns::Tap;
use fusewire_testkit::process::tool;
use serde_json::{Value, json};
use std::process::Command;

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {fusewire.io/inject: enabled}, annotations: {fusewire.io/access-log: json}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
";

/// One pod of the service; `NAME` is its name.
const WEB: &str = "
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: shop, labels: {app: web}}
spec:
  serviceAccountName: b
  terminationGracePeriodSeconds: 20
  securityContext: {runAsUser: 1000, runAsGroup: 1000}
  containers:
  - name: web
    image: python:3
    command: [sh, -c, BEGIN exec python3 /app/pod_server.py]
    env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    ports: [{name: http, containerPort: 8080}]
    startupProbe: {tcpSocket: {port: http}, periodSeconds: 1, failureThreshold: 60}
    readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 10}
    livenessProbe: {httpGet: {path: /live, port: http}, periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 10}
    lifecycle: {preStop: {sleep: {seconds: 2}}}
";
/// The last line of it.
const SLEEP: &str = "    lifecycle: {preStop: {sleep: {seconds: 2}}}\n";

/// It calls for ever.
const CLIENT: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec:
  serviceAccountName: a
  securityContext: {runAsUser: 1000, runAsGroup: 1000}
  containers:
  - name: client
    image: python:3
    command: [python3, /app/pod_caller.py, web.shop.svc.cluster.local, /the-secret-question]
";

/// It asks once before it begins, and once more.
const JOB: &str = "
apiVersion: v1
kind: Pod
metadata: {name: job, namespace: shop}
spec:
  restartPolicy: Never
  securityContext: {runAsUser: 1000, runAsGroup: 1000}
  initContainers:
  - {name: first, image: 'python:3', command: [curl, -sS, --fail, --max-time, '20', 'http://web/from-the-first']}
  containers:
  - {name: job, image: 'python:3', command: [curl, -sS, --fail, --max-time, '20', 'http://web/from-the-job']}
";

/// Without sidecars.
const OUTSIDE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: outside}
---
apiVersion: v1
kind: Service
metadata: {name: old, namespace: outside}
spec:
  clusterIP: 10.96.0.20
  selector: {app: old}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: old, namespace: outside, labels: {app: old}}
spec:
  containers:
  - name: web
    image: python:3
    command: [python3, /app/pod_server.py]
    env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
";

const RESTRICTED: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: safe, labels: {fusewire.io/inject: enabled, pod-security.kubernetes.io/enforce: restricted}}
";

const CALLER: &str = "spiffe://cluster.local/ns/shop/sa/a";
const CALLED: &str = "spiffe://cluster.local/ns/shop/sa/b";
/// Answers that are looked at, where one has to be sure.
const MANY: usize = 60;

fn web(name: &str) -> String {
    WEB.replace("NAME", name).replace("BEGIN ", "")
}

/// With `client`, which is answered by `web-1`.
fn shop() -> Cluster {
    let mut cluster = Cluster::new();
    begin(&mut cluster, &web("web-1"));
    cluster
}

fn begin(cluster: &mut Cluster, first: &str) {
    cluster.apply(&[SHOP, first].join("---"));
    cluster.wait_ready("shop", "web-1");
    cluster.apply(CLIENT);
    eventually("web-1 answers", || answers(cluster).iter().any(|answer| answer.by == "web-1"));
}

/// What `client` was told.
struct Answer {
    status: u16,
    by: String,
    line: String,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.line)
    }
}

fn answers(cluster: &Cluster) -> Vec<Answer> {
    let log = cluster.log("client", "client");
    let all = log.split_inclusive('\n').filter_map(|line| {
        let (_, said) = line.strip_suffix('\n')?.split_once(' ')?;
        let (status, by) = (said.split(' ').next()?, said.rsplit(' ').next()?);
        Some(Answer { status: status.parse().unwrap_or(0), by: by.into(), line: line.trim().into() })
    });
    all.collect()
}

/// Once `client` was told so often from now on, all that it was told since.
fn next(cluster: &Cluster, count: usize) -> Vec<Answer> {
    let before = answers(cluster).len();
    eventually("the caller goes on", || answers(cluster).len() >= before + count);
    answers(cluster).split_off(before)
}

#[track_caller]
fn all_by(cluster: &Cluster, pod: &str) {
    eventually(&format!("{pod} answers everything"), || {
        let last = answers(cluster);
        last.iter().rev().take(MANY).all(|answer| answer.status == 200 && answer.by == pod)
    });
}

#[track_caller]
fn answers_too(cluster: &Cluster, pod: &str) {
    eventually(&format!("{pod} answers too"), || next(cluster, 1).iter().any(|answer| answer.by == pod));
}

#[track_caller]
fn none_failed(cluster: &Cluster, after: usize) {
    let answers = answers(cluster).into_iter().skip(after);
    let failed: Vec<String> = answers.filter(|answer| answer.status != 200).map(|answer| answer.line).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn pods_speak_mtls_probes_pass_and_who_has_no_sidecar_is_refused_and_may_be_called() {
    let mut cluster = Cluster::new();
    let needles = &["the-secret-question", "the-secret-answer", "said-in-clear"];
    let tap = Tap::new(&cluster.node.network, needles);
    begin(&mut cluster, &web("web-1"));
    next(&cluster, MANY);
    let by_address = ["curl", "-sS", "--max-time", "20", "http://10.96.0.10/the-secret-question"];
    assert_eq!(cluster.exec("shop", "client", "client", &by_address), "the-secret-answer of web-1\n");

    // who is who, as each side sees it
    let mut inbound = cluster.access_log("web-1");
    inbound.retain(|line| line["direction"] == "inbound" && line["path"] == "/the-secret-question");
    assert!(!inbound.is_empty() && inbound.iter().all(|line| line["peer"] == CALLER), "{inbound:?}");
    let told: Value = serde_json::from_str(&cluster.control("1", &["endpoints", "web.shop", "-o", "json"])).unwrap();
    assert!(told.to_string().contains(CALLED), "{told}");

    // the wire
    assert_eq!((tap.held(needles[0]), tap.held(needles[1]), tap.sent(8080)), (0, 0, 0));
    assert!(tap.sent(15008) > 0, "mTLS is what it was");

    // the kubelet's probes pass, an unknown caller does not
    let pod = cluster.pod("web-1");
    let probe = &pod["spec"]["containers"][0]["readinessProbe"]["httpGet"];
    assert_eq!(probe, &json!({"path": "/app-health/web/readyz", "port": 15020}));
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "its liveness was answered too");
    let url = format!("http://{}:8080/said-in-clear", pod["status"]["podIP"].as_str().unwrap());
    let refused = cluster.node.host().told("curl", &["-s", "--max-time", "20", "-D", "-", &url]);
    assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("fusewire-reason: denied"), "{refused}");
    assert!(tap.held(needles[2]) > 0, "what is in clear is seen");

    // so it is between pods
    cluster.apply(OUTSIDE);
    cluster.wait_ready("outside", "old");
    let status = ["curl", "-s", "-o", "/dev/null", "--max-time", "20", "-w", "%{http_code}", &url];
    assert_eq!(cluster.exec("outside", "old", "web", &status), "403");
    assert_eq!(cluster.exec("shop", "client", "client", &status), "200", "by a pod's own address, and over mTLS");
    let old = ["curl", "-sS", "--max-time", "20", "http://old.outside/"];
    assert_eq!(cluster.exec("shop", "client", "client", &old), "the-secret-answer of old\n");
    none_failed(&cluster, 0);
}

#[test]
fn a_pod_that_becomes_ready_is_called_one_that_is_not_is_not_and_a_deletion_fails_nothing() {
    let mut cluster = shop();
    cluster.apply(&WEB.replace("NAME", "web-2").replace("BEGIN", "touch /tmp/unready;"));
    let is_started = || cluster.pod("web-2")["status"]["containerStatuses"][0]["started"] == true;
    eventually("web-2 has started, and is not ready", is_started);
    let quiet = next(&cluster, MANY);
    assert!(!cluster.is_ready("web-2") && quiet.iter().all(|answer| answer.by == "web-1"), "{quiet:?}");
    cluster.exec("shop", "web-2", "web", &["rm", "/tmp/unready"]);
    answers_too(&cluster, "web-2");
    cluster.exec("shop", "web-2", "web", &["touch", "/tmp/unready"]);
    all_by(&cluster, "web-1");
    cluster.exec("shop", "web-2", "web", &["rm", "/tmp/unready"]);
    answers_too(&cluster, "web-2");

    cluster.delete("web-1");
    eventually("web-1 is gone", || cluster.pod("web-1").is_null());
    all_by(&cluster, "web-2");
    none_failed(&cluster, 0);
}

/// Each application ends as soon as it is told to: nothing waits until callers know.
#[test]
fn a_rollout_fails_nothing_and_after_the_last_pod_the_next_is_called_at_once() {
    let mut cluster = Cluster::new();
    let hasty = |name: &str| web(name).replace(SLEEP, "");
    begin(&mut cluster, &hasty("web-1"));
    for (before, after) in [("web-1", "web-2"), ("web-2", "web-3")] {
        cluster.apply(&hasty(after));
        cluster.wait_ready("shop", after);
        cluster.delete(before);
        eventually("it is gone", || cluster.pod(before).is_null());
    }
    all_by(&cluster, "web-3");
    none_failed(&cluster, 0);

    cluster.delete("web-3");
    eventually("web-3 is gone", || cluster.pod("web-3").is_null());
    eventually("it is said that there is none", || {
        next(&cluster, MANY).iter().all(|answer| answer.line.contains(" 503 no-instance "))
    });
    cluster.apply(&web("web-4"));
    answers_too(&cluster, "web-4");
    all_by(&cluster, "web-4");
}

#[test]
fn an_application_that_dies_or_falls_ill_is_left_alone_until_it_is_well() {
    let mut cluster = shop();
    cluster.apply(&web("web-2"));
    cluster.wait_ready("shop", "web-2");
    let restarts = || cluster.pod("web-1")["status"]["containerStatuses"][0]["restartCount"].as_u64();
    let answers_again = |count: u64| {
        eventually("web-1 is begun again", || restarts() >= Some(count) && cluster.is_ready("web-1"));
        answers_too(&cluster, "web-1");
    };
    answers_again(0);

    kill(cluster.pid("web-1", "web"));
    eventually("web-1 is not ready", || !cluster.is_ready("web-1"));
    all_by(&cluster, "web-2");
    answers_again(1);

    let before = answers(&cluster).len();
    cluster.exec("shop", "web-1", "web", &["touch", "/tmp/sick"]);
    answers_again(2);
    none_failed(&cluster, before);
}

#[test]
fn a_sidecar_that_dies_is_begun_again_and_nothing_goes_by_it_meanwhile() {
    let mut cluster = Cluster::new();
    let needles = &["the-secret-question", "the-secret-answer"];
    let tap = Tap::new(&cluster.node.network, needles);
    begin(&mut cluster, &web("web-1"));
    cluster.apply(&web("web-2"));
    answers_too(&cluster, "web-2");
    for pod in ["web-1", "client"] {
        kill(cluster.pid(pod, "fusewire"));
        eventually("it is not ready", || !cluster.is_ready(pod));
        cluster.wait_ready("shop", pod);
        answers_too(&cluster, "web-1");
        let before = answers(&cluster).len();
        next(&cluster, MANY);
        none_failed(&cluster, before);
    }
    assert_eq!((tap.held(needles[0]), tap.held(needles[1])), (0, 0));
    assert!(tap.sent(15008) > 0, "by the sidecars");
}

#[test]
fn traffic_outlives_the_control_plane_and_pods_join_the_next_one() {
    let mut cluster = shop();
    cluster.apply(&web("web-2"));
    cluster.crash_control("1");
    let orphaned = next(&cluster, 2 * MANY);
    // it may have joined before the crash
    let waits = orphaned.iter().all(|answer| answer.by == "web-1");
    assert!(waits || cluster.is_ready("web-2"), "{orphaned:?}");
    cluster.start_control("2");
    cluster.apply(&web("web-3"));
    answers_too(&cluster, "web-2");
    answers_too(&cluster, "web-3");
    none_failed(&cluster, 0);
}

#[test]
fn a_job_is_done_once_its_application_is() {
    let mut cluster = Cluster::new();
    cluster.apply(&[SHOP, &web("web-1")].join("---"));
    cluster.wait_ready("shop", "web-1");
    cluster.apply(JOB);
    is_done(&cluster, "shop");
    let pod = cluster.pod("job");
    let (first, last) = (&pod["spec"]["initContainers"][0]["name"], &pod["spec"]["initContainers"][1]["name"]);
    assert_eq!((first, last), (&json!("fusewire-intercept"), &json!("fusewire")), "it was redirected");
}

/// Pods there may not redirect: they are told of the sidecar.
#[test]
fn a_job_of_a_restricted_namespace_goes_by_its_proxy() {
    let mut cluster = Cluster::new();
    cluster.apply(&[SHOP, &web("web-1")].join("---"));
    cluster.wait_ready("shop", "web-1");
    let job = JOB.replace("namespace: shop", "namespace: safe").replace("//web/", "//web.shop.svc/");
    cluster.apply(&[RESTRICTED, &job].join("---"));
    is_done(&cluster, "safe");
    let pod = cluster.node.api.get("pods", "safe", "job").unwrap();
    assert!(!pod["spec"].to_string().contains("NET_ADMIN"));
    let lines = cluster.access_log("web-1");
    let peer = |path: &str| lines.iter().find(|line| line["path"] == path).map(|line| line["peer"].clone());
    let wanted = Some(json!("spiffe://cluster.local/ns/safe/sa/default"));
    assert_eq!((peer("/from-the-first"), peer("/from-the-job")), (wanted.clone(), wanted));
}

/// It was answered in its init container and in its application; its sidecar ended after both.
#[track_caller]
fn is_done(cluster: &Cluster, namespace: &str) {
    let status = || cluster.node.api.get("pods", namespace, "job").unwrap_or_default()["status"].clone();
    let log = |container: &str| cluster.log_in(namespace, "job", container);
    eventually("the job ends", || ["Succeeded", "Failed"].contains(&status()["phase"].as_str().unwrap_or_default()));
    let status = status();
    assert_eq!(status["phase"], "Succeeded", "{status}: {}", log("job"));
    for container in ["first", "job"] {
        assert_eq!(log(container), "the-secret-answer of web-1\n", "{container}");
    }
    let sidecar = &status["initContainerStatuses"][0];
    assert_eq!((&sidecar["name"], &sidecar["state"]["terminated"]["exitCode"]), (&json!("fusewire"), &json!(0)));
}

/// SIGKILL, as by a crash or for want of memory.
fn kill(pid: u32) {
    assert!(Command::new(tool("kill")).args(["-KILL", &pid.to_string()]).status().unwrap().success());
}
