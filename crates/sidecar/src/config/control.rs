//! The `Config` stream to the control plane: what is wanted goes up, resources come down, each whole state is
//! acknowledged. A stream that breaks is opened again with jittered backoff; what is held stays in force meanwhile.

use super::Desk;
use super::fold::Fold;
use super::held::{Held, IDLE, Noted};
use super::saved;
use crate::mesh::Mesh;
use crate::trust;
use fusewire_api::{
    MAX_MESSAGE_BYTES, WIRE_VERSIONS, answer_from_wire, kind_from_wire, kind_to_wire, resource_from_wire,
    target_to_wire, v1,
};
use fusewire_model::resource::{Key, Kind, Resource, Subscription};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use v1::config_request::Message as Up;
use v1::config_response::Message as Down;

/// Messages towards the control plane that may wait.
const QUEUE: usize = 256;
/// Waits between attempts to connect: doubling, with full jitter above the least.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// How long the control plane may take to answer hello.
const OPEN: Duration = Duration::from_secs(10);
/// At most this often is the state written to disk.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// The configuration task against a control plane.
pub(crate) struct Control {
    /// `host:port`.
    pub(crate) address: String,
    pub(crate) data_dir: Option<PathBuf>,
}

struct State {
    mesh: Arc<Mesh>,
    held: Held,
    fold: Fold,
    /// The services of fixed listeners: wanted for as long as the process lives.
    fixed: Vec<Subscription>,
    data_dir: Option<PathBuf>,
    unsaved: bool,
}

impl Control {
    pub(crate) async fn run(self, mesh: Arc<Mesh>, mut desk: Desk) {
        let now = mesh.clock.now();
        let held = self.data_dir.as_deref().and_then(|dir| saved::load(dir, now)).unwrap_or_default();
        let services = mesh.settings.outbound.iter().filter_map(|o| o.service.clone());
        let fixed: Vec<Subscription> = services.map(Subscription::Service).collect();
        let fold = Fold::new(&mesh);
        let mut state = State { mesh, held, fold, fixed, data_dir: self.data_dir.clone(), unsaved: false };
        for subscription in state.fixed.clone() {
            state.held.subscribe(subscription, now);
        }
        if !state.held.version.is_empty() {
            tracing::info!(version = state.held.version, "configuration taken from disk");
            state.publish(&desk);
        }
        let mut backoff = MIN_BACKOFF;
        loop {
            let began = Instant::now();
            if let Err(e) = self.stream(&mut state, &mut desk).await {
                tracing::warn!(control = self.address, "configuration stream: {e}");
            }
            state.mesh.metrics.config_connected.set(0);
            backoff = if began.elapsed() > MAX_BACKOFF { MIN_BACKOFF } else { (backoff * 2).min(MAX_BACKOFF) };
            let wait = MIN_BACKOFF + (backoff - MIN_BACKOFF).mul_f64(fraction());
            state.wait_offline(&mut desk, wait).await;
        }
    }

    /// One stream, from hello to its end.
    async fn stream(&self, state: &mut State, desk: &mut Desk) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let tls = state.mesh.tls().ok_or("no certificate yet")?;
        let channel = trust::channel(&self.address, trust::control_client(&tls.identity)?).await?;
        let (up, requests) = mpsc::channel(QUEUE);
        up.send(request(Up::Hello(state.hello()))).await?;
        let mut client = v1::config_client::ConfigClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let opened = tokio::time::timeout(OPEN, client.stream(ReceiverStream::new(requests))).await;
        let mut down = opened.map_err(|_| "no answer to hello")??.into_inner();
        let mut housekeeping = interval(SAVE_EVERY);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = down.message() => {
                    let Some(message) = message?.and_then(|m| m.message) else { return Err("the control plane ended it".into()) };
                    if let Some(reply) = state.take(message, desk) {
                        up.send(request(reply)).await?;
                    }
                }
                asked = desk.asks.recv() => {
                    let Some(asked) = asked else { return Ok(()) };
                    if let Noted::New { in_place_of } = state.held.subscribe(asked.clone(), state.mesh.clock.now()) {
                        if let Some(gone) = in_place_of {
                            up.send(unsubscribe(&gone)).await?;
                        }
                        up.send(request(Up::Subscribe(v1::Subscribe { target: Some(target_to_wire(&asked)) }))).await?;
                    }
                }
                _ = housekeeping.tick() => {
                    state.save();
                    state.fold.forget(&state.mesh, state.mesh.clock.now());
                    for gone in state.held.forget_idle(state.mesh.clock.now(), &state.fixed) {
                        tracing::debug!(?gone, "not used for {IDLE:?}: forgotten");
                        up.send(unsubscribe(&gone)).await?;
                    }
                }
            }
        }
    }
}

impl State {
    fn hello(&self) -> v1::Hello {
        let held = self.held.resources.iter().map(|(key, stored)| v1::Held {
            kind: kind_to_wire(key.kind).into(),
            name: key.name.clone(),
            hash: stored.hash.clone(),
        });
        const KINDS: [Kind; 7] =
            [Kind::Trust, Kind::Policy, Kind::Service, Kind::Endpoints, Kind::Override, Kind::Inbound, Kind::Route];
        v1::Hello {
            version: env!("CARGO_PKG_VERSION").into(),
            wire: WIRE_VERSIONS.to_vec(),
            kinds: KINDS.iter().map(|k| kind_to_wire(*k).into()).collect(),
            instance: self.mesh.settings.instance.clone().unwrap_or_default(),
            held: held.collect(),
            wanted: self.held.subscriptions.keys().map(target_to_wire).collect(),
        }
    }

    /// Takes one message in; the reply, if it needs one.
    fn take(&mut self, message: Down, desk: &Desk) -> Option<Up> {
        match message {
            Down::Welcome(welcome) => {
                tracing::info!(control = welcome.version, wire = welcome.wire, "connected to the control plane");
                self.mesh.metrics.config_connected.set(1);
                None
            }
            Down::Resource(resource) => {
                let (hash, name) = (resource.hash.clone(), resource.name.clone());
                match resource_from_wire(resource) {
                    Ok(resource) => {
                        if let Resource::Trust(trust) = &resource {
                            trust::renew_bundle(&self.mesh, trust);
                        }
                        self.held.put(hash, resource);
                        None
                    }
                    Err(e) => {
                        tracing::warn!(name, "refused, the last good one stays in force: {e}");
                        self.mesh.metrics.config_nacks.inc();
                        Some(Up::Nack(e.nack(&hash)))
                    }
                }
            }
            Down::EndpointsChange(change) => self.change(change),
            Down::Removed(removed) => {
                let kind = kind_from_wire(removed.kind)?;
                self.held.remove(&Key { kind, name: removed.name });
                None
            }
            Down::Answer(answer) => {
                let (subscription, answer) = answer_from_wire(answer).ok()?;
                self.held.answer(&subscription, answer);
                None
            }
            Down::Synced(synced) => {
                self.held.version.clone_from(&synced.version);
                self.publish(desk);
                self.unsaved = true;
                Some(Up::Ack(v1::Ack { version: synced.version }))
            }
        }
    }

    fn change(&mut self, change: v1::EndpointsChange) -> Option<Up> {
        let (service, hash) = (change.service.clone(), change.hash.clone());
        let applied = match self.held.endpoints(&service) {
            Some((base, base_hash)) => fusewire_api::apply_change(base, base_hash, change).map_err(|e| e.to_string()),
            None => Err("nothing is held to change".into()),
        };
        match applied {
            Ok((endpoints, hash)) => {
                self.held.put(hash, Resource::Endpoints(Arc::new(endpoints)));
                None
            }
            Err(message) => Some(Up::Nack(v1::Nack {
                kind: kind_to_wire(Kind::Endpoints).into(),
                name: service,
                hash,
                path: String::new(),
                message,
                send_whole: true,
            })),
        }
    }

    fn publish(&mut self, desk: &Desk) {
        let snapshot = self.fold.snapshot(&self.mesh, &self.held);
        tracing::debug!(version = snapshot.version, "configuration in force");
        desk.publish(&self.mesh, snapshot);
    }

    fn save(&mut self) {
        if let Some(dir) = self.data_dir.as_deref().filter(|_| std::mem::take(&mut self.unsaved))
            && let Err(e) = saved::save(dir, &self.held)
        {
            tracing::warn!("{}: the configuration could not be saved: {e}", dir.display());
        }
    }

    /// Between two streams: wishes are noted, nothing is forgotten.
    async fn wait_offline(&mut self, desk: &mut Desk, wait: Duration) {
        self.save();
        self.fold.forget(&self.mesh, self.mesh.clock.now());
        let until = Instant::now() + wait;
        while let Ok(Some(asked)) = tokio::time::timeout_at(until, desk.asks.recv()).await {
            self.held.subscribe(asked, self.mesh.clock.now());
        }
    }
}

fn request(message: Up) -> v1::ConfigRequest {
    v1::ConfigRequest { message: Some(message) }
}

fn unsubscribe(gone: &Subscription) -> v1::ConfigRequest {
    request(Up::Unsubscribe(v1::Unsubscribe { target: Some(target_to_wire(gone)) }))
}

/// Of the wall clock's microseconds: enough to spread reconnecting sidecars.
fn fraction() -> f64 {
    (crate::clock::unix_micros() % 1000) as f64 / 1000.0
}
