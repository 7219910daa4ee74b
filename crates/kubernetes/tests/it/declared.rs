//! What is declared in a cluster: read from its API server, understood together, and answered in statuses.

use crate::objects::service;
use crate::{cluster, until};
use fusewire_kubernetes::crd::{ObjectId, Sidecars};
use fusewire_kubernetes::{Around, CONTROLLER, Concern, Declared, Discovery, Setting, StatusWriter, declared};
use fusewire_model::TrustDomain;
use fusewire_model::service::{Hold, Protocol};
use fusewire_model::world::Mesh;
use fusewire_model::yaml;
use fusewire_testkit::KubeApi;
use serde_json::{Value, json};
use std::sync::Arc;

struct Bed {
    api: KubeApi,
    discovery: Arc<Discovery>,
    written: Mesh,
    now: Declared,
    writer: StatusWriter,
}

/// What is declared now.
fn look(discovery: &Discovery, written: &Mesh, before: &Declared) -> Declared {
    let objects = discovery.declarations().now();
    let known = discovery.known(&discovery.pods(&objects.held_instances()));
    let around = Around { known: &known, found: &discovery.services(), written, now: 1_790_000_000 };
    declared(discovery.setting(), &objects, &around, before)
}

impl Bed {
    /// With the Services `web` and `cart` in `shop`.
    async fn new(written: &str) -> Self {
        let api = KubeApi::start();
        for (name, ip) in [("web", "10.96.0.1"), ("cart", "10.96.0.2")] {
            api.put(service("shop", name, json!({"clusterIP": ip, "ports": [{"name": "http", "port": 80}]})));
        }
        let discovery = Arc::new(Discovery::new(cluster(&api).await, setting(), |_| {}));
        let running = discovery.clone();
        tokio::spawn(async move { running.run().await });
        tokio::time::timeout(std::time::Duration::from_secs(30), discovery.settled()).await.unwrap();
        let source = yaml::Source { name: "mesh.yaml".into(), text: written.into() };
        let written = yaml::parse(&[source]).unwrap().mesh;
        Self { api, discovery, written, now: Declared::default(), writer: StatusWriter::default() }
    }

    /// Takes in what there is, once it is `wanted`.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Declared) -> bool) {
        let (discovery, written, before) = (self.discovery.clone(), self.written.clone(), self.now.clone());
        self.now = until(what, || {
            let now = look(&discovery, &written, &before);
            wanted(&now).then_some(now)
        })
        .await;
    }

    async fn write(&mut self, sidecars: Sidecars) {
        let at = "2026-11-26T12:00:00Z".parse().unwrap();
        self.writer.write(self.discovery.declarations(), &self.now, |_| Some(sidecars), at).await.unwrap();
    }

    fn writes(&self) -> usize {
        self.api.requests().iter().filter(|asked| asked.contains("/status")).count()
    }

    fn status(&self, resource: &str, name: &str) -> Value {
        self.api.get(resource, "shop", name).unwrap()["status"].clone()
    }
}

fn setting() -> Setting {
    Setting { trust_domain: TrustDomain::default(), cluster_domain: "cluster.local".into() }
}

fn ours(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "fusewire.io/v1alpha1", "kind": kind, "metadata": {"namespace": "shop", "name": name}, "spec": spec,
    })
}

fn policy(name: &str, target: Value, request: &str) -> Value {
    ours("ResiliencePolicy", name, json!({"targetRefs": [target], "timeout": {"request": request}}))
}

fn web() -> Value {
    json!({"kind": "Service", "name": "web"})
}

fn route(name: &str, parents: Value, rules: Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"namespace": "shop", "name": name}, "spec": {"parentRefs": parents, "rules": rules},
    })
}

fn to_web() -> Value {
    json!([{"group": "", "kind": "Service", "name": "web", "port": 80}])
}

fn to_cart() -> Value {
    json!([{"name": "cart", "port": 80}])
}

const POLICIES: &str = "fusewire.io/v1alpha1/resiliencepolicies";
const ROUTES: &str = "gateway.networking.k8s.io/v1/httproutes";

fn requests(declared: &Declared) -> Vec<(String, u128)> {
    let all = declared.policies.values();
    all.map(|p| (p.name.to_string(), p.timeout.request.unwrap_or_default().as_millis())).collect()
}

fn condition(status: &Value, kind: &str) -> (String, String) {
    let all = status["conditions"].as_array().unwrap();
    let one = all.iter().find(|one| one["type"] == kind).unwrap();
    (one["status"].as_str().unwrap().into(), one["message"].as_str().unwrap().into())
}

#[tokio::test]
async fn a_rule_takes_the_policy_that_targets_it_and_its_own_timeouts_go_on_top() {
    let mut bed = Bed::new("").await;
    let rules = json!([
        {"name": "quick", "matches": [{"path": {"value": "/quick"}}], "backendRefs": to_cart(), "timeouts": {"request": "1s"}},
        {"name": "any", "backendRefs": to_cart()},
    ]);
    bed.api.put(route("front", to_web(), rules));
    bed.api.put(ours(
        "ResiliencePolicy",
        "front",
        json!({
            "targetRefs": [{"kind": "HTTPRoute", "name": "front"}],
            "timeout": {"request": "7s", "idle": "9s"},
        }),
    ));
    bed.until("all is there", |now| now.policies.len() == 2 && now.routes.len() == 1).await;
    let now = &bed.now;
    assert_eq!(requests(now), [("front.shop".into(), 7_000), ("front.shop.httproute.0".into(), 1_000)]);
    let copy = now.policies.values().nth(1).unwrap();
    assert_eq!(copy.timeout.idle.unwrap().as_secs(), 9, "the rest is the policy's");
    let of = |rule: usize| now.routes[0].rules[rule].policy.as_ref().unwrap().to_string();
    assert_eq!((of(0), of(1)), ("front.shop.httproute.0".into(), "front.shop".into()));
    let names = now.objects.values().flat_map(|told| &told.concerns).map(|concern| match concern {
        Concern::Holds(key) => key.name.as_str(),
        Concern::Serves(service) => service.as_str(),
    });
    assert_eq!(names.collect::<Vec<_>>(), ["front.shop", "front.shop.httproute.0"]);
}

#[tokio::test]
async fn a_new_version_with_a_fault_leaves_the_last_good_one_in_force_and_says_so() {
    let mut bed = Bed::new("").await;
    bed.api.put(policy("web", web(), "2s"));
    bed.until("it is in force", |now| requests(now) == [("web.shop".into(), 2_000)]).await;
    bed.write(Sidecars::default()).await;
    bed.api.put(policy("web", web(), "soon"));
    let faulty = |now: &Declared| now.objects.values().any(|told| !told.verdict.accepted.is_true);
    bed.until("the fault is seen", faulty).await;
    assert_eq!(requests(&bed.now), [("web.shop".into(), 2_000)]);
    bed.write(Sidecars::default()).await;
    let (accepted, message) = condition(&bed.status(POLICIES, "web"), "Accepted");
    assert!(accepted == "False" && message.contains("spec.timeout.request"), "{message}");
    assert!(message.ends_with("generation 1 stays in force"), "{message}");
    // one that never was good, under the same name as one that was
    bed.api.remove(POLICIES, "shop", "web");
    bed.until("it is gone", |now| now.objects.is_empty()).await;
    bed.api.put(policy("web", web(), "soon"));
    bed.until("the fault is seen", faulty).await;
    assert!(bed.now.policies.is_empty(), "{:?}", requests(&bed.now));
    bed.api.put(policy("web", web(), "3s"));
    bed.until("it is mended", |now| requests(now) == [("web.shop".into(), 3_000)]).await;
}

#[tokio::test]
async fn what_a_file_says_goes_before_what_an_object_declares_and_the_object_says_so() {
    let file = "services: {web.shop: {allow: []}, cart.shop: }\n\
                policies: {mine: {target: {service: web.shop}, timeout: {request: 1s}}}\n\
                overrides: [{service: cart.shop, breaker: closed, owner: ada, reason: r}]";
    let mut bed = Bed::new(file).await;
    bed.api.put(policy("web", web(), "2s"));
    bed.api.put(ours("AuthorizationPolicy", "web", json!({"targetRefs": [web()], "allow": []})));
    let hold =
        json!({"targetRef": {"kind": "Service", "name": "cart"}, "breaker": "open", "owner": "o", "reason": "r"});
    bed.api.put(ours("BreakerOverride", "cart", hold));
    bed.until("all are there", |now| now.objects.len() == 3).await;
    let now = &bed.now;
    assert!(now.policies.is_empty() && now.allow.is_empty() && now.overrides.is_empty(), "{now:?}");
    for (id, told) in &now.objects {
        let accepted = &told.verdict.accepted;
        assert!(!accepted.is_true && accepted.reason == "Conflicted", "{id}: {accepted:?}");
    }
}

#[tokio::test]
async fn a_pod_is_held_by_its_name_once_it_is_there() {
    let mut bed = Bed::new("").await;
    let target = json!({"kind": "Service", "name": "web"});
    let hold = json!({"targetRef": target, "instance": "web-0", "breaker": "open", "owner": "o", "reason": "r"});
    bed.api.put(ours("BreakerOverride", "web-0", hold));
    let says = |now: &Declared| now.objects.values().map(|told| told.verdict.resolved.reason).next();
    bed.until("it is not there", |now| says(now) == Some("InstanceNotFound")).await;
    bed.api.put(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "web-0", "uid": "u-0"}}],
    }));
    bed.until("it is held", |now| now.overrides.len() == 1).await;
    let one = &bed.now.overrides[0];
    assert_eq!((one.instance.as_deref(), one.breaker), (Some("u-0"), Hold::Open));
}

#[tokio::test]
async fn statuses_are_written_when_they_are_other_and_leave_those_of_others_alone() {
    let mut bed = Bed::new("").await;
    bed.api.put(policy("web", web(), "2s"));
    let mut front = route("front", to_web(), json!([{"backendRefs": to_cart()}]));
    let foreign = json!({"parentRef": {"name": "edge"}, "controllerName": "other.example/gateway", "conditions": []});
    front["status"] = json!({"parents": [foreign.clone()]});
    bed.api.put(front.clone());
    bed.until("both are there", |now| now.objects.len() == 1 && now.route_statuses.len() == 1).await;
    let mut told = bed.discovery.declarations().changed();
    told.mark_unchanged();
    bed.write(Sidecars { enforcing: 1, connected: 2 }).await;
    let status = bed.status(POLICIES, "web");
    assert_eq!(condition(&status, "Accepted").0, "True");
    assert_eq!(condition(&status, "Enforced"), ("False".into(), "1 of 2 sidecars run with it".into()));
    assert_eq!((&status["targets"], &status["sidecars"]["connected"]), (&json!("Service/web"), &json!(2)));
    let parents = bed.status(ROUTES, "front")["parents"].clone();
    assert_eq!((&parents[0], &parents[1]["controllerName"]), (&foreign, &json!(CONTROLLER)));
    assert_eq!(parents[1]["conditions"][0]["status"], "True");

    // once the watch has told, and before
    let steady = bed.writes();
    bed.write(Sidecars { enforcing: 1, connected: 2 }).await;
    until("the watch has told", || told.has_changed().unwrap().then_some(())).await;
    bed.write(Sidecars { enforcing: 1, connected: 2 }).await;
    assert_eq!(bed.writes(), steady, "it is there already");

    // conditions of others stay, and one that is ours no more goes
    let mut object = bed.api.get(POLICIES, "shop", "web").unwrap();
    let theirs = json!({"type": "Reviewed", "status": "True", "reason": "Yes", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    object["status"]["conditions"].as_array_mut().unwrap().push(theirs);
    object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    bed.api.put(object);
    bed.api.put(policy("earlier", web(), "1s"));
    bed.until("another has the target", |now| now.objects.values().any(|told| told.verdict.conflicted.is_some())).await;
    bed.write(Sidecars { enforcing: 2, connected: 2 }).await;
    let status = bed.status(POLICIES, "web");
    assert_eq!((condition(&status, "Reviewed").0, condition(&status, "Conflicted").0), ("True".into(), "True".into()));
    bed.api.remove(POLICIES, "shop", "earlier");
    bed.until("it has the target again", |now| now.objects.values().all(|told| told.verdict.conflicted.is_none()))
        .await;
    bed.write(Sidecars { enforcing: 2, connected: 2 }).await;
    let status = bed.status(POLICIES, "web");
    assert_eq!((condition(&status, "Reviewed").0, condition(&status, "Enforced").0), ("True".into(), "True".into()));
    assert_eq!(status["conditions"].as_array().unwrap().len(), 4, "{status}");

    // a route whose parent is no Service any more is somebody else's
    let mut elsewhere = bed.api.get(ROUTES, "shop", "front").unwrap();
    elsewhere["spec"]["parentRefs"] = json!([{"name": "edge"}]);
    bed.api.put(elsewhere);
    bed.until("it has no Service", |now| now.route_statuses.is_empty()).await;
    bed.write(Sidecars { enforcing: 2, connected: 2 }).await;
    assert_eq!(bed.status(ROUTES, "front")["parents"], json!([foreign]));
}

#[tokio::test]
async fn a_kind_that_is_not_installed_has_no_objects_until_it_is() {
    let api = KubeApi::start();
    api.hide(&["GET /apis/gateway.networking.k8s.io/v1/httproutes"]);
    let discovery = Arc::new(Discovery::new(cluster(&api).await, setting(), |_| {}));
    let running = discovery.clone();
    tokio::spawn(async move { running.run().await });
    tokio::time::timeout(std::time::Duration::from_secs(30), discovery.settled()).await.unwrap();
    until("it is no failure", || discovery.age().failing.is_none().then_some(())).await;
    let nothing = Mesh::empty(TrustDomain::default());
    let routes = || look(&discovery, &nothing, &Declared::default()).route_statuses.len();
    api.put(route("front", to_web(), json!([])));
    api.hide(&[]);
    until("it is found", || (routes() == 1).then_some(())).await;
    // what was there does not go because a server that has only just begun does not know its kind, but once that stays so
    api.hide(&["GET /apis/gateway.networking.k8s.io/v1/httproutes"]);
    api.cut();
    until("it is said", || discovery.age().failing).await;
    assert_eq!(routes(), 1);
    until("it is gone", || (routes() == 0).then_some(())).await;
    until("which is no failure", || discovery.age().failing.is_none().then_some(())).await;
}

#[tokio::test]
async fn nobody_takes_a_name_that_is_anothers() {
    let mut bed = Bed::new("services: {billing: , eu.billing.example: {authorities: [\"pay.example:443\"]}}").await;
    let external = |hosts: Value| {
        ours("ExternalService", "mine", json!({"hosts": hosts, "instances": [{"address": "203.0.113.1:80"}]}))
    };
    for host in ["billing", "web", "10.96.0.1:80", "[fd00::1]:80"] {
        bed.api.put(external(json!(["good.example", host])));
        let refused = |now: &Declared| now.objects.values().any(|told| told.verdict.accepted.message.contains(host));
        bed.until(&format!("{host} is refused"), refused).await;
        assert!(bed.now.routes.is_empty(), "{host}");
    }
    for host in ["web.shop:80", "web-0.web.shop", "web-0.web", "eu.billing.example", "pay.example:443", "pay.example"] {
        bed.api.put(external(json!(["good.example", host])));
        let lost = |now: &Declared| {
            let mut said = now.objects.values().filter_map(|told| told.verdict.conflicted.as_deref());
            said.any(|said| said.contains(&format!(": {host} is")))
        };
        bed.until(&format!("{host} is another's"), lost).await;
        let left: Vec<&str> = bed.now.routes[0].authorities.iter().map(|host| host.as_str()).collect();
        assert_eq!(left, ["good.example"], "{host}");
    }
    bed.api.put(external(json!(["good.example"])));
    bed.until("a name of nobody else", |now| now.objects.values().all(|told| told.verdict.conflicted.is_none())).await;
    // nor by its port
    let younger = json!({"hosts": ["good.example:8080"], "instances": [{"address": "203.0.113.2:80"}]});
    bed.api.put(ours("ExternalService", "younger", younger));
    bed.until("the older has it for every port", |now| now.objects.len() == 2).await;
    assert_eq!(bed.now.routes.len(), 1);
    // one that somebody else gets later, is theirs
    bed.api.put(service("example", "good", json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]})));
    bed.until("it is lost", |now| now.routes.is_empty()).await;
    assert_eq!(bed.now.services.len(), 2, "what it is called in the mesh stays");
}

#[tokio::test]
async fn a_hold_whose_time_is_over_holds_nothing_and_claims_nothing() {
    let mut bed = Bed::new("").await;
    let hold = |until: &str| {
        let target = json!({"kind": "Service", "name": "web"});
        json!({"targetRef": target, "breaker": "open", "owner": "o", "reason": "r", "until": until})
    };
    bed.api.put(ours("BreakerOverride", "old", hold("2026-01-01T00:00:00Z")));
    bed.api.put(ours("BreakerOverride", "zz-new", hold("2031-01-01T00:00:00Z")));
    bed.until("one of them holds", |now| now.objects.len() == 2 && now.overrides.len() == 1).await;
    let reasons: Vec<&str> = bed.now.objects.values().map(|told| told.verdict.accepted.reason).collect();
    assert_eq!(reasons, ["Expired", "Accepted"]);
    let next = bed.discovery.declarations().now().next_end(1_790_000_000);
    assert_eq!(next, Some(1_924_992_000));
}

#[tokio::test]
async fn one_status_that_is_refused_keeps_no_other_waiting() {
    let mut bed = Bed::new("").await;
    bed.api.put(policy("a", web(), "2s"));
    bed.api.put(policy("b", json!({"kind": "Service", "name": "cart"}), "2s"));
    bed.until("both are there", |now| now.objects.len() == 2).await;
    bed.api.refuse(&["PATCH /apis/fusewire.io/v1alpha1/namespaces/shop/resiliencepolicies/a/status"]);
    bed.write(Sidecars::default()).await;
    assert!(bed.status(POLICIES, "a").is_null());
    assert_eq!(condition(&bed.status(POLICIES, "b"), "Accepted").0, "True");
}

#[tokio::test]
async fn a_route_in_a_file_goes_before_one_of_the_gateway_api_for_the_same_port() {
    let file = "services: {web.shop: , cart.shop: }\nroutes: {mine: {authority: web.shop, to: cart.shop}}";
    let mut bed = Bed::new(file).await;
    bed.api.put(route("front", to_web(), json!([{"backendRefs": to_cart()}])));
    bed.until("it is looked at", |now| now.route_statuses.len() == 1).await;
    assert!(bed.now.routes.is_empty());
    let accepted = &bed.now.route_statuses[0].parents[0].conditions[0];
    assert_eq!((accepted.is_true, accepted.reason), (false, "Conflicted"));
    assert!(accepted.message.contains("own files"), "{}", accepted.message);
}

#[tokio::test]
async fn one_object_is_named_as_people_name_it() {
    let mut bed = Bed::new("").await;
    bed.api.put(policy("web", web(), "2s"));
    bed.until("it is there", |now| now.objects.len() == 1).await;
    let id: &ObjectId = bed.now.objects.keys().next().unwrap();
    assert_eq!(id.to_string(), "ResiliencePolicy shop/web");
}

/// What is routed is what sidecars take for requests, whoever said what a port speaks.
#[tokio::test]
async fn what_a_file_says_of_a_port_counts_for_routes_too() {
    let mut bed = Bed::new("services: {web.shop: {protocol: opaque}, cart.shop: {protocol: http2}}").await;
    bed.api.put(service(
        "shop",
        "cart",
        json!({"clusterIP": "10.96.0.2", "ports": [{"name": "tcp-cart", "port": 80, "protocol": "TCP"}]}),
    ));
    let discovery = bed.discovery.clone();
    let is_bytes = || discovery.services().values().any(|service| service.protocol == Protocol::Opaque).then_some(());
    until("the port is read", is_bytes).await;
    let to = |name: &str| json!([{"group": "", "kind": "Service", "name": name, "port": 80}]);
    bed.api.put(route("of-web", to("web"), json!([{"backendRefs": to_cart()}])));
    bed.api.put(route("of-cart", to("cart"), json!([{"backendRefs": to_cart()}])));
    bed.until("both are read", |now| now.route_statuses.len() == 2).await;
    let said = |name: &str| {
        let status = bed.now.route_statuses.iter().find(|status| status.name == name).unwrap();
        status.parents[0].conditions.iter().map(|c| (c.is_true, c.reason)).collect::<Vec<_>>()
    };
    assert_eq!(said("of-web"), [(false, "NoMatchingParent"), (true, "ResolvedRefs")]);
    assert_eq!(said("of-cart"), [(true, "Accepted"), (true, "ResolvedRefs")]);
}
