//! The commands for Kubernetes that need no cluster, and a sidecar as the injector starts it.

#![allow(clippy::unwrap_used)]

use fusewire_testkit::client::App;
use fusewire_testkit::process::tool;
use fusewire_testkit::{KubeApi, Process, eventually, free_port};
use std::io::Write;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");

fn with_input(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(FUSEWIRE);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const POD: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: web, image: 'web:1'}]\n";

#[test]
fn inject_is_a_filter_that_can_be_undone() {
    let injected = with_input(&["inject", "--image", "fusewire:test", "-"], POD);
    assert!(injected.status.success(), "{}", text(&injected.stderr));
    assert!(text(&injected.stderr).contains("Pod web: injected"));
    let manifest = text(&injected.stdout);
    assert!(manifest.contains("image: fusewire:test") && manifest.contains("FUSEWIRE_CONFIG"), "{manifest}");
    let removed = text(&with_input(&["inject", "--remove", "-"], &manifest).stdout);
    assert!(!removed.contains("FUSEWIRE_CONFIG") && removed.contains("image: web:1"), "{removed}");
    let restricted = with_input(&["inject", "--pod-security", "restricted", "-"], POD);
    assert!(text(&restricted.stdout).contains("HTTP_PROXY") && text(&restricted.stderr).contains("warning: Pod web:"));
}

#[test]
fn what_cannot_be_injected_goes_through_and_is_told_by_the_exit_code() {
    let host = POD.replace("spec:\n", "spec:\n  hostNetwork: true\n");
    let refused = with_input(&["inject", "-"], &host);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("error: Pod web: a pod with hostNetwork"), "{}", text(&refused.stderr));
    assert!(text(&refused.stdout).contains("hostNetwork: true") && !text(&refused.stdout).contains("FUSEWIRE_CONFIG"));
    assert!(!with_input(&["inject", "-"], "a: [").status.success());
}

#[test]
fn install_prints_what_it_would_apply() {
    let printed = Command::new(FUSEWIRE).args(["install", "--print", "--image", "fusewire:test"]).output().unwrap();
    let printed = text(&printed.stdout);
    for wanted in
        ["kind: MutatingWebhookConfiguration", "kind: PodDisruptionBudget", "image: fusewire:test", "replicas: 2"]
    {
        assert!(printed.contains(wanted), "{wanted} is not in\n{printed}");
    }
    let small = Command::new(FUSEWIRE).args(["install", "--print", "--single-replica", "-n", "mesh"]).output().unwrap();
    let small = text(&small.stdout);
    assert!(
        small.contains("replicas: 1")
            && small.contains("namespace: mesh")
            && !small.contains("namespace: fusewire-system")
    );
}

/// Of other meshes `install | kubectl apply -f -` is the way: that must not install into whichever cluster is at hand.
#[test]
fn install_in_a_pipe_changes_nothing_unless_it_is_said() {
    let api = KubeApi::start();
    let dir = TempDir::new().unwrap();
    let kubeconfig = dir.path().join("config");
    std::fs::write(&kubeconfig, api.kubeconfig()).unwrap();
    let run =
        |arguments: &[&str]| Command::new(FUSEWIRE).args(arguments).env("KUBECONFIG", &kubeconfig).output().unwrap();
    for command in ["install", "uninstall"] {
        let refused = run(&[command]);
        let said = text(&refused.stderr);
        assert!(!refused.status.success() && said.contains("--print") && said.contains("--apply"), "{said}");
        assert!(refused.stdout.is_empty());
    }
    assert_eq!(api.requests(), Vec::<String>::new());
    let installed = run(&["install", "--apply", "--trust-domain", "shop.example"]);
    assert!(installed.status.success(), "{}", text(&installed.stderr));
    let mesh = || api.get("configmaps", "fusewire-system", "fusewire-mesh");
    assert_eq!(mesh().unwrap()["data"]["mesh.yaml"], "trust_domain: shop.example\n");
    let again = text(&run(&["install", "--apply"]).stderr);
    assert!(again.contains("ConfigMap fusewire-system/fusewire-mesh: is there already, and left as it is"), "{again}");
    assert!(text(&run(&["uninstall", "--apply"]).stderr).contains("fusewire-mesh: deleted") && mesh().is_none());
    let printed = text(&run(&["install", "--print", "--trust-domain", "shop.example"]).stdout);
    assert!(printed.contains("trust_domain: shop.example") && !printed.contains("cluster.local"), "{printed}");
}

#[test]
fn a_sidecar_without_a_configuration_says_both_ways_to_give_one() {
    let refused = Command::new(FUSEWIRE).arg("sidecar").env_remove("FUSEWIRE_CONFIG").output().unwrap();
    let said = text(&refused.stderr);
    assert!(!refused.status.success() && said.contains("--config") && said.contains("FUSEWIRE_CONFIG"), "{said}");
}

#[test]
fn a_sidecar_configured_by_its_variable_asks_the_application_what_the_kubelet_would() {
    let (app, admin, dir) = (App::saying(0, "well"), free_port(), TempDir::new().unwrap());
    let configuration = format!(
        "sidecar:\n  zone: \"\"\n  admin: {{listen: '127.0.0.1:{admin}'}}\n  probes:\n  - {{container: web, probe: readiness, \
         port: {}, http: /ready}}\n  - {{container: web, probe: liveness, port: 1, tcp: }}\n",
        app.port
    );
    let mut command = Command::new(FUSEWIRE);
    command.arg("sidecar").env("FUSEWIRE_CONFIG", configuration);
    let process = Process::start(&mut command, dir.path().join("sidecar.log"));
    let asked = |path: &str| {
        let url = format!("http://127.0.0.1:{admin}{path}");
        let mut curl = Command::new(tool("curl"));
        curl.args(["-s", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}", &url]);
        text(&curl.output().unwrap().stdout)
    };
    eventually("the sidecar is ready", || asked("/ready") == "200");
    assert_eq!(asked("/app-health/web/readyz"), "200", "{}", process.output());
    assert_eq!(asked("/app-health/web/livez"), "503");
    assert_eq!(asked("/app-health/web/startupz"), "404");
    assert_eq!(asked("/app-health/other/readyz"), "404");
}
