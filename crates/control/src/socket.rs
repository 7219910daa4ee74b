//! The admin socket: gRPC (HTTP/2 with prior knowledge) for the command line, HTTP/1 for `curl`, on one Unix socket.
//!
//! It decides how much of it may be used at once, and for how long. Whoever may open the socket may do everything; its
//! mode (0600) says who that is. It deliberately has no idea of what is asked: [`crate::admin_service`] and
//! [`crate::admin`] answer.
//!
//! Invariant: at most [`MAX_CONNECTIONS`] connections at once, each ended after [`LIFE`]; a body that is not gRPC's is
//! small and comes soon.

use crate::admin;
use crate::admin_service::{AdminService, Caller, MAX_REQUEST};
use crate::shared::Shared;
use fusewire_api::MAX_MESSAGE_BYTES;
use fusewire_api::v1::admin_server::AdminServer;
use fusewire_telemetry::admin::{Asked, Socket, text};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

const MAX_CONNECTIONS: usize = 64;
const MAX_BODY: usize = 64 << 10;
const HEADERS: Duration = Duration::from_secs(5);
const BODY: Duration = Duration::from_secs(5);
/// After this a connection takes no further request, and soon after it is cut: nobody holds a place for ever. gRPC clients
/// connect again by themselves.
const LIFE: Duration = Duration::from_secs(600);
const GRACE: Duration = Duration::from_secs(10);
/// After an error of `accept` such as "too many open files": time for some to close.
const PAUSE: Duration = Duration::from_millis(50);

type Grpc = AdminServer<AdminService>;

/// Serves until it is dropped.
pub(crate) async fn serve(socket: Socket, shared: &Arc<Shared>) {
    let grpc = AdminServer::new(AdminService::new(shared.clone()))
        .max_decoding_message_size(MAX_REQUEST)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match socket.accept().await {
            Ok(stream) => {
                tokio::spawn(one(stream, shared.clone(), grpc.clone(), place));
            }
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted; are there too many open files?");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn one(stream: UnixStream, shared: Arc<Shared>, grpc: Grpc, _place: OwnedSemaphorePermit) {
    let caller = Caller::local(stream.peer_cred().ok().map(|peer| peer.uid()));
    let stopping = shared.clone();
    let service = service_fn(move |request| answer(request, shared.clone(), grpc.clone(), caller.clone()));
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
    server.http2().timer(TokioTimer::new()).max_concurrent_streams(32);
    let connection = server.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // who left in the middle of something has no further use for an error
        _ = connection.as_mut() => return,
        () = stopping.stopping() => {}
        () = tokio::time::sleep(LIFE) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(GRACE, connection).await;
}

async fn answer(
    mut request: Request<Incoming>,
    shared: Arc<Shared>,
    mut grpc: Grpc,
    caller: Caller,
) -> Result<Response<Body>, Infallible> {
    if request.uri().path().split('/').nth(1) == Some(Grpc::NAME) {
        request.extensions_mut().insert(caller);
        return grpc.call(request).await;
    }
    let (head, body) = request.into_parts();
    let answer = match tokio::time::timeout(BODY, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => {
            let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
            let asked =
                Asked { method: head.method, path, query, headers: head.headers, body: body.to_bytes(), uid: None };
            admin::answer(shared, asked).await
        }
        Ok(Err(_)) => text(StatusCode::PAYLOAD_TOO_LARGE, "text/plain", "the body is over 64 KiB\n"),
        Err(_) => text(StatusCode::REQUEST_TIMEOUT, "text/plain", "the body did not come\n"),
    };
    Ok(answer.map(Body::new))
}
