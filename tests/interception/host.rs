//! Three hosts, a control plane and two sidecars that run as a group of their own.

use fusewire_testkit::netns::{Host, Network};
use fusewire_testkit::process::tool;
use fusewire_testkit::{Process, eventually};
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

pub(crate) const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");
/// The group that the sidecars run as, and nobody else.
pub(crate) const GROUP: u32 = 1337;
/// Of the applications: HTTP, then echo, greeter, HTTP on loopback alone, TLS, and who called.
pub(crate) const APP: u16 = 8080;

/// The mesh, as `shop` is configured in it where a test does not say otherwise.
pub(crate) const SHOP: &str = "
services:
  shop:
    instances: [{id: shop-1, address: '10.77.0.2:8080', sidecar: '10.77.0.2:15008'}]
  shop6:
    identity: shop
    instances: [{id: shop6-1, address: '[fd77::2]:8080', sidecar: '[fd77::2]:15008'}]
  echo:
    identity: shop
    protocol: opaque
    instances: [{id: echo-1, address: '10.77.0.2:8081', sidecar: '10.77.0.2:15008'}]
  greeter:
    identity: shop
    protocol: opaque
    instances: [{id: greeter-1, address: '10.77.0.2:8082', sidecar: '10.77.0.2:15008'}]
";

pub(crate) struct World {
    pub(crate) web: Process,
    pub(crate) shop: Process,
    pub(crate) control: Process,
    _apps: Vec<Process>,
    pub(crate) dir: TempDir,
    pub(crate) network: Network,
}

impl World {
    /// Up and ready, with no rules yet.
    pub(crate) fn new(mesh: &str) -> Self {
        Self::with(mesh, "allow")
    }

    /// `unknown`: the sidecars' setting of that name, and what may follow it in `intercept`.
    pub(crate) fn with(mesh: &str, unknown: &str) -> Self {
        let network = Network::new(3);
        let dir = tempfile::Builder::new().prefix("fusewire-test-").tempdir().unwrap();
        std::fs::write(dir.path().join("mesh.yaml"), mesh).unwrap();
        let control = control(network.host(3), dir.path());
        let web = sidecar(network.host(1), dir.path(), ("web", "web"), unknown);
        let shop = sidecar(network.host(2), dir.path(), ("shop", "shop"), unknown);
        let apps = [(2, "shop"), (3, "world")].map(|(n, name)| app(network.host(n), dir.path(), name, APP));
        [1, 2].into_iter().for_each(|n| ready(network.host(n)));
        Self { web, shop, control, _apps: apps.into(), dir, network }
    }

    pub(crate) fn host(&self, n: usize) -> &Host {
        self.network.host(n)
    }

    /// The rules that a test wants on host `n`.
    pub(crate) fn intercept(&self, n: usize, arguments: &[&str]) {
        intercept(self.host(n), &[&["up", "--gid", &GROUP.to_string()], arguments].concat());
    }

    /// A metric of host `n`'s sidecar.
    pub(crate) fn metric(&self, n: usize, name: &str) -> f64 {
        metric(self.host(n), name)
    }

    /// A server that speaks HTTP/2 in clear.
    pub(crate) fn nginx(&self, n: usize, port: u16) -> Process {
        self.nginx_listening(n, port, "http2")
    }

    /// `version`: empty for HTTP/1.1.
    pub(crate) fn nginx_listening(&self, n: usize, port: u16, version: &str) -> Process {
        let dir = self.dir.path().display().to_string();
        std::fs::write(self.dir.path().join("index.html"), "from nginx").unwrap();
        let configuration = format!(
            "daemon off; master_process off; error_log {dir}/nginx-error.log; pid {dir}/nginx.pid; user root;\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log off; client_body_temp_path {dir}/n1; proxy_temp_path {dir}/n2;\n\
             fastcgi_temp_path {dir}/n3; uwsgi_temp_path {dir}/n4; scgi_temp_path {dir}/n5;\n\
             server {{ listen {port} {version}; root {dir}; }} }}\n"
        );
        std::fs::write(self.dir.path().join("nginx.conf"), configuration).unwrap();
        let mut command = self.host(n).command(tool("nginx"));
        command.args(["-p", &dir, "-c", &format!("{dir}/nginx.conf"), "-e", &format!("{dir}/nginx-error.log")]);
        let process = Process::start(&mut command, self.dir.path().join("nginx.log"));
        let address = format!("http://127.0.0.1:{port}/index.html");
        let way = if version.is_empty() { "--http1.1" } else { "--http2-prior-knowledge" };
        eventually("nginx listens", || curl(self.host(n), &[way, &address]).0 == 200);
        process
    }

    /// The access log of a sidecar.
    pub(crate) fn log_of(process: &Process) -> Vec<Value> {
        let lines = process.output();
        lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).filter(Value::is_object).collect()
    }

    /// The line about `path` in a sidecar's access log, once it is there.
    pub(crate) fn logged(process: &Process, path: &str) -> Value {
        let mut found = None;
        eventually(&format!("{path} is logged"), || {
            found = Self::log_of(process).into_iter().find(|line| line["path"] == path);
            found.is_some()
        });
        found.unwrap()
    }

    /// The line about a connection to `authority`, once it is there.
    pub(crate) fn logged_for(process: &Process, authority: &str) -> Value {
        let mut found = None;
        eventually(&format!("a connection to {authority} is logged"), || {
            let all = Self::log_of(process);
            found = all.into_iter().find(|line| line["protocol"] == "tcp" && line["authority"] == authority);
            found.is_some()
        });
        found.unwrap()
    }
}

/// The sidecar there is.
pub(crate) fn ready(host: &Host) {
    let ready = || host.run("curl", &["-sf", "http://127.0.0.1:15020/ready"]).status.success();
    eventually("the sidecar is ready", ready);
}

/// A metric of the sidecar there.
pub(crate) fn metric(host: &Host, name: &str) -> f64 {
    let text = host.told("curl", &["-s", "http://127.0.0.1:15020/metrics"]);
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.rsplit(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{name} is not in\n{text}"))
}

/// `fusewire intercept` there, which has to succeed; what it prints.
pub(crate) fn intercept(host: &Host, arguments: &[&str]) -> String {
    let out = host.command(FUSEWIRE).arg("intercept").args(arguments).output().unwrap();
    assert!(out.status.success(), "intercept {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The body that curl gets there, and the status before it.
pub(crate) fn curl(host: &Host, arguments: &[&str]) -> (u16, String) {
    let out = host.run("curl", &[&["-s", "--max-time", "20", "-w", "\n%{http_code}"], arguments].concat());
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

/// What a server says to `words`, in one line; empty where the connection ends first.
pub(crate) fn talk(host: &Host, address: &str, words: &str) -> String {
    let script = "import socket,sys\n\
                  try:\n c = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)\n c.sendall(sys.argv[3].encode())\n \
                  print(c.recv(1000).decode().strip())\nexcept ConnectionError: pass";
    let (name, port) = address.rsplit_once(':').unwrap();
    host.told("python3", &["-c", script, name, port, words]).trim().to_owned()
}

/// `mesh.yaml` in `dir` is its configuration.
pub(crate) fn control(host: &Host, dir: &Path) -> Process {
    let mut command = host.command(FUSEWIRE);
    command.current_dir(dir).args(["control", "--listen", &format!("{}:15010", host.v4), "--config", "mesh.yaml"]);
    command.args(["--data-dir", "control"]);
    let process = Process::start(&mut command, dir.join("control.log"));
    eventually("the control plane listens", || dir.join("control/control.sock").exists());
    process
}

/// Of one workload, with a name of its own.
pub(crate) fn sidecar(host: &Host, dir: &Path, (workload, name): (&str, &str), unknown: &str) -> Process {
    let mut token = Command::new(FUSEWIRE);
    token.current_dir(dir).args(["token", "create", workload, "--socket", "control/control.sock"]);
    let token = token.output().unwrap();
    assert!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
    std::fs::write(dir.join(format!("{name}.token")), token.stdout.trim_ascii()).unwrap();
    let yaml = format!(
        "sidecar:\n  workload: {workload}\n  control: 10.77.0.3:15010\n  token_file: {name}.token\n  data_dir: {name}\n  \
         inbound: '[::]:15008'\n  intercept: {{outbound: [127.0.0.1:15001, '[::1]:15001'], inbound: '[::]:15006', \
         unknown: {unknown}}}\n  dns: {{listen: [127.0.0.1:15053, '[::1]:15053'], upstream: 10.77.0.3}}\n  admin: {{listen: 127.0.0.1:15020}}\n  access_log: json\n"
    );
    std::fs::write(dir.join(format!("{name}.yaml")), yaml).unwrap();
    let mut command = host.command(FUSEWIRE);
    command.current_dir(dir).args(["sidecar", "--config", &format!("{name}.yaml")]);
    command.gid(GROUP);
    Process::start(&mut command, dir.join(format!("{name}.log")))
}

pub(crate) fn app(host: &Host, dir: &Path, name: &str, port: u16) -> Process {
    let script: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/intercepted_app.py");
    let certificate = certificate(dir);
    let mut command = host.command(tool("python3"));
    command.arg(script).args([name, &port.to_string()]).arg(certificate);
    let process = Process::start(&mut command, dir.join(format!("{name}-{port}.log")));
    eventually(&format!("the application of {name} listens"), || process.output().contains("listening"));
    process
}

/// Any will do: nobody checks it.
pub(crate) fn certificate(dir: &Path) -> PathBuf {
    let file = dir.join("app.pem");
    if !file.exists() {
        let (key, chain) = (dir.join("app.key"), dir.join("app.crt"));
        let mut make = Command::new(tool("openssl"));
        make.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=app",
        ]);
        let made = make.arg("-keyout").arg(&key).arg("-out").arg(&chain).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::write(&file, [std::fs::read(key).unwrap(), std::fs::read(chain).unwrap()].concat()).unwrap();
    }
    file
}
