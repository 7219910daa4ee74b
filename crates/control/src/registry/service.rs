//! The Registry service: who may say what, and the answers.
//!
//! It decides, for each call, what the peer may do ([`authorise`]), and words the refusals: which field, what is allowed,
//! what to do, all faults at once. It deliberately looks a heartbeat's right up again: what may no longer register, since
//! the configuration changed, is taken out by its next heartbeat.
//!
//! Invariants: a stream holds no queue but 16 answers under way; `Register` answers when the registration is stored, or
//! after [`STORED`] without (then it is stored later, and a crash in between costs one heartbeat).

use super::watch::Parts;
use super::{Registrations, authorise, wire};
use crate::feed::{Feeds, Watcher};
use crate::listen::Peer;
use crate::shared::Shared;
use crate::store::MAX_KEY;
use fusewire_api::v1;
use fusewire_api::v1::registry_server::Registry;
use fusewire_discovery::registry::{Key, Refusal};
use fusewire_model::{ServiceName, SpiffeId};
use futures_util::{Stream, StreamExt as _};
use prost::Message as _;
use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

const UNDER_WAY: usize = 16;
/// How long a registration waits for the store.
const STORED: Duration = Duration::from_secs(2);
/// Reports of one beat that count.
/// Instances that one stream may speak of: those beside one sidecar.
const MAX_SPOKEN: usize = 256;
const MAX_REPORTS: usize = 1_024;

#[derive(Clone)]
pub(crate) struct RegistryService {
    shared: Arc<Shared>,
    registrations: Arc<Registrations>,
    feeds: Arc<Feeds>,
    streams: Arc<AtomicU64>,
}

impl RegistryService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let (registrations, feeds) = (shared.registrations.clone(), shared.feeds.clone());
        Self { shared, registrations, feeds, streams: Arc::default() }
    }

    /// The bytes of `Watch`.
    pub(super) fn parts(&self, request: &Request<v1::WatchRequest>) -> Result<Parts, Status> {
        peer(request)?;
        let service = service(&request.get_ref().service)?;
        let Some(watcher) = self.feeds.watch(&service) else {
            return Err(Status::resource_exhausted("too many watch already; ask another replica, or look up instead"));
        };
        let shared = self.shared.clone();
        let stopping = async move { shared.stopping().await };
        let next = async |mut watcher: Watcher| Some((Ok(watcher.next().await), watcher));
        Ok(Box::pin(futures_util::stream::unfold(watcher, next).take_until(stopping)))
    }

    fn lookup_now(&self, service: &ServiceName) -> v1::LookupResponse {
        let (revision, found) = self.feeds.lookup(service);
        let with_age = |found: &Arc<v1::Found>| {
            let mut found = (**found).clone();
            if found.sources.first().is_some_and(|source| source == "registry") {
                let id = found.instance.as_ref().map(|instance| instance.id.as_str()).unwrap_or_default();
                found.age_ms = self.registrations.age(service, id).map(wire::millis);
            }
            found
        };
        let instances = found.iter().map(with_age).collect();
        v1::LookupResponse { service: service.to_string(), revision, instances }
    }

    fn refuse(&self, peer: &SpiffeId, status: Status) -> Status {
        self.registrations.counts.refused.fetch_add(1, Ordering::Relaxed);
        tracing::info!(%peer, code = ?status.code(), "registration refused: {}", status.message());
        status
    }

    fn register_now(&self, peer: &SpiffeId, request: v1::RegisterRequest) -> Result<v1::RegisterResponse, Status> {
        let Some(wanted) = request.registration else {
            return Err(Status::invalid_argument("registration: is missing"));
        };
        let starting = wanted.starting;
        let told = |faults: wire::Faults| format!("registration.{}", faults.0.join("; registration."));
        let (id, registration) = wire::registration(wanted).map_err(|f| Status::invalid_argument(told(f)))?;
        let world = self.shared.in_force.borrow().world.clone();
        authorise::may_register(&world, peer, &registration).map_err(|f| Status::permission_denied(told(f)))?;
        if self.registrations.pending().is_full() {
            return Err(Status::unavailable("the store does not take registrations at present; try again"));
        }
        let answer = v1::RegisterResponse {
            ttl_ms: wire::millis(registration.ttl),
            grace_ms: wire::millis(registration.grace()),
            heartbeat_every_ms: wire::millis(registration.heartbeat_every()),
        };
        let key = Key { identity: peer.clone(), id };
        let stored = super::persist::store_key(&key).len();
        if stored > MAX_KEY {
            let too_long =
                "id: together with your identity too long to be stored; choose a shorter id, without '/' and '%'";
            return Err(Status::invalid_argument(too_long));
        }
        let new = self.registrations.get(&key).is_none();
        self.registrations.register(&key, registration, starting).map_err(|refusal| match refusal {
            Refusal::Full(_) | Refusal::FullOfIdentity { .. } => Status::resource_exhausted(refusal.to_string()),
            Refusal::IdTaken { .. } => Status::already_exists(refusal.to_string()),
        })?;
        if new {
            self.registrations.counts.registered.fetch_add(1, Ordering::Relaxed);
            tracing::info!(identity = %peer, id = key.id, "registered");
        }
        Ok(answer)
    }

    /// The answer, where one is due.
    fn beat(
        &self,
        peer: &SpiffeId,
        (stream, spoken): (u64, &mut BTreeSet<(ServiceName, String)>),
        beat: v1::Beat,
    ) -> Option<v1::BeatAnswer> {
        let answer = (!beat.registration.is_empty()).then(|| self.renew(peer, beat.registration));
        for report in beat.reports.into_iter().take(MAX_REPORTS) {
            let (Ok(service), Some(health)) =
                (ServiceName::parse(&report.service), wire::health_from_wire(report.health))
            else {
                continue; // of a newer sidecar
            };
            let named = (service.clone(), report.instance.clone());
            if !spoken.contains(&named)
                && (spoken.len() >= MAX_SPOKEN || !self.may_speak(peer, &service, &report.instance))
            {
                continue;
            }
            spoken.insert(named);
            let of = (&service, report.instance.as_str());
            let mine = || self.is_written(peer, &service, &report.instance);
            self.registrations.report((peer, stream), of, (health, &report.detail), mine);
        }
        answer
    }

    fn renew(&self, peer: &SpiffeId, id: String) -> v1::BeatAnswer {
        let key = Key { identity: peer.clone(), id };
        let world = self.shared.in_force.borrow().world.clone();
        let registration = self.registrations.get(&key);
        let may = registration.as_ref().filter(|it| authorise::may_register(&world, peer, it).is_ok());
        let every = may.map(|it| wire::millis(it.heartbeat_every())).unwrap_or_default();
        let known = match (&registration, may) {
            (Some(_), None) => {
                tracing::warn!(identity = %key.identity, id = key.id, "no longer allowed by the configuration: taken out");
                self.registrations.deregister(&key);
                false
            }
            _ => self.registrations.heartbeat(&key).is_some(),
        };
        v1::BeatAnswer { registration: key.id, known, heartbeat_every_ms: every }
    }

    /// Whether it is theirs, registered or written. Asked once a stream for each instance.
    fn may_speak(&self, peer: &SpiffeId, service: &ServiceName, id: &str) -> bool {
        let key = Key { identity: peer.clone(), id: id.to_owned() };
        self.registrations.get(&key).is_some() || self.is_written(peer, service, id)
    }

    /// Whether a file or the API gives `service` this instance, behind a sidecar of `peer`.
    fn is_written(&self, peer: &SpiffeId, service: &ServiceName, id: &str) -> bool {
        let world = self.shared.in_force.borrow().world.clone();
        let Some(service) = world.mesh().services.get(service) else { return false };
        let theirs = |sidecar: &fusewire_model::service::Sidecar| sidecar.identity == *peer;
        service.instances.iter().any(|i| i.id == id && i.sidecar.as_ref().is_some_and(theirs))
    }
}

#[tonic::async_trait]
impl Registry for RegistryService {
    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterResponse>, Status> {
        let peer = peer(&request)?;
        let answer = self.register_now(&peer, request.into_inner()).map_err(|status| self.refuse(&peer, status))?;
        if !self.registrations.pending().safe(STORED).await {
            tracing::warn!(identity = %peer, "answered before the store did");
        }
        Ok(Response::new(answer))
    }

    type HeartbeatStream = ReceiverStream<Result<v1::BeatAnswer, Status>>;

    async fn heartbeat(
        &self,
        request: Request<Streaming<v1::Beat>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let peer = peer(&request)?;
        let mut beats = request.into_inner();
        let (out, answers) = mpsc::channel(UNDER_WAY);
        let (service, stream) = (self.clone(), self.streams.fetch_add(1, Ordering::Relaxed));
        tokio::spawn(async move {
            let mut spoken = BTreeSet::new();
            let ended = loop {
                let beat = tokio::select! {
                    () = service.shared.stopping() => break Some(Status::unavailable("the control plane is stopping; connect again")),
                    () = out.closed() => break None,
                    beat = beats.message() => beat,
                };
                match beat {
                    Ok(Some(beat)) => {
                        if let Some(answer) = service.beat(&peer, (stream, &mut spoken), beat)
                            && out.send(Ok(answer)).await.is_err()
                        {
                            break None;
                        }
                    }
                    Ok(None) | Err(_) => break None,
                }
            };
            service.registrations.stream_ended(stream, &spoken);
            if let Some(status) = ended {
                // the peer may have gone, or not be reading
                let _ = out.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        let identity = peer(&request)?;
        let id = request.into_inner().id;
        if !wire::id_ok(&id) {
            return Err(Status::invalid_argument("id: must be 1..253 visible ASCII characters"));
        }
        self.registrations.deregister(&Key { identity: identity.clone(), id });
        if !self.registrations.pending().safe(STORED).await {
            tracing::warn!(%identity, "answered before the store did");
        }
        Ok(Response::new(v1::DeregisterResponse {}))
    }

    async fn lookup(&self, request: Request<v1::LookupRequest>) -> Result<Response<v1::LookupResponse>, Status> {
        peer(&request)?;
        let service = service(&request.get_ref().service)?;
        Ok(Response::new(self.lookup_now(&service)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    /// For callers within this process; on the wire the bytes go out as they are ([`super::WatchedRegistry`]).
    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let decode = |part: Result<bytes::Bytes, Status>| {
            v1::WatchResponse::decode(part?).map_err(|error| Status::internal(error.to_string()))
        };
        Ok(Response::new(Box::pin(self.parts(&request)?.map(decode))))
    }
}

fn peer<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
    let peer = request.extensions().get::<Peer>().ok_or_else(|| Status::internal("the connection has no peer"))?;
    let nobody = "the registry is for members of the mesh: show a client certificate, which a join token gets you";
    peer.id.clone().ok_or_else(|| Status::unauthenticated(nobody))
}

fn service(name: &str) -> Result<ServiceName, Status> {
    ServiceName::parse(name).map_err(|error| Status::invalid_argument(format!("service: {error}")))
}
