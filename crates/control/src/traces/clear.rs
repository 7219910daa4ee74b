//! `--otlp-listen`: OTLP in clear, for applications' own spans, as gRPC and as HTTP with protobuf.
//!
//! It decides how much of it may be used at once. Nobody proves anything here: what comes is shown as sent without proof,
//! and it is for loopback or a network whose every host is trusted. A web page is refused, since a browser on that host would
//! send for any site. It deliberately has no JSON encoding: every SDK has
//! protobuf.
//!
//! Invariant: at most [`MAX_CONNECTIONS`] connections, each ended after [`LIFE`]; bodies are bounded, before and after gzip.

use super::otlp::Proof;
use super::weigh::{self, Sent};
use super::{MAX_MESSAGE, METRICS_SERVICE, RECEIVE, Receivers, TRACE_SERVICE, Traces};
use crate::shared::Shared;
use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, ORIGIN};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prost::Message;
use std::convert::Infallible;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;

const MAX_CONNECTIONS: usize = 256;
const MAX_STREAMS: u32 = 16;
const HEADERS: Duration = Duration::from_secs(5);
/// After this a connection takes no further message, and soon after it is cut; exporters connect again by themselves.
const LIFE: Duration = Duration::from_secs(600);
const GRACE: Duration = Duration::from_secs(10);
/// After an error of `accept` such as "too many open files": time for some to close.
const PAUSE: Duration = Duration::from_millis(50);
const PROTOBUF: &str = "application/x-protobuf";

/// Serves until it is dropped; without a listener it only waits.
pub(crate) async fn serve(listener: Option<TcpListener>, shared: &Arc<Shared>) {
    let Some(listener) = listener else { return std::future::pending().await };
    if let Ok(address) = listener.local_addr() {
        tracing::info!("OTLP is received in clear at {address}, from whoever reaches it");
    }
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let receivers = Receivers::new(shared.traces.clone(), Proof::None);
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(one(stream, shared.clone(), receivers.clone(), place));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for OTLP could not be accepted; are there too many open files?");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn one(stream: TcpStream, shared: Arc<Shared>, receivers: Receivers, _place: OwnedSemaphorePermit) {
    let traces = shared.traces.clone();
    let service = service_fn(move |request| answer(request, traces.clone(), receivers.clone()));
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
    server.http2().timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
    let connection = server.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // who left in the middle of something has no further use for an error
        _ = connection.as_mut() => return,
        () = shared.stopping() => {}
        () = tokio::time::sleep(LIFE) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(GRACE, connection).await;
}

async fn answer(
    request: Request<Incoming>,
    traces: Arc<Traces>,
    receivers: Receivers,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path();
    let is_grpc = matches!(path.split('/').nth(1), Some(TRACE_SERVICE | METRICS_SERVICE));
    let answered = match (request.method(), path) {
        // browsers say so for every site, also where it may not read the answer
        _ if request.headers().contains_key(ORIGIN) => Err((StatusCode::FORBIDDEN, "web pages may not send here")),
        _ if is_grpc => return Ok(receivers.call(request).await),
        (&Method::POST, "/v1/traces") => take(request, &traces, async |sent| traces.take_spans(sent, None).await).await,
        (&Method::POST, "/v1/metrics") => {
            take(request, &traces, async |sent| traces.take_metrics(sent, None).await).await
        }
        _ => {
            Err((StatusCode::NOT_FOUND, "there are POST /v1/traces and POST /v1/metrics, and both services over gRPC"))
        }
    };
    let (status, body) = match answered {
        Ok(body) => (StatusCode::OK, body),
        Err((status, words)) => (status, Failure { code: 0, message: words.to_owned() }.encode_to_vec()),
    };
    let mut response = Response::new(Body::new(Full::new(Bytes::from(body))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
    Ok(response)
}

/// `google.rpc.Status`, as OTLP wants it in the answers that are errors.
#[derive(Clone, PartialEq, Message)]
struct Failure {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

type Refused = (StatusCode, &'static str);

/// A message from its first byte to its answer.
async fn take<M: Sent, R: Message>(
    request: Request<Incoming>,
    traces: &Traces,
    keep: impl AsyncFnOnce(M) -> R,
) -> Result<Vec<u8>, Refused> {
    let busy = (StatusCode::SERVICE_UNAVAILABLE, "too many messages are being received; send again later");
    let _permit = traces.admission.admit(None).map_err(|_| busy)?;
    let sent = read(request).await?;
    Ok(keep(sent).await.encode_to_vec())
}

async fn read<M: Sent>(request: Request<Incoming>) -> Result<M, Refused> {
    let too_large = (StatusCode::PAYLOAD_TOO_LARGE, "the message is over 4 MiB");
    if !is(request.headers(), CONTENT_TYPE.as_str(), PROTOBUF) {
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "only application/x-protobuf is understood here"));
    }
    let is_packed = match request.headers().get(CONTENT_ENCODING) {
        None => false,
        Some(_) if is(request.headers(), CONTENT_ENCODING.as_str(), "identity") => false,
        Some(_) if is(request.headers(), CONTENT_ENCODING.as_str(), "gzip") => true,
        Some(_) => return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "of encodings only gzip is understood here")),
    };
    let body = tokio::time::timeout(RECEIVE, Limited::new(request.into_body(), MAX_MESSAGE).collect()).await;
    let body = body.map_err(|_| (StatusCode::REQUEST_TIMEOUT, "the message did not come"))?;
    let body = body.map_err(|_| too_large)?.to_bytes();
    let decoded = |bytes: &[u8]| weigh::decode(bytes).map_err(|why| (StatusCode::BAD_REQUEST, why));
    if !is_packed {
        return decoded(&body);
    }
    let mut unpacked = Vec::new();
    let limit = MAX_MESSAGE as u64 + 1;
    GzDecoder::new(&*body)
        .take(limit)
        .read_to_end(&mut unpacked)
        .map_err(|_| (StatusCode::BAD_REQUEST, "this is no gzip"))?;
    if unpacked.len() > MAX_MESSAGE { Err(too_large) } else { decoded(&unpacked) }
}

/// Whether a header says that, parameters aside.
fn is(headers: &HeaderMap, name: &str, word: &str) -> bool {
    let value = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(word)
}
