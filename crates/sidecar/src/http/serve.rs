//! The hyper connection: every request on it calls one function.

use super::connect::Caller;
use super::headers;
use super::outgoing::Outgoing;
use super::proxy::proxy;
use crate::drain::SharedGuard;
use crate::fault::Fault;
use crate::mesh::Worker;
use crate::snapshot::Target;
use crate::upstream::connect::{CONNECTION_WINDOW, STREAM_WINDOW};
use fusewire_identity::SpiffeId;
use fusewire_model::ServiceName;
use fusewire_resilience::Time;
use fusewire_telemetry::metrics::Direction;
use http::Request;
use http::uri::Authority;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Streams that one peer may have open on one connection.
pub(crate) const MAX_STREAMS: u32 = 1024;
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// What the requests of one connection have in common.
pub(crate) struct Connection {
    pub(crate) worker: Arc<Worker>,
    pub(crate) direction: Direction,
    /// The proven identity at the other end.
    pub(crate) peer: Option<Arc<SpiffeId>>,
    /// The one service that this listener is for; `None`: each request's authority decides.
    pub(crate) fixed: Option<ServiceName>,
    pub(crate) guard: SharedGuard,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    Two,
}

/// Serves until the connection ends; when the drain begins, what runs is finished (GOAWAY, `connection: close`).
pub(crate) async fn serve<T>(io: T, http: Http, connection: Arc<Connection>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let worker = connection.worker.clone();
    let direction = connection.direction;
    let drain = worker.mesh.drain(direction);
    let service = service_fn(move |request: Request<Incoming>| {
        let connection = connection.clone();
        async move { Ok::<_, Infallible>(proxy(&connection, request).await) }
    });
    match http {
        Http::One => {
            // not `pipeline_flush`: it holds an answer back while anything lies unread, such as half a request, or what a
            // caller sent right behind its CONNECT
            let served = http1::Builder::new().serve_connection(TokioIo::new(io), service);
            let mut served = pin!(served.with_upgrades());
            tokio::select! {
                _ = &mut served => return,
                () = drain.begun() => served.as_mut().graceful_shutdown(),
            }
            let _ = served.await;
        }
        Http::Two => {
            let served = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                // the application beside us cannot be blackholed, and each ping's book-keeping is paid for every frame
                .keep_alive_interval((direction == Direction::Inbound).then_some(PING_INTERVAL))
                .keep_alive_timeout(PING_TIMEOUT)
                .max_concurrent_streams(MAX_STREAMS)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(256 << 10)
                .max_header_list_size(headers::MAX_FIELDS_H2)
                .enable_connect_protocol()
                .serve_connection(TokioIo::new(io), service);
            let mut served = pin!(served);
            tokio::select! {
                _ = &mut served => return,
                () = drain.begun() => served.as_mut().graceful_shutdown(),
            }
            let _ = served.await;
        }
    }
}

impl Connection {
    /// Where a request goes: by authority from the application, by port from a peer's sidecar.
    pub(crate) async fn route<B>(&self, request: &Request<B>, now: Time) -> Result<Target, Fault> {
        let mesh = &self.worker.mesh;
        match self.direction {
            Direction::Inbound => self.route_inbound(request),
            Direction::Outbound => match &self.fixed {
                Some(service) => Ok(Target::service(&mesh.directory.service(mesh, service).await?)),
                None => {
                    let authority = headers::authority(request)
                        .ok_or(Fault::BadRequest("the request names no authority (Host)".into()))?;
                    let route = mesh.directory.authority(mesh, authority, now).await?;
                    route.target(&Matched(request), self.worker.random())
                }
            },
        }
    }

    fn route_inbound<B>(&self, request: &Request<B>) -> Result<Target, Fault> {
        let mesh = &self.worker.mesh;
        let snapshot = mesh.snapshot.load();
        let ports = snapshot
            .inbound
            .as_ref()
            .ok_or(Fault::Denied("this sidecar has not been told yet whom to let in".into()))?;
        let named = request.headers().get(&headers::PORT).and_then(|p| p.to_str().ok()?.parse::<u16>().ok());
        let named = named.ok_or(Fault::BadRequest("fusewire-port is missing or not a port".into()))?;
        let port = ports.get(&named).ok_or(Fault::NoRoute)?;
        let peer = self.peer.as_deref().ok_or(Fault::Denied("no identity".into()))?;
        if !port.allow.admits(mesh.settings.workload.trust_domain(), peer) {
            return Err(Fault::Denied(format!("{peer} may not call {}", port.upstream.name).into()));
        }
        Ok(Target::service(&port.upstream))
    }

    pub(crate) fn outgoing(
        &self,
        request: Request<Incoming>,
        caller: Option<&Caller>,
        target: &Target,
        protocol: &'static str,
    ) -> Result<Outgoing, Fault> {
        if headers::too_large(request.headers(), request.uri().path_and_query().map_or(0, |p| p.as_str().len())) {
            return Err(Fault::TooLarge);
        }
        let authority = match (request.uri().authority(), request.headers().get(http::header::HOST)) {
            (Some(authority), _) => Ok(authority.clone()),
            (None, Some(host)) => Authority::try_from(host.as_bytes()),
            (None, None) => Authority::try_from(target.upstream.name.as_str()),
        };
        let authority = authority.map_err(|_| Fault::BadRequest("the authority is not host[:port]".into()))?;
        let idle = target.policy.timeout.idle.is_some();
        Ok(Outgoing::new(request, authority, caller.map(|c| c.token.clone()), protocol, idle))
    }
}

/// What the model's rules look at.
struct Matched<'a, B>(&'a Request<B>);

impl<B> fusewire_model::route::Request for Matched<'_, B> {
    fn path(&self) -> &str {
        self.0.uri().path()
    }
    fn method(&self) -> &str {
        self.0.method().as_str()
    }
    fn any_header(&self, name: &str, wanted: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.0.headers().get_all(name).iter().any(|v| wanted(v.as_bytes()))
    }
}
