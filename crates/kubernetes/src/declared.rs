//! What the objects of a cluster mean together, of our kinds and of the Gateway API alike: pure.
//!
//! It decides how both meet: a rule of a route takes the policy that targets it, and its own timeouts and retries go on top of
//! that, or of its first backend's; an object whose newest version is wrong stays in force as it was ([`Declared::good`]); and what
//! was written elsewhere, in files or by the API, counts where an object claims the same. It deliberately knows no API server.
//!
//! Invariant: nothing that is wrong with one object keeps another from being in force.

use crate::crd::{self, Kind, Meta, Object, ObjectId, RouteTarget, Said, Verdict};
use crate::declarations::Snapshot;
use crate::gateway::{self, RouteStatus};
use crate::known::{KnownService, Port, RouteId, RouteKind, ServiceId};
use crate::translate::Setting;
use fusewire_model::policy::Policy;
use fusewire_model::resource::{self, Key};
use fusewire_model::route::{Authority, Route};
use fusewire_model::service::{Allow, Override, Protocol, Service, UnixTime};
use fusewire_model::world::{DEFAULT_POLICY, Mesh};
use fusewire_model::{PolicyName, ServiceName};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// What is in force of all objects, and what is to be said of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declared {
    /// ExternalServices.
    pub services: BTreeMap<ServiceName, Service>,
    pub routes: Vec<Route>,
    /// Those of services have their target; rules of routes name the others.
    pub policies: BTreeMap<PolicyName, Policy>,
    /// Who may call; a service that is not here is open to its mesh.
    pub allow: BTreeMap<ServiceName, Allow>,
    pub overrides: Vec<Override>,
    /// Of each object of our kinds.
    pub objects: BTreeMap<ObjectId, Told>,
    /// Of each route object.
    pub route_statuses: Vec<RouteStatus>,
    /// The newest version without a fault of each object of our kinds.
    good: BTreeMap<ObjectId, Object>,
}

/// What is to be said of an object of our kinds.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// What the verdict is about: an object that is made anew under the same name has another.
    pub uid: String,
    pub generation: i64,
    pub verdict: Verdict,
    /// A hash of all that it was made into: two that have the same mean the same.
    pub made: String,
    /// By any of these a sidecar is one that it concerns.
    pub concerns: BTreeSet<Concern>,
}

/// How an object concerns a sidecar.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Concern {
    /// It holds this resource.
    Holds(Key),
    /// It stands before an instance of this service.
    Serves(ServiceName),
}

/// What objects are understood together with.
pub struct Around<'a> {
    /// Every Service that there is.
    pub known: &'a BTreeMap<ServiceId, KnownService>,
    /// The services that they are in the mesh.
    pub found: &'a BTreeMap<ServiceName, Service>,
    /// What files say, and what was applied to the control plane.
    pub written: &'a Mesh,
    pub now: UnixTime,
}

impl Declared {
    /// Whether nothing of it is in force.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
            && self.routes.is_empty()
            && self.policies.is_empty()
            && self.allow.is_empty()
            && self.overrides.is_empty()
    }

    /// Whether there is no object that something is to be said of.
    pub fn is_silent(&self) -> bool {
        self.objects.is_empty() && self.route_statuses.is_empty()
    }
}

impl Snapshot {
    /// When the next hold ends that has an end, after `now`: then objects mean something else.
    pub fn next_end(&self, now: UnixTime) -> Option<UnixTime> {
        let held = self.ours.iter().filter(|object| object.meta.id.kind == Kind::BreakerOverride);
        let ends = held.filter_map(|object| object.spec["until"].as_str()?.parse::<jiff::Timestamp>().ok());
        ends.filter_map(|end| UnixTime::try_from(end.as_second()).ok()).filter(|end| *end > now).min()
    }

    /// The Services of which an object holds a single instance, by the name of its pod.
    pub fn held_instances(&self) -> BTreeSet<ServiceId> {
        let held = self.ours.iter().filter(|object| object.meta.id.kind == Kind::BreakerOverride);
        let single = held.filter(|object| object.spec["instance"].is_string());
        let of = |object: &Object| {
            Some((object.meta.id.namespace.clone(), object.spec["targetRef"]["name"].as_str()?.to_owned()))
        };
        single.filter_map(of).collect()
    }
}

/// What the objects mean in this cluster. `before`: what objects meant until now.
pub fn declared(setting: &Setting, objects: &Snapshot, around: &Around<'_>, before: &Declared) -> Declared {
    let Around { found, written, now, .. } = *around;
    let services = &*as_written(around.known, written);
    let routes = rule_names(objects);
    let names = WrittenNames::of(written);
    let ours = |objects: &[Object]| {
        crd::translate(&crd::Objects {
            objects,
            services,
            routes: &routes,
            is_taken: &|host| {
                names.has(host) || ServiceName::parse(host.host()).is_ok_and(|name| found.contains_key(&name))
            },
            now,
            trust_domain: &setting.trust_domain,
            cluster_domain: &setting.cluster_domain,
        })
    };
    let mut output = ours(&objects.ours);
    let faulty = faulty(&objects.ours, &output, before);
    if !faulty.is_empty() {
        let instead: Vec<Object> = objects
            .ours
            .iter()
            .map(|object| match faulty.get(&object.meta.id) {
                Some((good, _)) => Object { spec: good.spec.clone(), meta: object.meta.clone() },
                None => object.clone(),
            })
            .collect();
        output = ours(&instead);
        for (id, (good, said)) in &faulty {
            // what is wrong with both is said as it is
            if let Some(verdict) = output.verdicts.get_mut(id).filter(|verdict| verdict.accepted.is_true) {
                let message = format!("{}; generation {} stays in force", said.message, good.meta.generation);
                verdict.accepted = Said { message, ..said.clone() };
            }
        }
    }
    let mut good: BTreeMap<ObjectId, Object> = BTreeMap::new();
    for object in &objects.ours {
        let id = &object.meta.id;
        match faulty.get(id) {
            Some((kept, _)) => drop(good.insert(id.clone(), (*kept).clone())),
            None if output.verdicts.get(id).is_some_and(|verdict| !is_faulty(verdict)) => {
                drop(good.insert(id.clone(), object.clone()));
            }
            None => {}
        }
    }
    yield_to(written, &mut output);
    let in_force = InForce::of(&output, written);
    let gateway = gateway::translate(&gateway::Input {
        http: &objects.http,
        grpc: &objects.grpc,
        grants: &objects.grants,
        services,
        policy: &|service| in_force.policy(service),
        is_routed: &|service| names.routes(service, found),
        rule_policy: &|route, rule| in_force.rule(route, rule),
        cluster_domain: &setting.cluster_domain,
    });
    let metas: BTreeMap<&ObjectId, &Meta> = objects.ours.iter().map(|object| (&object.meta.id, &object.meta)).collect();
    let told = output.verdicts.iter().filter_map(|(id, verdict)| {
        let Meta { uid, generation, .. } = *metas.get(id)?;
        let concerns = concerns(id, verdict, &gateway.policies);
        let made = made(verdict, &concerns, &output, &gateway.policies);
        let (uid, generation, verdict) = (uid.clone(), *generation, verdict.clone());
        Some((id.clone(), Told { uid, generation, verdict, made, concerns }))
    });
    let told = told.collect();
    let policies = output.policies.into_iter().chain(gateway.policies).map(|policy| (policy.name.clone(), policy));
    Declared {
        services: output.services.into_iter().map(|service| (service.name.clone(), service)).collect(),
        routes: output.routes.into_iter().chain(gateway.routes).collect(),
        policies: policies.collect(),
        allow: output.allow,
        overrides: output.overrides,
        objects: told,
        route_statuses: gateway.statuses,
        good,
    }
}

/// What a file says of a port's protocol goes before what Kubernetes says.
fn as_written<'a>(
    known: &'a BTreeMap<ServiceId, KnownService>,
    written: &Mesh,
) -> Cow<'a, BTreeMap<ServiceId, KnownService>> {
    let mut known = Cow::Borrowed(known);
    for service in written.services.values().filter(|service| service.protocol != Protocol::default()) {
        let mut parts = service.name.as_str().split('.');
        let (Some(name), Some(namespace)) = (parts.next(), parts.next()) else { continue };
        let id = (namespace.to_owned(), name.to_owned());
        let Some(of) = known.get(&id) else { continue };
        let number = |port: &&Port| of.name_of(&id, port.number).as_ref() == Some(&service.name);
        let Some(number) = of.ports.iter().find(number).map(|port| port.number) else { continue };
        for port in known.to_mut().get_mut(&id).into_iter().flat_map(|of| &mut of.ports) {
            if port.number == number {
                port.is_opaque = service.protocol == Protocol::Opaque;
            }
        }
    }
    known
}

/// Of each route, the names of those of its rules that have one.
fn rule_names(objects: &Snapshot) -> BTreeMap<RouteId, Vec<String>> {
    let id = |kind, metadata: &gateway::Metadata| RouteId {
        kind,
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
    };
    let http = objects.http.iter().map(|route| (id(RouteKind::Http, &route.metadata), route.rule_names()));
    let grpc = objects.grpc.iter().map(|route| (id(RouteKind::Grpc, &route.metadata), route.rule_names()));
    http.chain(grpc).collect()
}

fn is_faulty(verdict: &Verdict) -> bool {
    verdict.accepted.reason == crd::INVALID
}

/// Objects whose newest version has a fault of its own, while an earlier one had none: that one, and what is said.
fn faulty<'a>(
    objects: &[Object],
    output: &crd::Output,
    before: &'a Declared,
) -> BTreeMap<ObjectId, (&'a Object, Said)> {
    let one = |object: &Object| {
        let id = &object.meta.id;
        let verdict = output.verdicts.get(id).filter(|verdict| is_faulty(verdict))?;
        // one that was made anew under the same name is another
        let good = before.good.get(id).filter(|good| good.meta.uid == object.meta.uid)?;
        Some((id.clone(), (good, verdict.accepted.clone())))
    };
    objects.iter().filter_map(one).collect()
}

/// Takes out what was also written elsewhere, and says so.
fn yield_to(written: &Mesh, output: &mut crd::Output) {
    let own: BTreeSet<&ServiceName> = written
        .policies
        .values()
        .filter_map(|policy| policy.target.as_ref().filter(|target| target.labels.is_empty()))
        .map(|target| &target.service)
        .chain(written.services.values().filter(|service| service.policy.is_some()).map(|service| &service.name))
        .collect();
    let targets = |policy: &Policy| policy.target.as_ref().is_some_and(|target| own.contains(&target.service));
    let named: BTreeSet<PolicyName> = output
        .policies
        .iter()
        .map(|policy| &policy.name)
        .filter(|name| written.policies.contains_key(*name))
        .cloned()
        .collect();
    output.policies.retain(|policy| !targets(policy) && !named.contains(&policy.name));
    output.route_policies.retain(|_, name| !named.contains(name));
    let closed = |name: &ServiceName| written.services.get(name).is_some_and(|s| s.allow != Allow::default());
    output.allow.retain(|name, _| !closed(name));
    let held =
        |one: &Override| written.overrides.iter().any(|w| (&w.service, &w.instance) == (&one.service, &one.instance));
    output.overrides.retain(|one| !held(one));
    for (id, verdict) in &mut output.verdicts {
        if let Some(name) = verdict.policies.iter().find(|name| named.contains(*name)) {
            let message = format!("the control plane's own files, or what was applied to it, have a policy {name}");
            verdict.accepted = Said { is_true: false, reason: "Conflicted", message: message.clone() };
            verdict.conflicted = Some(message);
            output.policies.retain(|policy| !verdict.policies.contains(&policy.name));
            (verdict.services, verdict.routes, verdict.policies) = Default::default();
            continue;
        }
        let is_written = |name: &ServiceName| match id.kind {
            Kind::ResiliencePolicy => own.contains(name),
            Kind::AuthorizationPolicy => closed(name),
            Kind::BreakerOverride => written.overrides.iter().any(|w| w.service == *name),
            Kind::ExternalService => written.services.contains_key(name),
        };
        let lost: Vec<ServiceName> = verdict.services.iter().filter(|name| is_written(name)).cloned().collect();
        let Some(first) = lost.first() else { continue };
        let message = format!("the control plane's own files, or what was applied to it, say so of service {first}");
        if id.kind != Kind::ExternalService {
            verdict.services.retain(|name| !lost.contains(name));
            if verdict.services.is_empty() && verdict.routes.is_empty() && verdict.accepted.is_true {
                verdict.accepted = Said { is_true: false, reason: "Conflicted", message: message.clone() };
            }
        }
        verdict.conflicted.get_or_insert(message);
    }
}

/// How a sidecar is known to be concerned.
fn concerns(id: &ObjectId, verdict: &Verdict, derived: &[Policy]) -> BTreeSet<Concern> {
    let holds = |kind: resource::Kind, name: &str| Concern::Holds(Key { kind, name: name.to_owned() });
    let services = verdict.services.iter();
    match id.kind {
        Kind::ResiliencePolicy => {
            let prefixes: Vec<String> =
                verdict.routes.iter().map(|target| gateway::policy_prefix(&target.route)).collect();
            let copies = derived.iter().map(|policy| policy.name.as_str());
            let copies = copies.filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
            let own = verdict.policies.iter().map(PolicyName::as_str);
            own.chain(copies).map(|name| holds(resource::Kind::Policy, name)).collect()
        }
        Kind::ExternalService => {
            let routes = verdict.hosts.iter().map(|host| holds(resource::Kind::Route, host.as_str()));
            services.map(|name| holds(resource::Kind::Service, name.as_str())).chain(routes).collect()
        }
        Kind::BreakerOverride => services.map(|name| holds(resource::Kind::Override, name.as_str())).collect(),
        Kind::AuthorizationPolicy => services.cloned().map(Concern::Serves).collect(),
    }
}

/// Over what concerns sidecars of an object, and how it says so.
fn made(verdict: &Verdict, concerns: &BTreeSet<Concern>, output: &crd::Output, derived: &[Policy]) -> String {
    let is_its = |policy: &&Policy| {
        let key = Key { kind: resource::Kind::Policy, name: policy.name.to_string() };
        concerns.contains(&Concern::Holds(key))
    };
    let policies: Vec<&Policy> = output.policies.iter().chain(derived).filter(is_its).collect();
    let held: Vec<&Override> = output.overrides.iter().filter(|one| verdict.services.contains(&one.service)).collect();
    let services: Vec<&Service> = output.services.iter().filter(|one| verdict.services.contains(&one.name)).collect();
    let allow: Vec<_> = output.allow.iter().filter(|(name, _)| verdict.services.contains(*name)).collect();
    let hash = Sha256::digest(format!("{verdict:?} {policies:?} {held:?} {services:?} {allow:?}"));
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// By what names callers know what was written.
struct WrittenNames<'a> {
    written: &'a Mesh,
    /// Of services and of routes, without their ports.
    hosts: BTreeSet<Authority>,
    routed: BTreeSet<&'a Authority>,
}

impl<'a> WrittenNames<'a> {
    fn of(written: &'a Mesh) -> Self {
        let routed: BTreeSet<&Authority> = written.routes.iter().flat_map(|route| &route.authorities).collect();
        let own = written.services.values().flat_map(|service| &service.authorities);
        let hosts = own.chain(routed.iter().copied()).map(Authority::without_port).collect();
        Self { written, hosts, routed }
    }

    fn has(&self, host: &Authority) -> bool {
        let name = ServiceName::parse(host.host()).ok();
        self.hosts.contains(&host.without_port()) || name.is_some_and(|name| self.written.services.contains_key(&name))
    }

    /// Whether a route was written for any of the names of a service that was found.
    fn routes(&self, name: &ServiceName, found: &BTreeMap<ServiceName, Service>) -> bool {
        let known = found.get(name).into_iter().flat_map(|service| &service.authorities);
        self.routed.contains(&Authority::of_service(name)) || known.into_iter().any(|known| self.routed.contains(known))
    }
}

/// Which policy is in force for what.
struct InForce<'a> {
    written: &'a Mesh,
    services: BTreeMap<&'a ServiceName, &'a Policy>,
    rules: BTreeMap<&'a RouteTarget, &'a Policy>,
}

impl<'a> InForce<'a> {
    fn of(output: &'a crd::Output, written: &'a Mesh) -> Self {
        let by_name: BTreeMap<&PolicyName, &Policy> = output.policies.iter().map(|p| (&p.name, p)).collect();
        let targeted = output.policies.iter().chain(written.policies.values());
        let whole =
            targeted.filter_map(|policy| Some((policy.target.as_ref().filter(|t| t.labels.is_empty())?, policy)));
        let mut services = BTreeMap::new();
        for (target, policy) in whole {
            services.entry(&target.service).or_insert(policy);
        }
        let rules = output.route_policies.iter();
        let rules = rules.filter_map(|(target, name)| Some((target, *by_name.get(name)?)));
        Self { written, services, rules: rules.collect() }
    }

    /// As the mesh has it: what the service names, else what targets it, else `default`, else built in.
    fn policy(&self, service: &ServiceName) -> Policy {
        let named = self.written.services.get(service).and_then(|service| service.policy.as_ref());
        let named = named.and_then(|name| self.written.policies.get(name));
        let default = || self.written.policies.values().find(|policy| policy.name.as_str() == DEFAULT_POLICY);
        let found = named.or_else(|| self.services.get(service).copied()).or_else(default);
        found.cloned().unwrap_or_else(|| Policy::built_in(PolicyName::from(service)))
    }

    /// A rule's own, else its route's.
    fn rule(&self, route: &RouteId, rule: Option<&str>) -> Option<Policy> {
        let target = |rule: Option<&str>| RouteTarget { route: route.clone(), rule: rule.map(str::to_owned) };
        let own = rule.and_then(|rule| self.rules.get(&target(Some(rule))));
        own.or_else(|| self.rules.get(&target(None))).map(|policy| (*policy).clone())
    }
}
