//! What one sidecar still has to be told: the difference between what it should hold and what it was sent.
//!
//! It decides what goes next and in which order: resources in the order of their kinds (what a route refers to before
//! the route), then answers that changed, then removals in the opposite order (make before break: nothing is taken away
//! while an answer or a route still points to it), then `Synced`. It deliberately knows no stream and no clock, and keeps
//! no queue: a message is made when there is room for it, from what is true by then, so that of several versions
//! of a resource only the newest is ever sent.
//!
//! Invariant: its size is that of what one sidecar asked for, however long the sidecar stalls.

use crate::encoded::Encoded;
use crate::shared::InForce;
use fusewire_api::{MAX_MESSAGE_BYTES, answer_to_wire, kind_to_wire, resource_to_wire, v1};
use fusewire_kubernetes::Concern;
use fusewire_model::World;
use fusewire_model::compile::{compile, served};
use fusewire_model::node::Node;
use fusewire_model::resource::{Answer, Endpoints, Key, Kind, Resource, Subscription};
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use v1::config_response::Message;

#[cfg(test)]
mod tests;

#[derive(Debug)]
pub(crate) struct Plan {
    node: Node,
    /// What the sidecar understands; nothing else is sent.
    kinds: BTreeSet<Kind>,
    /// Shared with all other plans.
    encoded: Arc<Encoded>,
    wanted: BTreeSet<Subscription>,
    /// What it should hold.
    target: BTreeMap<Key, Whole>,
    /// What it was sent, or said that it holds.
    sent: HashMap<Key, Sent>,
    /// Content that it could not put in force; not sent again until it changes.
    refused: HashMap<Key, Arc<str>>,
    answers: BTreeMap<Subscription, Answer>,
    answered: HashMap<Subscription, Answer>,
    // what is left to say, kept with the above
    due: BTreeSet<Key>,
    unanswered: BTreeSet<Subscription>,
    surplus: BTreeSet<Key>,
    version: String,
    synced: Option<String>,
}

/// Of a message, for what is around the resource.
const MARGIN: usize = 4 << 10;

fn encoded_len(message: &Message) -> usize {
    match message {
        Message::Resource(resource) => resource.encoded_len(),
        Message::EndpointsChange(change) => change.encoded_len(),
        _ => 0,
    }
}

#[derive(Debug)]
struct Whole {
    resource: Resource,
    hash: Arc<str>,
}

/// `hash` is `None` when what the sidecar holds is not known: it refused what it was sent.
#[derive(Debug)]
struct Sent {
    hash: Option<Arc<str>>,
    /// What a change of endpoints can be made against.
    base: Option<Arc<Endpoints>>,
}

impl Plan {
    pub(crate) fn new(node: Node, kinds: BTreeSet<Kind>, encoded: Arc<Encoded>) -> Self {
        Self {
            node,
            kinds,
            encoded,
            wanted: BTreeSet::new(),
            target: BTreeMap::new(),
            sent: HashMap::new(),
            refused: HashMap::new(),
            answers: BTreeMap::new(),
            answered: HashMap::new(),
            due: BTreeSet::new(),
            unanswered: BTreeSet::new(),
            surplus: BTreeSet::new(),
            version: String::new(),
            synced: None,
        }
    }

    /// What the sidecar says that it has already.
    pub(crate) fn hold(&mut self, key: Key, hash: String) {
        if self.kinds.contains(&key.kind) {
            self.sent.insert(key, Sent { hash: Some(hash.into()), base: None });
        }
    }

    /// Adds a subscription; [`Plan::extend`] or [`Plan::aim`] finds out what it means.
    pub(crate) fn subscribe(&mut self, subscription: Subscription) {
        // asked again: answered again
        self.answered.remove(&subscription);
        self.wanted.insert(subscription);
    }

    pub(crate) fn unsubscribe(&mut self, subscription: &Subscription) {
        self.wanted.remove(subscription);
        self.answers.remove(subscription);
        self.answered.remove(subscription);
        self.unanswered.remove(subscription);
    }

    /// By what of `counted` the sidecar is concerned in the world last aimed at, and whether it refuses that.
    pub(crate) fn concerns<T>(&self, world: &World, counted: &BTreeMap<Concern, T>) -> BTreeMap<Concern, bool> {
        if counted.is_empty() {
            return BTreeMap::new();
        }
        let held = self.target.keys().map(|key| (Concern::Holds(key.clone()), self.refused.contains_key(key)));
        let inbound = Key { kind: Kind::Inbound, name: self.node.workload.to_string() };
        let refuses_inbound = self.refused.contains_key(&inbound);
        let served = served(world, &self.node).into_iter().cloned().map(Concern::Serves);
        let all = held.chain(served.map(|concern| (concern, refuses_inbound)));
        all.filter(|(concern, _)| counted.contains_key(concern)).collect()
    }

    pub(crate) fn subscriptions(&self) -> usize {
        self.wanted.len()
    }

    /// Whether `subscription` would be one more.
    pub(crate) fn is_new(&self, subscription: &Subscription) -> bool {
        !self.wanted.contains(subscription)
    }

    /// Takes what is in force as the truth for everything subscribed.
    pub(crate) fn aim(&mut self, InForce { world, trust, .. }: &InForce) {
        let wanted: Vec<_> = self.wanted.iter().cloned().collect();
        let compiled = compile(world, &self.node, &wanted);
        let mut before = std::mem::take(&mut self.target);
        self.answers.clear();
        self.due.clear();
        self.unanswered.clear();
        self.want(trust.clone(), &mut before);
        for resource in compiled.resources.into_values() {
            self.want(resource, &mut before);
        }
        for (subscription, answer) in compiled.answers {
            self.answer(subscription, answer);
        }
        self.surplus = self.sent.keys().filter(|key| !self.target.contains_key(key)).cloned().collect();
        self.refused.retain(|key, hash| self.target.get(key).is_some_and(|whole| whole.hash == *hash));
        self.settle(world);
    }

    /// Adds what `new` means in the world last aimed at: the cost is that of the new, not of all subscriptions.
    pub(crate) fn extend(&mut self, world: &World, new: &[Subscription]) {
        let compiled = compile(world, &self.node, new);
        for (key, resource) in compiled.resources {
            if !self.target.contains_key(&key) {
                self.surplus.remove(&key);
                self.want(resource, &mut BTreeMap::new());
            }
        }
        for (subscription, answer) in compiled.answers {
            self.answer(subscription, answer);
        }
        self.settle(world);
    }

    fn want(&mut self, resource: Resource, before: &mut BTreeMap<Key, Whole>) {
        let key = resource.key();
        if !self.kinds.contains(&key.kind) {
            return;
        }
        // a hash costs an encoding; equal content keeps the one it has
        let hash = match before.remove(&key) {
            Some(old) if old.resource.is_same(&resource) => old.hash,
            // each node's own
            Some(old) if key.kind == Kind::Inbound && old.resource == resource => old.hash,
            _ if key.kind == Kind::Inbound => resource_to_wire(&resource).hash.into(),
            _ => self.encoded.hash(&key, &resource),
        };
        if let Some(Sent { hash: Some(sent), base }) = self.sent.get_mut(&key)
            && *sent == hash
        {
            if let Resource::Endpoints(endpoints) = &resource {
                *base = Some(endpoints.clone()); // the same content, and an old world is let go
            }
        } else if self.refused.get(&key) != Some(&hash) {
            self.due.insert(key.clone());
        }
        self.target.insert(key, Whole { resource, hash });
    }

    fn answer(&mut self, subscription: Subscription, answer: Answer) {
        if self.answered.get(&subscription) != Some(&answer) {
            self.unanswered.insert(subscription.clone());
        }
        self.answers.insert(subscription, answer);
    }

    fn settle(&mut self, world: &World) {
        if self.version != world.version() || !self.all_told() {
            self.synced = None;
        }
        self.version = world.version().to_owned();
    }

    fn all_told(&self) -> bool {
        self.due.is_empty() && self.unanswered.is_empty() && self.surplus.is_empty()
    }

    /// Whether nothing is left to send.
    pub(crate) fn is_idle(&self) -> bool {
        self.all_told() && self.synced.is_some()
    }

    /// The next message, which from here on counts as sent.
    pub(crate) fn next(&mut self) -> Option<v1::ConfigResponse> {
        let message = if let Some(key) = self.due.pop_first() {
            self.resource(key)?
        } else if let Some(subscription) = self.unanswered.pop_first() {
            let answer = self.answers.get(&subscription)?.clone();
            let wire = answer_to_wire(&subscription, &answer);
            self.answered.insert(subscription, answer);
            Message::Answer(wire)
        } else if let Some(key) = self.surplus.pop_last() {
            self.sent.remove(&key);
            Message::Removed(v1::Removed { kind: kind_to_wire(key.kind).into(), name: key.name })
        } else if self.synced.is_none() {
            self.synced = Some(self.version.clone());
            Message::Synced(v1::Synced { version: self.version.clone() })
        } else {
            return None;
        };
        Some(v1::ConfigResponse { message: Some(message) })
    }

    fn resource(&mut self, key: Key) -> Option<Message> {
        let whole = self.target.get(&key)?;
        let before = self.sent.remove(&key);
        let base = match &whole.resource {
            Resource::Endpoints(endpoints) => Some(endpoints.clone()),
            _ => None,
        };
        let message = match (&base, before) {
            (Some(new), Some(Sent { hash: Some(base_hash), base: Some(old) })) => {
                let change = self.encoded.change((&old, &base_hash), (new, &whole.hash));
                // with every instance new, the whole set is the smaller message
                if change.upserted.len() < new.instances.len() {
                    Message::EndpointsChange((*change).clone())
                } else {
                    Message::Resource(resource_to_wire(&whole.resource))
                }
            }
            _ => Message::Resource(resource_to_wire(&whole.resource)),
        };
        if encoded_len(&message) > MAX_MESSAGE_BYTES - MARGIN {
            // sent, it would end the stream, and with it everything else that this sidecar is told
            tracing::error!(kind = ?key.kind, name = key.name, "too large to be sent: the last good one stays in force; are labels long?");
            self.refused.insert(key.clone(), whole.hash.clone());
            self.sent.insert(key, Sent { hash: None, base: None });
            return None;
        }
        self.refused.remove(&key);
        self.sent.insert(key, Sent { hash: Some(whole.hash.clone()), base });
        Some(message)
    }

    /// The sidecar could not put `hash` of `key` in force. False when that is not what it was last sent.
    pub(crate) fn refuse(&mut self, key: &Key, hash: &str) -> bool {
        let Some(sent) = self.sent.get_mut(key).filter(|sent| sent.hash.as_deref() == Some(hash)) else { return false };
        // it holds the last good one, and we do not keep which that was
        *sent = Sent { hash: None, base: None };
        self.refused.insert(key.clone(), hash.into());
        true
    }

    pub(crate) fn is_refused(&self, key: &Key) -> bool {
        self.refused.contains_key(key)
    }

    /// The sidecar lacks the base of a change: it gets the whole resource.
    pub(crate) fn send_whole(&mut self, key: &Key) {
        let Some(sent) = self.sent.get_mut(key) else { return };
        *sent = Sent { hash: None, base: None };
        if self.target.contains_key(key) {
            self.due.insert(key.clone());
            self.synced = None;
        }
    }

    /// The hash of the Trust resource that the sidecar was sent, or said that it holds.
    pub(crate) fn sent_trust(&self) -> Option<&str> {
        let (key, _) = self.target.first_key_value().filter(|(key, _)| key.kind == Kind::Trust)?;
        self.sent.get(key)?.hash.as_deref()
    }

    /// The version that was last synced, if nothing has changed since.
    pub(crate) fn synced(&self) -> Option<&str> {
        self.synced.as_deref()
    }
}
