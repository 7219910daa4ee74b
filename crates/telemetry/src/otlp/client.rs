//! One connection to an OTLP receiver: gRPC, or protobuf over HTTP/1.1.
//!
//! It decides what an answer means: taken (perhaps not all of it), refused for good, or to be tried again, as OTLP's
//! specification sorts status codes. Invariant: an answer is read up to a bound, whoever sends it.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Extensions, Status};

/// Of an answer.
const MAX_ANSWER: usize = 64 << 10;
/// Of what a receiver says that is shown in a log.
const MAX_SAID: usize = 300;

/// A connection's bytes.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// A connected receiver.
#[derive(Debug)]
pub enum Client {
    Grpc { channel: Channel, fields: HeaderMap },
    Http(Http),
}

/// It was taken, but for so many items; what the receiver said of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub refused: u64,
    pub said: String,
}

/// It was not taken.
#[derive(Debug)]
pub enum Refusal {
    /// To be tried again.
    Later(String),
    /// It will never be taken.
    Never(String),
    /// There is no such receiver there: an older control plane, say.
    Unknown(String),
}

impl Refusal {
    pub fn text(&self) -> &str {
        match self {
            Self::Later(text) | Self::Never(text) | Self::Unknown(text) => text,
        }
    }
}

impl Client {
    pub async fn traces(&mut self, message: ExportTraceServiceRequest) -> Result<Sent, Refusal> {
        let answer = match self {
            Self::Grpc { channel, fields } => {
                let request = asked(message, fields);
                let answer = TraceServiceClient::new(channel.clone()).export(request).await;
                answer.map_err(|status| told(&status))?.into_inner()
            }
            Self::Http(http) => http.post::<ExportTraceServiceResponse>("traces", &message).await?,
        };
        let partial = answer.partial_success.unwrap_or_default();
        Ok(Sent { refused: u64::try_from(partial.rejected_spans).unwrap_or(0), said: said(&partial.error_message) })
    }

    pub async fn metrics(&mut self, message: ExportMetricsServiceRequest) -> Result<Sent, Refusal> {
        let answer = match self {
            Self::Grpc { channel, fields } => {
                let request = asked(message, fields);
                let answer = MetricsServiceClient::new(channel.clone()).export(request).await;
                answer.map_err(|status| told(&status))?.into_inner()
            }
            Self::Http(http) => http.post::<ExportMetricsServiceResponse>("metrics", &message).await?,
        };
        let partial = answer.partial_success.unwrap_or_default();
        Ok(Sent {
            refused: u64::try_from(partial.rejected_data_points).unwrap_or(0),
            said: said(&partial.error_message),
        })
    }
}

fn asked<T>(message: T, fields: &HeaderMap) -> tonic::Request<T> {
    tonic::Request::from_parts(MetadataMap::from_headers(fields.clone()), Extensions::default(), message)
}

/// OTLP, "OTLP/gRPC response": these codes are worth another attempt.
fn told(status: &Status) -> Refusal {
    let text = format!("{:?}: {}", status.code(), said(status.message()));
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss
        | Code::ResourceExhausted
        | Code::Unknown => Refusal::Later(text),
        Code::Unimplemented => Refusal::Unknown(text),
        _ => Refusal::Never(text),
    }
}

/// A receiver's words, for a log: in one line and not at length.
fn said(text: &str) -> String {
    let clean: String = text.chars().take(MAX_SAID).map(|c| if c.is_control() { ' ' } else { c }).collect();
    clean
}

/// An HTTP/1.1 connection.
#[derive(Debug)]
pub struct Http {
    sender: SendRequest<Full<Bytes>>,
    fields: HeaderMap,
    /// Before `/v1/...`.
    path: String,
}

impl Http {
    /// `host`: of the Host field. `path`: before `/v1/traces`, empty or beginning with a slash. `fields`: sent with
    /// each request.
    pub async fn new(io: impl Io, host: &str, path: &str, mut fields: HeaderMap) -> Result<Self, hyper::Error> {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        if let Ok(host) = HeaderValue::from_str(host) {
            fields.insert(HOST, host);
        }
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        fields.insert(USER_AGENT, HeaderValue::from_static(concat!("fusewire/", env!("CARGO_PKG_VERSION"))));
        Ok(Self { sender, fields, path: path.into() })
    }

    async fn post<A: Message + Default>(&mut self, signal: &str, message: &impl Message) -> Result<A, Refusal> {
        let later = |e: &dyn std::fmt::Display| Refusal::Later(e.to_string());
        let mut request = Request::post(format!("{}/v1/{signal}", self.path))
            .body(Full::new(Bytes::from(message.encode_to_vec())))
            .map_err(|e| Refusal::Never(e.to_string()))?;
        request.headers_mut().clone_from(&self.fields);
        self.sender.ready().await.map_err(|e| later(&e))?;
        let answer = self.sender.send_request(request).await.map_err(|e| later(&e))?;
        let status = answer.status();
        let plain = answer.headers().get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"text/"));
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        if status.is_success() {
            // an answer that cannot be read says no less than its status
            return Ok(A::decode(body).unwrap_or_default());
        }
        let words = if plain { said(&String::from_utf8_lossy(&body)) } else { String::new() };
        let text = format!("{status} {words}").trim_end().to_owned();
        Err(match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Refusal::Later(text),
            StatusCode::NOT_FOUND => Refusal::Unknown(text),
            _ => Refusal::Never(text),
        })
    }
}

/// Fields from names and values, the values never shown.
pub fn fields<'a>(all: impl IntoIterator<Item = (&'a str, &'a str)>) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for (name, value) in all {
        if let (Ok(name), Ok(mut value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            value.set_sensitive(true);
            fields.insert(name, value);
        }
    }
    fields
}
