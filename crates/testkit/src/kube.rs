//! A Kubernetes API server in memory, for tests of what reads and writes there.
//!
//! It decides what a real one decides about any object, whatever its kind: versions and conflicts, lists and pages, watches that
//! resume, end and expire, selectors, patches, the status subresource, TokenReview. It deliberately knows no schema, no
//! controller and no RBAC: a test writes Services, EndpointSlices and Pods as their controllers would
//! ([`KubeApi::put`]), and says which tokens are good.
//!
//! Checked against `k8s.io/apiextensions-apiserver` 0.36: what an expired watch, a conflict and a selector look like.

mod http;
mod objects;
mod patch;

pub use patch::json as json_patch;

use objects::{Objects, Path};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// A server of its own thread; ends with this handle.
#[derive(Debug)]
pub struct KubeApi {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
    address: SocketAddr,
}

struct Shared {
    tls: Option<TlsAcceptor>,
    objects: Mutex<Objects>,
    /// The newest version, for watches to wait on.
    version: watch::Sender<u64>,
    /// Counts the times that every connection was cut.
    cuts: watch::Sender<u64>,
    /// While true, requests are read and not answered.
    frozen: watch::Sender<bool>,
    listening: Mutex<Option<tokio::task::AbortHandle>>,
    tokens: Mutex<BTreeMap<String, Token>>,
    requests: Mutex<Vec<String>>,
    refused: Mutex<Vec<String>>,
    hidden: Mutex<Vec<String>>,
}

/// Whom a token proves, and for whom.
#[derive(Clone, Debug)]
struct Token {
    user: String,
    audiences: Vec<String>,
}

impl KubeApi {
    /// In clear, with the namespaces `default`, `kube-system` and `fusewire`.
    pub fn start() -> Self {
        Self::start_with(TcpListener::bind("127.0.0.1:0").unwrap(), None)
    }

    /// The same, on a listener that may be of another network namespace (such a one does not go down), and over TLS where
    /// `tls` says as whom.
    pub fn start_with(listener: TcpListener, tls: Option<Arc<ServerConfig>>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shared = Arc::new(Shared {
            tls: tls.map(TlsAcceptor::from),
            objects: Mutex::new(Objects::default()),
            version: watch::Sender::new(0),
            cuts: watch::Sender::new(0),
            frozen: watch::Sender::new(false),
            listening: Mutex::new(None),
            tokens: Mutex::default(),
            requests: Mutex::default(),
            refused: Mutex::default(),
            hidden: Mutex::default(),
        });
        let address = listener.local_addr().unwrap();
        let api = Self { shared, runtime: Some(runtime), address };
        api.listen(listener);
        for name in ["default", "kube-system", "fusewire"] {
            api.namespace(name, json!({}));
        }
        api
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().unwrap()
    }

    fn listen(&self, listener: TcpListener) {
        let serving = self.runtime().spawn(http::serve(self.shared.clone(), listener));
        *lock(&self.shared.listening) = Some(serving.abort_handle());
    }

    /// `http://127.0.0.1:PORT`, or wherever its listener is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig that leads here.
    pub fn kubeconfig(&self) -> String {
        let cluster = json!({"name": "test", "cluster": {"server": self.url()}});
        let context = json!({"name": "test", "context": {"cluster": "test", "user": "test"}});
        let user = json!({"name": "test", "user": {"token": "not-looked-at"}});
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [cluster], "contexts": [context], "users": [user],
        })
        .to_string()
    }

    /// Creates or replaces an object, status included, as its controller would. `metadata.namespace` where it has one.
    pub fn put(&self, object: Value) -> Value {
        let path = Path::of(&object);
        let put = lock(&self.shared.objects).put(&path, object);
        self.shared.told();
        put
    }

    /// Removes an object, whatever its finalizers. `resource` as in paths: `pods`, `discovery.k8s.io/v1/endpointslices`.
    pub fn remove(&self, resource: &str, namespace: &str, name: &str) {
        lock(&self.shared.objects).remove(&Path::named(resource, namespace, name));
        self.shared.told();
    }

    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        lock(&self.shared.objects).get(&Path::named(resource, namespace, name)).cloned()
    }

    /// All of a resource, in all namespaces.
    pub fn all(&self, resource: &str) -> Vec<Value> {
        lock(&self.shared.objects).all(&Path::named(resource, "", "")).cloned().collect()
    }

    pub fn namespace(&self, name: &str, annotations: Value) -> Value {
        self.put(json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations},
            "status": {"phase": "Active"},
        }))
    }

    /// From now on TokenReview says that `token` is `user`'s, for `audiences`.
    pub fn token(&self, token: &str, user: &str, audiences: &[&str]) {
        let audiences = audiences.iter().map(|audience| (*audience).to_owned()).collect();
        lock(&self.shared.tokens).insert(token.into(), Token { user: user.into(), audiences });
    }

    /// Forgets all history: watches that go on from before get 410, those that are open at once.
    pub fn expire(&self) {
        lock(&self.shared.objects).expire();
        self.shared.told();
    }

    /// Tells every open watch how far it is.
    pub fn bookmark(&self) {
        lock(&self.shared.objects).bookmark();
        self.shared.told();
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|n| *n += 1);
    }

    /// Once it returns, nothing listens any more, and every connection is cut. Objects stay.
    pub fn go_down(&self) {
        let Some(listening) = lock(&self.shared.listening).take() else { return };
        listening.abort();
        // each connection holds a receiver; one may have been accepted until the listener was gone
        while !listening.is_finished() || self.shared.cuts.receiver_count() > 0 {
            self.cut();
            std::thread::yield_now();
        }
    }

    /// After [`KubeApi::go_down`], at the same address.
    pub fn come_up(&self) {
        let listener = loop {
            // the socket before may not be gone yet
            match TcpListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(_) => std::thread::yield_now(),
            }
        };
        self.listen(listener);
    }

    /// Connections stay, and nothing is answered, until [`KubeApi::thaw`].
    pub fn freeze(&self) {
        self.shared.frozen.send_replace(true);
    }

    pub fn thaw(&self) {
        self.shared.frozen.send_replace(false);
    }

    /// From now on requests that begin with one of `prefixes`, such as `GET /api/v1/pods`, are answered 403.
    pub fn refuse(&self, prefixes: &[&str]) {
        *lock(&self.shared.refused) = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
    }

    /// From now on requests that begin with one of `prefixes` are answered 404, as those for a kind that is not installed.
    pub fn hide(&self, prefixes: &[&str]) {
        *lock(&self.shared.hidden) = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
    }

    /// `METHOD /path?query` of each request so far.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.shared.requests).clone()
    }
}

impl Drop for KubeApi {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    /// Wakes the watches.
    fn told(&self) {
        let version = lock(&self.objects).version();
        self.version.send_modify(|now| *now = version);
    }

    fn review(&self, asked: &Value) -> Value {
        let token = asked["spec"]["token"].as_str().unwrap_or_default();
        let wanted: Vec<&str> =
            asked["spec"]["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let known = lock(&self.tokens).get(token).cloned();
        let status = match known {
            None => json!({"authenticated": false, "error": "[invalid bearer token, token lookup failed]"}),
            Some(Token { user, audiences }) => {
                let both: Vec<&String> =
                    audiences.iter().filter(|a| wanted.is_empty() || wanted.contains(&a.as_str())).collect();
                if both.is_empty() {
                    let said = format!("token audiences {audiences:?} is invalid for the target audiences {wanted:?}");
                    json!({"authenticated": false, "error": said})
                } else {
                    json!({"authenticated": true, "user": {"username": user, "uid": "u"}, "audiences": both})
                }
            }
        };
        let mut answer = asked.clone();
        answer["status"] = status;
        answer
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// A `Status` object.
fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}
