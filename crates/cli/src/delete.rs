use crate::control_client::{Target, ask, block_on, refusal};
use crate::objects;
use anyhow::Result;
use clap::Args;
use fusewire_api::v1;
use std::process::ExitCode;

/// Delete applied objects: all that are named, or none.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Such as service/shop or override/shop/shop-1.
    #[arg(value_name = "KIND/NAME", required = true, value_parser = objects::whole)]
    objects: Vec<v1::ObjectName>,
    /// Only say what would change.
    #[arg(long)]
    dry_run: bool,
    /// Refuse if any of these objects has changed after this revision.
    #[arg(long)]
    if_revision: Option<u64>,
    /// Why, for the history.
    #[arg(short, long, default_value = "")]
    message: String,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Arguments { objects, dry_run, if_revision, message, target } = arguments;
    let (dry_run, if_revision) = (*dry_run, *if_revision);
    let request = v1::DeleteRequest { objects: objects.clone(), dry_run, if_revision, message: message.clone() };
    let done = async { Ok(target.admin().await?.delete(ask(request)).await.map_err(refusal)?.into_inner()) };
    print!("{}", objects::told(&block_on(done)?, dry_run));
    Ok(ExitCode::SUCCESS)
}
