//! What a Service is to a mesh.

use crate::objects::{endpoint, of, pod, ready, service, slice};
use fusewire_kubernetes::{Setting, Standing, Translated, translate};
use fusewire_model::TrustDomain;
use fusewire_model::policy::{Plain, PlainDefaults};
use fusewire_model::service::{DnsRecords, Protocol};
use serde_json::{Value, json};

fn setting() -> Setting {
    Setting { trust_domain: TrustDomain::parse("t.example").unwrap(), cluster_domain: "cluster.local".into() }
}

fn translated(service: Value, slices: Vec<Value>, pods: Vec<Value>) -> Vec<Translated> {
    let slices = slices.into_iter().map(of).collect();
    translate(&setting(), of(service), slices, pods.into_iter().map(of).collect(), None)
}

fn web(ports: Value) -> Value {
    service("shop", "web", json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "ports": ports}))
}

fn authorities(one: &Translated) -> Vec<&str> {
    one.service.authorities.iter().map(|authority| authority.as_str()).collect()
}

#[test]
fn the_first_port_has_the_services_name_and_others_add_their_number() {
    let ports = json!([
        {"name": "grpc", "port": 9090}, {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"},
    ]);
    let all = translated(web(ports), vec![], vec![]);
    let names: Vec<&str> = all.iter().map(|one| one.service.name.as_str()).collect();
    assert_eq!(names, ["web.shop", "web.shop.80"]);
    assert_eq!((all[0].service.protocol, all[1].service.protocol), (Protocol::Http2, Protocol::Http));
    assert_eq!(
        authorities(&all[0]),
        ["web.shop.svc.cluster.local:9090", "web.shop.svc:9090", "web.shop:9090"],
        "names without a port mean port 80"
    );
    assert_eq!(
        authorities(&all[1]),
        [
            "web.shop.svc.cluster.local:80",
            "web.shop.svc:80",
            "web.shop:80",
            "web.shop.svc.cluster.local",
            "web.shop.svc",
            "web.shop",
            "web.shop.80"
        ]
    );
    let addresses: Vec<String> = all[1].service.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.96.0.1:80", "[fd00::1]:80"]);
    assert_eq!(all[0].service.plain, PlainDefaults { callers: Plain::Deny, instances: Plain::Allow });
}

#[test]
fn a_pod_with_a_sidecar_is_reached_by_it_and_another_in_clear() {
    let endpoints = json!([endpoint("10.0.0.1", "a", ready()), endpoint("10.0.0.2", "b", ready())]);
    let all = translated(
        web(json!([{"name": "http", "port": 80}])),
        vec![slice("shop", "web-1", "web", endpoints), slice("shop", "other-1", "other", json!([]))],
        vec![pod("shop", "a", "web")],
    );
    let [a, b] = &all[0].endpoints[..] else { panic!("{all:?}") };
    let sidecar = a.instance.sidecar.as_ref().unwrap();
    assert_eq!((a.instance.id.as_str(), a.instance.address.to_string()), ("uid-a", "10.0.0.1:8080".into()));
    assert_eq!(sidecar.identity.as_str(), "spiffe://t.example/ns/shop/sa/web");
    assert_eq!(sidecar.inbound.to_string(), "10.0.0.1:15008");
    assert_eq!((b.instance.sidecar.as_ref(), b.instance.zone.as_deref()), (None, Some("a")));
}

#[test]
fn a_slice_has_no_say_about_pods_of_other_namespaces_or_at_other_addresses() {
    let web = || web(json!([{"name": "http", "port": 80}]));
    let endpoints = |slice: Value, pods: Vec<Value>| translated(web(), vec![slice], pods).remove(0).endpoints;
    let mut elsewhere = endpoint("10.0.0.1", "a", ready());
    elsewhere["targetRef"]["namespace"] = "bank".into();
    assert_eq!(endpoints(slice("shop", "s", "web", json!([elsewhere])), vec![pod("bank", "a", "vault")]), []);
    // by its UID alone
    let named = slice("shop", "s", "web", json!([endpoint("10.0.0.1", "a", ready())]));
    let hidden = endpoints(named, vec![pod("bank", "a", "vault")]);
    assert_eq!((hidden[0].standing, hidden[0].instance.sidecar.as_ref()), (Standing::Unknown, None));
    let moved = slice("shop", "s", "web", json!([endpoint("10.0.0.9", "a", ready())]));
    let hidden = endpoints(moved, vec![pod("shop", "a", "web")]);
    assert_eq!((hidden[0].standing, hidden[0].instance.sidecar.as_ref()), (Standing::Unknown, None));
}

#[test]
fn an_address_without_a_pod_is_the_pod_of_the_namespace_that_has_it() {
    let mut bare = endpoint("10.0.0.1", "a", ready());
    bare.as_object_mut().unwrap().remove("targetRef");
    let web = || web(json!([{"name": "http", "port": 80}]));
    let of = |pod: Value| {
        let slice = slice("shop", "s", "web", json!([bare.clone()]));
        translated(web(), vec![slice], vec![pod]).remove(0).endpoints.remove(0).instance
    };
    let own = of(pod("shop", "a", "web"));
    assert_eq!((own.id.as_str(), own.sidecar.is_some()), ("uid-a", true));
    let another = of(pod("bank", "a", "vault"));
    assert_eq!((another.id.as_str(), another.sidecar.is_some()), ("10.0.0.1:8080", false));
}

#[test]
fn what_ends_and_still_serves_is_offered_only_while_nothing_is_ready() {
    let ends = json!({"ready": false, "serving": true, "terminating": true});
    let ended = json!({"ready": false, "serving": false, "terminating": true});
    let starts = json!({"ready": false, "serving": false, "terminating": false});
    let standings = |endpoints: Value| {
        let web = web(json!([{"name": "http", "port": 80}]));
        let all = translated(web, vec![slice("shop", "web-1", "web", endpoints)], vec![]);
        all[0].endpoints.iter().map(|endpoint| endpoint.standing).collect::<Vec<_>>()
    };
    let (a, b, c) =
        (endpoint("10.0.0.1", "a", ends), endpoint("10.0.0.2", "b", ended), endpoint("10.0.0.3", "c", starts));
    assert_eq!(standings(json!([a, b, c])), [Standing::Last, Standing::Terminating, Standing::NotReady]);
    let d = endpoint("10.0.0.4", "d", json!({}));
    let none = standings(json!([a, b, c, d]));
    assert_eq!(none, [Standing::Terminating, Standing::Terminating, Standing::NotReady, Standing::Ready]);
}

#[test]
fn a_pod_of_two_address_families_is_one_instance_by_the_one_that_the_service_prefers() {
    for (families, wanted) in [(json!(["IPv4", "IPv6"]), "10.0.0.1:8080"), (json!(["IPv6", "IPv4"]), "[fd00::9]:8080")]
    {
        let mut web = web(json!([{"name": "http", "port": 80}]));
        web["spec"]["ipFamilies"] = families;
        let slices = vec![
            slice("shop", "web-4", "web", json!([endpoint("10.0.0.1", "a", ready())])),
            slice("shop", "web-6", "web", json!([endpoint("fd00::9", "a", ready())])),
        ];
        let all = translated(web, slices, vec![]);
        let addresses: Vec<String> = all[0].endpoints.iter().map(|e| e.instance.address.to_string()).collect();
        assert_eq!(addresses, [wanted]);
    }
}

#[test]
fn a_named_pod_of_a_headless_service_is_a_service_of_its_own_too() {
    let mut first = endpoint("10.0.0.1", "web-0", ready());
    first["hostname"] = "web-0".into();
    let headless = service("shop", "web", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 8080}]}));
    let all = translated(headless, vec![slice("shop", "s", "web", json!([first]))], vec![]);
    let names: Vec<&str> = all.iter().map(|one| one.service.name.as_str()).collect();
    assert_eq!(names, ["web-0.web.shop", "web.shop"]);
    assert_eq!(all[0].service.addresses, ["10.0.0.1:8080".parse().unwrap()]);
    assert!(authorities(&all[0]).contains(&"web-0.web.shop.svc.cluster.local"), "{:?}", authorities(&all[0]));
    assert_eq!((all[1].service.addresses.len(), all[1].endpoints.len()), (0, 1));
}

/// `HOST.SERVICE.NAMESPACE` in a namespace called as a port, or `svc`, could be a Service's of another one.
#[test]
fn no_pod_can_take_a_name_or_an_authority_of_a_service_of_another_namespace() {
    let of_pod = |namespace: &str| {
        let mut first = endpoint("10.0.0.1", "a", ready());
        first["hostname"] = "web".into();
        let headless =
            service(namespace, "shop", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}));
        translated(headless, vec![slice(namespace, "s", "shop", json!([first]))], vec![]).remove(0)
    };
    let ports = json!([{"name": "http", "port": 80}, {"name": "grpc", "port": 9090}]);
    let services = translated(web(ports), vec![], vec![]);
    for (namespace, own) in [("9090", "web.shop.9090.80"), ("svc", "web.shop.svc.80"), ("09090", "web.shop.09090")] {
        let pod = of_pod(namespace);
        assert_eq!(pod.service.name.as_str(), own);
        assert!(authorities(&pod).contains(&format!("web.shop.{namespace}.svc").as_str()), "{:?}", authorities(&pod));
        for service in &services {
            assert_ne!(service.service.name, pod.service.name);
            let shared = authorities(service).into_iter().find(|authority| authorities(&pod).contains(authority));
            assert_eq!(shared, None, "{namespace}");
        }
    }
}

#[test]
fn a_slice_cannot_give_a_pod_that_has_a_name_the_address_of_somebody_else() {
    let addresses = |endpoint: Value, pods: Vec<Value>| {
        let headless = service("evil", "db", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 8080}]}));
        translated(headless, vec![slice("evil", "s", "db", json!([endpoint]))], pods).remove(0).service.addresses
    };
    let mut claimed = endpoint("10.96.0.1", "a", ready());
    claimed["hostname"] = "aaa".into();
    assert_eq!(addresses(claimed.clone(), vec![pod("evil", "a", "web")]), [], "the pod is at 10.0.0.1");
    claimed.as_object_mut().unwrap().remove("targetRef");
    assert_eq!(addresses(claimed.clone(), vec![]), []);
    claimed["addresses"] = json!(["10.0.0.1"]);
    assert_eq!(addresses(claimed, vec![pod("evil", "a", "web")]), ["10.0.0.1:8080".parse().unwrap()]);
}

#[test]
fn an_external_name_is_asked_of_dns() {
    let spec = json!({"type": "ExternalName", "externalName": "DB.example.com.", "ports": [{"port": 5432, "name": "postgres"}]});
    let all = translated(service("shop", "db", spec), vec![], vec![]);
    let dns = all[0].service.dns.as_ref().unwrap();
    assert_eq!((dns.name.as_str(), dns.records), ("db.example.com", DnsRecords::Address { port: 5432 }));
    assert_eq!(all[0].service.protocol, Protocol::Opaque);
    // without a port nothing says what is called
    let bare = service("shop", "db", json!({"type": "ExternalName", "externalName": "db.example.com"}));
    assert_eq!(translated(bare, vec![], vec![]), []);
}

#[test]
fn annotations_say_what_is_plain_and_opaque_on_the_service_before_the_namespace() {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "shop", "annotations": {"fusewire.io/plain": "allow", "fusewire.io/opaque-ports": "25, 110"}},
    });
    let ports = json!([{"name": "http", "port": 80}, {"name": "mail", "port": 25}]);
    let both = |annotations: Value| {
        let mut web = web(ports.clone());
        web["metadata"]["annotations"] = annotations;
        translate(&setting(), of(web), vec![], vec![], Some(of(namespace.clone())))
    };
    let all = both(json!({}));
    assert_eq!(all[0].service.plain, PlainDefaults { callers: Plain::Allow, instances: Plain::Allow });
    assert_eq!((all[0].service.protocol, all[1].service.protocol), (Protocol::Http, Protocol::Opaque));
    let denied = both(json!({"fusewire.io/plain": "deny"}));
    assert_eq!(denied[0].service.plain, PlainDefaults::default());
}
