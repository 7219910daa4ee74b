use crate::output;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use fusewire_api::v1;
use fusewire_model::{ServiceName, SpiffeId};
use fusewire_sidecar::enrol::{Enrolment, credentials};
use fusewire_sidecar::{Controls, Registrar, Report};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

/// Keep something registered that has no sidecar, such as a database: until SIGTERM or SIGINT, which take it out again.
///
/// It is registered as plain: callers reach it in clear, and only where a policy says `plain: allow`. Its identity is that
/// of the join token, and must be the service's own, or an operator's (fusewire/operator/NAME).
#[derive(Args)]
pub(crate) struct Arguments {
    /// The control plane, or each of its replicas: one of them is used at a time.
    #[arg(long, value_name = "HOST:PORT", required = true, value_delimiter = ',')]
    control: Vec<String>,
    /// What is served where, such as db=10.0.0.5:5432. Repeat it for more ports of the same host.
    #[arg(long = "service", value_name = "SERVICE=IP:PORT", required = true, value_parser = service)]
    services: Vec<(ServiceName, SocketAddr)>,
    /// Unique in its services [default: the first service's address].
    #[arg(long)]
    id: Option<String>,
    #[arg(long)]
    zone: Option<String>,
    /// Such as track=stable; may be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Share of the traffic relative to its peers, 1 to 1000.
    #[arg(long, default_value_t = 1)]
    weight: u32,
    /// How long it is believed to be there without a heartbeat, 1s to 10m.
    #[arg(long, default_value = "15s", value_parser = output::duration)]
    ttl: Duration,
    /// The join token, needed until there is a certificate in the data directory.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// Where key and certificate are kept.
    #[arg(long, default_value = "fusewire-register")]
    data_dir: PathBuf,
    /// Who it must be, as a SPIFFE ID [default: whom the token names].
    #[arg(long, value_name = "SPIFFE ID", value_parser = spiffe_id)]
    workload: Option<SpiffeId>,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    output::log_to_stderr();
    let registration = registration(&arguments)?;
    let Arguments { control, token_file, data_dir, workload, .. } = arguments;
    let controls = Controls::new(&control).context("--control is needed")?;
    let enrolment = Enrolment { controls: controls.clone(), token_file, data_dir, workload };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let identity = tokio::select! {
            identity = enrolment.begin() => identity.context("no identity to register with")?,
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
        };
        let (newest, current) = watch::channel(identity);
        let registrar = Registrar::new(controls, Some(registration), credentials(current));
        // nobody reports how it is; the sender only keeps the queue open
        let (_reports, nothing) = mpsc::channel::<Report>(1);
        let (leave, leaving) = oneshot::channel();
        let mut running = tokio::spawn(registrar.run(nothing, leaving));
        let asked = tokio::select! {
            _ = term.recv() => true,
            _ = int.recv() => true,
            () = enrolment.keep(newest) => false,
            _ = &mut running => false,
        };
        ensure!(asked, "the registration ended by itself");
        let _ = leave.send(());
        if tokio::time::timeout(Duration::from_secs(5), running).await.is_err() {
            bail!("the control plane did not take the deregistration within 5 s; the TTL ends it");
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn registration(arguments: &Arguments) -> Result<v1::Registration> {
    let (_, first) = arguments.services.first().context("--service is needed")?;
    let mut hosts: BTreeMap<IpAddr, SocketAddr> = BTreeMap::new();
    for (_, address) in &arguments.services {
        hosts.entry(address.ip()).or_insert(*address);
    }
    ensure!(hosts.len() == 1, "--service: all ports must be of one host; run one `fusewire register` for each host");
    let port = |(service, address): &(ServiceName, SocketAddr)| v1::Port {
        port: address.port().into(),
        service: service.to_string(),
    };
    Ok(v1::Registration {
        id: arguments.id.clone().unwrap_or_else(|| first.to_string()),
        host: first.ip().to_string(),
        ports: arguments.services.iter().map(port).collect(),
        sidecar: String::new(),
        weight: arguments.weight,
        zone: arguments.zone.clone().unwrap_or_default(),
        metadata: arguments.labels.iter().cloned().collect(),
        ttl_ms: u64::try_from(arguments.ttl.as_millis()).unwrap_or(u64::MAX),
        starting: false,
    })
}

fn service(text: &str) -> Result<(ServiceName, SocketAddr)> {
    let (name, address) = text.split_once('=').context("write SERVICE=IP:PORT, such as db=10.0.0.5:5432")?;
    let address: SocketAddr = address.parse().context("after `=` comes IP:PORT; names are not resolved")?;
    Ok((ServiceName::parse(name)?, address))
}

fn label(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').context("write NAME=VALUE, such as track=stable")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn spiffe_id(text: &str) -> Result<SpiffeId> {
    Ok(SpiffeId::parse(text)?)
}
