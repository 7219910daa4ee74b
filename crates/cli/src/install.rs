use anyhow::{Result, bail};
use clap::Args;
use fusewire_kubernetes::injector::client;
use fusewire_kubernetes::install::{Overlay, apply, delete, manifests};
use fusewire_kubernetes::yaml;
use serde_json::Value;
use std::process::ExitCode;

/// Install Fusewire into the Kubernetes cluster that kubectl would use: control plane, injector, roles, resources.
///
/// The manifests are those of deploy/kubernetes, so that `kubectl apply -k` does the same. No registry is assumed: build the
/// image and side-load it, or name yours.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The image of control plane and sidecars.
    #[arg(long, default_value = "fusewire:latest")]
    image: String,
    #[command(flatten)]
    what: What,
}

/// Take Fusewire out of the cluster again: the webhook first, so that no pod waits for it.
///
/// Sidecars that run go on until their pods are made anew. Custom resource definitions stay, since everything that was applied
/// would go with them.
#[derive(Args)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    what: What,
}

#[derive(Args)]
struct What {
    #[arg(short, long, default_value = fusewire_kubernetes::NAMESPACE)]
    namespace: String,
    /// One replica of the control plane, for a cluster of one node.
    #[arg(long)]
    single_replica: bool,
    /// Also alert rules (for the Prometheus Operator), dashboards and an OpenTelemetry collector.
    #[arg(long, conflicts_with = "single_replica")]
    observability: bool,
    /// Print the manifests and change nothing.
    #[arg(long)]
    print: bool,
    /// Of the kubeconfig.
    #[arg(long)]
    context: Option<String>,
}

impl What {
    fn manifests(&self, image: Option<&str>) -> Result<Vec<Value>> {
        let overlay = match (self.single_replica, self.observability) {
            (true, _) => Overlay::SingleReplica,
            (_, true) => Overlay::Observability,
            _ => Overlay::None,
        };
        manifests(overlay, image, &self.namespace).map_err(anyhow::Error::msg)
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let what = &arguments.what;
    if arguments.image.trim().is_empty() {
        bail!("--image must name an image, such as fusewire:latest");
    }
    let documents = what.manifests(Some(&arguments.image))?;
    if what.print {
        print!("{}", yaml::write(&documents));
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = client(what.context.as_deref()).await?;
        apply(&client, &documents, |object| eprintln!("{object}: applied")).await
    })?;
    eprintln!(
        "installed; label a namespace to inject into it: kubectl label namespace NAME fusewire.io/inject=enabled"
    );
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn uninstall(arguments: &Uninstall) -> Result<ExitCode> {
    let what = &arguments.what;
    let documents = what.manifests(None)?;
    if what.print {
        print!("{}", yaml::write(&documents));
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = client(what.context.as_deref()).await?;
        delete(&client, &documents, |object| eprintln!("{object}: deleted")).await
    })?;
    Ok(ExitCode::SUCCESS)
}
