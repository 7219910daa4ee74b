//! A sidecar's end of the wire: joining, and a Config stream of which it keeps every message.

use crate::harness::{SOON, soon};
use fusewire_api::v1::config_client::ConfigClient;
use fusewire_api::v1::config_request::Message as Ask;
use fusewire_api::v1::config_response::Message as Told;
use fusewire_api::v1::identity_client::IdentityClient;
use fusewire_api::v1::{self, Kind};
use fusewire_identity::{
    ALPN_CONTROL, Bundle, Identity, JoinToken, PrivateKey, TrustDomain, client_config, csr, joining_client_config,
    unchecked_name,
};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

pub(crate) async fn dial(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    TlsConnector::from(config).connect(unchecked_name(), TcpStream::connect(address).await?).await
}

pub(crate) async fn channel(address: SocketAddr, config: Arc<ClientConfig>) -> Result<Channel, Status> {
    Endpoint::from_static("http://control")
        .initial_stream_window_size(1 << 10) // so that a stalled reader stalls soon
        .connect_with_connector(tower::service_fn(move |_| {
            let config = config.clone();
            async move { dial(address, config).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|e| Status::new(Code::Unavailable, format!("{e:?}")))
}

/// What the server presents to someone with `identity`.
pub(crate) async fn presented(address: SocketAddr, identity: &Identity) -> Vec<CertificateDer<'static>> {
    let stream = dial(address, client_config(identity, &[ALPN_CONTROL]).unwrap()).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap().iter().map(|c| c.clone().into_owned()).collect()
}

pub(crate) async fn sign(channel: Channel, csr: Vec<u8>, token: &str) -> Result<v1::SignResponse, Status> {
    let request = v1::SignRequest { csr, token: token.to_owned() };
    Ok(IdentityClient::new(channel).sign(request).await?.into_inner())
}

pub(crate) fn identity(key: PrivateKey, signed: &v1::SignResponse) -> Identity {
    let key = key.to_pem();
    Identity::from_pem(signed.chain_pem.as_bytes(), key.as_bytes(), signed.bundle_pem.as_bytes()).unwrap()
}

/// As a new sidecar does: knows nothing but the token.
pub(crate) async fn join(address: SocketAddr, token: &str) -> Result<Identity, Status> {
    let parsed = JoinToken::parse(token).unwrap();
    join_as(address, token, parsed.id().as_str()).await
}

pub(crate) async fn join_as(address: SocketAddr, token: &str, id: &str) -> Result<Identity, Status> {
    let parsed = JoinToken::parse(token).unwrap();
    let key = PrivateKey::generate().unwrap();
    let request = csr(&key, &fusewire_identity::SpiffeId::parse(id).unwrap()).unwrap();
    let channel = channel(address, joining_client_config(&parsed.root_hash(), &[ALPN_CONTROL]).unwrap()).await?;
    let signed = sign(channel, request, token).await?;
    let domain = TrustDomain::parse(parsed.id().trust_domain()).unwrap();
    let bundle = Bundle::from_pem(domain, signed.bundle_pem.as_bytes()).unwrap();
    assert_eq!(bundle.root_hashes(), [parsed.root_hash()]);
    Ok(identity(key, &signed))
}

pub(crate) fn service(name: &str) -> v1::Target {
    v1::Target { target: Some(v1::target::Target::Service(name.into())) }
}
pub(crate) fn authority(name: &str) -> v1::Target {
    v1::Target { target: Some(v1::target::Target::Authority(name.into())) }
}
pub(crate) fn address(text: &str) -> v1::Target {
    v1::Target { target: Some(v1::target::Target::Address(text.into())) }
}

pub(crate) fn hello(wanted: Vec<v1::Target>) -> v1::Hello {
    let kinds = [Kind::Trust, Kind::Policy, Kind::Service, Kind::Endpoints, Kind::Override, Kind::Inbound, Kind::Route];
    v1::Hello {
        version: "test".into(),
        wire: vec![1],
        kinds: kinds.map(i32::from).to_vec(),
        instance: "one".into(),
        held: Vec::new(),
        wanted,
    }
}

pub(crate) struct Stream {
    ask: mpsc::Sender<v1::ConfigRequest>,
    answers: Streaming<v1::ConfigResponse>,
}

impl Stream {
    pub(crate) async fn open(at: SocketAddr, identity: &Identity, hello: v1::Hello) -> Result<Self, Status> {
        let channel = channel(at, client_config(identity, &[ALPN_CONTROL]).unwrap()).await?;
        let (ask, asked) = mpsc::channel(64);
        ask.send(v1::ConfigRequest { message: Some(Ask::Hello(hello)) }).await.unwrap();
        let mut client = ConfigClient::new(channel).max_decoding_message_size(fusewire_api::MAX_MESSAGE_BYTES);
        let answers = client.stream(tokio_stream::wrappers::ReceiverStream::new(asked)).await?.into_inner();
        Ok(Self { ask, answers })
    }

    /// Opened, welcomed, and told everything that is true now.
    pub(crate) async fn synced(at: SocketAddr, identity: &Identity, hello: v1::Hello) -> (Self, Vec<Told>) {
        let mut stream = Self::open(at, identity, hello).await.unwrap();
        let Told::Welcome(welcome) = stream.next().await else { panic!("no welcome") };
        assert_eq!(welcome.wire, 1);
        let told = stream.until_synced().await;
        (stream, told)
    }

    pub(crate) async fn ask(&self, message: Ask) {
        self.ask.send(v1::ConfigRequest { message: Some(message) }).await.unwrap();
    }

    pub(crate) async fn subscribe(&self, target: v1::Target) {
        self.ask(Ask::Subscribe(v1::Subscribe { target: Some(target) })).await;
    }

    pub(crate) async fn ack(&self, told: &[Told]) {
        self.ask(Ask::Ack(v1::Ack { version: version(told) })).await;
    }

    pub(crate) async fn message(&mut self) -> Result<Option<Told>, Status> {
        let message = soon("a message", self.answers.message()).await?;
        Ok(message.map(|m| m.message.unwrap()))
    }

    pub(crate) async fn next(&mut self) -> Told {
        self.message().await.unwrap().expect("the stream ended")
    }

    /// Everything up to and including the next `Synced`.
    pub(crate) async fn until_synced(&mut self) -> Vec<Told> {
        let mut told = Vec::new();
        loop {
            told.push(self.next().await);
            if matches!(told.last(), Some(Told::Synced(_))) {
                return told;
            }
        }
    }

    /// Why the stream ended.
    pub(crate) async fn end(mut self) -> Status {
        let start = std::time::Instant::now();
        while start.elapsed() < SOON {
            match self.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok("ended"),
                Err(status) => return status,
            }
        }
        panic!("the stream never ended")
    }
}

/// A line for each message: kind and name, with a sign for what happened to it.
pub(crate) fn lines(told: &[Told]) -> Vec<String> {
    told.iter().map(line).collect()
}

fn line(told: &Told) -> String {
    use v1::resource::Body;
    match told {
        Told::Welcome(_) => "welcome".into(),
        Told::Resource(r) => {
            let kind = match r.body.as_ref().unwrap() {
                Body::Trust(_) => "trust",
                Body::Policy(_) => "policy",
                Body::Service(_) => "service",
                Body::Endpoints(_) => "endpoints",
                Body::Overrides(_) => "override",
                Body::Inbound(_) => "inbound",
                Body::Route(_) => "route",
            };
            fusewire_api::resource_from_wire(r.clone()).unwrap();
            format!("{kind} {}", r.name)
        }
        Told::EndpointsChange(c) => {
            let upserted: Vec<_> = c.upserted.iter().map(|i| i.id.as_str()).collect();
            format!("change {} +{upserted:?} -{:?}", c.service, c.removed)
        }
        Told::Removed(r) => {
            format!("removed {} {}", r.kind().as_str_name().trim_start_matches("KIND_").to_lowercase(), r.name)
        }
        Told::Answer(a) => {
            let target = match a.target.as_ref().unwrap().target.as_ref().unwrap() {
                v1::target::Target::Service(t) | v1::target::Target::Authority(t) | v1::target::Target::Address(t) => t,
            };
            if a.found { format!("answer {target}: {}", a.name) } else { format!("answer {target}: not found") }
        }
        Told::Synced(_) => "synced".into(),
    }
}

pub(crate) fn version(told: &[Told]) -> String {
    match told.last() {
        Some(Told::Synced(synced)) => synced.version.clone(),
        other => panic!("not synced: {other:?}"),
    }
}

pub(crate) fn resources(told: &[Told]) -> Vec<v1::Resource> {
    let resource = |t: &Told| match t {
        Told::Resource(r) => Some(r.clone()),
        _ => None,
    };
    told.iter().filter_map(resource).collect()
}
