use crate::check;
use crate::control_client::{Target, ask, block_on, refusal};
use crate::objects;
use anyhow::{Context, Result, bail};
use clap::Args;
use fusewire_api::v1;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Add or replace services, routes, policies and overrides: all that the files say, or nothing.
///
/// What a file of the control plane itself defines cannot be applied: a file's word counts. All faults are told at once.
#[derive(Args)]
pub(crate) struct Arguments {
    /// A file, a folder of *.yaml and *.yml, or - for standard input; may be given several times.
    #[arg(short, long = "file", required = true)]
    file: Vec<PathBuf>,
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
    let Arguments { file, dry_run, if_revision, message, target } = arguments;
    let request = v1::ApplyRequest {
        sources: sources(file)?,
        dry_run: *dry_run,
        if_revision: *if_revision,
        message: message.clone(),
    };
    let answer = block_on(applied(target, request))?;
    print!("{}", objects::told(&answer, *dry_run));
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn applied(target: &Target, request: v1::ApplyRequest) -> Result<v1::ApplyResponse> {
    Ok(target.admin().await?.apply(ask(request)).await.map_err(refusal)?.into_inner())
}

/// The texts of files, folders and standard input.
pub(crate) fn sources(paths: &[PathBuf]) -> Result<Vec<v1::SourceText>> {
    let mut all = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input")?;
            if text.trim().is_empty() {
                bail!("standard input is empty");
            }
            all.push(v1::SourceText { name: "stdin".into(), text });
            continue;
        }
        let read = check::read(std::slice::from_ref(path))?;
        all.extend(read.into_iter().map(|source| v1::SourceText { name: source.name, text: source.text }));
    }
    Ok(all)
}
