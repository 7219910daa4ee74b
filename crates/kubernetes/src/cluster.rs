//! The way to the API server, and what can go wrong on it.
//!
//! It decides how the server is found (in the cluster, or by KUBECONFIG outside), how long a call may take, and which failures
//! leave it open whether a write happened. It deliberately repeats nothing: who asked knows whether it may be.

use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use std::time::Duration;

/// For one call; watches have their own time.
pub(crate) const CALL: Duration = Duration::from_secs(5);
/// Where in a pod its own namespace is written.
const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// A handle on a cluster; clones share its connections.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) client: kube::Client,
    namespace: String,
}

/// Why the API server did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    #[error(
        "no way to a Kubernetes API server: {0}; run in a pod with a service account, or name a kubeconfig in KUBECONFIG"
    )]
    Configuration(String),
    /// Nothing was changed, and the same call may succeed later.
    #[error("the Kubernetes API server does not answer: {0}")]
    Unavailable(String),
    /// Whether the write happened is not known.
    #[error("the Kubernetes API server failed in the middle of a write, which may or may not have happened: {0}")]
    Uncertain(String),
    /// Someone else was first, or it is there already.
    #[error("someone else wrote it in between: {0}")]
    Conflict(String),
    #[error("it is not there: {0}")]
    Absent(String),
    /// It will be refused again: rights that are missing, an object that is not valid.
    #[error("the Kubernetes API server refuses: {0}; has the control plane's service account its ClusterRole?")]
    Refused(String),
}

/// What a failed call did, where that is not known otherwise.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Write,
}

impl Cluster {
    /// Finds the API server; does not call it. `namespace`: where the control plane keeps what is its own; default the pod's,
    /// else [`crate::NAMESPACE`].
    ///
    /// # Errors
    /// [`ClusterError::Configuration`].
    pub async fn connect(namespace: Option<&str>) -> Result<Self, ClusterError> {
        Self::over(Config::infer().await.map_err(|error| refused(&error))?, namespace)
    }

    /// The same by a kubeconfig's text.
    ///
    /// # Errors
    /// [`ClusterError::Configuration`].
    pub async fn by(kubeconfig: &str, namespace: Option<&str>) -> Result<Self, ClusterError> {
        let read = Kubeconfig::from_yaml(kubeconfig).map_err(|error| refused(&error))?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
        Self::over(config.map_err(|error| refused(&error))?, namespace)
    }

    fn over(mut config: Config, namespace: Option<&str>) -> Result<Self, ClusterError> {
        config.connect_timeout = Some(CALL);
        config.default_retry = false; // a write that is repeated unseen could conflict with itself
        let own = || std::fs::read_to_string(OWN_NAMESPACE).ok().map(|text| text.trim().to_owned());
        let namespace = namespace.map(str::to_owned).or_else(own).unwrap_or_else(|| crate::NAMESPACE.into());
        let client = kube::Client::try_from(config).map_err(|error| refused(&error))?;
        Ok(Self { client, namespace })
    }

    /// Where the control plane keeps what is its own.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

fn refused(error: &dyn std::error::Error) -> ClusterError {
    ClusterError::Configuration(chain(error))
}

/// At most [`CALL`], and in our words.
pub(crate) async fn call<T>(kind: Call, asked: impl Future<Output = kube::Result<T>>) -> Result<T, ClusterError> {
    match tokio::time::timeout(CALL, asked).await {
        Ok(answer) => answer.map_err(|error| explained(kind, &error)),
        Err(_) if kind == Call::Write => Err(ClusterError::Uncertain(format!("no answer within {CALL:?}"))),
        Err(_) => Err(ClusterError::Unavailable(format!("no answer within {CALL:?}"))),
    }
}

fn explained(kind: Call, error: &kube::Error) -> ClusterError {
    if let kube::Error::Api(status) = error {
        let said = status.message.clone();
        return match status.code {
            404 => ClusterError::Absent(said),
            409 => ClusterError::Conflict(said),
            // never begun
            429 => ClusterError::Unavailable(said),
            500.. if kind == Call::Write => ClusterError::Uncertain(said),
            500.. => ClusterError::Unavailable(said),
            _ => ClusterError::Refused(said),
        };
    }
    if kind == Call::Write && !never_connected(error) {
        return ClusterError::Uncertain(chain(error));
    }
    ClusterError::Unavailable(chain(error))
}

fn never_connected(error: &kube::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|e| e.is_connect()) {
            return true;
        }
        next = error.source();
    }
    false
}

/// With its causes, each once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}
