//! The admission webhook: the Kubernetes API server asks about each new pod, and is told what to put beside it.
//!
//! It decides who answers and how long that may take; what an injected pod looks like is `fusewire_kubernetes`'s. Its
//! certificate is ours, for the Service's DNS name, renewed as the control plane's own; the API server is told our roots
//! (`caBundle`). It deliberately does not authenticate the API server, which shows no certificate unless an operator
//! arranges it: what is answered is a function of what was asked and of a namespace's labels, and is no secret.
//!
//! Where it cannot say what is right it answers 500, so that the webhook's `failurePolicy` decides and not we.
//!
//! Invariants: at most [`MAX_CONNECTIONS`] at a time, at most 3 MiB of one request; every step has its time.

use crate::shared::Shared;
use crate::{ControlError, WebhookSettings};
use arc_swap::ArcSwap;
use bytes::Bytes;
use fusewire_identity::{SignError, UnixTime, renewal_at, webhook_config};
use fusewire_kubernetes::injector::{self, InjectorError};
use fusewire_kubernetes::{Injected, MAX_REVIEW, Namespace, Review, Settings};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use std::convert::Infallible;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// The path that the webhook is configured with.
const PATH: &str = "/inject";
const MAX_CONNECTIONS: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// For the first request's head.
const FIRST_HEAD: Duration = Duration::from_secs(5);
/// For later ones, and between two: the API server keeps connections, and does not repeat a POST on one that is closed under it.
const HEADERS: Duration = Duration::from_secs(120);
const BODY: Duration = Duration::from_secs(5);
/// To ask the API server for a namespace.
const LOOKUP: Duration = Duration::from_secs(2);
/// After this a connection takes no further request; the API server opens another.
const LIFE: Duration = Duration::from_secs(300);
const GRACE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(5);

/// Certificate and roots, as they are now.
pub(crate) struct Webhook {
    config: ArcSwap<ServerConfig>,
    roots: watch::Sender<String>,
    names: Vec<String>,
}

/// Who knows namespaces.
type Lookup =
    Arc<dyn Fn(String) -> futures_util::future::BoxFuture<'static, Result<Namespace, InjectorError>> + Send + Sync>;

impl Webhook {
    pub(crate) fn new(shared: &Shared, namespace: &str) -> Result<(Self, u64), ControlError> {
        let names = vec![format!("fusewire-injector.{namespace}.svc")];
        let (config, due) = issue(shared, &names)?;
        let roots = watch::Sender::new(shared.trust.now().authority.bundle().to_pem());
        Ok((Self { config: ArcSwap::new(config), roots, names }, due))
    }

    /// Never ends; as the control plane's own certificate is renewed.
    pub(crate) async fn renew(&self, shared: &Shared, mut due: u64) {
        let look = (shared.trust.leaf_lifetime() / 30).clamp(Duration::from_millis(100), Duration::from_secs(30));
        let mut trust = shared.trust.subscribe();
        loop {
            tokio::select! {
                () = tokio::time::sleep(look) => {}
                _ = trust.changed() => {}
            }
            let pem = trust.borrow_and_update().authority.bundle().to_pem();
            let changed = *self.roots.borrow() != pem;
            if !changed && UnixTime::now().as_secs() < due {
                continue;
            }
            match issue(shared, &self.names) {
                Ok((config, next)) => {
                    self.config.store(config);
                    self.roots.send_replace(pem);
                    due = next;
                }
                Err(error) => tracing::error!(%error, "the webhook's certificate is not renewed; trying again"),
            }
        }
    }

    /// Serves until it is dropped, once the cluster was found (from then on this replica is ready); keeps the `caBundle` beside it.
    pub(crate) async fn serve(&self, listener: TcpListener, settings: &WebhookSettings, shared: &Shared) {
        let (client, image) = loop {
            match found(settings).await {
                Ok(found) => break found,
                Err(error) => tracing::warn!("the webhook does not serve yet, trying again: {error}"),
            }
            tokio::time::sleep(RETRY).await;
        };
        tracing::info!(image, address = ?listener.local_addr().ok(), "the admission webhook injects sidecars");
        shared.injecting.store(true, Ordering::Relaxed);
        let injecting = Settings::new(&image, &settings.namespace, shared.trust.domain().as_str());
        let asked = client.clone();
        let lookup: Lookup = Arc::new(move |name| {
            let client = asked.clone();
            Box::pin(async move { injector::namespace(&client, &name).await })
        });
        tokio::select! {
            () = self.accept(listener, injecting, lookup) => {}
            () = injector::keep_ca_bundle(client, self.roots.subscribe()) => {}
        }
    }

    async fn accept(&self, listener: TcpListener, settings: Settings, lookup: Lookup) {
        let (places, settings) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), Arc::new(settings));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (config, settings, lookup) = (self.config.load_full(), settings.clone(), lookup.clone());
                    tokio::spawn(async move {
                        connection(stream, config, settings, lookup).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!("a connection to the webhook could not be accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

async fn found(settings: &WebhookSettings) -> Result<(fusewire_kubernetes::Client, String), InjectorError> {
    let client = injector::client(None).await?;
    let image = match (&settings.image, &settings.pod) {
        (Some(image), _) => image.clone(),
        (None, Some(pod)) => injector::image_of(&client, &settings.namespace, pod, "control").await?,
        (None, None) => {
            let cause = "name it with --inject-image, or this pod with --kubernetes-pod".into();
            return Err(InjectorError::Request { what: "the image of sidecars".into(), cause });
        }
    };
    Ok((client, image))
}

/// Replicas that were started at once do not renew at once.
fn issue(shared: &Shared, names: &[String]) -> Result<(Arc<ServerConfig>, u64), ControlError> {
    let authority = shared.trust.now();
    let leaf = authority.authority.issue_server(names, shared.trust.leaf_lifetime(), UnixTime::now());
    let leaf = leaf.map_err(|e: SignError| ControlError::Own(e))?;
    let random = RandomState::new().build_hasher().finish();
    Ok((webhook_config(&leaf)?, renewal_at(leaf.not_before(), leaf.not_after(), random)))
}

async fn connection(stream: TcpStream, config: Arc<ServerConfig>, settings: Arc<Settings>, lookup: Lookup) {
    let stream = match timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        // the API server tells whoever makes the pod; of others a line each would fill the log
        Ok(Err(error)) => return tracing::debug!("a handshake with the webhook failed: {error}"),
        Err(_) => return,
    };
    let begun = Arc::new(Notify::new());
    let first = begun.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        begun.notify_one();
        let (settings, lookup) = (settings.clone(), lookup.clone());
        async move { Ok::<_, Infallible>(answer(request, &settings, &lookup).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADERS);
    let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = served.as_mut() => return,
        begun = timeout(FIRST_HEAD, first.notified()) => if begun.is_err() { return },
    }
    if timeout(LIFE, served.as_mut()).await.is_err() {
        served.as_mut().graceful_shutdown();
        let _ = timeout(GRACE, served).await;
    }
}

async fn answer(request: Request<Incoming>, settings: &Settings, lookup: &Lookup) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return said(StatusCode::NOT_FOUND, "there is POST /inject\n");
    }
    if request.method() != Method::POST {
        return said(StatusCode::METHOD_NOT_ALLOWED, "there is POST /inject\n");
    }
    let body = match timeout(BODY, Limited::new(request.into_body(), MAX_REVIEW).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return said(StatusCode::PAYLOAD_TOO_LARGE, "the review is over 3 MiB, or broke off\n"),
        Err(_) => return said(StatusCode::REQUEST_TIMEOUT, "the review did not come\n"),
    };
    let review = match Review::read(&body) {
        Ok(review) => review,
        Err(error) => return said(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    let name = review.namespace().to_owned();
    let namespace = match timeout(LOOKUP, lookup(name.clone())).await {
        Ok(Ok(namespace)) => namespace,
        Ok(Err(error)) => return unknown(&error.to_string()),
        Err(_) => return unknown(&format!("namespace {name}: no answer within {LOOKUP:?}")),
    };
    let (answer, decided) = review.answer(&namespace, settings);
    match decided {
        Injected::Pod { .. } => tracing::info!(namespace = name, pod = review.pod(), "injected"),
        Injected::Refused(why) => tracing::warn!(namespace = name, pod = review.pod(), "refused: {why}"),
        Injected::Skipped(why) => tracing::debug!(namespace = name, pod = review.pod(), "not injected: {why}"),
    }
    let mut response = Response::new(Full::new(answer.to_string().into()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn unknown(why: &str) -> Response<Full<Bytes>> {
    tracing::warn!("a pod is left to the webhook's failurePolicy: {why}");
    said(StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n"))
}

fn said(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests;
