use crate::control_client::{Target, block_on};
use crate::output;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use fusewire_api::v1;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::Instant;

const LOOK: Duration = Duration::from_millis(100);

/// Wait until the configuration is in force everywhere: every connected sidecar said so, and none refused a part of it.
///
/// Exit code 0: it is; 1: not in time, and those that are missing are named.
#[derive(Args)]
pub(crate) struct Arguments {
    /// For what.
    #[arg(long = "for", value_enum)]
    event: Event,
    /// Of the configuration, as `fusewire status` and `fusewire apply` name it [default: whatever is in force].
    #[arg(long, conflicts_with = "revision")]
    version: Option<String>,
    /// Of the applied objects; a later one counts too.
    #[arg(long)]
    revision: Option<u64>,
    #[arg(long, default_value = "60s", value_parser = output::duration)]
    timeout: Duration,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Event {
    Enforced,
}

/// Who runs what, as far as it matters here.
#[derive(Debug, Default)]
struct Progress {
    version: String,
    revision: u64,
    /// Replicas whose sidecars are not known.
    away: Vec<String>,
    sidecars: Vec<Runs>,
}

#[derive(Debug, Default)]
struct Runs {
    name: String,
    acked: Option<String>,
    refused: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Event::Enforced = arguments.event;
    let missing = block_on(wait(arguments))?;
    if missing.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("not enforced within {}:\n  {}", fusewire_model::yaml::duration_text(arguments.timeout), missing.join("\n  "))
}

/// What is missing when the time is over; nothing where it came to be in time.
async fn wait(arguments: &Arguments) -> Result<Vec<String>> {
    let until = Instant::now() + arguments.timeout;
    loop {
        let progress = progress(&arguments.target).await?;
        let missing = missing(&progress, arguments.version.as_deref(), arguments.revision);
        if missing.is_empty() || Instant::now() >= until {
            return Ok(missing);
        }
        tokio::time::sleep_until((Instant::now() + LOOK).min(until)).await;
    }
}

fn missing(progress: &Progress, version: Option<&str>, revision: Option<u64>) -> Vec<String> {
    if let Some(wanted) = revision.filter(|wanted| progress.revision < *wanted) {
        return vec![format!("the control plane has revision {} in force, not {wanted}", progress.revision)];
    }
    let wanted = version.unwrap_or(&progress.version);
    let lacks = |sidecar: &Runs| {
        let Runs { name, acked, refused } = sidecar;
        if !refused.is_empty() {
            return Some(format!("{name} refused {}", refused.join("; ")));
        }
        let acked = acked.as_deref();
        (acked != Some(wanted))
            .then(|| format!("{name} has {}", acked.map_or("nothing yet".into(), |v| format!("version {v}"))))
    };
    progress.away.iter().cloned().chain(progress.sidecars.iter().filter_map(lacks)).collect()
}

async fn progress(target: &Target) -> Result<Progress> {
    let status = target.status().await?;
    let runs = |s: v1::SidecarStatus| Runs {
        name: [Some(s.workload), s.instance].into_iter().flatten().collect::<Vec<_>>().join(" "),
        acked: s.acked_version,
        refused: s.nacks.iter().map(|n| format!("{} {}: {}", n.kind, n.name, n.message)).collect(),
    };
    let away = status.replicas.iter().filter(|replica| !replica.answered);
    let configuration = status.configuration.unwrap_or_default();
    Ok(Progress {
        version: configuration.version,
        revision: configuration.revision,
        away: away.map(|replica| format!("replica {} does not answer: {}", replica.name, replica.error)).collect(),
        sidecars: status.sidecars.into_iter().map(runs).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(name: &str, acked: Option<&str>) -> Runs {
        Runs { name: name.into(), acked: acked.map(Into::into), refused: Vec::new() }
    }

    #[test]
    fn whoever_has_not_said_that_it_runs_the_version_is_named() {
        let mut refusing = runs("c", Some("v2"));
        refusing.refused.push("policy: too new".into());
        let sidecars = vec![runs("a", Some("v2")), runs("b", Some("v1")), refusing, runs("d", None)];
        let progress = Progress { version: "v2".into(), revision: 4, away: Vec::new(), sidecars };
        let wanted = ["b has version v1", "c refused policy: too new", "d has nothing yet"];
        assert_eq!(missing(&progress, None, None), wanted);
        assert_eq!(missing(&progress, None, Some(4)), wanted);
        assert_eq!(missing(&progress, None, Some(5)), ["the control plane has revision 4 in force, not 5"]);
        assert_eq!(missing(&progress, Some("v1"), None)[0], "a has version v2");
        assert!(missing(&Progress::default(), None, None).is_empty());
    }
}
