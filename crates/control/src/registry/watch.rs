//! The Registry service on the wire, with `Watch` answered from ready bytes.
//!
//! It decides that what a thousand watchers are told is encoded once: the generated server would encode it for each. It
//! deliberately changes nothing else about the service.

use super::service::RegistryService;
use bytes::Bytes;
use fusewire_api::v1;
use fusewire_api::v1::registry_server::RegistryServer;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic::{Request, Response, Status};

const WATCH: &str = "/fusewire.v1.Registry/Watch";
/// A registration with 64 ports and 64 labels, or reports of as many instances.
const MAX_REQUEST: usize = 1 << 20;

pub(super) type Parts = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

#[derive(Clone)]
pub(crate) struct WatchedRegistry {
    service: RegistryService,
    rest: RegistryServer<RegistryService>,
}

impl WatchedRegistry {
    pub(crate) const NAME: &str = <RegistryServer<RegistryService> as NamedService>::NAME;

    pub(crate) fn new(service: RegistryService) -> Self {
        let rest = RegistryServer::new(service.clone())
            .max_decoding_message_size(MAX_REQUEST)
            .max_encoding_message_size(fusewire_api::MAX_MESSAGE_BYTES);
        Self { service, rest }
    }
}

impl Service<http::Request<Body>> for WatchedRegistry {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != WATCH {
            return self.rest.call(request);
        }
        let service = self.service.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(Ready).max_decoding_message_size(MAX_REQUEST);
            Ok(grpc.server_streaming(Watch(service), request).await)
        })
    }
}

struct Watch(RegistryService);

impl ServerStreamingService<v1::WatchRequest> for Watch {
    type Response = Bytes;
    type ResponseStream = Parts;
    type Future = BoxFuture<'static, Result<Response<Parts>, Status>>;

    fn call(&mut self, request: Request<v1::WatchRequest>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { service.parts(&request).map(Response::new) })
    }
}

/// Requests as ever, answers as they are.
struct Ready;

impl Codec for Ready {
    type Encode = Bytes;
    type Decode = v1::WatchRequest;
    type Encoder = AsIs;
    type Decoder = <tonic_prost::ProstCodec<v1::WatchResponse, v1::WatchRequest> as Codec>::Decoder;

    fn encoder(&mut self) -> AsIs {
        AsIs
    }

    fn decoder(&mut self) -> Self::Decoder {
        tonic_prost::ProstCodec::<v1::WatchResponse, v1::WatchRequest>::default().decoder()
    }
}

struct AsIs;

impl Encoder for AsIs {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put(to, item);
        Ok(())
    }
}
