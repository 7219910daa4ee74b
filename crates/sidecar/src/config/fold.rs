//! Resources to snapshot: unchanged services stay the same object, and an instance keeps its breaker, its load estimate
//! and its connections for as long as its key is there (invariant 5), and for a minute after.

use super::held::{Held, Standing, Stored};
use super::series::Series;
use crate::bounds::Bounds;
use crate::clock;
use crate::http::filters::{Filters, Mirror};
use crate::mesh::Mesh;
use crate::snapshot::{InboundPort, Known, Others, Route, RouteRule, Snapshot, Whole};
use crate::upstream::instance::{Holder, Instance, InstanceKey};
use crate::upstream::ledger::Ledger;
use crate::upstream::service::Upstream;
use fusewire_model::policy::{Algorithm, Fallback, Plain, PlainDefaults, Policy, Probe, Scope, Subsetting, Zoning};
use fusewire_model::resource::{Answer, Inbound, Kind, Resource, ServiceSettings, Subscription};
use fusewire_model::route::RouteTable;
use fusewire_model::service::{Hold, Instance as Endpoint, Override};
use fusewire_model::{PolicyName, ServiceName};
use fusewire_resilience::{Forced, InstanceSet, Member, Mode, Prober, ServiceScope, SetRules, Slot, Time, balance};
use fusewire_telemetry::metrics::Direction;
use std::collections::HashMap;
use std::hash::RandomState;
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
    /// Services whose callers choose one instance by its address: the whole, and that one alone.
    chosen: HashMap<SocketAddr, (Arc<Upstream>, Arc<Upstream>)>,
    /// The same of the snapshot before, while one is folded.
    chosen_before: HashMap<SocketAddr, (Arc<Upstream>, Arc<Upstream>)>,
    instances: HashMap<(UpstreamKey, InstanceKey), Kept>,
    series: Series,
    /// By service: what retries cost and how long answers take does not change with the configuration.
    ledgers: HashMap<ServiceName, Ledger>,
    bounds: HashMap<UpstreamKey, Arc<Bounds>>,
    /// Of this process: what limits by key are looked up with.
    secret: RandomState,
    overrides: HashMap<ServiceName, Vec<Override>>,
    /// Of routes' rules, by the rule's name.
    scopes: HashMap<String, Arc<ServiceScope>>,
    /// The same of the snapshot before, while one is folded.
    scopes_before: HashMap<String, Arc<ServiceScope>>,
    /// This sidecar's zone, hashed; 0: it was not told.
    zone: u64,
    /// The same at every start.
    seed: u64,
}

impl Fold {
    pub(crate) fn new(mesh: &Mesh) -> Self {
        let settings = &mesh.settings;
        Self {
            workers: settings.workers,
            app: settings.inbound.as_ref().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |i| i.app),
            upstreams: HashMap::new(),
            chosen: HashMap::new(),
            chosen_before: HashMap::new(),
            instances: HashMap::new(),
            series: Series::default(),
            ledgers: HashMap::new(),
            bounds: HashMap::new(),
            secret: RandomState::new(),
            overrides: HashMap::new(),
            scopes: HashMap::new(),
            scopes_before: HashMap::new(),
            zone: settings.zone.as_deref().map_or(0, |zone| balance::hash(zone.as_bytes())),
            seed: balance::hash(format!("{}/{:?}", settings.workload.as_str(), settings.instance).as_bytes()),
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
                snapshot.inbound = Some(self.inbound(mesh, held, (inbound, hash), &before, now));
            }
        }
        snapshot.others = self.others(held);
        self.scopes_before = std::mem::take(&mut self.scopes);
        let mut routes: HashMap<String, Arc<Route>> = HashMap::new();
        for Stored { resource, .. } in held.resources.values() {
            if let Resource::Route(table) = resource {
                routes.insert(table.authority.to_string(), Arc::new(self.route(mesh, held, table, &snapshot.others)));
            }
        }
        self.chosen_before = std::mem::take(&mut self.chosen);
        for (subscription, standing) in &held.subscriptions {
            self.answer(mesh, held, &mut snapshot, (&routes, subscription, standing));
        }
        self.forget(mesh, now);
        let services = self.upstreams.values().filter_map(|u| Some((Whole::Service, u.scope.clone()?)));
        snapshot.scopes = services.chain(self.scopes.values().map(|scope| (Whole::Route, scope.clone()))).collect();
        snapshot.upstreams = self.upstreams.iter().map(|(key, upstream)| (key.0, upstream.clone())).collect();
        snapshot
    }

    /// The services that some policy falls back to.
    fn others(&self, held: &Held) -> Others {
        let policies = held.resources.values().filter_map(|stored| match &stored.resource {
            Resource::Policy(policy) => Some(policy),
            _ => None,
        });
        let named = policies.flat_map(|policy| &policy.fallback).filter_map(|fallback| match fallback {
            Fallback::Service(name) => Some(name),
            _ => None,
        });
        let found = named.filter_map(|name| Some((name.clone(), self.upstreams.get(&outbound_key(name))?.clone())));
        let found: HashMap<_, _> = found.collect();
        (!found.is_empty()).then(|| Arc::new(found))
    }

    fn answer(
        &mut self,
        mesh: &Mesh,
        held: &Held,
        snapshot: &mut Snapshot,
        (routes, subscription, standing): (&HashMap<String, Arc<Route>>, &Subscription, &Standing),
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
                // a virtual address has a service's routes; an instance's own is its service
                let is_virtual = matches!(answer, Answer::Found(key) if key.kind == Kind::Route);
                let table = name.filter(|_| is_virtual).and_then(|name| routes.get(name).cloned());
                let upstream = if is_virtual { None } else { upstream() };
                let upstream = upstream.map(|whole| self.at(mesh, held, whole, *address));
                let to = |u: Arc<Upstream>| {
                    let series = self.series.route(&mesh.metrics, u.name.as_str());
                    Arc::new(Route::to(u, series, snapshot.others.clone()))
                };
                let route = table.or_else(|| upstream.map(to));
                snapshot.addresses.insert(*address, Arc::new(Known::new(route, used)));
            }
        }
    }

    /// What a call to `address`, an instance's own, is for.
    fn at(&mut self, mesh: &Mesh, held: &Held, whole: Arc<Upstream>, address: SocketAddr) -> Arc<Upstream> {
        let settings = held.get(Kind::Service, whole.name.as_str()).map(|stored| &stored.resource);
        if !matches!(settings, Some(Resource::Service(settings)) if settings.direct) {
            return whole;
        }
        let before = self.chosen_before.remove(&address).filter(|(of, _)| Arc::ptr_eq(of, &whole));
        let one = match before {
            Some((_, one)) => one,
            None => Arc::new(self.only(mesh, held, &whole, address)),
        };
        for member in one.set.members() {
            self.keep(&outbound_key(&whole.name), &member.key);
        }
        self.chosen.insert(address, (whole, one.clone()));
        one
    }

    /// The instance at `address` alone; also one that is down, or that this sidecar's subset has not, for who chose it.
    fn only(&mut self, mesh: &Mesh, held: &Held, whole: &Upstream, address: SocketAddr) -> Upstream {
        let mut one = whole.clone();
        one.only = whole.set.members().position(|member| member.key.address == address);
        if one.only.is_none() {
            let endpoints = held.endpoints(whole.name.as_str());
            let found = endpoints.and_then(|(all, _)| all.instances.iter().find(|one| one.address == address));
            let slot = found.map(|endpoint| {
                let (of, key, zone) = (outbound_key(&whole.name), instance_key(endpoint), endpoint.zone.as_deref());
                let member = self.instance(mesh, &of, key, zone, mesh.clock.now());
                Slot { member, config: Arc::new(whole.policy.breaker.clone()), weight: 1, prober: Prober::Request }
            });
            (one.set, one.resting) = (Arc::new(whole.set.rebuilt(slot.into_iter().collect())), Vec::new());
        }
        one
    }

    fn route(&mut self, mesh: &Mesh, held: &Held, table: &RouteTable, others: &Others) -> Route {
        let rules = table.rules.iter().map(|rule| {
            let found = |service: &ServiceName| self.upstreams.get(&outbound_key(service)).cloned();
            let upstreams: Vec<_> = rule.backends.iter().map(|b| b.service.as_ref().and_then(found)).collect();
            let mirrors = rule.mirrors().iter().filter_map(|mirror| {
                Some(Mirror { upstream: found(&mirror.service)?, share: mirror.share.millionths() })
            });
            let filters = Filters::of(rule, mirrors.collect());
            let policy = rule.policy.as_ref().and_then(|name| policy(held, name));
            let first = upstreams.iter().flatten().next();
            let settings = policy.as_ref().or_else(|| first.map(|upstream| &upstream.policy)).cloned();
            let scope = settings.filter(|p| p.scope == Scope::Route).map(|p| self.rule_scope(mesh, &rule.name, &p));
            let metrics = self.series.route(&mesh.metrics, &rule.name);
            RouteRule { metrics, upstreams, filters, policy, scope, rule: rule.clone() }
        });
        let rules = rules.collect();
        Route::of(table, rules, others.clone(), |name| self.upstreams.get(&outbound_key(name)).cloned())
    }

    /// One for each rule's name, in whichever authorities' tables it stands.
    fn rule_scope(&mut self, mesh: &Mesh, rule: &str, policy: &Policy) -> Arc<ServiceScope> {
        let before = self.scopes.get(rule).or_else(|| self.scopes_before.get(rule)).cloned();
        let scope = self.scope(before.as_ref(), rule, policy, mesh.clock.now());
        self.scopes.insert(rule.to_owned(), scope.clone());
        scope
    }

    fn scope(&self, before: Option<&Arc<ServiceScope>>, name: &str, policy: &Policy, now: Time) -> Arc<ServiceScope> {
        match before {
            Some(before) if *before.config() == policy.service => before.clone(),
            Some(before) => before.reconfigured(policy.service.clone(), now),
            None => {
                let seed = self.seed ^ balance::hash(name.as_bytes()) ^ u64::from(std::process::id());
                ServiceScope::new(name, seed, policy.service.clone())
            }
        }
    }

    fn rules(&self, policy: &Policy) -> SetRules {
        use fusewire_resilience::Policy as Balancer;
        SetRules {
            policy: match policy.balancing.algorithm {
                Algorithm::PeakEwma => Balancer::TwoChoices,
                Algorithm::LeastRequest => Balancer::LeastRequest,
                Algorithm::RoundRobin => Balancer::RoundRobin,
                Algorithm::RingHash(_) => Balancer::RING_HASH,
                Algorithm::Maglev(_) => Balancer::Maglev,
            },
            few: policy.exhausted,
            zone: if policy.balancing.zone == Zoning::Prefer { self.zone } else { 0 },
            subset: (policy.balancing.subset == Subsetting::Tenth).then_some(self.seed),
        }
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
            for member in same.set.members().chain(&same.resting) {
                self.keep(&key, &member.key);
            }
            return same.clone();
        }
        let main = settings.policy.as_ref().and_then(|name| policy(held, name));
        let main = main.unwrap_or_else(|| built_in(&settings.name));
        let subsets: Vec<_> =
            settings.subsets.iter().filter_map(|s| Some((&s.labels, policy(held, &s.policy)?))).collect();
        let endpoints = held.endpoints(settings.name.as_str()).map(|(e, _)| e.instances.clone()).unwrap_or_default();
        // Those that are down rest, while there are others: a check can be wrong, and an empty set helps nobody.
        let all_down = endpoints.iter().all(|endpoint| endpoint.down);
        let mut resting = Vec::new();
        let slots: Vec<Slot<Instance>> = endpoints
            .iter()
            .filter_map(|endpoint| {
                let carries = |labels: &std::collections::BTreeMap<String, String>| {
                    labels.iter().all(|(name, value)| endpoint.labels.get(name) == Some(value))
                };
                let policy = subsets.iter().find(|(labels, _)| carries(labels)).map_or(&main, |(_, policy)| policy);
                // also for one that rests: it keeps its breaker, its load estimate and its connections
                let member = self.instance(mesh, &key, instance_key(endpoint), endpoint.zone.as_deref(), now);
                if endpoint.down && !all_down {
                    resting.push(member);
                    return None;
                }
                // in clear only where the service's own policy allows it; a route's allows its requests, not our questions
                let reachable = endpoint.sidecar.is_some() || main.plain.instances(settings.plain) == Plain::Allow;
                let by_check = policy.probe == Probe::Check && settings.health.is_some() && reachable;
                Some(Slot {
                    member,
                    config: Arc::new(policy.breaker.clone()),
                    weight: endpoint.weight,
                    prober: if by_check { Prober::Owner } else { Prober::Request },
                })
            })
            .collect();
        let rules = self.rules(&main);
        let set = match previous {
            Some(previous) => previous.set.rebuilt_with(slots, rules),
            None => InstanceSet::with_rules(slots, rules),
        };
        let before = previous.and_then(|previous| previous.scope.as_ref());
        let by_service = main.scope == Scope::Service;
        let scope = by_service.then(|| self.scope(before, settings.name.as_str(), &main, now));
        let upstream = Upstream {
            name: settings.name.clone(),
            protocol: settings.protocol,
            ledger: self.ledger(&settings.name, &main, now),
            policy: main,
            set: Arc::new(set),
            only: None,
            scope,
            metrics: self.series.service(&mesh.metrics, key.0, &key.1),
            bounds: self.bounds(mesh, &key),
            health: settings.health.clone(),
            plain: settings.plain,
            resting,
            all_down: all_down && !endpoints.is_empty(),
            fingerprint,
        };
        self.hold(held, &upstream, now);
        Arc::new(upstream)
    }

    fn ledger(&mut self, service: &ServiceName, policy: &Policy, now: Time) -> Ledger {
        let config = &policy.retry.budget;
        let ledger = match self.ledgers.get(service) {
            Some(before) => before.under(config, now),
            None => Ledger::new(config, now),
        };
        self.ledgers.insert(service.clone(), ledger.clone());
        ledger
    }

    /// Puts the configuration's overrides in force, and takes back those that are gone. One that an operator set by the
    /// admin socket stays, unless the configuration now says something about that instance.
    fn hold(&mut self, held: &Held, upstream: &Upstream, now: Time) {
        let wanted = match held.get(Kind::Override, upstream.name.as_str()) {
            Some(Stored { resource: Resource::Override(o), .. }) => o.overrides.clone(),
            _ => Vec::new(),
        };
        let before = self.overrides.insert(upstream.name.clone(), wanted.clone()).unwrap_or_default();
        // one may be back that was away when its override was taken out
        let left = |member: &Arc<Instance>| member.node().held().is_some() && member.held_by_hand().is_none();
        if wanted.is_empty() && before.is_empty() && !upstream.set.members().any(left) {
            return;
        }
        if wanted.is_empty() && !upstream.resting.is_empty() {
            // those that rest are let go of when they are back
            self.overrides.insert(upstream.name.clone(), before);
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
            let same = same_hold(member.node().held().as_ref(), to.as_ref());
            if same || (to.is_none() && member.held_by_hand().is_some()) {
                continue;
            }
            member.will_be_held(Holder::Configuration);
            upstream.set.set_override(index, to, now);
        }
    }

    /// The application's ports: each a service of one plain instance, whose failures are the caller's breaker's business.
    fn inbound(
        &mut self,
        mesh: &Mesh,
        held: &Held,
        (inbound, hash): (&Inbound, &str),
        before: &HashMap<UpstreamKey, Arc<Upstream>>,
        now: Time,
    ) -> HashMap<u16, InboundPort> {
        let mut ports = HashMap::new();
        for port in &inbound.ports {
            let key = (Direction::Inbound, port.service.clone(), port.port);
            let app = InstanceKey { id: "app".into(), address: SocketAddr::new(self.app, port.port), sidecar: None };
            let member = self.instance(mesh, &key, app, None, now);
            let of_service = port.policy.as_ref().and_then(|name| held.get(Kind::Policy, name.as_str()));
            let fingerprint = format!("{hash}:{}:{}", port.port, of_service.map_or("-", |stored| &stored.hash));
            let upstream = match before.get(&key).filter(|u| u.fingerprint == fingerprint) {
                Some(same) => same.clone(),
                None => {
                    let mut policy = Policy::clone(&built_in(&port.service));
                    policy.breaker.mode = Mode::Disabled;
                    // who calls decides whether to try again
                    policy.retry.policy.attempts = 1;
                    if let Some(Stored { resource: Resource::Policy(of_service), .. }) = of_service {
                        policy.limits = of_service.limits.clone();
                        policy.plain = of_service.plain; // who comes in clear, where that is taken at all
                    }
                    let config = Arc::new(policy.breaker.clone());
                    let bounds = self.bounds(mesh, &key);
                    if let Some(gate) = &bounds.gate {
                        gate.configure(&policy.limits.inbound.concurrency);
                    }
                    Arc::new(Upstream {
                        name: port.service.clone(),
                        protocol: port.protocol,
                        ledger: Ledger::new(&policy.retry.budget, now),
                        policy: Arc::new(policy),
                        set: Arc::new(InstanceSet::new(vec![Slot {
                            member,
                            config,
                            weight: 1,
                            prober: Prober::Request,
                        }])),
                        only: None,
                        scope: None,
                        metrics: self.series.service(&mesh.metrics, key.0, &key.1),
                        bounds,
                        health: None,
                        plain: PlainDefaults { callers: port.plain, instances: Plain::Allow },
                        resting: Vec::new(),
                        all_down: false,
                        fingerprint,
                    })
                }
            };
            self.upstreams.insert(key, upstream.clone());
            let (health, instance) = (port.health.clone(), port.instance.clone());
            ports.insert(port.port, InboundPort { allow: port.allow.clone(), health, instance, upstream });
        }
        ports
    }

    /// One of an upstream that stays as it is.
    fn keep(&mut self, of: &UpstreamKey, key: &InstanceKey) {
        if let Some(kept) = self.instances.get_mut(&(of.clone(), key.clone())) {
            kept.gone = None;
        }
    }

    fn instance(
        &mut self,
        mesh: &Mesh,
        of: &UpstreamKey,
        key: InstanceKey,
        zone: Option<&str>,
        now: Time,
    ) -> Arc<Instance> {
        let bounds = self.bounds(mesh, of);
        let kept = self.instances.entry((of.clone(), key.clone())).or_insert_with(|| {
            let series = (of.0 == Direction::Outbound).then(|| self.series.instance(&mesh.metrics, &of.1, &key.id));
            let noted = mesh.dials_noted().filter(|_| of.0 == Direction::Outbound); // the application's are on loopback
            let instance = Instance::new((key, zone), self.workers, series, bounds.clone(), noted, now);
            let instance = Arc::new(instance);
            bounds.knows(&instance);
            Kept { instance, gone: None }
        });
        kept.gone = None;
        kept.instance.clone()
    }

    /// What is counted against a service's limits is kept for as long as anybody may count.
    fn bounds(&mut self, mesh: &Mesh, of: &UpstreamKey) -> Arc<Bounds> {
        let made = || Arc::new(Bounds::new(of.0, mesh.clock, self.secret.clone()));
        self.bounds.entry(of.clone()).or_insert_with(made).clone()
    }

    /// Lets go of instances that left a minute ago, with their connections, and of the series of services that are gone.
    pub(crate) fn forget(&mut self, mesh: &Mesh, now: Time) {
        self.instances.retain(|_, kept| {
            let Some(gone) = kept.gone else { return true };
            kept.instance.tidy(now);
            now.since(gone) < DEPARTED
        });
        self.bounds.retain(|_, bounds| Arc::strong_count(bounds) > 1);
        let upstreams = &self.upstreams;
        self.series.forget(&mesh.metrics, |d, name| upstreams.keys().any(|k| k.0 == d && k.1 == *name));
        self.scopes_before.clear();
        self.chosen_before.clear();
        self.ledgers.retain(|name, _| upstreams.contains_key(&outbound_key(name)));
        self.overrides.retain(|name, _| upstreams.contains_key(&outbound_key(name)));
    }
}

/// Whether an override is in force already. Their ends differ by what the two clocks were cut to.
fn same_hold(a: Option<&fusewire_resilience::Override>, b: Option<&fusewire_resilience::Override>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return a.is_none() && b.is_none() };
    let apart = a.until.zip(b.until).map_or(Duration::ZERO, |(a, b)| a.since(b).max(b.since(a)));
    (a.forced, &a.owner, &a.reason, a.until.is_some()) == (b.forced, &b.owner, &b.reason, b.until.is_some())
        && apart < Duration::from_secs(2)
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
