use crate::output;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use fusewire_control::{EtcdSettings, EtcdTls, EtcdUser, KubernetesSettings, Settings, StoreSettings, WebhookSettings};
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
    #[arg(long, required_unless_present = "kubernetes")]
    config: Vec<PathBuf>,
    /// Where the store (unless it is elsewhere) and the last good configuration are kept.
    #[arg(long, default_value = "fusewire-control")]
    data_dir: PathBuf,
    /// The Unix socket for commands on this machine [default: control.sock in the data directory].
    #[arg(long)]
    admin_socket: Option<PathBuf>,
    /// How long a sidecar's certificate holds, such as 24h; renewed at two thirds.
    #[arg(long, default_value = "24h", value_parser = output::duration)]
    leaf_lifetime: Duration,
    /// Sign with a certificate authority of your own: a folder with tls.crt, tls.key and ca.crt, as cert-manager writes
    /// them; followed when the files change.
    #[arg(long)]
    ca_dir: Option<PathBuf>,
    /// Where certificate authority, join tokens, applied objects and registrations are kept: etcd://host:port,host:port for
    /// several control planes together [default: with --kubernetes there, else a file in the data directory].
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    #[command(flatten)]
    etcd: Etcd,
    #[command(flatten)]
    cluster: Cluster,
    /// What this control plane is called among its replicas [default: the host's name and a few letters, made once].
    #[arg(long, value_name = "NAME")]
    replica: Option<String>,
    /// Where other replicas reach this one: an address or a name, whose port is that of --listen unless it has one [default: the
    /// address of --listen, unless that is any address].
    #[arg(long, value_name = "HOST[:PORT]")]
    advertise: Option<String>,
    /// Answer GET /live, /ready and /metrics here, to whoever asks.
    #[arg(long, value_name = "IP:PORT")]
    admin_listen: Option<SocketAddr>,
    /// Serve the page with traces and the service map here, to whoever asks: on loopback, such as 127.0.0.1:15020, or with
    /// --web-host.
    #[arg(long, value_name = "IP:PORT")]
    web_listen: Option<SocketAddr>,
    /// A name or address under which browsers ask for the page, beside those of loopback; may be given several times. Needed
    /// where --web-listen is no loopback address: then everybody who reaches it sees every trace.
    #[arg(long, value_name = "HOST")]
    web_host: Vec<String>,
    /// Take spans and metrics of applications here, as OTLP over gRPC or HTTP (protobuf), such as 127.0.0.1:4317: in clear
    /// and from whoever sends, so only on loopback or a trusted network. Sidecars need it not; they send over mTLS.
    #[arg(long, value_name = "IP:PORT")]
    otlp_listen: Option<SocketAddr>,
    /// How much memory traces may take, such as 256MiB; the oldest go first.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = output::size)]
    trace_memory: usize,
    /// How long registrations are kept at most, when most of a service or of all fall silent together.
    #[arg(long, default_value = "30m", value_parser = output::duration)]
    self_preservation: Duration,
    #[command(flatten)]
    injection: Injection,
}

/// How sidecars are injected into pods.
#[derive(Args)]
struct Injection {
    /// Serve the admission webhook that injects sidecars here, over TLS, such as `[::]:15017`; the certificate is made by our own
    /// authority, and the API server told of it.
    #[arg(long, value_name = "IP:PORT")]
    kubernetes_webhook: Option<SocketAddr>,
    /// The pod that it runs in: sidecars get its image.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    kubernetes_pod: Option<String>,
    /// The image that sidecars get instead.
    #[arg(long, value_name = "IMAGE")]
    inject_image: Option<String>,
}

impl Injection {
    fn settings(self, namespace: Option<String>) -> Option<WebhookSettings> {
        let namespace = namespace.unwrap_or_else(|| fusewire_kubernetes::NAMESPACE.into());
        let (pod, image) = (self.kubernetes_pod, self.inject_image);
        self.kubernetes_webhook.map(|listen| WebhookSettings { listen, namespace, pod, image })
    }
}

/// The Kubernetes cluster that is looked at.
#[derive(Args)]
struct Cluster {
    /// Find services and pods in Kubernetes, believe its service accounts, and keep what must be kept there (unless --store
    /// says where): as the pod's service account, or by KUBECONFIG outside of a cluster.
    #[arg(long)]
    kubernetes: bool,
    /// The namespace that this control plane is in, where it keeps what is its own [default: the pod's, else fusewire-system].
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    kubernetes_namespace: Option<String>,
    /// What the names of the cluster's services end in.
    #[arg(long, value_name = "DOMAIN", requires = "kubernetes", default_value = "cluster.local")]
    cluster_domain: String,
}

impl Cluster {
    fn settings(self) -> Option<KubernetesSettings> {
        let Self { kubernetes, kubernetes_namespace: namespace, cluster_domain } = self;
        kubernetes.then_some(KubernetesSettings { kubeconfig: None, namespace, cluster_domain })
    }
}

/// How etcd is reached.
#[derive(Args)]
struct Etcd {
    /// What every key begins with.
    #[arg(long, value_name = "PREFIX", default_value = "/fusewire/")]
    etcd_prefix: String,
    /// The roots that etcd's certificate must lead to, PEM; with it, etcd is spoken to over TLS only.
    #[arg(long, value_name = "FILE")]
    etcd_ca: Option<PathBuf>,
    /// A certificate to show to etcd, PEM.
    #[arg(long, value_name = "FILE", requires_all = ["etcd_key", "etcd_ca"])]
    etcd_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    etcd_key: Option<PathBuf>,
    /// A user of etcd.
    #[arg(long, value_name = "NAME", requires = "etcd_password_file")]
    etcd_user: Option<String>,
    /// Where the user's password is.
    #[arg(long, value_name = "FILE", requires = "etcd_user")]
    etcd_password_file: Option<PathBuf>,
}

impl Etcd {
    fn store(self, url: Option<&str>) -> Result<Option<StoreSettings>> {
        let Self { etcd_prefix, etcd_ca, etcd_cert, etcd_key, etcd_user, etcd_password_file } = self;
        let Some(url) = url else {
            ensure!(etcd_ca.is_none() && etcd_user.is_none(), "--etcd-... goes with --store etcd://host:port");
            return Ok(None);
        };
        let Some(hosts) = url.strip_prefix("etcd://") else {
            bail!("--store {url}: write etcd://host:port, or several with a comma between them");
        };
        let scheme = if etcd_ca.is_some() { "https" } else { "http" };
        let endpoints = hosts.split(',').map(|host| format!("{scheme}://{host}")).collect();
        let user = match (etcd_user, etcd_password_file) {
            (Some(name), Some(path)) => {
                let password = std::fs::read_to_string(&path);
                let password = password.with_context(|| format!("--etcd-password-file {}", path.display()))?;
                Some(EtcdUser { name, password: password.trim_end_matches(['\r', '\n']).to_owned() })
            }
            _ => None,
        };
        let tls = etcd_ca.map(|ca| EtcdTls { ca, identity: etcd_cert.zip(etcd_key) });
        let prefix = if etcd_prefix.ends_with('/') { etcd_prefix } else { etcd_prefix + "/" };
        Ok(Some(StoreSettings::Etcd(EtcdSettings { endpoints, prefix, tls, user })))
    }
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    output::log_to_stderr();
    let store = arguments.etcd.store(arguments.store.as_deref())?;
    let namespace = arguments.cluster.kubernetes_namespace.clone();
    let kubernetes = arguments.cluster.settings();
    let store = store.or_else(|| kubernetes.clone().map(StoreSettings::Kubernetes));
    let base = Settings::new(arguments.config, arguments.data_dir);
    let settings = Settings {
        listen: arguments.listen,
        store: store.unwrap_or(base.store),
        replica: arguments.replica,
        advertise: arguments.advertise,
        admin_listen: arguments.admin_listen,
        web_listen: arguments.web_listen,
        web_hosts: arguments.web_host,
        otlp_listen: arguments.otlp_listen,
        trace_memory: arguments.trace_memory,
        admin_socket: arguments.admin_socket,
        leaf_lifetime: arguments.leaf_lifetime,
        ca_dir: arguments.ca_dir,
        kubernetes,
        self_preservation: arguments.self_preservation,
        webhook: arguments.injection.settings(namespace),
        ..base
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
        Box::pin(fusewire_control::run(settings, stop)).await.map_err(anyhow::Error::from)
    })?;
    Ok(ExitCode::SUCCESS)
}
