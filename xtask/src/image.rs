//! `cargo xtask image`: what a container image of Fusewire holds, and nothing else: the binary, `nft` for the init container
//! that puts the rules in, the libraries that both need, and two users.
//!
//! It decides the image's files, for the Dockerfile (which calls this in its first stage) and for buildah alike. It deliberately
//! knows no registry: an image is an archive, which is loaded into a cluster's nodes.

use crate::run;
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Whom the sidecar and the control plane run as.
const USER: &str = "65532";
const NFT: [&str; 2] = ["/usr/sbin/nft", "/sbin/nft"];
/// What our own layers may come to as a node pulls them, compressed, in bytes, where the binary is as it is shipped.
const MAX_PULLED: u64 = 25_000_000;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The binary; by default `dist` is built
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where the files go; what is there is replaced
    #[arg(long, default_value = "target/image")]
    root: PathBuf,
    /// Start what was put there, as its user and in its own root, and see that it answers. Needs root
    #[arg(long)]
    smoke: bool,
    /// Also make an archive of an image with this name, such as fusewire:latest, by buildah: target/fusewire.tar
    #[arg(long, value_name = "NAME")]
    tag: Option<String>,
}

impl Args {
    /// Only that `binary` starts with what would be beside it.
    pub(crate) fn smoke_of(binary: PathBuf) -> Self {
        Self { binary: Some(binary), root: "target/image".into(), smoke: true, tag: None }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let root = run::root().join(&args.root);
    let binary = match &args.binary {
        Some(binary) => fs::canonicalize(binary).with_context(|| binary.display().to_string())?,
        None => {
            run::step("the binary", &mut run::cargo(&["build", "--profile", "dist", "--bin", "fusewire"]))?;
            run::target_dir()?.join("dist/fusewire")
        }
    };
    let bytes = fill(&root, &binary)?;
    eprintln!("xtask: {}: {:.1} MiB", root.display(), bytes as f64 / f64::from(1 << 20));
    if args.binary.is_none() {
        let pulled = pulled(&root)?;
        eprintln!("xtask: {:.1} MB as a node pulls it", pulled as f64 / 1e6);
        ensure!(pulled <= MAX_PULLED, "the image is larger than {} MB", MAX_PULLED / 1_000_000);
    }
    if args.smoke {
        smoke(&root)?;
    }
    args.tag.as_deref().map_or(Ok(()), |tag| archive(&root, tag))
}

/// The files of the image; how many bytes they are.
fn fill(root: &Path, binary: &Path) -> Result<u64> {
    match fs::remove_dir_all(root) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context(root.display().to_string()),
        _ => {}
    }
    let nft = NFT.iter().map(Path::new).find(|path| path.is_file());
    let nft = nft.context("nft is not installed (apt-get install nftables)")?;
    let mut files: BTreeSet<PathBuf> = libraries(binary)?;
    files.extend(libraries(nft)?);
    let mut bytes = 0;
    for file in &files {
        bytes += copy(file, &root.join(file.strip_prefix("/")?))?;
    }
    bytes += copy(binary, &root.join("usr/bin/fusewire"))?;
    bytes += copy(nft, &root.join("usr/sbin/nft"))?;
    let etc = root.join("etc");
    fs::create_dir_all(&etc)?;
    fs::write(etc.join("passwd"), format!("root:x:0:0::/:/none\nfusewire:x:{USER}:{USER}::/:/none\n"))?;
    fs::write(etc.join("group"), format!("root:x:0:\nfusewire:x:{USER}:\n"))?;
    // names are asked of DNS where /etc/hosts does not know them
    fs::write(etc.join("nsswitch.conf"), "hosts: files dns\n")?;
    fs::create_dir_all(root.join("tmp"))?;
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    Ok(bytes)
}

/// As one layer, by gzip, as archives and registries hold it.
fn pulled(root: &Path) -> Result<u64> {
    let mut tar =
        Command::new("tar").arg("-C").arg(root).args(["-cz", "."]).stdout(Stdio::piped()).spawn().context("tar")?;
    let bytes = std::io::copy(&mut tar.stdout.take().context("tar")?, &mut std::io::sink())?;
    ensure!(tar.wait()?.success(), "tar does not read {}", root.display());
    Ok(bytes)
}

fn copy(from: &Path, to: &Path) -> Result<u64> {
    let failed = || format!("{} to {}", from.display(), to.display());
    fs::create_dir_all(to.parent().context("a file without a folder")?).with_context(failed)?;
    fs::copy(from, to).with_context(failed)
}

/// The shared libraries that `program` is loaded with, and the loader, by the names it knows them by.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let out = Command::new("ldd").arg(program).output().context("ldd")?;
    let text = String::from_utf8_lossy(&out.stdout);
    if !out.status.success() {
        bail!("ldd {}: {text}{}", program.display(), String::from_utf8_lossy(&out.stderr));
    }
    ensure!(!text.contains("not found"), "ldd {}: {text}", program.display());
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// Each program says its version there, where nothing else is.
fn smoke(root: &Path) -> Result<()> {
    let inside = |user: &str, program: &[&str]| {
        let mut command = Command::new("chroot");
        command.arg(format!("--userspec={user}:{user}")).arg(root).args(program);
        let out = command.output().context("chroot")?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "{} does not start in the image: {said} (root is needed)", program.join(" "));
        Ok(())
    };
    inside(USER, &["/usr/bin/fusewire", "--version"])?;
    inside(USER, &["/usr/bin/fusewire", "sidecar", "--help"])?;
    inside("0", &["/usr/sbin/nft", "--version"])
}

fn archive(root: &Path, tag: &str) -> Result<()> {
    let output = |args: &[&str]| {
        let out = Command::new("buildah").args(args).output().context("buildah is not installed")?;
        ensure!(out.status.success(), "buildah {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    let container = output(&["from", "scratch"])?;
    let path = root.display().to_string();
    output(&["copy", &container, &path, "/"])?;
    output(&["config", "--user", USER, "--entrypoint", "[\"/usr/bin/fusewire\"]", &container])?;
    output(&["commit", "--rm", &container, tag])?;
    let archive = run::target_dir()?.join("fusewire.tar");
    let to = format!("docker-archive:{}:{tag}", archive.display());
    output(&["push", tag, &to])?;
    eprintln!("xtask: {} holds {tag}", archive.display());
    Ok(())
}
