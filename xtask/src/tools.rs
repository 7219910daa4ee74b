//! The programs that the system tests and the fuzzing need: which, and from which package.
//!
//! As root on a Debian-like system what is missing is installed. Anywhere else it stops and says exactly what is missing
//! and how to get it: a test that quietly does without its tool would be a test that quietly does nothing.

use crate::{python, run};
use anyhow::{Context as _, Result, bail};
use std::path::Path;
use std::process::Command;

const POSTGRESQL: &str = "postgresql";

struct Tool {
    name: &'static str,
    why: &'static str,
    debian: &'static str,
    fedora: &'static str,
    brew: Option<&'static str>,
    here: fn() -> bool,
}

const TOOLS: [Tool; 16] = [
    Tool {
        name: "curl",
        why: "a client that is not ours",
        debian: "curl",
        fedora: "curl",
        brew: Some("curl"),
        here: || run::find("curl").is_some(),
    },
    Tool {
        name: "nginx",
        why: "a server that is not ours",
        debian: "nginx-light",
        fedora: "nginx",
        brew: Some("nginx"),
        here: || run::find("nginx").is_some(),
    },
    Tool {
        name: "h2load",
        why: "many HTTP/2 streams at once",
        debian: "nghttp2-client",
        fedora: "nghttp2",
        brew: Some("nghttp2"),
        here: || run::find("h2load").is_some(),
    },
    Tool {
        name: "python3 with venv and pip",
        why: "gRPC peers that are not ours",
        debian: "python3-venv",
        fedora: "python3",
        brew: Some("python3"),
        here: || python::interpreter().is_some(),
    },
    Tool {
        name: "etcd",
        why: "the store that replicas of the control plane share",
        debian: "etcd-server",
        fedora: "etcd",
        brew: Some("etcd"),
        here: || run::find("etcd").is_some(),
    },
    Tool {
        name: "etcdctl",
        why: "what an operator does to etcd: compact, restore a backup, enable users",
        debian: "etcd-client",
        fedora: "etcd",
        brew: Some("etcd"),
        here: || run::find("etcdctl").is_some(),
    },
    Tool {
        name: "chromium",
        why: "a browser for the control plane's page",
        debian: "chromium",
        fedora: "chromium",
        brew: None,
        here: || run::find("chromium").is_some(),
    },
    Tool {
        name: "chromedriver",
        why: "what types into the browser",
        debian: "chromium-driver",
        fedora: "chromedriver",
        brew: None,
        here: || run::find("chromedriver").is_some(),
    },
    Tool {
        name: "prometheus and promtool",
        why: "who reads the metrics",
        debian: "prometheus",
        fedora: "golang-github-prometheus",
        brew: Some("prometheus"),
        here: || run::find("prometheus").is_some() && run::find("promtool").is_some(),
    },
    Tool {
        name: "ip",
        why: "network namespaces",
        debian: "iproute2",
        fedora: "iproute",
        brew: None,
        here: || run::find("ip").is_some(),
    },
    Tool {
        name: "nft",
        why: "redirection by the kernel",
        debian: "nftables",
        fedora: "nftables",
        brew: None,
        here: || run::find("nft").is_some(),
    },
    Tool {
        name: "iptables, nft and legacy",
        why: "the same on older kernels",
        debian: "iptables",
        fedora: "iptables-nft iptables-legacy",
        brew: None,
        here: || run::find("iptables-nft").is_some() && run::find("iptables-legacy").is_some(),
    },
    Tool {
        name: "openssl",
        why: "a certificate for an application of somebody else's",
        debian: "openssl",
        fedora: "openssl",
        brew: Some("openssl"),
        here: || run::find("openssl").is_some(),
    },
    Tool {
        name: "redis-server and redis-cli",
        why: "a protocol that is no HTTP",
        debian: "redis-server",
        fedora: "redis",
        brew: None,
        here: || run::find("redis-server").is_some() && run::find("redis-cli").is_some(),
    },
    Tool {
        name: "PostgreSQL",
        why: "one that asks for TLS in its own way",
        debian: POSTGRESQL,
        fedora: "postgresql-server",
        brew: None,
        here: has_postgresql,
    },
    Tool {
        name: "c++",
        why: "libFuzzer",
        debian: "g++",
        fedora: "gcc-c++",
        brew: None,
        here: || run::find("c++").is_some(),
    },
];

/// Makes the tools be there, or says what is missing.
pub(crate) fn ready() -> Result<()> {
    let linux = cfg!(target_os = "linux");
    if !linux {
        eprintln!(
            "xtask: this is not Linux: interception, network namespaces and the bench do not work here; the rest runs"
        );
    }
    let missing = || TOOLS.iter().filter(|tool| (linux || tool.brew.is_some()) && !(tool.here)()).collect::<Vec<_>>();
    let mut lacking = missing();
    if !lacking.is_empty() && linux && run::find("apt-get").is_some() && is_root() {
        apt_install(&lacking)?;
        lacking = missing();
    }
    if lacking.is_empty() { Ok(()) } else { bail!("{}", shortfall(&lacking)) }
}

/// Debian keeps the server's programs out of the PATH, by version.
fn has_postgresql() -> bool {
    let mut versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let server = run::find("initdb").is_some() || versions.any(|v| v.path().join("bin/initdb").is_file());
    server && run::find("psql").is_some()
}

/// Debian's package would make a database for the whole machine, and start it. The tests make their own.
fn no_database_for_the_machine() -> Result<()> {
    let file = Path::new("/etc/postgresql-common/createcluster.conf");
    if file.exists() {
        return Ok(());
    }
    let written = std::fs::create_dir_all("/etc/postgresql-common")
        .and_then(|()| std::fs::write(file, "create_main_cluster = false\n"));
    written.with_context(|| format!("cannot write {}", file.display()))
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn apt_install(lacking: &[&Tool]) -> Result<()> {
    let packages: Vec<&str> = lacking.iter().map(|tool| tool.debian).collect();
    eprintln!("xtask: installing {}", packages.join(" "));
    if packages.contains(&POSTGRESQL) {
        no_database_for_the_machine()?;
    }
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    // Stale lists are no reason to stop: what is asked for may be there all the same, and the next line says if not.
    if let Err(error) = run::step("apt-get update", &mut apt(&["update", "-q"])) {
        eprintln!("xtask: {error:#}; trying with the lists at hand");
    }
    run::step("apt-get install", apt(&["install", "-q", "-y", "--no-install-recommends"]).args(&packages))
}

fn shortfall(lacking: &[&Tool]) -> String {
    let mut text = String::from("the system tests and the fuzzing need tools that this machine does not have:");
    for tool in lacking {
        text.push_str(&format!("\n  {} ({})", tool.name, tool.why));
    }
    let names =
        |of: fn(&Tool) -> Option<&'static str>| lacking.iter().copied().filter_map(of).collect::<Vec<_>>().join(" ");
    if cfg!(target_os = "linux") {
        text.push_str(&format!("\nDebian, Ubuntu: sudo apt-get install {}", names(|tool| Some(tool.debian))));
        text.push_str(&format!("\nFedora:         sudo dnf install {}", names(|tool| Some(tool.fedora))));
    } else {
        text.push_str(&format!("\nHomebrew: brew install {}", names(|tool| tool.brew)));
    }
    text.push_str("\nAs root on Debian or Ubuntu this command installs them itself.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let lacking: Vec<&Tool> = TOOLS.iter().filter(|tool| tool.name == "h2load" || tool.name == "nginx").collect();
        let text = shortfall(&lacking);
        assert!(text.contains("h2load (many HTTP/2 streams at once)"), "{text}");
        assert!(
            !cfg!(target_os = "linux") || text.contains("sudo apt-get install nginx-light nghttp2-client"),
            "{text}"
        );
        assert!(!text.contains("curl"), "{text}");
    }
}
