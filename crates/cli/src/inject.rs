use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use fusewire_kubernetes::{Injection, Namespace, Settings, inject_manifests, uninject_manifests};
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

/// Put a sidecar beside the applications in Kubernetes manifests, as the admission webhook does: from files to standard output.
///
/// Every Pod, PodTemplate, Deployment, StatefulSet, DaemonSet, ReplicaSet, Job and CronJob, in lists too; whatever else is in the
/// files goes through unchanged, comments left out. Exit code 1: something could not be injected, and went through as it was.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Files; `-` is standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The image of the sidecar and of the init container.
    #[arg(long, default_value = "fusewire:latest")]
    image: String,
    /// The namespace of objects that name none.
    #[arg(short, long, default_value = "")]
    namespace: String,
    /// The pod security standard that this namespace enforces, unless it stands in the files itself. `baseline` and
    /// `restricted` forbid redirection, and pods get the form with HTTP_PROXY.
    #[arg(long, value_enum)]
    pod_security: Option<Standard>,
    /// The namespace that the control plane is in.
    #[arg(long, value_name = "NAME", default_value = fusewire_kubernetes::NAMESPACE)]
    control_namespace: String,
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    trust_domain: String,
    /// Take out what was injected, instead.
    #[arg(long)]
    remove: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Standard {
    Privileged,
    Baseline,
    Restricted,
}

impl Standard {
    fn word(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

impl Arguments {
    fn namespace(&self) -> Namespace {
        let enforced = self.pod_security.map(Standard::word);
        let labels = enforced.map(|word| ("pod-security.kubernetes.io/enforce".to_owned(), word.to_owned()));
        Namespace { name: self.namespace.clone(), labels: labels.into_iter().collect(), ..Namespace::default() }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let domain = fusewire_model::TrustDomain::parse(&arguments.trust_domain);
    domain.with_context(|| format!("--trust-domain {}", arguments.trust_domain))?;
    let settings = Settings::new(&arguments.image, &arguments.control_namespace, &arguments.trust_domain);
    let mut text = String::new();
    for file in &arguments.files {
        // documents of several files must not run into each other
        if !text.is_empty() {
            text.push_str("\n---\n");
        }
        text.push_str(&read(file)?);
    }
    if arguments.remove {
        print!("{}", uninject_manifests(&text)?);
        return Ok(ExitCode::SUCCESS);
    }
    let injection = inject_manifests(&text, &arguments.namespace(), &settings)?;
    let Injection { text, injected, warnings, refused } = &injection;
    print!("{text}");
    injected.iter().for_each(|what| eprintln!("{what}: injected"));
    warnings.iter().for_each(|what| eprintln!("warning: {what}"));
    refused.iter().for_each(|what| eprintln!("error: {what}"));
    Ok(if refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// More than the API server takes of one object, many times over.
const MAX_INPUT: u64 = 256 << 20;

fn read(file: &PathBuf) -> Result<String> {
    let mut text = String::new();
    let name = file.display().to_string();
    let read = match name.as_str() {
        "-" => std::io::stdin().take(MAX_INPUT).read_to_string(&mut text),
        _ => std::fs::File::open(file).and_then(|file| file.take(MAX_INPUT).read_to_string(&mut text)),
    };
    let read = read.with_context(|| name.clone())?;
    ensure!((read as u64) < MAX_INPUT, "{name} is over 256 MiB");
    Ok(text)
}
