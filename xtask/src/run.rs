//! Child processes: started at the root of the workspace, their output passed through untouched.
//!
//! It deliberately captures nothing of what a step prints: the test runner's own closing line is what people look for.

use anyhow::{Context as _, Result};
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

/// A step that ran and failed. Its exit code becomes ours.
#[derive(Debug)]
pub(crate) struct StepFailed {
    step: String,
    status: ExitStatus,
}

impl fmt::Display for StepFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed ({}); its own output above says why", self.step, self.status)
    }
}

impl std::error::Error for StepFailed {}

pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    let code = error.downcast_ref::<StepFailed>().and_then(|failed| failed.status.code());
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1))
}

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where cargo builds: `target`, or what the environment or the user's cargo configuration says.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(root()).no_deps().exec();
    Ok(metadata.context("cannot ask cargo where it builds")?.target_directory.into())
}

/// The cargo that runs us, without what it set for us alone: a build script that watches one of these variables would
/// run again in every nested build.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    let ours = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(ours) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a step to its end; a failure is an error that names the step.
pub(crate) fn step(name: &str, command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("{name}: cannot start {program}; is it installed?"))?;
    if status.success() { Ok(()) } else { Err(StepFailed { step: name.to_owned(), status }.into()) }
}

/// Whether a command ends well; its output is thrown away.
pub(crate) fn succeeds(program: impl AsRef<OsStr>, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(std::process::Stdio::null());
    command.output().is_ok_and(|output| output.status.success())
}

/// Finds a program as a shell would, and in the system directories that a user's PATH often lacks.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|file| file.is_file())
}
