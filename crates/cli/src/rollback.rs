use crate::control_client::{Target, ask, block_on, refusal};
use crate::objects;
use anyhow::Result;
use clap::Args;
use fusewire_api::v1;
use std::process::ExitCode;

/// Make all applied objects what they were at a revision, as a new revision.
#[derive(Args)]
pub(crate) struct Arguments {
    /// As `fusewire history` lists them; 0: before the first change.
    revision: u64,
    /// Only show what would change, as a diff.
    #[arg(long)]
    dry_run: bool,
    /// Refuse if any object that would change has changed after this revision.
    #[arg(long)]
    if_revision: Option<u64>,
    /// Why, for the history.
    #[arg(short, long, default_value = "")]
    message: String,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Arguments { revision, dry_run, if_revision, message, target } = arguments;
    let (revision, dry_run, if_revision) = (*revision, *dry_run, *if_revision);
    let request = v1::RollbackRequest { revision, dry_run, if_revision, message: message.clone() };
    let done = async { Ok(target.admin().await?.rollback(ask(request)).await.map_err(refusal)?.into_inner()) };
    let answer = block_on(done)?;
    if dry_run {
        print!("{}", objects::diff(&answer.changes));
    }
    print!("{}", objects::told(&answer, dry_run));
    Ok(ExitCode::SUCCESS)
}
