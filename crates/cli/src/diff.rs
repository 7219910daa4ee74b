use crate::apply::{applied, sources};
use crate::control_client::{Target, block_on};
use crate::objects;
use anyhow::Result;
use clap::Args;
use fusewire_api::v1;
use std::path::PathBuf;
use std::process::ExitCode;

/// Show what `fusewire apply` would change, as a unified diff of each object.
///
/// Exit code 0: nothing would change; 1: something would; 2: the control plane refuses it or does not answer.
#[derive(Args)]
pub(crate) struct Arguments {
    /// A file, a folder of *.yaml and *.yml, or - for standard input; may be given several times.
    #[arg(short, long = "file", required = true)]
    file: Vec<PathBuf>,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let asked = sources(&arguments.file).and_then(|sources| {
        let request = v1::ApplyRequest { sources, dry_run: true, ..v1::ApplyRequest::default() };
        block_on(applied(&arguments.target, request))
    });
    match asked {
        Ok(answer) if answer.changes.is_empty() => Ok(ExitCode::SUCCESS),
        Ok(answer) => {
            print!("{}", objects::diff(&answer.changes));
            Ok(ExitCode::FAILURE)
        }
        Err(e) => {
            eprintln!("fusewire: {e:#}");
            Ok(ExitCode::from(2))
        }
    }
}
