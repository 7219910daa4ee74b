//! OTLP's two services that are received, over gRPC: traces and metrics.
//!
//! It decides that over mTLS the proven identity counts: whoever has one may send, and what it sends is its own. It
//! deliberately answers at once with what was refused (partial success), since exporters do not send that again; and it reads
//! messages itself, not by the generated server, because they are weighed before they are decoded.

use super::weigh::{self, Sent};
use super::{MAX_MESSAGE, RECEIVE, Traces};
use crate::listen::Peer;
use bytes::Buf;
use fusewire_identity::SpiffeId;
use prost::Message;
use std::marker::PhantomData;
use std::sync::Arc;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec, CompressionEncoding, DecodeBuf, Decoder};
use tonic::codegen::http;
use tonic::server::Grpc;
use tonic::{Request, Response, Status};
use tonic_prost::ProstEncoder;

pub(crate) const TRACE_SERVICE: &str = "opentelemetry.proto.collector.trace.v1.TraceService";
pub(crate) const METRICS_SERVICE: &str = "opentelemetry.proto.collector.metrics.v1.MetricsService";

/// Whether a sender has to prove who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    Needed,
    /// On the clear listener.
    None,
}

/// Both services, for one listener.
#[derive(Clone, Debug)]
pub(crate) struct Receivers {
    traces: Arc<Traces>,
    proof: Proof,
}

impl Receivers {
    pub(crate) fn new(traces: Arc<Traces>, proof: Proof) -> Self {
        Self { traces, proof }
    }

    pub(crate) fn proven(traces: Arc<Traces>) -> Self {
        Self::new(traces, Proof::Needed)
    }

    /// Answers a call of one of the two services, within [`RECEIVE`].
    pub(crate) async fn call<B>(self, request: http::Request<B>) -> http::Response<Body>
    where
        B: hyper::body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send> + Send + 'static,
    {
        let Self { traces, proof } = self;
        let sender = match sender(proof, request.extensions()) {
            Ok(sender) => sender,
            Err(status) => return status.into_http(),
        };
        let _permit = match traces.admission.admit(sender.as_ref()) {
            Ok(permit) => permit,
            Err(status) => return status.into_http(),
        };
        let into = traces.clone();
        let method = request.uri().path().strip_prefix('/').and_then(|path| path.strip_suffix("/Export"));
        let is_spans = match method {
            Some(TRACE_SERVICE) => true,
            Some(METRICS_SERVICE) => false,
            _ => return Status::unimplemented("there is only Export").into_http(),
        };
        let answer = async move {
            let (into, sender) = (&into, sender.as_ref());
            if is_spans {
                unary(request, |sent| into.take_spans(sent, sender)).await
            } else {
                unary(request, |sent| into.take_metrics(sent, sender)).await
            }
        };
        let late = |_| Status::deadline_exceeded(format!("the message did not come within {RECEIVE:?}")).into_http();
        tokio::time::timeout(RECEIVE, answer).await.unwrap_or_else(late)
    }
}

fn sender(proof: Proof, extensions: &http::Extensions) -> Result<Option<SpiffeId>, Status> {
    match (proof, extensions.get::<Peer>().and_then(|peer| peer.id.clone())) {
        (Proof::None, _) => Ok(None),
        (Proof::Needed, Some(id)) => Ok(Some(id)),
        (Proof::Needed, None) => {
            Err(Status::unauthenticated("a certificate is needed here; without one there is --otlp-listen"))
        }
    }
}

async fn unary<B, M, R, F>(request: http::Request<B>, mut take: impl FnMut(M) -> F) -> http::Response<Body>
where
    B: hyper::body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send> + Send + 'static,
    M: Sent,
    R: Message + 'static,
    F: Future<Output = R> + Send,
{
    let mut grpc = Grpc::new(Weighed::<M, R>(PhantomData))
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(MAX_MESSAGE);
    let service = tower::service_fn(|request: Request<M>| {
        let answer = take(request.into_inner());
        async move { Ok::<_, Status>(Response::new(answer.await)) }
    });
    grpc.unary(service, request).await
}

/// Protobuf, whose messages are weighed first.
struct Weighed<M, R>(PhantomData<fn(R) -> M>);

impl<M: Sent, R: Message + 'static> Codec for Weighed<M, R> {
    type Encode = R;
    type Decode = M;
    type Encoder = ProstEncoder<R>;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        Self(PhantomData)
    }
}

impl<M: Sent, R> Decoder for Weighed<M, R> {
    type Item = M;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<M>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        weigh::decode(&bytes).map(Some).map_err(Status::invalid_argument)
    }
}
