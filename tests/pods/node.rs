//! The one node of the cluster, and what Kubernetes runs beside its pods: API server, controllers and name server.
//!
//! It decides what a network of pods gives: each has an address of its own, and the node is its way to everything else. There
//! is no kube-proxy: whoever reaches a Service's address was brought there by a sidecar.

use crate::controllers;
use fusewire_testkit::KubeApi;
use fusewire_testkit::dns::NameServer;
use fusewire_testkit::netns::{Host, Network};
use fusewire_testkit::process::tool;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

pub(crate) struct Node {
    pub(crate) api: KubeApi,
    /// Of the API server, PEM.
    pub(crate) roots: String,
    names: NameServer,
    /// One controller at a time.
    controlling: Mutex<()>,
    tokens: AtomicUsize,
    pods: AtomicUsize,
    dir: TempDir,
    pub(crate) network: Network,
}

impl Node {
    pub(crate) fn new() -> Self {
        let network = Network::new(1);
        let node = network.host(1);
        let listening = |port: u16| format!("socket.create_server(('{}', {port}))", node.v4);
        let dir = tempfile::Builder::new().prefix("fusewire-test-").tempdir().unwrap();
        let (roots, tls) = certificate(dir.path(), &node.v4);
        let api = KubeApi::start_with(TcpListener::from(node.socket(&listening(6443))), Some(tls));
        let bound = format!("socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nmade.bind(('{}', 53))", node.v4);
        let names = NameServer::start_with(UdpSocket::from(node.socket(&bound)));
        Self {
            api,
            roots,
            names,
            controlling: Mutex::default(),
            tokens: AtomicUsize::new(0),
            pods: AtomicUsize::new(0),
            dir,
            network,
        }
    }

    pub(crate) fn host(&self) -> &Host {
        self.network.host(1)
    }

    pub(crate) fn ip(&self) -> &str {
        &self.host().v4
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A network namespace for one pod; every second has IPv4 alone, as clusters may.
    pub(crate) fn host_of_pod(&self) -> Host {
        let host = self.network.attach();
        if self.pods.fetch_add(1, Ordering::Relaxed) % 2 == 1 {
            host.told("sh", &["-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"]);
        }
        host.told("ip", &["route", "add", "default", "via", self.ip()]);
        host
    }

    /// Logs and volumes of a pod.
    pub(crate) fn dir_of(&self, pod: &Value) -> PathBuf {
        let dir = self.path().join(key(pod).replace('/', "_"));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// What is in every container.
    pub(crate) fn environment(&self, pod: &Value) -> Vec<(String, String)> {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let all = [("HOSTNAME", name), ("KUBERNETES_SERVICE_HOST", self.ip()), ("KUBERNETES_SERVICE_PORT", "6443")];
        all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// A token of the pod's service account.
    pub(crate) fn token(&self, pod: &Value, audience: &str) -> String {
        let token = format!("head.{}.signed", self.tokens.fetch_add(1, Ordering::Relaxed));
        let namespace = pod["metadata"]["namespace"].as_str().unwrap();
        let account = pod["spec"]["serviceAccountName"].as_str().unwrap();
        self.api.token(&token, &format!("system:serviceaccount:{namespace}:{account}"), &[audience]);
        token
    }

    /// A pod's new status, or anything else; controllers see it at once.
    pub(crate) fn put(&self, object: &Value) -> Value {
        let _alone = self.controlling.lock().unwrap();
        let put = self.api.put(object.clone());
        controllers::run(&self.api, &self.names);
        put
    }

    pub(crate) fn gone(&self, pod: &Value) {
        let _alone = self.controlling.lock().unwrap();
        let metadata = &pod["metadata"];
        self.api.remove("pods", metadata["namespace"].as_str().unwrap(), metadata["name"].as_str().unwrap());
        controllers::run(&self.api, &self.names);
    }
}

/// Of the API server: its own root.
fn certificate(dir: &Path, ip: &str) -> (String, Arc<ServerConfig>) {
    let (key, chain) = (dir.join("api.key"), dir.join("api.crt"));
    let name = format!("subjectAltName=IP:{ip}");
    let mut make = Command::new(tool("openssl"));
    make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=api"]);
    make.args(["-addext", "basicConstraints=critical,CA:FALSE", "-addext", &name]);
    let made = make.arg("-keyout").arg(&key).arg("-out").arg(&chain).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let certificate = CertificateDer::from_pem_file(&chain).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate], PrivateKeyDer::from_pem_file(&key).unwrap()).unwrap();
    (std::fs::read_to_string(chain).unwrap(), Arc::new(config))
}

/// `shop/web`.
pub(crate) fn key(object: &Value) -> String {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}
