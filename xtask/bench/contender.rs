//! Who is measured, and how each is built, configured and started for a scenario.
//!
//! Every contender gets the same number of request threads. The bare loop has no configuration and does no mesh work: it
//! is what hyper, tokio and rustls cost alone. Its TLS is pinned to AES-128-GCM; the mesh negotiates its own choice.

use crate::backend::Backend;
use crate::certificates::{Authority, Identity};
use crate::children::{Children, Process};
use crate::scenario::Shape;
use anyhow::{Context as _, Result, bail};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What clients ask for.
pub(crate) const SERVICE: &str = "echo";
const CLIENT: &str = "client";

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Contender {
    Floor,
    Fusewire,
}

impl Contender {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::Floor => "bare loop",
            Contender::Fusewire => "fusewire",
        }
    }
}

/// Running proxies, from where clients enter to the backend.
pub(crate) struct ProxyPath {
    pub(crate) processes: Vec<Process>,
    pub(crate) entry: SocketAddr,
    /// Where the second of a pair takes mutual TLS.
    pub(crate) between: Option<SocketAddr>,
    pub(crate) logs: Vec<PathBuf>,
}

/// All that is needed to start proxies.
pub(crate) struct Fleet {
    pub(crate) children: Children,
    workers: u32,
    target: PathBuf,
    dir: PathBuf,
    floor: PathBuf,
    fusewire: PathBuf,
    authority: Authority,
}

impl Fleet {
    pub(crate) fn new(children: Children, workers: u32) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        // target/<profile>/deps/proxies-<hash>
        let target = program.ancestors().nth(3).context("this program lies in no target directory")?.to_owned();
        let dir = target.join("bench");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let authority = Authority::new(&dir)?;
        Ok(Fleet { children, workers, target, dir, floor: PathBuf::new(), fusewire: PathBuf::new(), authority })
    }

    /// Builds who can be measured. `profile`: fusewire's, or none to leave it out.
    pub(crate) fn build(&mut self, floor: &Path, profile: Option<&str>) -> Result<Vec<Contender>> {
        let mut contenders = Vec::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace has no root")?;
        let manifest = root.join(floor).join("Cargo.toml");
        if manifest.is_file() {
            let target = self.target.join("bench-floor");
            let mut command = cargo(root, &["build", "--release", "--locked"]);
            built(command.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(&target))?;
            self.floor = target.join("release/hyperfloor");
            contenders.push(Contender::Floor);
        } else {
            eprintln!("bench: no bare loop in {} (--floor says where): there will be no ratios", floor.display());
        }
        if let Some(profile) = profile {
            built(&mut cargo(root, &["build", "--package", "fusewire", "--bin", "fusewire", "--profile", profile]))?;
            let folder = if profile == "dev" { "debug" } else { profile };
            self.fusewire = self.target.join(folder).join("fusewire");
            contenders.push(Contender::Fusewire);
        }
        if contenders.is_empty() { bail!("nobody is left to measure") } else { Ok(contenders) }
    }

    pub(crate) fn start(&self, contender: Contender, shape: &Shape, backend: &Backend) -> Result<ProxyPath> {
        let [entry, between, admin_entry, admin_between] = free_addresses()?;
        let instances = &backend.instances[..shape.instances()];
        let commands = match contender {
            Contender::Floor => self.floor_commands(shape, entry, between, instances)?,
            Contender::Fusewire => {
                self.fusewire_commands(shape, [entry, between], [admin_entry, admin_between], instances)?
            }
        };
        let between = shape.is_pair().then_some(between);
        let mut path = ProxyPath { processes: Vec::new(), entry, between, logs: Vec::new() };
        for (role, mut command) in commands {
            let log = format!("{}-{role}", contender.name().replace(' ', "-"));
            command.stdin(Stdio::null()).stdout(self.log(&log)?).stderr(self.log(&format!("{log}-errors"))?);
            path.processes.push(self.children.spawn(&mut command)?);
            path.logs.extend([self.log_path(&log), self.log_path(&format!("{log}-errors"))]);
        }
        Ok(path)
    }

    /// Where a child's output goes; the last run's stays to be read.
    pub(crate) fn log(&self, name: &str) -> Result<File> {
        let path = self.log_path(name);
        File::create(&path).with_context(|| format!("cannot write {}", path.display()))
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    fn floor_commands(
        &self,
        shape: &Shape,
        entry: SocketAddr,
        between: SocketAddr,
        instances: &[SocketAddr],
    ) -> Result<Vec<(&'static str, Command)>> {
        let list = instances.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
        let proxy = |listen: SocketAddr, up: &str, from: &str, to: &str| {
            let mut command = Command::new(&self.floor);
            command.args(["--listen", &listen.to_string(), "--up", up, "--workers", &self.workers.to_string()]);
            command.args(["--in", from, "--out", to]);
            command
        };
        let protocol = shape.protocol();
        if !shape.is_pair() {
            return Ok(vec![("proxy", proxy(entry, &list, protocol, protocol))]);
        }
        let files = |identity: &Identity| {
            [&identity.certificate, &identity.key, &identity.bundle].map(|file| file.display().to_string()).join(",")
        };
        let mut first = proxy(entry, &between.to_string(), protocol, "h2");
        first.args(["--out-tls", &format!("{},{SERVICE}", files(&self.authority.host(CLIENT)?))]);
        let mut second = proxy(between, &list, "h2", protocol);
        second.args(["--in-tls", &files(&self.authority.host(SERVICE)?)]);
        Ok(vec![("first", first), ("second", second)])
    }

    fn fusewire_commands(
        &self,
        shape: &Shape,
        [entry, between]: [SocketAddr; 2],
        admin: [SocketAddr; 2],
        instances: &[SocketAddr],
    ) -> Result<Vec<(&'static str, Command)>> {
        let start = |role: &'static str, services: &str, sidecar: String| -> Result<(&'static str, Command)> {
            let file = self.dir.join(format!("fusewire-{role}.yaml"));
            fs::write(&file, format!("{services}{sidecar}"))
                .with_context(|| format!("cannot write {}", file.display()))?;
            let mut command = Command::new(&self.fusewire);
            command.args(["sidecar", "--config"]).arg(file);
            Ok((role, command))
        };
        let workers = self.workers;
        // what the bare loop speaks to the application: without it a sidecar would speak HTTP/1.1 for all but gRPC
        let protocol = if shape.http2 { "http2" } else { "http1" };
        if !shape.is_pair() {
            let list = instances.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
            let services = format!(
                "policies: {{bench: {{plain: allow}}}}\nservices: {{{SERVICE}: {{policy: bench, protocol: {protocol}, instances: [{list}]}}}}\n"
            );
            let sidecar = format!(
                "sidecar:\n  workload: {CLIENT}\n  workers: {workers}\n  outbound: [{entry}]\n  admin: {{listen: {}}}\n",
                admin[0]
            );
            return Ok(vec![start("proxy", &services, sidecar)?]);
        }
        let application = instances.first().context("a pair needs an instance")?;
        let services = format!(
            "services:\n  {SERVICE}:\n    protocol: {protocol}\n    instances:\n      - {{id: a, address: {application}, sidecar: {between}}}\n"
        );
        let identity = |name: &str| -> Result<String> {
            let Identity { certificate, key, bundle } = self.authority.workload(name)?;
            let files = [certificate, key, bundle].map(|file| format!("{:?}", file.display().to_string()));
            Ok(format!("  identity: {{certificate: {}, key: {}, bundle: {}}}\n", files[0], files[1], files[2]))
        };
        let sidecar = |workload: &str, listener: &str, admin: SocketAddr| -> Result<String> {
            let identity = identity(workload)?;
            Ok(format!(
                "sidecar:\n  workload: {workload}\n  workers: {workers}\n  {listener}\n  admin: {{listen: {admin}}}\n{identity}"
            ))
        };
        Ok(vec![
            start("second", &services, sidecar(SERVICE, &format!("inbound: {between}"), admin[1])?)?,
            start("first", &services, sidecar(CLIENT, &format!("outbound: [{entry}]"), admin[0])?)?,
        ])
    }
}

/// Ports that were free a moment ago: held together until all are known, so that they differ.
fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut held = Vec::new();
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for address in &mut addresses {
        let listener = TcpListener::bind(*address).context("no free port")?;
        *address = listener.local_addr().context("a listener without an address")?;
        held.push(listener);
    }
    Ok(addresses)
}

fn cargo(root: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root);
    command
}

fn built(command: &mut Command) -> Result<()> {
    let status = command.status().context("cannot start cargo")?;
    if status.success() { Ok(()) } else { bail!("a contender does not compile; cargo's output above says why") }
}
