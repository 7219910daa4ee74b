use crate::control_client::{block_on, identity_dir};
use anyhow::{Context, Result};
use clap::Args;
use fusewire_sidecar::enrol;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Get an identity as a viewer, operator or admin, with a join token, and keep it for later commands.
///
/// Make the token at the control plane: `fusewire token create fusewire/operator/ada`. The identity is renewed by whatever
/// command finds it past two thirds of its life; once it has expired, log in again.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The control plane's host:port.
    #[arg(long, env = "FUSEWIRE_CONTROL")]
    control: String,
    /// A file with the join token, or - for standard input: an argument would be seen by other users.
    #[arg(long)]
    token_file: PathBuf,
    /// Where the identity is kept, for this user only [default: ~/.config/fusewire/<host_port>].
    #[arg(long, env = "FUSEWIRE_IDENTITY_DIR")]
    identity_dir: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let dir = identity_dir(&arguments.control, arguments.identity_dir.as_deref())?;
    let token = token(&arguments.token_file)?;
    let identity = block_on(async { Ok(enrol::join(&arguments.control, token.trim()).await?) })?;
    identity.save(&dir)?;
    println!("{} at {}, kept in {}", identity.id, arguments.control, dir.display());
    Ok(ExitCode::SUCCESS)
}

fn token(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().take(64 << 10).read_to_string(&mut text).context("standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}
