//! The `Config` stream to the control plane: what is wanted goes up, resources come down, each whole state is
//! acknowledged. A stream that breaks is opened again with jittered backoff; what is held stays in force meanwhile.

use super::Desk;
use super::fold::Fold;
use super::held::{Held, IDLE, Noted};
use super::saved;
use crate::controls::{Controls, Pause};
use crate::mesh::Mesh;
use crate::trust;
use crate::work;
use fusewire_api::{
    MAX_MESSAGE_BYTES, WIRE_VERSIONS, answer_from_wire, kind_from_wire, kind_to_wire, resource_from_wire,
    target_to_wire, v1,
};
use fusewire_model::resource::{Key, Kind, Resource, Subscription};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use v1::config_request::Message as Up;
use v1::config_response::Message as Down;

/// Messages towards the control plane that may wait.
const QUEUE: usize = 256;
/// How long the control plane may take to answer hello.
const OPEN: Duration = Duration::from_secs(10);
/// At most this often is the state written to disk.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// The configuration task against a control plane.
pub(crate) struct Control {
    pub(crate) controls: Controls,
    pub(crate) data_dir: Option<PathBuf>,
}

/// How a stream ended that did not fail.
enum Over {
    /// Our certificate is under another root now: connect again with it, at once.
    Renewed,
    Ended,
}

pub(super) struct State {
    mesh: Arc<Mesh>,
    held: Held,
    fold: Fold,
    /// The services of fixed listeners: wanted for as long as the process lives.
    fixed: Vec<Subscription>,
    data_dir: Option<PathBuf>,
    unsaved: bool,
    saved: Option<Instant>,
}

impl Control {
    /// With what was kept on disk in force.
    pub(super) fn begin(&self, mesh: Arc<Mesh>, desk: &Desk) -> State {
        let now = mesh.clock.now();
        let held = self.data_dir.as_deref().and_then(|dir| saved::load(dir, now)).unwrap_or_default();
        let services = mesh.settings.outbound.iter().filter_map(|o| o.service.clone());
        let fixed: Vec<Subscription> = services.map(Subscription::Service).collect();
        let fold = Fold::new(&mesh);
        let mut state = State { mesh, held, fold, fixed, data_dir: self.data_dir.clone(), unsaved: false, saved: None };
        for subscription in state.fixed.clone() {
            state.held.subscribe(subscription, now);
        }
        // who is denied, before anybody is let in
        for stored in state.held.resources.values() {
            if let Resource::Trust(trust) = &stored.resource
                && let Err(e) = trust::take(&state.mesh, trust)
            {
                tracing::warn!("the roots that were kept: {e}");
            }
        }
        if !state.held.version.is_empty() {
            tracing::info!(version = state.held.version, "configuration taken from disk");
            state.publish(desk);
        }
        state
    }

    pub(super) async fn run(self, mut state: State, mut desk: Desk) {
        let mut pause = Pause::default();
        loop {
            let began = Instant::now();
            match self.stream(&mut state, &mut desk).await {
                Ok(Over::Renewed) => continue,
                Ok(Over::Ended) => {}
                Err(e) => tracing::warn!(control = self.controls.now(), "configuration stream: {e}"),
            }
            self.controls.pass();
            state.mesh.metrics.config_connected.set(0);
            state.wait_offline(&mut desk, pause.after(began.elapsed())).await;
        }
    }

    /// One stream, from hello to its end.
    async fn stream(
        &self,
        state: &mut State,
        desk: &mut Desk,
    ) -> Result<Over, Box<dyn std::error::Error + Send + Sync>> {
        let mesh = state.mesh.clone();
        let mut trust_changes = mesh.belief.subscribe();
        let tls = mesh.tls().ok_or("no certificate yet")?;
        let root = tls.identity.root_hash();
        let channel = trust::channel(self.controls.now(), trust::control_client(&tls.identity)?).await?;
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
                    let Some(asked) = asked else { return Ok(Over::Ended) };
                    if let Noted::New { in_place_of } = state.held.subscribe(asked.clone(), state.mesh.clock.now()) {
                        if let Some(gone) = in_place_of {
                            up.send(unsubscribe(&gone)).await?;
                        }
                        up.send(request(Up::Subscribe(v1::Subscribe { target: Some(target_to_wire(&asked)) }))).await?;
                    }
                }
                _ = trust_changes.changed() => {
                    // the control plane counts whose certificate is under which root by their connections
                    if mesh.tls().is_some_and(|tls| tls.identity.root_hash() != root) {
                        return Ok(Over::Renewed);
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
                    Ok(Resource::Inbound(_)) if self.mesh.leaving.load(Ordering::Relaxed) => None,
                    Ok(resource) => {
                        let refused = match &resource {
                            Resource::Trust(trust) => trust::take(&self.mesh, trust).err(),
                            _ => None,
                        };
                        let key = resource.key();
                        // also trust that only in part could be put in force: whom it denies is denied over a restart too
                        self.held.put(hash.clone(), resource);
                        refused.map(|message| self.refuse(&key, hash, message))
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
                // the first at once: who is ended right after its start is to know on its return whom to let in
                if self.saved.is_none_or(|last| last.elapsed() >= SAVE_EVERY) {
                    self.save();
                }
                Some(Up::Ack(v1::Ack { version: synced.version }))
            }
        }
    }

    fn refuse(&self, key: &Key, hash: String, message: String) -> Up {
        tracing::warn!(name = key.name, "refused: {message}");
        self.mesh.metrics.config_nacks.inc();
        let (kind, name) = (kind_to_wire(key.kind).into(), key.name.clone());
        Up::Nack(v1::Nack { kind, name, hash, path: "bundle".into(), message, send_whole: false })
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
        let began = self.mesh.clock.now();
        let snapshot = self.fold.snapshot(&self.mesh, &self.held);
        let version = snapshot.version.clone();
        tracing::debug!(version, "configuration in force");
        let known = self.mesh.snapshot.load().version == version;
        desk.publish(&self.mesh, snapshot);
        // instances come and go within a version, too often to be worth a span
        if !known {
            work::tell(&self.mesh, "fusewire.configuration.apply", began, None, |span| {
                span.text("fusewire.snapshot", &version);
            });
        }
    }

    fn save(&mut self) {
        if let Some(dir) = self.data_dir.as_deref().filter(|_| std::mem::take(&mut self.unsaved)) {
            self.saved = Some(Instant::now());
            if let Err(e) = saved::save(dir, &self.held) {
                tracing::warn!("{}: the configuration could not be saved: {e}", dir.display());
            }
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
