//! Objects in, and what is in force and said of them.

use super::*;
use crate::known::{KnownService, Port, RouteId, RouteKind};
use fusewire_model::ServiceName;
use fusewire_model::TrustDomain;
use fusewire_model::service::{Allow, Hold};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn object(kind: Kind, name: &str, day: u8, spec: Value) -> Object {
    let document = json!({
        "apiVersion": "fusewire.io/v1alpha1",
        "kind": kind.as_str(),
        "metadata": {"namespace": "shop", "name": name, "generation": 3, "creationTimestamp": format!("2026-11-{day:02}T00:00:00Z")},
        "spec": spec,
    });
    Object::of(&document).unwrap()
}

fn policy(name: &str, day: u8, spec: Value) -> Object {
    object(Kind::ResiliencePolicy, name, day, spec)
}

fn service(name: &str) -> ServiceName {
    ServiceName::parse(name).unwrap()
}

fn translated(objects: &[Object]) -> Output {
    let port = |name: &str, number| Port { name: name.into(), number, is_opaque: false };
    let instances = BTreeMap::from([("web-0".to_owned(), "uid-0".to_owned())]);
    let web = KnownService { ports: vec![port("http", 80), port("admin", 9090)], instances, ..KnownService::default() };
    let cart = KnownService { ports: vec![port("", 80)], ..KnownService::default() };
    let id = |name: &str| ("shop".to_owned(), name.to_owned());
    let services = BTreeMap::from([(id("web"), web), (id("cart"), cart)]);
    let route = RouteId { kind: RouteKind::Http, namespace: "shop".into(), name: "front".into() };
    let routes = BTreeMap::from([(route, vec!["api".to_owned()])]);
    translate(&Objects {
        objects,
        services: &services,
        routes: &routes,
        trust_domain: &TrustDomain::parse("shop.local").unwrap(),
        cluster_domain: "cluster.local",
        is_taken: &|host| host.host() == "written.elsewhere",
        now: 1_790_000_000,
    })
}

fn verdict<'a>(output: &'a Output, of: &Object) -> &'a Verdict {
    &output.verdicts[&of.meta.id]
}

fn web() -> Value {
    json!([{"kind": "Service", "name": "web"}])
}

/// What is in force for each service: its policy's name and its request timeout in milliseconds.
fn in_force(output: &Output) -> Vec<(String, String, u128)> {
    let of = |p: &fusewire_model::policy::Policy| {
        let target = p.target.as_ref().map_or(String::new(), |target| target.service.to_string());
        (target, p.name.to_string(), p.timeout.request.unwrap_or_default().as_millis())
    };
    output.policies.iter().map(of).collect()
}

fn request(ms: u32) -> Value {
    json!({"request": format!("{ms}ms")})
}

#[test]
fn a_policy_is_in_force_for_every_port_of_its_service() {
    let one = policy("slow", 1, json!({"targetRefs": web(), "timeout": request(5)}));
    let output = translated(std::slice::from_ref(&one));
    let wanted = [("web.shop", "slow.shop", 5), ("web.shop.9090", "slow.shop.2", 5)];
    assert_eq!(in_force(&output), wanted.map(|(s, p, t)| (s.into(), p.into(), t)));
    let verdict = verdict(&output, &one);
    assert!(verdict.accepted.is_true && verdict.resolved.is_true && verdict.conflicted.is_none());
    assert_eq!((verdict.targets.as_str(), verdict.services.len()), ("Service/web", 2));
}

#[test]
fn of_several_for_one_target_the_oldest_wins_and_a_port_goes_before_its_service() {
    let young = policy("a", 3, json!({"targetRefs": web(), "timeout": request(1)}));
    let old = policy("b", 2, json!({"targetRefs": web(), "timeout": request(2)}));
    let admin = json!([{"group": "", "kind": "Service", "name": "web", "sectionName": "admin"}]);
    let port = policy("c", 4, json!({"targetRefs": admin, "timeout": request(3)}));
    let output = translated(&[young.clone(), old, port]);
    let wanted = [("web.shop", "b.shop", 2), ("web.shop.9090", "c.shop", 3)];
    assert_eq!(in_force(&output), wanted.map(|(s, p, t)| (s.into(), p.into(), t)));
    let lost = verdict(&output, &young);
    assert_eq!((lost.accepted.is_true, lost.accepted.reason), (false, "Conflicted"));
    let message = "Service/web has the older ResiliencePolicy shop/b";
    assert_eq!((lost.accepted.message.as_str(), lost.conflicted.as_deref()), (message, Some(message)));
}

#[test]
fn a_policy_that_loses_one_target_keeps_the_other() {
    let both = json!([{"kind": "Service", "name": "web"}, {"kind": "Service", "name": "cart"}]);
    let old = policy("old", 1, json!({"targetRefs": web()}));
    let young = policy("young", 2, json!({"targetRefs": both}));
    let output = translated(&[old, young.clone()]);
    let lost = verdict(&output, &young);
    assert!(lost.accepted.is_true && lost.conflicted.is_some());
    assert_eq!(lost.services.iter().map(ServiceName::as_str).collect::<Vec<_>>(), ["cart.shop"]);
}

#[test]
fn a_fault_has_the_path_of_the_field_and_what_to_do_and_displaces_nothing() {
    let bad = policy(
        "bad",
        1,
        json!({"targetRefs": web(), "breaker": {"instance": {"open": {"base": "2m"}, "mincalls": 5}}}),
    );
    let good = policy("good", 2, json!({"targetRefs": web()}));
    let output = translated(&[bad.clone(), good.clone()]);
    let refused = &verdict(&output, &bad).accepted;
    assert_eq!((refused.is_true, refused.reason), (false, "Invalid"));
    assert_eq!(refused.message, "spec.breaker.instance.mincalls: unknown key (did you mean \"min_calls\"?)");
    assert!(verdict(&output, &good).accepted.is_true);
    for (spec, told) in [
        (json!({"targetRefs": []}), "spec.targetRefs: must name at least one target"),
        (
            json!({"targetRefs": [{"kind": "Pod", "name": "a"}]}),
            "spec.targetRefs[0]: kind must be Service | ExternalService",
        ),
        (json!({"targetRefs": [{"kind": "Service", "name": "a"}, {"kind": "HTTPRoute", "name": "a"}]}), "of one kind"),
        (json!({"targetRefs": [{"group": "apps", "kind": "Service", "name": "a"}]}), "group must be \"\" for Service"),
        (json!({"targetRefs": web(), "target": {}}), "spec.target: is for files only"),
        (
            json!({"targetRefs": web(), "breaker": {"instance": {"probe": "check"}}}),
            "spec.targetRefs: policy p.shop probes",
        ),
        (
            json!({"targetRefs": web(), "breaker": {"instance": {"open": {"base": "2m"}}}}),
            "spec.breaker.instance.open.max: ",
        ),
    ] {
        let one = policy("p", 1, spec);
        let output = translated(std::slice::from_ref(&one));
        let refused = &verdict(&output, &one).accepted;
        assert!(refused.reason == "Invalid" && refused.message.contains(told), "{refused:?}");
        assert!(output.policies.is_empty());
    }
}

#[test]
fn what_is_not_there_is_told_and_the_rest_is_in_force() {
    let refs = json!([{"kind": "Service", "name": "web"}, {"kind": "Service", "name": "gone"}]);
    let half = policy("half", 1, json!({"targetRefs": refs, "fallback": [{"type": "service", "service": "cart"}]}));
    let port = json!([{"kind": "Service", "name": "cart", "sectionName": "https"}]);
    let none = policy("none", 1, json!({"targetRefs": port}));
    let cart = json!([{"kind": "Service", "name": "cart"}]);
    let alone = policy("alone", 1, json!({"targetRefs": cart, "fallback": [{"type": "service", "service": "gone"}]}));
    let output = translated(&[half.clone(), none.clone(), alone.clone()]);
    let told = verdict(&output, &half);
    assert!(told.accepted.is_true);
    assert_eq!(
        (told.resolved.reason, told.resolved.message.as_str()),
        ("TargetNotFound", "Service shop/gone does not exist")
    );
    let told = verdict(&output, &none);
    assert_eq!((told.accepted.is_true, told.accepted.reason), (false, "TargetNotFound"));
    assert!(told.resolved.message.contains("has no port named https: its ports have no names"), "{told:?}");
    let told = verdict(&output, &alone);
    assert!(told.accepted.is_true);
    assert_eq!(
        (told.resolved.reason, told.resolved.message.as_str()),
        ("BackendNotFound", "spec.fallback: service gone.shop does not exist")
    );
}

#[test]
fn a_policy_for_a_route_is_named_by_it() {
    let refs = |section: Option<&str>| json!([{"kind": "HTTPRoute", "name": "front", "sectionName": section}]);
    let whole = policy("whole", 1, json!({"targetRefs": refs(None), "timeout": request(7)}));
    let rule = policy("rule", 1, json!({"targetRefs": refs(Some("api"))}));
    let gone = policy("gone", 1, json!({"targetRefs": refs(Some("nope"))}));
    let output = translated(&[whole, rule, gone.clone()]);
    let names = output.route_policies.iter().map(|(to, policy)| (to.rule.clone(), policy.to_string()));
    let wanted = [(None, "whole.shop".to_owned()), (Some("api".to_owned()), "rule.shop".to_owned())];
    assert_eq!(names.collect::<Vec<_>>(), wanted);
    assert!(output.policies.iter().all(|policy| policy.target.is_none()));
    let told = verdict(&output, &gone);
    assert_eq!(told.resolved.message, "HTTPRoute shop/front has no rule named nope");
}

fn external(name: &str, day: u8, spec: Value) -> Object {
    object(Kind::ExternalService, name, day, spec)
}

#[test]
fn an_external_service_is_reachable_by_its_name_and_its_hosts() {
    let dns = json!({"name": "db.example.com", "port": 5432});
    let db = external(
        "db",
        1,
        json!({"protocol": "opaque", "dns": dns, "health": {"tcp": {}}, "hosts": ["db.example.com:5432"]}),
    );
    let late = external("late", 2, json!({"dns": dns, "hosts": ["db.example.com:5432"]}));
    let refs = json!([{"group": "fusewire.io", "kind": "ExternalService", "name": "db"}]);
    let checked =
        policy("p", 1, json!({"targetRefs": refs, "plain": "allow", "breaker": {"instance": {"probe": "check"}}}));
    let output = translated(&[db.clone(), late.clone(), checked]);
    let names: Vec<&str> = output.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["db.shop", "late.shop"]);
    assert_eq!(output.services[0].identity.as_str(), "spiffe://shop.local/db.shop");
    assert_eq!(output.routes.len(), 1);
    assert_eq!(output.routes[0].authorities[0].to_string(), "db.example.com:5432");
    assert_eq!(in_force(&output)[0].0, "db.shop");
    let told = verdict(&output, &late);
    assert!(told.accepted.is_true);
    let wanted = "spec.hosts: ExternalService shop/db is older, and has the host db.example.com:5432";
    assert_eq!(told.conflicted.as_deref(), Some(wanted));
}

#[test]
fn nobody_takes_the_name_of_another_service() {
    let dns = json!({"name": "a.example", "port": 1});
    for host in ["web.shop", "web.shop:80", "web.shop.9090", "web.other.svc.cluster.local", "x.other.svc", "b.shop"] {
        let thief = external("a", 1, json!({"dns": dns, "hosts": [host]}));
        let output = translated(&[thief.clone(), external("b", 2, json!({"dns": dns}))]);
        let told = verdict(&output, &thief);
        assert!(told.accepted.is_true, "it has its own name");
        let wanted = format!("spec.hosts: {host} is the name of another service of this mesh");
        assert_eq!(told.conflicted.as_deref(), Some(wanted.as_str()));
        assert!(output.routes.is_empty() && output.services.len() == 2);
    }
    let named = external("web", 1, json!({"dns": dns}));
    assert_eq!(verdict(&translated(std::slice::from_ref(&named)), &named).accepted.reason, "Conflicted");
    let bad = external("a", 1, json!({"dns": dns, "hosts": ["a b"]}));
    let told = translated(std::slice::from_ref(&bad));
    let told = &verdict(&told, &bad).accepted.message;
    assert!(told.starts_with("spec.hosts[0]: must be host or host:port"), "{told}");
}

fn authorization(name: &str, spec: Value) -> Object {
    object(Kind::AuthorizationPolicy, name, 1, spec)
}

#[test]
fn authorizations_add_up_and_one_with_a_fault_lets_nobody_in() {
    let account = |name: &str| json!({"namespace": "front", "serviceAccount": name});
    let spiffe = json!({"spiffeId": "spiffe://partner.example/orders"});
    let one = authorization("one", json!({"targetRefs": web(), "allow": [account("a"), spiffe]}));
    let two = authorization("two", json!({"targetRefs": web(), "allow": [account("b")]}));
    let bad = authorization(
        "bad",
        json!({"targetRefs": [{"kind": "Service", "name": "cart"}], "allow": [account("a"), {"namespace": "x"}]}),
    );
    let output = translated(&[one, two, bad.clone()]);
    let Allow::Only(list) = &output.allow[&service("web.shop.9090")] else { panic!("a list") };
    let list: Vec<&str> = list.iter().map(|id| id.as_str()).collect();
    let wanted =
        ["spiffe://partner.example/orders", "spiffe://shop.local/ns/front/sa/a", "spiffe://shop.local/ns/front/sa/b"];
    assert_eq!(list, wanted);
    assert_eq!(output.allow[&service("cart.shop")], Allow::Only(Vec::new()));
    let told = &verdict(&output, &bad).accepted;
    assert!(
        !told.is_true && told.message.starts_with("spec.allow[1]: must have namespace and serviceAccount"),
        "{told:?}"
    );
}

#[test]
fn an_override_holds_a_pod_by_its_name_and_the_oldest_holds() {
    let spec = |instance: Option<&str>, breaker: &str| {
        let mut spec = json!({"targetRef": {"kind": "Service", "name": "web"}, "breaker": breaker, "reason": "bad disk", "owner": "ada"});
        if let Some(instance) = instance {
            spec["instance"] = instance.into();
        }
        spec
    };
    let hold = |name: &str, day, spec| object(Kind::BreakerOverride, name, day, spec);
    let old = hold("old", 1, spec(Some("web-0"), "open"));
    let young = hold("young", 2, spec(Some("uid-0"), "closed"));
    let all = hold("all", 3, spec(None, "closed"));
    let gone = hold("gone", 1, spec(Some("web-9"), "open"));
    let mut late = spec(None, "ajar");
    late["until"] = "soon".into();
    let bad = hold("bad", 1, late);
    let output = translated(&[old, young.clone(), all, gone.clone(), bad.clone()]);
    let held: Vec<_> =
        output.overrides.iter().map(|o| (o.service.as_str(), o.instance.as_deref(), o.breaker)).collect();
    let uid = Some("uid-0");
    let wanted = [
        ("web.shop", uid, Hold::Open),
        ("web.shop.9090", uid, Hold::Open),
        ("web.shop", None, Hold::Closed),
        ("web.shop.9090", None, Hold::Closed),
    ];
    assert_eq!(held, wanted);
    assert_eq!(verdict(&output, &young).accepted.reason, "Conflicted");
    assert_eq!(verdict(&output, &gone).resolved.reason, "InstanceNotFound");
    let told = &verdict(&output, &bad).accepted.message;
    assert!(
        told.contains("spec.breaker: must be open | closed") && told.contains("spec.until: must be a time"),
        "{told}"
    );
}

#[test]
fn a_time_of_transition_stays_while_the_status_is_the_same() {
    let one = policy("slow", 1, json!({"targetRefs": web()}));
    let output = translated(std::slice::from_ref(&one));
    let verdict = verdict(&output, &one);
    let sidecars = |enforcing| Some(Sidecars { enforcing, connected: 2 });
    let first = conditions(verdict, sidecars(1), 3, &[], "2026-11-27T10:00:00Z");
    let told: Vec<_> =
        first.iter().map(|c| (c.kind.as_str(), c.status, c.reason.as_str(), c.message.as_str())).collect();
    let wanted = [
        ("Accepted", Truth::True, "Accepted", ""),
        ("ResolvedRefs", Truth::True, "ResolvedRefs", ""),
        ("Enforced", Truth::False, "Pending", "1 of 2 sidecars run with it"),
    ];
    assert_eq!(told, wanted);
    assert_eq!(conditions(verdict, sidecars(1), 3, &first, "2026-11-27T10:00:05Z"), first);
    let then = conditions(verdict, sidecars(2), 4, &first, "2026-11-27T10:00:09Z");
    let times: Vec<&str> = then.iter().map(|c| c.last_transition_time.as_str()).collect();
    assert_eq!(times, ["2026-11-27T10:00:00Z", "2026-11-27T10:00:00Z", "2026-11-27T10:00:09Z"]);
    assert!(then.iter().all(|condition| condition.observed_generation == 4));
    let written = status(verdict, sidecars(2), &then);
    assert_eq!(written["sidecars"], json!({"enforcing": 2, "connected": 2}));
    let read: Vec<Condition> = serde_json::from_value(written["conditions"].clone()).unwrap();
    assert_eq!(read, then);
    assert_eq!(conditions(verdict, None, 3, &[], "t")[2].status, Truth::Unknown);
    let refused =
        Verdict { accepted: Said { is_true: false, reason: "Invalid", message: "x".into() }, ..verdict.clone() };
    let told = conditions(&refused, sidecars(2), 3, &then, "t");
    assert_eq!((told[2].status, told[2].reason.as_str()), (Truth::False, "NotAccepted"));
}

#[test]
fn what_is_not_ours_is_no_object() {
    for document in
        [json!({}), json!({"apiVersion": "v1", "kind": "ExternalService", "metadata": {"name": "a", "namespace": "b"}})]
    {
        assert_eq!(Object::of(&document), None);
    }
}
