use anyhow::{Result, bail, ensure};
use clap::Args;
use fusewire_kubernetes::injector::client;
use fusewire_kubernetes::install::{Overlay, Wishes, apply, delete, manifests, set_trust_domain};
use fusewire_kubernetes::yaml;
use fusewire_model::TrustDomain;
use serde_json::Value;
use std::io::IsTerminal;
use std::process::ExitCode;

/// Install Fusewire into the Kubernetes cluster that kubectl would use: control plane, injector, roles, resources.
///
/// The manifests are those of deploy/kubernetes, so that `kubectl apply -k` does the same. No registry is assumed: build the
/// image and side-load it, or name yours. Installed again, it leaves ConfigMap fusewire-mesh as it is, and the control plane at
/// the replicas that it was scaled to.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The image of control plane and sidecars.
    #[arg(long, default_value = "fusewire:latest")]
    image: String,
    /// What the mesh's identities begin with, for the first time that it is installed: written to ConfigMap fusewire-mesh. Where
    /// that is there with another, nothing is changed. Default: cluster.local.
    #[arg(long, value_name = "NAME", value_parser = TrustDomain::parse)]
    trust_domain: Option<TrustDomain>,
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
    /// One replica of the control plane, for a cluster of one node, also where somebody has scaled it.
    #[arg(long)]
    single_replica: bool,
    /// Also alert rules (for the Prometheus Operator), dashboards and an OpenTelemetry collector.
    #[arg(long, conflicts_with = "single_replica")]
    observability: bool,
    /// Print the manifests and change nothing. They hold the settings of a new mesh: applied to one that is there, they set
    /// ConfigMap fusewire-mesh and the replicas back, which `--apply` does not.
    #[arg(long)]
    print: bool,
    /// Change the cluster, also where standard output is no terminal.
    #[arg(long, conflicts_with = "print")]
    apply: bool,
    /// Of the kubeconfig.
    #[arg(long)]
    context: Option<String>,
}

impl What {
    /// Other meshes' commands of this name print manifests, for `kubectl apply -f -`: in a pipe it has to be said what is meant.
    fn ensure_meant(&self) -> Result<()> {
        ensure!(
            self.print || self.apply || std::io::stdout().is_terminal(),
            "nothing was changed, for standard output is no terminal: say --apply to change the \
             cluster, or --print for the manifests of a new mesh (for `kubectl apply -f -`)"
        );
        Ok(())
    }

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
    what.ensure_meant()?;
    let mut documents = what.manifests(Some(&arguments.image))?;
    if let Some(domain) = &arguments.trust_domain {
        set_trust_domain(&mut documents, domain);
    }
    let wishes = Wishes { trust_domain: arguments.trust_domain.clone(), replicas: what.single_replica };
    if what.print {
        print!("{}", yaml::write(&documents));
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = client(what.context.as_deref()).await?;
        apply(&client, &documents, &wishes, |what| eprintln!("{what}")).await
    })?;
    eprintln!(
        "installed; label a namespace to inject into it: kubectl label namespace NAME fusewire.io/inject=enabled"
    );
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn uninstall(arguments: &Uninstall) -> Result<ExitCode> {
    let what = &arguments.what;
    what.ensure_meant()?;
    let documents = what.manifests(None)?;
    if what.print {
        print!("{}", yaml::write(&documents));
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = client(what.context.as_deref()).await?;
        delete(&client, &documents, |what| eprintln!("{what}")).await
    })?;
    Ok(ExitCode::SUCCESS)
}
