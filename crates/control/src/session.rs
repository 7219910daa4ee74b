//! The Config service: one stream, one task, for each sidecar.
//!
//! It decides how a stream goes: mTLS, `Hello` first and soon, a wire version that both speak, then whatever [`Plan`] says
//! is next, as room appears in the stream. It deliberately compares with the newest world only at the moment when
//! there is room for a message: of what changed meanwhile only the newest is sent, and a sidecar that does not read costs
//! nobody anything.
//!
//! Invariant: everything a stream holds is bounded: 16 messages under way, [`MAX_SUBSCRIPTIONS`], [`MAX_HELD`].

use crate::listen::Peer;
use crate::plan::Plan;
use crate::shared::{InForce, Shared};
use crate::sidecars::Place;
use fusewire_api::v1::config_request::Message;
use fusewire_api::{WIRE_VERSIONS, kind_from_wire, target_from_wire, v1};
use fusewire_model::SpiffeId;
use fusewire_model::node::Node;
use fusewire_model::resource::{Key, Kind, Subscription};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

const UNDER_WAY: usize = 16;
const HELLO: Duration = Duration::from_secs(10);
/// How long the reason for the end of a stream waits for room.
const LAST_WORDS: Duration = Duration::from_secs(2);
pub(crate) const MAX_SUBSCRIPTIONS: usize = 10_000;
const MAX_HELD: usize = 60_000;
const MAX_NAME: usize = 2_048;
const MAX_TOLD: usize = 1_024;

type Answers = mpsc::Sender<Result<v1::ConfigResponse, Status>>;

#[derive(Clone)]
pub(crate) struct ConfigService {
    shared: Arc<Shared>,
}

impl ConfigService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl v1::config_server::Config for ConfigService {
    type StreamStream = ReceiverStream<Result<v1::ConfigResponse, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::ConfigRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("the connection has no peer"))?;
        let Some(id) = peer.id.clone() else {
            return Err(Status::unauthenticated("a sidecar shows its certificate here; join with a token first"));
        };
        let (out, answers) = mpsc::channel(UNDER_WAY);
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let end = serve(shared, id.clone(), &peer, request.into_inner(), &out).await;
            if let Err(status) = end {
                tracing::info!(workload = %id, address = %peer.address, code = ?status.code(), "stream ended: {}", status.message());
                let _ = timeout(LAST_WORDS, out.send(Err(status))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

/// From `Hello` to the end of the stream. Cancel safe in all of its branches: `message` keeps what it has read of
/// a message, `changed` and `reserve` lose nothing.
async fn serve(
    shared: Arc<Shared>,
    id: SpiffeId,
    peer: &Peer,
    mut requests: Streaming<v1::ConfigRequest>,
    out: &Answers,
) -> Result<(), Status> {
    let mut in_force = shared.in_force.subscribe();
    let mut trust = shared.trust.subscribe();
    let hello = tokio::select! {
        hello = timeout(HELLO, requests.message()) => hello
            .map_err(|_| Status::deadline_exceeded(format!("no hello within {HELLO:?}")))??,
        () = shared.stopping() => return Err(stopping()),
    };
    let Some(v1::ConfigRequest { message: Some(Message::Hello(hello)) }) = hello else {
        return Err(Status::invalid_argument("the first message must be hello"));
    };
    let peer_id = id.clone();
    let (wire, mut session) = Session::begin(&shared, id, peer, hello)?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let welcome = v1::config_response::Message::Welcome(v1::Welcome { wire, version });
    let mut welcome = Some(v1::ConfigResponse { message: Some(welcome) });
    loop {
        let wanting = welcome.is_some() || session.has_more();
        tokio::select! {
            biased; // what changes the plan goes before what the plan says
            () = shared.stopping() => return Err(stopping()),
            denied = trust.wait_for(|trust| trust.denied().contains(&peer_id)) => {
                let why = denied.ok().and_then(|trust| trust.denials.get(&peer_id).map(|denial| denial.reason.clone()));
                return Err(Status::permission_denied(format!("{peer_id} is denied: {}", why.unwrap_or_default())));
            }
            () = out.closed() => return Ok(()),
            request = requests.message() => match request? {
                Some(request) => session.hear(request, &in_force.borrow())?,
                None => return Ok(()),
            },
            changed = in_force.changed() => match changed {
                Ok(()) => session.aimed = None,
                Err(_) => return Err(stopping()),
            },
            room = out.reserve(), if wanting => {
                let Ok(room) = room else { return Ok(()) };
                let now = in_force.borrow_and_update().clone();
                if let Some(message) = welcome.take().or_else(|| session.next(&now)) {
                    room.send(Ok(message));
                }
            }
        }
    }
}

fn stopping() -> Status {
    Status::unavailable("the control plane is stopping; connect again")
}

struct Session {
    plan: Plan,
    place: Place,
    /// What the plan is about; `None`: not about all subscriptions, or about nothing yet.
    aimed: Option<Arc<InForce>>,
    /// Whether the sidecar had acknowledged everything when it was last noted how it stands to what it should hold; `None`: that
    /// may be other since.
    noted: Option<bool>,
    acks: Acks,
}

/// Which acknowledgement is about which trust: they come in the order of what was synced, one for each.
#[derive(Debug, Default)]
struct Acks {
    synced: u64,
    acked: u64,
    /// The trust that was sent last, and the first `Synced` after it.
    trust: Option<(u64, String)>,
}

impl Acks {
    fn synced(&mut self, trust: Option<&str>) {
        self.synced += 1;
        if let Some(trust) = trust
            && self.trust.as_ref().is_none_or(|(_, sent)| sent != trust)
        {
            self.trust = Some((self.synced, trust.to_owned()));
        }
    }

    /// One acknowledgement; the trust that is known to be in force there.
    fn acked(&mut self) -> Option<&str> {
        self.acked += 1;
        self.trust.as_ref().filter(|(first, _)| self.acked >= *first).map(|(_, trust)| trust.as_str())
    }
}

impl Session {
    fn begin(shared: &Shared, workload: SpiffeId, peer: &Peer, hello: v1::Hello) -> Result<(u32, Self), Status> {
        let wire = WIRE_VERSIONS.into_iter().find(|version| hello.wire.contains(version)).ok_or_else(|| {
            Status::failed_precondition(format!(
                "no wire version in common: this control plane ({}) speaks {WIRE_VERSIONS:?}, the sidecar ({}) {:?}; bring them within two releases of each other",
                env!("CARGO_PKG_VERSION"),
                shown(&hello.version),
                &hello.wire[..hello.wire.len().min(16)],
            ))
        })?;
        for (what, got, max) in
            [("held resources", hello.held.len(), MAX_HELD), ("bytes of instance id", hello.instance.len(), MAX_TOLD)]
        {
            if got > max {
                return Err(Status::resource_exhausted(format!("at most {max} {what}, got {got}")));
            }
        }
        let instance = Some(hello.instance).filter(|instance| !instance.is_empty());
        let node = Node { workload, instance };
        let kinds = hello.kinds.iter().filter_map(|kind| kind_from_wire(*kind)).collect();
        let place = Place::take(&shared.sidecars, &node, shown(&hello.version), peer);
        let mut session = Self {
            plan: Plan::new(node, kinds, shared.encoded.clone()),
            place,
            aimed: None,
            noted: None,
            acks: Acks::default(),
        };
        for held in hello.held {
            if let Some(key) = key(held.kind, held.name) {
                session.plan.hold(key, held.hash);
            }
        }
        for target in hello.wanted {
            session.subscribe(Some(target))?;
        }
        tracing::info!(workload = session.place.sidecar.workload, address = %peer.address, subscriptions = session.plan.subscriptions(), "sidecar connected");
        Ok((wire, session))
    }

    fn has_more(&self) -> bool {
        self.aimed.is_none() || !self.plan.is_idle()
    }

    /// The next message, of what is true `now`.
    fn next(&mut self, now: &Arc<InForce>) -> Option<v1::ConfigResponse> {
        // also what came between the last look and now: it will not be announced again
        let is_anew = !self.is_about(now);
        if is_anew {
            self.plan.aim(now);
            self.aimed = Some(now.clone());
        }
        let message = self.plan.next();
        if let Some(v1::ConfigResponse { message: Some(v1::config_response::Message::Synced(_)) }) = &message {
            self.acks.synced(self.plan.sent_trust());
        }
        self.note(now, is_anew);
        let plan = &self.plan;
        self.place.sidecar.update(|state| {
            if let Some(version) = plan.synced() {
                state.sent_version = Some(version.to_owned());
            }
            state.subscriptions = plan.subscriptions();
            state.nacks.retain(|key, _| plan.is_refused(key));
        });
        message
    }

    /// Notes how the sidecar stands to what the cluster declares: it runs the newest once everything is said and acknowledged.
    /// Between two looks at the whole plan it waits until there is nothing left to say.
    fn note(&mut self, now: &InForce, is_anew: bool) {
        let is_said = self.plan.is_idle();
        let settled = is_said && self.acks.acked == self.acks.synced;
        let is_noted = self.noted == Some(true) || self.noted == Some(settled);
        if !is_anew && (is_noted || !is_said) {
            return;
        }
        self.noted = Some(settled);
        let (number, concerns) = (now.standing.number, self.plan.concerns(&now.world, &now.standing.concerns));
        self.place.sidecar.update(|state| {
            state.concerned(concerns, settled);
            state.aimed = number;
            if settled {
                state.runs = number;
            }
        });
    }

    fn is_about(&self, now: &Arc<InForce>) -> bool {
        self.aimed.as_ref().is_some_and(|aimed| Arc::ptr_eq(aimed, now))
    }

    fn hear(&mut self, request: v1::ConfigRequest, now: &Arc<InForce>) -> Result<(), Status> {
        match request.message {
            Some(Message::Subscribe(subscribe)) => {
                let subscription = self.subscribe(subscribe.target)?;
                // only the new one, unless everything is to be gone through anyway
                if self.is_about(now) {
                    self.plan.extend(&now.world, &[subscription]);
                } else {
                    self.aimed = None;
                }
            }
            Some(Message::Unsubscribe(unsubscribe)) => {
                self.plan.unsubscribe(&target(unsubscribe.target)?);
                self.aimed = None; // what nothing else refers to is found out when there is room to say so
            }
            Some(Message::Ack(ack)) => {
                let trust = self.acks.acked().map(str::to_owned);
                self.place.sidecar.update(|state| {
                    state.acked_version = Some(shown(&ack.version));
                    state.acked_trust = trust.or(state.acked_trust.take());
                });
                if let Some(aimed) = self.aimed.clone() {
                    self.note(&aimed, false);
                }
            }
            Some(Message::Nack(nack)) => self.nack(nack),
            Some(Message::Hello(_)) => return Err(Status::invalid_argument("hello must be sent once, and first")),
            // of a newer sidecar that was told which version we speak; nothing depends on it
            None => {}
        }
        Ok(())
    }

    fn subscribe(&mut self, wire: Option<v1::Target>) -> Result<Subscription, Status> {
        let subscription = target(wire)?;
        if self.plan.is_new(&subscription) && self.plan.subscriptions() >= MAX_SUBSCRIPTIONS {
            return Err(Status::resource_exhausted(format!(
                "at most {MAX_SUBSCRIPTIONS} subscriptions a sidecar; does it forget those that are idle?"
            )));
        }
        self.plan.subscribe(subscription.clone());
        self.noted = None;
        Ok(subscription)
    }

    fn nack(&mut self, nack: v1::Nack) {
        let Some(key) = key(nack.kind, nack.name.clone()) else { return };
        if nack.send_whole {
            self.plan.send_whole(&key);
            return;
        }
        if !self.plan.refuse(&key, &nack.hash) {
            return; // about content that has been replaced meanwhile
        }
        self.noted = None;
        if key.kind == Kind::Trust {
            self.acks.trust = None; // what it acknowledges next is not this
        }
        let nack = v1::Nack { path: shown(&nack.path), message: shown(&nack.message), ..nack };
        let sidecar = &self.place.sidecar;
        tracing::warn!(workload = sidecar.workload, instance = sidecar.instance, kind = ?key.kind, name = key.name, path = nack.path, "resource refused by a sidecar: {}", nack.message);
        sidecar.update(|state| {
            state.nacks.insert(key, nack);
        });
    }
}

fn target(wire: Option<v1::Target>) -> Result<Subscription, Status> {
    target_from_wire(wire.unwrap_or_default()).map_err(|e| Status::invalid_argument(e.to_string()))
}

/// `None` for what this build cannot have sent.
fn key(kind: i32, name: String) -> Option<Key> {
    let kind = kind_from_wire(kind)?;
    (name.len() <= MAX_NAME).then_some(Key { kind, name })
}

/// What a sidecar says of itself, at a length that may be kept.
fn shown(text: &str) -> String {
    text.chars().take(MAX_TOLD).collect()
}
