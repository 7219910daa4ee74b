use crate::output::Output;
use anyhow::{Context, Result, bail};
use clap::Args;
use fusewire_model::yaml::{Fault, Parsed, Source, parse};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Check configuration files with the control plane's own code, without starting anything.
///
/// Every fault of every file is named at once, with file, line, path and remedy. Exit code 0: valid; 1: not. With
/// --kubernetes: whether every pod has the sidecar that it should.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Files, or folders of *.yaml and *.yml; together they are one mesh.
    #[arg(required_unless_present = "kubernetes")]
    files: Vec<PathBuf>,
    /// Name the pods of the cluster that should have a sidecar and have none.
    #[arg(long, conflicts_with = "files")]
    kubernetes: bool,
    #[command(flatten)]
    pods: crate::uninjected::Pods,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.kubernetes {
        return crate::uninjected::run(&arguments.pods, arguments.output);
    }
    let sources = read(&arguments.files)?;
    let parsed = parse(&sources);
    match arguments.output {
        Output::Json => println!("{:#}", as_json(&parsed)),
        Output::Table => match &parsed {
            Ok(parsed) => {
                let mesh = &parsed.mesh;
                println!(
                    "valid: {} services, {} routes, {} policies, {} overrides{}, trust domain {}",
                    mesh.services.len(),
                    mesh.routes.len(),
                    mesh.policies.len(),
                    mesh.overrides.len(),
                    if parsed.sidecar.is_some() { ", a sidecar" } else { "" },
                    mesh.trust_domain,
                );
            }
            Err(faults) => eprint!("{}", lines(faults)),
        },
    }
    Ok(if parsed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn as_json(parsed: &Result<Parsed, Vec<Fault>>) -> serde_json::Value {
    let faults: Vec<_> = parsed
        .as_ref()
        .err()
        .into_iter()
        .flatten()
        .map(|f| {
            json!({
                "file": f.file, "line": f.line, "column": f.column, "path": f.path, "message": f.message,
                "remedy": f.remedy,
            })
        })
        .collect();
    json!({ "valid": parsed.is_ok(), "faults": faults })
}

pub(crate) fn lines(faults: &[Fault]) -> String {
    faults.iter().map(|f| format!("{f}\n")).collect()
}

/// The files named, and those in the folders named, in order.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
            let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| is_yaml(p)).collect();
            files.sort();
            if files.is_empty() {
                bail!("{}: no *.yaml or *.yml in this folder", path.display());
            }
            for file in files {
                sources.push(source(&file)?);
            }
        } else {
            sources.push(source(path)?);
        }
    }
    Ok(sources)
}

fn is_yaml(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
    !hidden && path.is_file() && path.extension().is_some_and(|e| e == "yaml" || e == "yml")
}

fn source(path: &Path) -> Result<Source> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(Source { name: path.display().to_string(), text })
}
