use crate::{check, output};
use anyhow::{Context, Result, bail};
use clap::Args;
use fusewire_model::World;
use fusewire_model::yaml::{Source, parse};
use fusewire_sidecar::{Bound, Start};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Run a sidecar: it takes an application's traffic in and out, over mTLS, through circuit breakers.
///
/// Its file has a `sidecar:` section. With `sidecar.control` everything else comes from the control plane; without it,
/// the services, routes and policies in the same file are the whole world. SIGTERM drains within
/// `sidecar.drain_timeout`; a second one ends it at once.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Files, or folders of *.yaml and *.yml, with one `sidecar:` section between them. Without, the text is that of the
    /// variable FUSEWIRE_CONFIG, which the Kubernetes injector sets.
    #[arg(long)]
    config: Vec<PathBuf>,
    /// Replace the sidecar that runs with the same data_dir (or admin.socket): its listening sockets come over once this one is
    /// ready, and it drains. No connection is refused. If this one does not get ready within a minute, that one goes on;
    /// where none runs, this starts as usual.
    #[arg(long)]
    take_over: bool,
}

const VARIABLE: &str = "FUSEWIRE_CONFIG";

fn sources(files: &[PathBuf]) -> Result<Vec<Source>> {
    if !files.is_empty() {
        return check::read(files);
    }
    let text = std::env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty());
    let text = text.with_context(|| {
        format!("there is no configuration: name a file with --config, or set the variable {VARIABLE} to its text")
    })?;
    Ok(vec![Source { name: VARIABLE.into(), text }])
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    output::log_to_stderr();
    let parsed = match parse(&sources(&arguments.config)?) {
        Ok(parsed) => parsed,
        Err(faults) => bail!("{} faults in the configuration:\n{}", faults.len(), check::lines(&faults).trim_end()),
    };
    let settings = parsed.sidecar.context(
        "the file has no `sidecar:` section; it says who this sidecar is and where it listens, such as\n\
         sidecar: {workload: web, outbound: [127.0.0.1:15001]}",
    )?;
    let world = World::new(parsed.mesh);
    let start = if arguments.take_over { Start::TakingOver } else { Start::Afresh };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = fusewire_sidecar::run(settings, world, start, say, async {
            let _ = stopped.await;
        });
        tokio::pin!(running);
        let mut stop = Some(stop);
        loop {
            tokio::select! {
                done = &mut running => return done.map_err(anyhow::Error::from),
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            match stop.take() {
                Some(stop) => drop(stop.send(())),
                None => bail!("stopped by a second signal, before the drain was over"),
            }
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn say(bound: Bound) {
    for address in &bound.outbound {
        tracing::info!("outbound listens on {address}");
    }
    if let Some(address) = bound.inbound {
        tracing::info!("inbound (mTLS) listens on {address}");
    }
    for address in &bound.dns {
        tracing::info!("dns listens on {address}");
    }
    for (direction, addresses) in ["outbound", "inbound"].iter().zip(&bound.intercept) {
        for address in addresses {
            tracing::info!("redirected {direction} connections are taken on {address}");
        }
    }
    if let Some(address) = bound.admin {
        tracing::info!("admin listens on {address}");
    }
    if let Some(socket) = &bound.socket {
        tracing::info!("admin socket {}", socket.display());
    }
}
