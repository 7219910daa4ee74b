use crate::control_client::{Target, ask, block_on, refusal};
use crate::objects;
use crate::output::table;
use anyhow::Result;
use clap::{Args, ValueEnum};
use fusewire_api::v1;
use serde_json::json;
use std::process::ExitCode;

/// Show services, routes, policies and overrides, from the control plane's files as well as applied ones.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Such as service/shop, or service for all services; nothing: all objects.
    #[arg(value_name = "KIND[/NAME]", value_parser = objects::wanted)]
    objects: Vec<v1::ObjectName>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Shown,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Shown {
    /// One line an object.
    #[default]
    Table,
    /// What can be applied again.
    Yaml,
    Json,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let request = v1::GetRequest { objects: arguments.objects.clone() };
    let got = async { Ok(arguments.target.admin().await?.get(ask(request)).await.map_err(refusal)?.into_inner()) };
    let got: v1::GetResponse = block_on(got)?;
    match arguments.output {
        Shown::Table => print!("{}", listed(&got)),
        Shown::Yaml => print!("{}", as_yaml(&got)),
        Shown::Json => println!("{:#}", as_json(&got)),
    }
    Ok(ExitCode::SUCCESS)
}

fn listed(got: &v1::GetResponse) -> String {
    if got.objects.is_empty() {
        return format!("there are no such objects at revision {}\n", got.revision);
    }
    let mut rows = vec![["OBJECT", "REVISION", "OWNER", "SHADOWED BY"].map(String::from).to_vec()];
    for object in &got.objects {
        let revision = if object.revision == 0 { "-".into() } else { object.revision.to_string() };
        rows.push(vec![
            objects::named(object.object.as_ref()),
            revision,
            object.owner.clone(),
            object.shadowed_by.clone(),
        ]);
    }
    table(&rows)
}

fn as_yaml(got: &v1::GetResponse) -> String {
    let one = |object: &v1::StoredObject| {
        let shadowed = match object.shadowed_by.as_str() {
            "" => String::new(),
            file => format!(", not in force: {file} defines it"),
        };
        let revision = if object.revision == 0 { String::new() } else { format!(", revision {}", object.revision) };
        let name = objects::named(object.object.as_ref());
        format!("---\n# {name}, from {}{revision}{shadowed}\n{}", object.owner, object.yaml)
    };
    got.objects.iter().map(one).collect()
}

fn as_json(got: &v1::GetResponse) -> serde_json::Value {
    let one = |o: &v1::StoredObject| {
        let name = o.object.clone().unwrap_or_default();
        json!({
            "kind": name.kind, "name": name.name, "revision": o.revision, "owner": o.owner,
            "shadowed_by": Some(&o.shadowed_by).filter(|file| !file.is_empty()), "yaml": o.yaml,
        })
    };
    json!({ "revision": got.revision, "objects": got.objects.iter().map(one).collect::<Vec<_>>() })
}
