use crate::output;
use anyhow::Result;
use clap::Args;
use fusewire_control::Settings;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Run a control plane: it watches configuration files, tells each sidecar its share, and signs certificates.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Where sidecars connect. Port 0 takes a free one and logs it.
    #[arg(long, default_value = "127.0.0.1:15010")]
    listen: SocketAddr,
    /// Files, or folders of *.yaml and *.yml; watched, and taken over within a second when they are valid.
    #[arg(long, required = true)]
    config: Vec<PathBuf>,
    /// Where the certificate authority, join tokens and the last good configuration are kept.
    #[arg(long, default_value = "fusewire-control")]
    data_dir: PathBuf,
    /// The Unix socket for `fusewire status` and `fusewire token` [default: control.sock in the data directory].
    #[arg(long)]
    admin_socket: Option<PathBuf>,
    /// How long a sidecar's certificate holds, such as 24h; renewed at two thirds.
    #[arg(long, default_value = "24h", value_parser = output::duration)]
    leaf_lifetime: Duration,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    output::log_to_stderr();
    let settings = Settings {
        listen: arguments.listen,
        admin_socket: arguments.admin_socket,
        leaf_lifetime: arguments.leaf_lifetime,
        ..Settings::new(arguments.config, arguments.data_dir)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let stop = async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        };
        fusewire_control::run(settings, stop).await.map_err(anyhow::Error::from)
    })?;
    Ok(ExitCode::SUCCESS)
}
