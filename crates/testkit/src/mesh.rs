//! A mesh of real processes: one control plane and as many sidecars as a test names, in a folder of its own.

use crate::process::{Process, accepts, eventually, free_port};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Start with [`Mesh::new`], write configuration, start sidecars; everything ends with this handle.
#[derive(Debug)]
pub struct Mesh {
    pub control: Option<Process>,
    /// Goes after the process that writes its log there, which is shown when a test fails.
    pub dir: TempDir,
    binary: PathBuf,
    pub control_port: u16,
}

/// A running sidecar and where it listens.
#[derive(Debug)]
pub struct Sidecar {
    pub process: Process,
    pub name: String,
    /// Where its application sends HTTP.
    pub outbound: u16,
    /// Where peers come in; 0 where it takes nobody in.
    pub inbound: u16,
    pub admin: u16,
    dir: PathBuf,
    binary: PathBuf,
}

impl Mesh {
    /// `binary`: `env!("CARGO_BIN_EXE_fusewire")`. Starts the control plane with `yaml`.
    pub fn new(binary: &str, yaml: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("fusewire-test-").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("config")).unwrap();
        let mut mesh = Self { dir, binary: binary.into(), control_port: free_port(), control: None };
        mesh.configure(yaml);
        mesh.start_control(&[]);
        mesh
    }
    /// A folder for sidecars, and no control plane.
    pub fn without_control(binary: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("fusewire-test-").tempdir().unwrap();
        Self { dir, binary: binary.into(), control_port: free_port(), control: None }
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    /// Replaces the mesh's configuration, by rename as an editor does.
    pub fn configure(&self, yaml: &str) {
        let (new, file) = (self.path("config/.mesh.yaml.new"), self.path("config/mesh.yaml"));
        std::fs::write(&new, yaml).unwrap();
        std::fs::rename(new, file).unwrap();
    }
    /// Starts (or starts again) the control plane on the same port and data directory.
    pub fn start_control(&mut self, extra: &[&str]) {
        let mut command = self.command();
        command
            .args(["control", "--listen", &format!("127.0.0.1:{}", self.control_port), "--config", "config"])
            .args(["--data-dir", "control"])
            .args(extra);
        self.control = Some(Process::start(&mut command, self.path("control.log")));
        eventually("the control plane listens", || {
            accepts(self.control_port) && self.path("control/control.sock").exists()
        });
    }
    /// SIGKILL.
    pub fn kill_control(&mut self) {
        self.control = None;
    }
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.current_dir(self.dir.path());
        command
    }
    /// Runs a command of the CLI to its end; its standard output, or a panic with what it said.
    pub fn run(&self, arguments: &[&str]) -> String {
        let out = self.command().args(arguments).output().unwrap();
        assert!(out.status.success(), "fusewire {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }
    /// `fusewire status -o json`, whatever its exit code.
    pub fn status(&self) -> Value {
        let out = self.command().args(["status", "-o", "json", "--socket", "control/control.sock"]).output().unwrap();
        serde_json::from_slice(&out.stdout).unwrap_or(Value::Null)
    }
    pub fn token(&self, workload: &str) -> String {
        self.run(&["token", "create", workload, "--uses", "100", "--socket", "control/control.sock"]).trim().to_owned()
    }
    /// A sidecar that calls out, and takes in on `inbound` where given (the port that the mesh's YAML names).
    pub fn sidecar(&self, workload: &str, instance: &str, inbound: Option<u16>) -> Sidecar {
        self.sidecar_with(workload, instance, inbound, "")
    }
    /// The same, with more lines of its `sidecar:` section (each indented by two spaces).
    pub fn sidecar_with(&self, workload: &str, instance: &str, inbound: Option<u16>, more: &str) -> Sidecar {
        self.sidecar_listening(workload, instance, inbound, "", more)
    }
    /// The same, with more outbound listeners: `, {listen: 127.0.0.1:1, service: echo, protocol: opaque}`.
    pub fn sidecar_listening(
        &self,
        workload: &str,
        instance: &str,
        inbound: Option<u16>,
        listeners: &str,
        more: &str,
    ) -> Sidecar {
        let (outbound, admin) = (free_port(), free_port());
        let token = self.path(&format!("{workload}.token"));
        if !token.exists() {
            std::fs::write(&token, self.token(workload)).unwrap();
        }
        let mut yaml = format!(
            "sidecar:\n  workload: {workload}\n  instance: {instance}\n  control: 127.0.0.1:{}\n  token_file: {}\n  \
             data_dir: {}\n  outbound: [127.0.0.1:{outbound}{listeners}]\n  admin: {{listen: 127.0.0.1:{admin}}}\n",
            self.control_port,
            token.display(),
            self.path(instance).display(),
        );
        if let Some(port) = inbound {
            yaml += &format!("  inbound: 127.0.0.1:{port}\n");
        }
        if !more.contains("access_log") {
            yaml += "  access_log: json\n";
        }
        yaml += more;
        std::fs::write(self.path(&format!("{instance}.yaml")), yaml).unwrap();
        let sidecar = self.start(instance, outbound, inbound.unwrap_or(0), admin);
        sidecar.wait_ready();
        sidecar
    }
    /// A sidecar by itself, not waited for: `section` is its `sidecar:` section (each line indented by two spaces) but for
    /// what every one has, and `world` the rest of its file.
    pub fn sidecar_alone(&self, instance: &str, inbound: Option<u16>, section: &str, world: &str) -> Sidecar {
        let (outbound, admin) = (free_port(), free_port());
        let inbound_line = inbound.map(|port| format!("  inbound: 127.0.0.1:{port}\n")).unwrap_or_default();
        let yaml = format!(
            "sidecar:\n  instance: {instance}\n  data_dir: {}\n  outbound: [127.0.0.1:{outbound}]\n  \
             admin: {{listen: 127.0.0.1:{admin}}}\n  access_log: json\n{inbound_line}{section}{world}",
            self.path(instance).display(),
        );
        std::fs::write(self.path(&format!("{instance}.yaml")), yaml).unwrap();
        self.start(instance, outbound, inbound.unwrap_or(0), admin)
    }
    fn start(&self, name: &str, outbound: u16, inbound: u16, admin: u16) -> Sidecar {
        let process = start_sidecar(&self.binary, self.dir.path(), name);
        Sidecar {
            process,
            name: name.into(),
            outbound,
            inbound,
            admin,
            dir: self.dir.path().into(),
            binary: self.binary.clone(),
        }
    }
}

fn start_sidecar(binary: &Path, dir: &Path, name: &str) -> Process {
    let mut command = Command::new(binary);
    command.current_dir(dir).args(["sidecar", "--config", &format!("{name}.yaml")]);
    Process::start(&mut command, dir.join(format!("{name}.log")))
}

impl Sidecar {
    pub fn wait_ready(&self) {
        eventually(&format!("sidecar {} is ready", self.name), || {
            self.get("/ready").is_some_and(|(status, _)| status == 200)
        });
    }
    /// GET on the admin address: status and body.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        crate::client::get(self.admin, "admin", path).map(|r| (r.status, r.text())).ok()
    }
    pub fn metric(&self, line_start: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics")?;
        let line = text.lines().find(|l| l.starts_with(line_start))?;
        line.rsplit(' ').next()?.parse().ok()
    }
    /// GET on the admin socket, as JSON.
    pub fn socket(&self, path: &str) -> Value {
        crate::client::get_unix(&self.dir.join(&self.name).join("sidecar.sock"), path)
    }
    /// This sidecar's circuits, by instance id.
    pub fn circuit(&self, instance: &str) -> Option<String> {
        let all = self.socket("/breakers");
        let found = all["breakers"].as_array()?.iter().find(|b| b["instance"] == instance)?;
        found["circuit"].as_str().map(str::to_owned)
    }
    /// The circuit of one instance, whole, as `/breakers` shows it; null before the first request to its service.
    pub fn breaker(&self, instance: &str) -> Value {
        let all = self.socket("/breakers");
        let found = all["breakers"].as_array().and_then(|all| all.iter().find(|b| b["instance"] == instance));
        found.cloned().unwrap_or(Value::Null)
    }
    /// Starts another one with the same file, to take over from it, and returns the one before, which is about to end.
    pub fn replace(&mut self) -> Process {
        let mut command = Command::new(&self.binary);
        command.current_dir(&self.dir).args(["sidecar", "--take-over", "--config", &format!("{}.yaml", self.name)]);
        let log = self.dir.join(format!("{}.{}.log", self.name, self.process.id()));
        std::mem::replace(&mut self.process, Process::start(&mut command, log))
    }
    /// Starts it again after its end, on the same ports and data.
    pub fn restart(&mut self) {
        self.process = start_sidecar(&self.binary, &self.dir, &self.name);
    }
    /// The access log's lines so far.
    pub fn access_log(&self) -> Vec<Value> {
        self.process
            .output()
            .lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).ok())
            .filter(|v| v.is_object())
            .collect()
    }
}
