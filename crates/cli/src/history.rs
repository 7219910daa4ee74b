use crate::control_client::{Target, ask, block_on, refusal};
use crate::objects;
use crate::output::{Output, table};
use anyhow::Result;
use clap::Args;
use fusewire_api::v1;
use serde_json::json;
use std::process::ExitCode;

/// Show who changed what by API, and when; or one revision as a diff.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Only this one, with its changes.
    revision: Option<u64>,
    /// How many, from the newest; the last 1,000 are kept.
    #[arg(long, default_value_t = 20)]
    limit: u32,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Arguments { revision, limit, output, target } = arguments;
    let request = v1::HistoryRequest { limit: *limit, revision: *revision };
    let got = async { Ok(target.admin().await?.history(ask(request)).await.map_err(refusal)?.into_inner()) };
    let revisions = block_on(got)?.revisions;
    match output {
        Output::Json => println!("{:#}", json!(revisions.iter().map(as_json).collect::<Vec<_>>())),
        Output::Table => match (revision, revisions.as_slice()) {
            (Some(_), [one]) => {
                let v1::Revision { revision, time, author, message, changes } = one;
                print!("revision {revision}, {time}, by {author}\n{message}\n{}", objects::diff(changes));
            }
            (_, []) => println!("nothing was ever changed by API"),
            _ => print!("{}", listed(&revisions)),
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn listed(revisions: &[v1::Revision]) -> String {
    const SHOWN: usize = 3;
    let mut rows = vec![["REVISION", "TIME", "AUTHOR", "OBJECTS", "MESSAGE"].map(String::from).to_vec()];
    for v1::Revision { revision, time, author, message, changes } in revisions {
        let mut names: Vec<String> = changes.iter().take(SHOWN).map(|c| objects::named(c.object.as_ref())).collect();
        if changes.len() > SHOWN {
            names.push(format!("and {} more", changes.len() - SHOWN));
        }
        let message = message.lines().next().unwrap_or_default().to_owned();
        rows.push(vec![revision.to_string(), time.clone(), author.clone(), names.join(", "), message]);
    }
    table(&rows)
}

fn as_json(revision: &v1::Revision) -> serde_json::Value {
    let one = |c: &v1::ObjectChange| json!({ "object": objects::named(c.object.as_ref()), "before": c.before, "after": c.after });
    let v1::Revision { revision, time, author, message, changes } = revision;
    let changes: Vec<_> = changes.iter().map(one).collect();
    json!({ "revision": revision, "time": time, "author": author, "message": message, "changes": changes })
}
