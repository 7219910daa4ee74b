//! The Python environment of the system tests: `target/test-python`, with what `tests/requirements.txt` pins.
//!
//! It is made once and again only when the requirements or the interpreter change. The mark that says so is written
//! last, so that a half-made environment is never taken for a whole one.

use crate::run;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The first python3 that can make an environment with pip in it; Debian ships one that cannot.
pub(crate) fn interpreter() -> Option<PathBuf> {
    let candidates = [run::find("python3"), Some(PathBuf::from("/usr/bin/python3"))];
    candidates.into_iter().flatten().find(|python| run::succeeds(python, &["-c", "import venv, ensurepip"]))
}

/// Makes the environment if need be; returns its python.
pub(crate) fn ready() -> Result<PathBuf> {
    let base = interpreter().context("no python3 can make a virtual environment; install python3-venv")?;
    let wanted = run::root().join("tests/requirements.txt");
    let pins = fs::read_to_string(&wanted).with_context(|| format!("cannot read {}", wanted.display()))?;
    let home = run::target_dir()?.join("test-python");
    let python = home.join("bin/python");
    let mark = home.join("made-from");
    let made_from = format!("{}{pins}", version(&base)?);
    if fs::read_to_string(&mark).is_ok_and(|last| last == made_from) && run::succeeds(&python, &["-c", "import grpc"]) {
        return Ok(python);
    }
    eprintln!("xtask: making the Python environment of the system tests in {}", home.display());
    clear(&home)?;
    run::step("python3 -m venv", Command::new(&base).args(["-m", "venv"]).arg(&home))?;
    let pip =
        ["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--only-binary=:all:", "-r"];
    run::step("pip install", Command::new(&python).args(pip).arg(&wanted)).with_context(|| {
        format!("cannot install the packages of {}: no network, or no wheel for this Python", wanted.display())
    })?;
    fs::write(&mark, made_from).with_context(|| format!("cannot write {}", mark.display()))?;
    Ok(python)
}

fn version(python: &Path) -> Result<String> {
    let output = Command::new(python).arg("--version").output();
    let output = output.with_context(|| format!("cannot start {}", python.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn clear(home: &Path) -> Result<()> {
    match fs::remove_dir_all(home) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot clear {}; remove it by hand", home.display()))
        }
        _ => Ok(()),
    }
}
