use crate::control_client::{Target, ask, block_on, refusal};
use crate::output::{Output, table};
use anyhow::Result;
use clap::Args;
use fusewire_api::v1;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

/// Show who serves a service: every instance, from which source, in which health, and how old that word is.
#[derive(Args)]
pub(crate) struct Arguments {
    service: String,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let asked = v1::EndpointsRequest { service: arguments.service.clone() };
    let told = async { Ok(arguments.target.admin().await?.endpoints(ask(asked)).await.map_err(refusal)?.into_inner()) };
    let told: v1::EndpointsResponse = block_on(told)?;
    match arguments.output {
        Output::Json => println!("{:#}", as_json(&told)),
        Output::Table => print!("{}", shown(&told)),
    }
    Ok(ExitCode::SUCCESS)
}

fn health(found: &v1::Found) -> &'static str {
    match found.health() {
        v1::Health::Unspecified => "unchecked",
        v1::Health::Starting => "starting",
        v1::Health::Up => "up",
        v1::Health::Down => "down",
    }
}

fn parts(endpoint: &v1::Endpoint) -> (v1::Found, v1::Instance) {
    let found = endpoint.found.clone().unwrap_or_default();
    let instance = found.instance.clone().unwrap_or_default();
    (found, instance)
}

fn as_json(told: &v1::EndpointsResponse) -> Value {
    let instance = |endpoint: &v1::Endpoint| {
        let (found, instance) = parts(endpoint);
        let labels: serde_json::Map<String, Value> =
            instance.labels.into_iter().map(|label| (label.name, label.value.into())).collect();
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        json!({
            "id": instance.id, "address": instance.address, "sidecar": text(instance.inbound),
            "identity": text(instance.identity), "weight": instance.weight, "zone": text(instance.zone), "labels": labels,
            "sources": found.sources, "health": health(&endpoint.found.clone().unwrap_or_default()),
            "detail": found.detail, "age_ms": found.age_ms, "offered": endpoint.offered,
        })
    };
    json!({
        "service": told.service, "defined": told.defined,
        "instances": told.instances.iter().map(instance).collect::<Vec<_>>(), "sources": told.sources,
    })
}

fn shown(told: &v1::EndpointsResponse) -> String {
    let mut out = String::new();
    if !told.defined {
        out += &format!("{} is defined nowhere; it exists because instances registered for it\n", told.service);
    }
    let head = ["INSTANCE", "ADDRESS", "SIDECAR", "SOURCE", "HEALTH", "AGE", "ZONE", "WEIGHT"];
    let mut rows = vec![head.map(String::from).to_vec()];
    let dash = |text: String| if text.is_empty() { "-".into() } else { text };
    for endpoint in &told.instances {
        let (found, instance) = parts(endpoint);
        let health = health(&found);
        let word = match (endpoint.offered, found.detail.is_empty() || health == "up") {
            (true, true) => health.to_owned(),
            (true, false) => format!("{health} ({})", found.detail),
            (false, true) => format!("{health}, not offered"),
            (false, false) => format!("{health}, not offered ({})", found.detail),
        };
        let age = found.age_ms.map_or("-".into(), age);
        rows.push(vec![
            instance.id,
            instance.address,
            dash(instance.inbound),
            found.sources.join(", "),
            word,
            age,
            dash(instance.zone),
            instance.weight.to_string(),
        ]);
    }
    out += &if rows.len() == 1 { format!("{} has no instance\n", told.service) } else { table(&rows) };
    for source in told.sources.iter().filter(|source| source.failing.is_some()) {
        let why = source.failing.as_deref().unwrap_or_default();
        out += &format!("{} fails, its last answer is {} old: {why}\n", source.source, age(source.age_ms));
    }
    out
}

fn age(ms: u64) -> String {
    // tenths are enough for people
    fusewire_model::yaml::duration_text(Duration::from_millis(if ms < 10_000 {
        ms / 100 * 100
    } else {
        ms / 1000 * 1000
    }))
}
