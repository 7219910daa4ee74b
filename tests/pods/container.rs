//! One container, as a container runtime makes it: a root of its own, the pod's network, its user and what it may do.
//!
//! It decides what the two images hold: that of Fusewire the binary, `nft` and their libraries, and any other this machine's
//! programs. It deliberately has no process namespace, no resource limits and no seccomp filter: nothing here is about them.

use crate::kubelet::Sandbox;
use fusewire_testkit::Process;
use fusewire_testkit::process::tool;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// In every root, since what starts a container is not part of its image.
const SETPRIV: &str = "/.setpriv";
/// What a container may do where nothing else is said, as runtimes have it.
const CAPABILITIES: [&str; 14] = [
    "chown",
    "dac_override",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "net_bind_service",
    "net_raw",
    "sys_chroot",
    "mknod",
    "audit_write",
    "setfcap",
];

/// How another program is run in a container that runs.
#[derive(Clone, Debug)]
pub(crate) struct Shell {
    pub(crate) pid: u32,
    environment: Vec<(String, String)>,
    user: Vec<String>,
}

impl Shell {
    /// As `kubectl exec`, and as hooks and probes of that kind.
    pub(crate) fn command(&self, program: &[&str]) -> Command {
        let mut command = Command::new(tool("nsenter"));
        command.args(["-t", &self.pid.to_string(), "--mount", "--net", "--root", "--wd", "--", SETPRIV]);
        command.args(&self.user).args(program).env_clear().envs(self.environment.clone());
        command
    }
}

/// Starts the container that `spec` says; what it prints is in `log`.
pub(crate) fn start(sandbox: &Sandbox, spec: &Value, log: PathBuf) -> (Process, Shell) {
    let name = spec["name"].as_str().unwrap();
    let image = Image::of(spec["image"].as_str().unwrap());
    let environment = environment(sandbox, spec, &image);
    let expanded = |part: &str| {
        let words = spec[part].as_array().into_iter().flatten();
        words.map(|word| expand(word.as_str().unwrap(), &environment)).collect::<Vec<_>>()
    };
    let program: Vec<String> = ["command", "args"].into_iter().flat_map(expanded).collect();
    assert!(!program.is_empty(), "container {name} has no command, and images have none here");
    let user = user(&sandbox.pod["spec"]["securityContext"], &spec["securityContext"]);

    let root = sandbox.dir.join("roots").join(name);
    let mut script = Script::new(&root);
    image.fill(&mut script);
    for (file, at) in [("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")] {
        script.file(&sandbox.dir.join(file), at);
    }
    for mount in spec["volumeMounts"].as_array().into_iter().flatten() {
        let from = &sandbox.volumes[mount["name"].as_str().unwrap()];
        script.folder(from, mount["mountPath"].as_str().unwrap(), mount["readOnly"] == true);
    }
    script.folder(&sandbox.account, "/var/run/secrets/kubernetes.io/serviceaccount", true);
    let script = script.end(spec["securityContext"]["readOnlyRootFilesystem"] == true);
    let file = sandbox.dir.join(format!("{name}.sh"));
    std::fs::write(&file, script).unwrap();

    // one process all the way, so that the one that is known is the container's
    let mut command = sandbox.host.command(tool("unshare"));
    command.args(["--mount", "sh", "-e"]).arg(file).args(&user).args(program);
    command.env_clear().envs(environment.clone());
    let process = Process::start(&mut command, log);
    let shell = Shell { pid: process.id(), environment, user };
    (process, shell)
}

/// Kubernetes' order: what stands before is known to what stands after.
fn environment(sandbox: &Sandbox, spec: &Value, image: &Image) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = vec![("PATH".into(), image.path.clone())];
    all.extend(sandbox.environment.iter().cloned());
    for variable in spec["env"].as_array().into_iter().flatten() {
        let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some(path) => sandbox.field(path),
            None => expand(variable["value"].as_str().unwrap_or_default(), &all),
        };
        all.push((variable["name"].as_str().unwrap().into(), value));
    }
    all
}

/// `$(NAME)` is a variable's value, unless there is none; `$$` is `$`.
fn expand(text: &str, variables: &[(String, String)]) -> String {
    let (mut expanded, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        expanded += &rest[..at];
        let after = &rest[at + 1..];
        let named = after.strip_prefix('(').and_then(|after| after.split_once(')'));
        let value = |name: &str| variables.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value);
        rest = match named.and_then(|(name, beyond)| Some((value(name)?, beyond))) {
            Some((value, beyond)) => {
                expanded += value;
                beyond
            }
            None => {
                expanded.push('$');
                after.strip_prefix('$').unwrap_or(after)
            }
        };
    }
    expanded + rest
}

/// What `setpriv` is told.
fn user(pod: &Value, container: &Value) -> Vec<String> {
    let said = |key: &str| container[key].as_u64().or_else(|| pod[key].as_u64());
    let (user, group) = (said("runAsUser").unwrap_or(0), said("runAsGroup").unwrap_or(0));
    assert!(user != 0 || container["runAsNonRoot"] != true, "runAsNonRoot, and the user is 0");
    let mut may: Vec<String> = CAPABILITIES.iter().map(|name| (*name).to_owned()).collect();
    for dropped in container["capabilities"]["drop"].as_array().into_iter().flatten() {
        may.retain(|name| dropped != "ALL" && !name.eq_ignore_ascii_case(dropped.as_str().unwrap()));
    }
    let added = container["capabilities"]["add"].as_array().into_iter().flatten();
    may.extend(added.map(|name| name.as_str().unwrap().to_lowercase()));
    let bounding = may.iter().fold("-all".to_owned(), |all, name| format!("{all},+{name}"));
    let mut words = vec![format!("--reuid={user}"), format!("--regid={group}"), format!("--bounding-set={bounding}")];
    words.push(pod["fsGroup"].as_u64().map_or("--clear-groups".into(), |group| format!("--groups={group}")));
    if container["allowPrivilegeEscalation"] == false {
        words.push("--no-new-privs".into());
    }
    words
}

enum Kind {
    Fusewire,
    Machine,
}

struct Image {
    kind: Kind,
    path: String,
}

impl Image {
    fn of(name: &str) -> Self {
        if name.starts_with("fusewire:") {
            return Self { kind: Kind::Fusewire, path: PATH.into() };
        }
        Self { kind: Kind::Machine, path: format!("{}/bin:{PATH}", python().display()) }
    }

    fn fill(&self, script: &mut Script) {
        script.file(&tool("setpriv"), SETPRIV);
        for name in ["bin", "sbin", "lib", "lib64"] {
            let here = Path::new("/").join(name);
            match here.read_link() {
                Ok(to) => script.link(&to, name),
                Err(_) if here.is_dir() => script.folder(&here, &format!("/{name}"), true),
                Err(_) => {}
            }
        }
        match self.kind {
            Kind::Fusewire => {
                script.folder(Path::new("/usr/lib"), "/usr/lib", true);
                if Path::new("/usr/lib64").is_dir() {
                    script.folder(Path::new("/usr/lib64"), "/usr/lib64", true);
                }
                script.file(Path::new(FUSEWIRE), "/usr/bin/fusewire");
                script.file(&tool("nft"), "/usr/sbin/nft");
            }
            Kind::Machine => {
                script.folder(Path::new("/usr"), "/usr", true);
                if !python().starts_with("/usr") {
                    script.folder(python(), &python().display().to_string(), true);
                }
                let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python");
                script.folder(&scripts, "/app", true);
            }
        }
        if Path::new("/etc/ld.so.cache").is_file() {
            script.file(Path::new("/etc/ld.so.cache"), "/etc/ld.so.cache");
        }
        if Path::new("/etc/alternatives").is_dir() {
            script.folder(Path::new("/etc/alternatives"), "/etc/alternatives", true);
        }
    }
}

/// Where the Python is that tests run, which may be in somebody's home.
fn python() -> &'static Path {
    static PREFIX: LazyLock<PathBuf> = LazyLock::new(|| {
        let told = Command::new(tool("python3")).args(["-c", "import sys; print(sys.base_prefix)"]).output().unwrap();
        PathBuf::from(String::from_utf8(told.stdout).unwrap().trim())
    });
    &PREFIX
}

/// What makes a root, in a mount namespace of its own that ends with its last process.
struct Script {
    root: PathBuf,
    text: String,
}

impl Script {
    fn new(root: &Path) -> Self {
        std::fs::create_dir_all(root).unwrap();
        let at = root.display();
        let mut text = format!("mount -t tmpfs -o mode=0755 root {at}\nmkdir -p {at}/etc\nmkdir -m 1777 {at}/tmp\n");
        for name in ["proc", "dev"] {
            let _ = writeln!(text, "mkdir {at}/{name}\nmount --rbind /{name} {at}/{name}");
        }
        Self { root: root.into(), text }
    }

    fn at(&self, place: &str) -> PathBuf {
        self.root.join(place.trim_start_matches('/'))
    }

    fn link(&mut self, to: &Path, place: &str) {
        // made by the script, since the root is not there yet
        let at = self.at(place);
        let _ = writeln!(self.text, "ln -s {} {}", to.display(), at.display());
    }

    fn folder(&mut self, from: &Path, place: &str, read_only: bool) {
        let at = self.at(place);
        let _ = writeln!(self.text, "mkdir -p {0}\nmount --bind {1} {0}", at.display(), from.display());
        if read_only {
            let _ = writeln!(self.text, "mount -o remount,bind,ro {}", at.display());
        }
    }

    fn file(&mut self, from: &Path, place: &str) {
        let at = self.at(place);
        let folder = at.parent().unwrap().display();
        let _ = writeln!(self.text, "mkdir -p {folder}\ntouch {0}\nmount --bind {1} {0}", at.display(), from.display());
    }

    fn end(mut self, read_only: bool) -> String {
        let at = self.root.display();
        if read_only {
            let _ = writeln!(self.text, "mount -o remount,bind,ro {at}");
        }
        let _ = writeln!(self.text, "exec chroot {at} {SETPRIV} \"$@\"");
        self.text
    }
}
