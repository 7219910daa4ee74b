//! Resources to snapshot: unchanged services stay the same object, and an instance keeps its breaker, its load estimate
//! and its connections for as long as its key is there (invariant 5), and for a minute after.

use super::held::{Held, Standing, Stored};
use crate::clock;
use crate::mesh::Mesh;
use crate::snapshot::{InboundPort, Known, Route, RouteRule, Snapshot};
use crate::upstream::instance::{Instance, InstanceKey};
use crate::upstream::service::Upstream;
use fusewire_model::policy::Policy;
use fusewire_model::resource::{Answer, Inbound, Kind, Resource, ServiceSettings, Subscription};
use fusewire_model::route::RouteTable;
use fusewire_model::service::{Hold, Instance as Endpoint, Override};
use fusewire_model::{PolicyName, ServiceName};
use fusewire_resilience::{Forced, InstanceSet, Mode, Slot, Time};
use fusewire_telemetry::metrics::{Direction, ServiceMetrics};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// An instance that returns within this time is the same one.
const DEPARTED: Duration = Duration::from_secs(60);

/// Inbound, an application's ports are apart; outbound the port is 0.
type UpstreamKey = (Direction, ServiceName, u16);

/// An instance, and since when it is in no snapshot.
struct Kept {
    instance: Arc<Instance>,
    gone: Option<Time>,
}

/// What outlives a snapshot.
pub(crate) struct Fold {
    workers: usize,
    app: IpAddr,
    upstreams: HashMap<UpstreamKey, Arc<Upstream>>,
    instances: HashMap<(UpstreamKey, InstanceKey), Kept>,
    metrics: HashMap<(Direction, ServiceName), Arc<ServiceMetrics>>,
    overrides: HashMap<ServiceName, Vec<Override>>,
}

impl Fold {
    pub(crate) fn new(mesh: &Mesh) -> Self {
        let settings = &mesh.settings;
        Self {
            workers: settings.workers,
            app: settings.inbound.as_ref().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |i| i.app),
            upstreams: HashMap::new(),
            instances: HashMap::new(),
            metrics: HashMap::new(),
            overrides: HashMap::new(),
        }
    }

    pub(crate) fn snapshot(&mut self, mesh: &Mesh, held: &Held) -> Snapshot {
        let now = mesh.clock.now();
        let before = std::mem::take(&mut self.upstreams);
        self.instances.values_mut().for_each(|kept| kept.gone = kept.gone.or(Some(now)));
        for Stored { resource, .. } in held.resources.values() {
            if let Resource::Service(settings) = resource {
                let upstream = self.outbound(mesh, held, settings, &before, now);
                self.upstreams.insert(outbound_key(&settings.name), upstream);
            }
        }
        let mut snapshot = Snapshot { version: held.version.clone(), ..Snapshot::default() };
        for Stored { resource, hash } in held.resources.values() {
            if let Resource::Inbound(inbound) = resource {
                snapshot.inbound = Some(self.inbound(mesh, inbound, hash, &before, now));
            }
        }
        let mut routes: HashMap<String, Arc<Route>> = HashMap::new();
        for Stored { resource, .. } in held.resources.values() {
            if let Resource::Route(table) = resource {
                routes.insert(table.authority.to_string(), Arc::new(self.route(held, table)));
            }
        }
        for (subscription, standing) in &held.subscriptions {
            self.answer(&mut snapshot, &routes, subscription, standing);
        }
        self.forget(mesh, now);
        snapshot.upstreams = self.upstreams.iter().map(|(key, upstream)| (key.0, upstream.clone())).collect();
        snapshot
    }

    fn answer(
        &self,
        snapshot: &mut Snapshot,
        routes: &HashMap<String, Arc<Route>>,
        subscription: &Subscription,
        standing: &Standing,
    ) {
        let Some(answer) = &standing.answer else { return };
        let name = match answer {
            Answer::Found(key) => Some(key.name.as_str()),
            Answer::NotFound => None,
        };
        let upstream = || {
            let name = ServiceName::parse(name?).ok()?;
            self.upstreams.get(&outbound_key(&name)).cloned()
        };
        let used = standing.used.clone();
        match subscription {
            Subscription::Authority(authority) => {
                let route = name.and_then(|name| routes.get(name).cloned());
                snapshot.authorities.insert(authority.as_str().into(), Arc::new(Known::new(route, used)));
            }
            Subscription::Service(service) => {
                snapshot.services.insert(service.clone(), Arc::new(Known::new(upstream(), used)));
            }
            Subscription::Address(address) => {
                let route = upstream().map(|u| Arc::new(Route::to(u)));
                snapshot.addresses.insert(*address, Arc::new(Known::new(route, used)));
            }
        }
    }

    fn route(&self, held: &Held, table: &RouteTable) -> Route {
        let rules = table.rules.iter().map(|rule| RouteRule {
            upstreams: rule.backends.iter().map(|b| self.upstreams.get(&outbound_key(&b.service)).cloned()).collect(),
            policy: rule.policy.as_ref().and_then(|name| policy(held, name)),
            rule: rule.clone(),
        });
        Route { rules: rules.collect() }
    }

    fn outbound(
        &mut self,
        mesh: &Mesh,
        held: &Held,
        settings: &ServiceSettings,
        before: &HashMap<UpstreamKey, Arc<Upstream>>,
        now: Time,
    ) -> Arc<Upstream> {
        let key = outbound_key(&settings.name);
        let previous = before.get(&key);
        let fingerprint = fingerprint(held, settings);
        if let Some(same) = previous.filter(|u| u.fingerprint == fingerprint) {
            for member in same.set.members() {
                self.instance(&key, member.key.clone(), now);
            }
            return same.clone();
        }
        let main = settings.policy.as_ref().and_then(|name| policy(held, name));
        let main = main.unwrap_or_else(|| built_in(&settings.name));
        let subsets: Vec<_> =
            settings.subsets.iter().filter_map(|s| Some((&s.labels, policy(held, &s.policy)?))).collect();
        let endpoints = held.endpoints(settings.name.as_str()).map(|(e, _)| e.instances.clone()).unwrap_or_default();
        let slots: Vec<Slot<Instance>> = endpoints
            .iter()
            .map(|endpoint| {
                let carries = |labels: &std::collections::BTreeMap<String, String>| {
                    labels.iter().all(|(name, value)| endpoint.labels.get(name) == Some(value))
                };
                let policy = subsets.iter().find(|(labels, _)| carries(labels)).map_or(&main, |(_, policy)| policy);
                Slot {
                    member: self.instance(&key, instance_key(endpoint), now),
                    config: Arc::new(policy.breaker.clone()),
                    weight: endpoint.weight,
                }
            })
            .collect();
        let set = match previous {
            Some(previous) => previous.set.rebuilt(slots),
            None => InstanceSet::new(slots),
        };
        let upstream = Upstream {
            name: settings.name.clone(),
            protocol: settings.protocol,
            policy: main,
            set: Arc::new(set),
            metrics: self.metrics(mesh, &key),
            fingerprint,
        };
        self.hold(held, &upstream, now);
        Arc::new(upstream)
    }

    /// Puts the operator's overrides in force, and takes back those that are gone.
    fn hold(&mut self, held: &Held, upstream: &Upstream, now: Time) {
        let wanted = match held.get(Kind::Override, upstream.name.as_str()) {
            Some(Stored { resource: Resource::Override(o), .. }) => o.overrides.clone(),
            _ => Vec::new(),
        };
        let before = self.overrides.insert(upstream.name.clone(), wanted.clone()).unwrap_or_default();
        if wanted.is_empty() && before.is_empty() {
            return;
        }
        let unix = clock::unix_seconds();
        for (index, member) in upstream.set.members().enumerate() {
            let over = wanted
                .iter()
                .filter(|o| o.until.is_none_or(|until| until > unix))
                .find(|o| o.instance.as_ref().is_none_or(|id| *id == member.key.id));
            let to = over.map(|o| fusewire_resilience::Override {
                forced: match o.breaker {
                    Hold::Open => Forced::Open,
                    Hold::Closed => Forced::Closed,
                },
                owner: o.owner.clone(),
                reason: o.reason.clone(),
                until: o.until.map(|until| now + Duration::from_secs(until - unix)),
            });
            upstream.set.set_override(index, to, now);
        }
    }

    /// The application's ports: each a service of one plain instance, whose failures are the caller's breaker's business.
    fn inbound(
        &mut self,
        mesh: &Mesh,
        inbound: &Inbound,
        hash: &str,
        before: &HashMap<UpstreamKey, Arc<Upstream>>,
        now: Time,
    ) -> HashMap<u16, InboundPort> {
        let mut ports = HashMap::new();
        for port in &inbound.ports {
            let key = (Direction::Inbound, port.service.clone(), port.port);
            let app = InstanceKey { id: "app".into(), address: SocketAddr::new(self.app, port.port), sidecar: None };
            let member = self.instance(&key, app, now);
            let fingerprint = format!("{hash}:{}", port.port);
            let upstream = match before.get(&key).filter(|u| u.fingerprint == fingerprint) {
                Some(same) => same.clone(),
                None => {
                    let mut policy = Policy::clone(&built_in(&port.service));
                    policy.breaker.mode = Mode::Disabled;
                    let config = Arc::new(policy.breaker.clone());
                    Arc::new(Upstream {
                        name: port.service.clone(),
                        protocol: port.protocol,
                        policy: Arc::new(policy),
                        set: Arc::new(InstanceSet::new(vec![Slot { member, config, weight: 1 }])),
                        metrics: self.metrics(mesh, &key),
                        fingerprint,
                    })
                }
            };
            self.upstreams.insert(key, upstream.clone());
            ports.insert(port.port, InboundPort { allow: port.allow.clone(), upstream });
        }
        ports
    }

    fn instance(&mut self, of: &UpstreamKey, key: InstanceKey, now: Time) -> Arc<Instance> {
        let workers = self.workers;
        let kept = self
            .instances
            .entry((of.clone(), key.clone()))
            .or_insert_with(|| Kept { instance: Arc::new(Instance::new(key, workers, now)), gone: None });
        kept.gone = None;
        kept.instance.clone()
    }

    fn metrics(&mut self, mesh: &Mesh, key: &UpstreamKey) -> Arc<ServiceMetrics> {
        let made = || Arc::new(mesh.metrics.service(key.0, key.1.as_str()));
        self.metrics.entry((key.0, key.1.clone())).or_insert_with(made).clone()
    }

    /// Lets go of instances that left a minute ago, with their connections, and of the series of services that are gone.
    pub(crate) fn forget(&mut self, mesh: &Mesh, now: Time) {
        self.instances.retain(|(of, key), kept| {
            let Some(gone) = kept.gone else { return true };
            if of.0 == Direction::Outbound {
                mesh.metrics.breaker_state(of.1.as_str(), &key.id, None);
            }
            kept.instance.tidy(now);
            now.since(gone) < DEPARTED
        });
        let upstreams = &self.upstreams;
        let there = |d: Direction, name: &ServiceName| upstreams.keys().any(|k| k.0 == d && k.1 == *name);
        self.metrics.retain(|(direction, name), _| {
            let stays = there(*direction, name);
            if !stays {
                mesh.metrics.forget_service(*direction, name.as_str());
            }
            stays
        });
        self.overrides.retain(|name, _| upstreams.contains_key(&outbound_key(name)));
    }
}

fn outbound_key(service: &ServiceName) -> UpstreamKey {
    (Direction::Outbound, service.clone(), 0)
}

fn instance_key(endpoint: &Endpoint) -> InstanceKey {
    InstanceKey { id: endpoint.id.clone(), address: endpoint.address, sidecar: endpoint.sidecar.clone() }
}

fn policy(held: &Held, name: &PolicyName) -> Option<Arc<Policy>> {
    match &held.get(Kind::Policy, name.as_str())?.resource {
        Resource::Policy(policy) => Some(policy.clone()),
        _ => None,
    }
}

fn built_in(service: &ServiceName) -> Arc<Policy> {
    Arc::new(Policy::built_in(PolicyName::from(service)))
}

/// The hashes of all that an upstream is made of.
fn fingerprint(held: &Held, settings: &ServiceSettings) -> String {
    let name = settings.name.as_str();
    let mut out = String::new();
    let mut add = |kind, name: &str| {
        out.push_str(held.get(kind, name).map_or("-", |s| s.hash.as_str()));
        out.push('/');
    };
    add(Kind::Service, name);
    add(Kind::Endpoints, name);
    add(Kind::Override, name);
    for policy in settings.policy.iter().chain(settings.subsets.iter().map(|s| &s.policy)) {
        add(Kind::Policy, policy.as_str());
    }
    out
}
