//! The way of traces and metrics out of this sidecar: who receives them, and how that one is reached.
//!
//! It decides what the receiver is told of the sender (the resource), and that the control plane is reached as everything
//! else reaches it: mTLS with the workload's identity, the next replica after a failure. A collector is reached in clear,
//! or over TLS with the certificates that its setting names. It deliberately shows nothing but a receiver's address:
//! headers carry keys.

use crate::controls::Controls;
use crate::mesh::Mesh;
use crate::trust;
use fusewire_model::node::{Collector, Otlp, OtlpProtocol, SidecarSettings};
use fusewire_telemetry::Sink;
use fusewire_telemetry::metrics::Metrics;
use fusewire_telemetry::otlp::{self, Client, Connect, Exporter, Http, Io};
use fusewire_telemetry::trace::sink::Spans;
use http::HeaderMap;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tonic::transport::{Endpoint, Uri};

/// How long the exporter may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(3);

/// The requests' end, where somebody listens.
pub(crate) fn sink(settings: &SidecarSettings, metrics: &Metrics) -> Option<(Sink, Spans)> {
    let listens = match settings.telemetry.otlp {
        Otlp::Off => false,
        Otlp::Control => !settings.control.is_empty(),
        Otlp::Collector(_) => true,
    };
    listens.then(|| Sink::new(metrics.export.clone()))
}

/// The task that sends, until it is told to stop.
pub(crate) struct Exporting {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

pub(crate) fn start(mesh: &Arc<Mesh>, controls: Option<&Controls>, spans: Spans) -> Option<Exporting> {
    let receiver = match &mesh.settings.telemetry.otlp {
        Otlp::Off => return None,
        Otlp::Control => Receiver::Control { mesh: mesh.clone(), controls: controls?.clone(), tried: false },
        Otlp::Collector(collector) => Receiver::Collector(collector.clone()),
    };
    let settings = otlp::Settings {
        resource: otlp::resource(resource(&mesh.settings)),
        metrics_interval: mesh.settings.telemetry.metrics_interval,
        started: crate::clock::unix_nanos(),
    };
    let (stop, stopped) = oneshot::channel();
    let exporter = Exporter::new(receiver, settings, mesh.metrics.export.clone());
    let of = mesh.clone();
    let task = tokio::spawn(exporter.run(spans, move || of.metrics.encode(), stopped));
    Some(Exporting { stop, task })
}

impl Exporting {
    /// What is there goes out, within a bound.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        if tokio::time::timeout(FAREWELL, self.task).await.is_err() {
            tracing::warn!("the receiver of traces does not answer: the last ones are lost");
        }
    }
}

/// Who sends: the workload, and which of its instances.
fn resource(settings: &SidecarSettings) -> Vec<(&'static str, String)> {
    let workload = &settings.workload;
    let registered = settings.register.as_ref().and_then(|r| r.id.clone());
    let process = || format!("{}-{}", workload.path(), std::process::id());
    vec![
        ("service.name", workload.path().to_owned()),
        ("service.namespace", workload.trust_domain().to_owned()),
        ("service.instance.id", settings.instance.clone().or(registered).unwrap_or_else(process)),
        ("fusewire.workload", workload.to_string()),
        ("fusewire.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("telemetry.sdk.name", "fusewire".to_owned()),
        ("telemetry.sdk.language", "rust".to_owned()),
        ("telemetry.sdk.version", env!("CARGO_PKG_VERSION").to_owned()),
    ]
}

enum Receiver {
    Control { mesh: Arc<Mesh>, controls: Controls, tried: bool },
    Collector(Collector),
}

impl Connect for Receiver {
    async fn connect(&mut self) -> Result<Client, String> {
        match self {
            Self::Control { mesh, controls, tried } => {
                if std::mem::replace(tried, true) {
                    controls.pass(); // the one before did not do
                }
                let tls = mesh.tls().ok_or("no certificate yet")?;
                let client = trust::control_client(&tls.identity).map_err(|e| e.to_string())?;
                let channel = trust::channel(controls.now(), client).await.map_err(|e| e.to_string())?;
                Ok(Client::Grpc { channel, fields: HeaderMap::new() })
            }
            Self::Collector(collector) => collected(collector).await,
        }
    }

    fn is_ready(&self) -> bool {
        match self {
            Self::Control { mesh, .. } => mesh.tls().is_some(),
            Self::Collector(_) => true,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Control { controls, .. } => format!("control plane {}", controls.now()),
            Self::Collector(collector) => address(collector),
        }
    }
}

/// Without headers, and without whatever a path may hide.
fn address(collector: &Collector) -> String {
    let scheme = if collector.tls { "https" } else { "http" };
    format!("{scheme}://{}:{}", collector.host, collector.port)
}

async fn collected(collector: &Collector) -> Result<Client, String> {
    let fields = otlp::fields(collector.headers.iter().map(|(name, value)| (name.as_str(), value.0.as_str())));
    match collector.protocol {
        OtlpProtocol::Http => {
            let host = format!("{}:{}", collector.host, collector.port);
            let io = reach(collector, b"http/1.1").await.map_err(|e| e.to_string())?;
            let http = Http::new(io, &host, &collector.path, fields).await.map_err(|e| e.to_string())?;
            Ok(Client::Http(http))
        }
        OtlpProtocol::Grpc => {
            // TLS is the connector's; tonic takes the scheme for the authority alone
            let uri: Uri = format!("http://{}:{}", collector.host, collector.port).parse().map_err(wrong)?;
            let of = collector.clone();
            let connector = tower::service_fn(move |_: Uri| {
                let of = of.clone();
                async move { reach(&of, b"h2").await.map(TokioIo::new) }
            });
            let endpoint = Endpoint::from(uri).user_agent(concat!("fusewire/", env!("CARGO_PKG_VERSION")));
            let endpoint = endpoint.map_err(wrong)?;
            let channel = endpoint.connect_with_connector(connector).await.map_err(|e| whole(&e))?;
            Ok(Client::Grpc { channel, fields })
        }
    }
}

fn wrong(e: impl std::error::Error) -> String {
    e.to_string()
}

/// tonic's own words stop at "transport error".
fn whole(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

async fn reach(collector: &Collector, alpn: &[u8]) -> io::Result<Box<dyn Both>> {
    let host = collector.host.trim_matches(['[', ']']);
    let stream = fusewire_net::dial((host, collector.port)).await?;
    let Some(ca) = collector.ca.as_deref().filter(|_| collector.tls) else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let tls = TlsConnector::from(Arc::new(client_config(ca, alpn)?));
    Ok(Box::new(tls.connect(name, stream).await?))
}

/// A stream of bytes, with TLS or without.
trait Both: Io {}
impl<T: Io> Both for T {}

fn client_config(ca: &Path, alpn: &[u8]) -> io::Result<rustls::ClientConfig> {
    let named = |e: String| io::Error::other(format!("telemetry.otlp.ca: {}: {e}", ca.display()));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|e| named(e.to_string()))? {
        // a system's bundle holds certificates that rustls does not take; the others are enough
        let _ = roots.add(certificate.map_err(|e| named(e.to_string()))?);
    }
    if roots.is_empty() {
        return Err(named("no certificate in it".into()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}
