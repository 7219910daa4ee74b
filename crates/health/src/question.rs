//! What is asked, and which answer is good: without a connection, so that the same question can go through the mesh.
//!
//! HTTP: any 2xx is good. A redirect is not: what it leads to is not what was asked, and a login page is a 200 too.
//! gRPC (grpc.health.v1, <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>): SERVING is good.
//!
//! Invariant: at most [`MAX_BODY`] bytes of an answer are held, and none is kept.

use bytes::{BufMut, Bytes, BytesMut};
use fusewire_model::health::CheckKind;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use prost::Message;

/// Of an HTTP answer's body, so that an application that writes it in peace logs no broken pipe; the rest is let go.
const MAX_BODY: usize = 64 << 10;
const AGENT: &str = concat!("fusewire-health/", env!("CARGO_PKG_VERSION"));
const GRPC_PATH: &str = "/grpc.health.v1.Health/Check";

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// The request to make of `authority` (host and port): HTTP/1.1 for HTTP, HTTP/2 for gRPC; `None` where a connection is
/// all that is asked for.
pub fn question(kind: &CheckKind, authority: &str) -> Option<Request<Bytes>> {
    let agent = HeaderValue::from_static(AGENT);
    let request = match kind {
        CheckKind::Tcp => return None,
        CheckKind::Http { path } => Request::builder()
            .version(Version::HTTP_11)
            .uri(path.as_str())
            .header(header::HOST, authority)
            .header(header::USER_AGENT, agent)
            .header(header::ACCEPT, "*/*")
            .header(header::CONNECTION, "close")
            .body(Bytes::new()),
        CheckKind::Grpc { service } => Request::builder()
            .version(Version::HTTP_2)
            .method(Method::POST)
            .uri(format!("http://{authority}{GRPC_PATH}"))
            .header(header::USER_AGENT, agent)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(framed(&CheckRequest { service: service.clone() })),
    };
    // both are checked where they enter: a path that makes no request would be a fault there
    request.ok()
}

/// One gRPC message: uncompressed, its length, itself.
fn framed(message: &CheckRequest) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(&message.encode_to_vec());
    frame.freeze()
}

/// Whether the answer is good; both ways in words such as `GET /ready: 503`. Reads the body, so bound its time.
///
/// # Errors
/// A bad answer, or one that broke off.
pub async fn judge<B>(kind: &CheckKind, response: Response<B>) -> Result<String, String>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match kind {
        CheckKind::Tcp => Ok("accepts connections".into()),
        CheckKind::Http { path } => {
            let status = response.status();
            let said = format!("GET {path}: {}", status.as_u16());
            discard(response.into_body()).await.map_err(|why| format!("{said}, and then {why}"))?;
            if status.is_success() { Ok(said) } else { Err(said) }
        }
        CheckKind::Grpc { service } => {
            let what = if service.is_empty() { "grpc health" } else { service.as_str() };
            let told = |said: String| format!("{what}: {said}");
            serving(response).await.map(|()| told("SERVING".into())).map_err(told)
        }
    }
}

async fn discard<B>(body: B) -> Result<(), &'static str>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = std::pin::pin!(body);
    let mut left = MAX_BODY;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| "its body broke off")?;
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => left = rest,
            None => break,
        }
    }
    Ok(())
}

async fn serving<B>(response: Response<B>) -> Result<(), String>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("HTTP {}", head.status.as_u16()));
    }
    grpc_status(&head.headers)?;
    let whole = Limited::new(body, MAX_BODY).collect().await.map_err(|_| "its answer broke off".to_owned())?;
    if let Some(trailers) = whole.trailers() {
        grpc_status(trailers)?;
    }
    let bytes = whole.to_bytes();
    // one uncompressed message; we did not say that we take others
    let message = bytes.strip_prefix(&[0]).and_then(|rest| rest.get(4..)).ok_or("answered without a message")?;
    let answer = CheckResponse::decode(message).map_err(|_| "answered what is no HealthCheckResponse")?;
    match answer.status {
        1 => Ok(()),
        2 => Err("NOT_SERVING".into()),
        3 => Err("SERVICE_UNKNOWN".into()),
        _ => Err("UNKNOWN".into()),
    }
}

/// The status of a gRPC answer, in its headers or its trailers, where it says that there is no message.
fn grpc_status(fields: &HeaderMap) -> Result<(), String> {
    let Some(code) = fields.get("grpc-status").and_then(|v| v.to_str().ok()) else { return Ok(()) };
    match code {
        "0" => Ok(()),
        "5" => Err("NOT_FOUND: the server does not know this service's health".into()),
        "12" => Err("UNIMPLEMENTED: the server does not offer grpc.health.v1".into()),
        code => Err(format!("grpc-status {}", code.chars().take(8).collect::<String>())),
    }
}
