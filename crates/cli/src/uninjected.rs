//! `fusewire check --kubernetes`: pods that should have a sidecar and have none.

use crate::output::{Output, table};
use anyhow::Result;
use fusewire_kubernetes::injector::{client, uninjected};
use serde_json::json;
use std::process::ExitCode;

#[derive(clap::Args)]
pub(crate) struct Pods {
    /// Only the pods of this namespace.
    #[arg(short, long, requires = "kubernetes")]
    namespace: Option<String>,
    /// The namespace that the control plane is in.
    #[arg(long, value_name = "NAME", requires = "kubernetes", default_value = fusewire_kubernetes::NAMESPACE)]
    control_namespace: String,
    /// Of the kubeconfig.
    #[arg(long, requires = "kubernetes")]
    context: Option<String>,
}

pub(crate) fn run(arguments: &Pods, output: Output) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let found = runtime.block_on(async {
        let client = client(arguments.context.as_deref()).await?;
        uninjected(&client, arguments.namespace.as_deref(), &arguments.control_namespace).await
    })?;
    match output {
        Output::Json => {
            let pods = found.iter().map(|p| json!({"namespace": p.namespace, "pod": p.pod, "why": p.why}));
            println!("{:#}", json!({"uninjected": pods.collect::<Vec<_>>()}));
        }
        Output::Table if found.is_empty() => println!("every pod that should have a sidecar has one"),
        Output::Table => {
            let mut rows = vec![["NAMESPACE", "POD", "WHY"].map(str::to_owned).to_vec()];
            rows.extend(found.iter().map(|p| vec![p.namespace.clone(), p.pod.clone(), p.why.clone()]));
            print!("{}", table(&rows));
        }
    }
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
