//! The gRPC server: all services on one port, over connections that have shaken hands.
//!
//! It decides limits of the transport: keepalive pings (a sidecar whose machine vanished is noticed within 15 s),
//! streams a connection, message sizes. It deliberately has no router crate for a few paths.
//!
//! Invariant: when it returns, the port is closed, and every stream was told to end.

use crate::ControlError;
use crate::admin_service::{self, AdminService};
use crate::listen::{Connection, Peer, Role, accept};
use crate::own::Own;
use crate::registry::{RegistryService, WatchedRegistry};
use crate::session::ConfigService;
use crate::shared::Shared;
use crate::sign::IdentityService;
use crate::traces::{METRICS_SERVICE, Receivers, TRACE_SERVICE};
use fusewire_api::MAX_MESSAGE_BYTES;
use fusewire_api::v1::admin_server::AdminServer;
use fusewire_api::v1::config_server::ConfigServer;
use fusewire_api::v1::identity_server::IdentityServer;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::transport::Server;

const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_STREAMS: u32 = 32;
/// A `Hello` that names some 60,000 held resources.
const MAX_REQUEST: usize = 8 << 20;
/// A signing request of 16 KiB and a token.
const MAX_SIGN_REQUEST: usize = 64 << 10;
/// How long connections may take to end when the control plane does.
const DRAIN: Duration = Duration::from_secs(5);

pub(crate) async fn serve(shared: Arc<Shared>, own: &Own, listener: TcpListener) -> Result<(), ControlError> {
    let services = Services {
        door: AdminService::new(shared.clone()),
        admin: AdminServer::new(AdminService::new(shared.clone()))
            .max_decoding_message_size(admin_service::MAX_REQUEST)
            .max_encoding_message_size(MAX_MESSAGE_BYTES),
        shared: shared.clone(),
        config: ConfigServer::new(ConfigService::new(shared.clone()))
            .max_decoding_message_size(MAX_REQUEST)
            .max_encoding_message_size(MAX_MESSAGE_BYTES),
        traces: Receivers::proven(shared.traces.clone()),
        registry: WatchedRegistry::new(RegistryService::new(shared.clone())),
        identity: IdentityServer::new(IdentityService::new(shared.clone())).max_decoding_message_size(MAX_SIGN_REQUEST),
    };
    let (accepted, connections) = mpsc::channel::<Connection>(16);
    let stop = shared.clone();
    let server = Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .max_concurrent_streams(Some(MAX_STREAMS))
        .serve_with_incoming_shutdown(
            services,
            ReceiverStream::new(connections).map(Ok::<_, Infallible>),
            async move { stop.stopping().await },
        );
    tokio::pin!(server);
    tokio::select! {
        served = &mut server => return Ok(served?),
        () = accept(&listener, own, &shared, accepted) => {}
        () = shared.stopping() => {}
    }
    drop(listener);
    match tokio::time::timeout(DRAIN, server).await {
        Ok(served) => Ok(served?),
        Err(_) => {
            tracing::warn!("some connections did not end within {DRAIN:?}, and were left");
            Ok(())
        }
    }
}

#[derive(Clone)]
struct Services {
    door: AdminService,
    admin: AdminServer<AdminService>,
    shared: Arc<Shared>,
    config: ConfigServer<ConfigService>,
    identity: IdentityServer<IdentityService>,
    registry: WatchedRegistry,
    traces: Receivers,
}

impl Service<http::Request<Body>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.id.as_ref());
        if let Some(why) = peer.and_then(|id| self.shared.trust.refusal(id)) {
            let status = tonic::Status::permission_denied(why);
            return Box::pin(async move { Ok(status.into_http()) });
        }
        match request.uri().path().split('/').nth(1) {
            // a large message of someone who may ask nothing is not even read
            Some(AdminServer::<AdminService>::NAME) => match self.door.admit(request.extensions(), Role::Viewer) {
                Ok(_) => self.admin.call(request),
                Err(status) => Box::pin(async move { Ok(status.into_http()) }),
            },
            Some(ConfigServer::<ConfigService>::NAME) => self.config.call(request),
            Some(IdentityServer::<IdentityService>::NAME) => self.identity.call(request),
            Some(TRACE_SERVICE | METRICS_SERVICE) => {
                let receivers = self.traces.clone();
                Box::pin(async move { Ok(receivers.call(request).await) })
            }
            Some(WatchedRegistry::NAME) => self.registry.call(request),
            _ => {
                let status =
                    tonic::Status::unimplemented("this control plane has no such service; is it older than you?");
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    }
}
