use crate::harness::Control;
use crate::wire::{Stream, address, authority, hello, lines, resources, service, version};
use fusewire_api::v1::config_request::Message as Ask;
use fusewire_api::v1::config_response::Message as Told;
use fusewire_api::v1::{self, Kind};
use std::collections::HashMap;
use std::fmt::Write;
use tonic::Code;

const SHOP: &str = "
services:
  shop:
    policy: careful
    instances:
      - {id: a, address: 10.0.0.1:80, sidecar: 10.0.0.1:15006}
      - {id: b, address: 10.0.0.2:80, sidecar: 10.0.0.2:15006}
  cart: {instances: [10.0.1.1:80]}
routes:
  front: {authority: www.shop, rules: [{match: {path: /cart}, to: cart}, {to: shop}]}
policies:
  careful: {}
overrides:
  - {service: shop, breaker: open, owner: me, reason: a drill}
";

/// `count` services of one instance each.
fn services(count: usize, weight: u32) -> String {
    let mut yaml = String::from("services:\n");
    for i in 0..count {
        let (high, low) = (i / 250, i % 250);
        writeln!(yaml, "  s{i}: {{instances: [{{id: x, address: 10.0.{high}.{low}:80, weight: {weight}}}]}}").unwrap();
    }
    yaml
}

#[tokio::test]
async fn each_way_of_asking_is_answered_after_what_it_refers_to() {
    let control = Control::start(SHOP).await;
    let identity = control.joined("web").await;
    let wanted = vec![service("shop"), authority("www.shop"), address("10.0.1.1:80"), service("nothing")];
    let (_stream, told) = Stream::synced(control.address, &identity, hello(wanted)).await;
    assert_eq!(
        lines(&told),
        [
            "trust fusewire.local",
            "policy careful",
            "service cart",
            "service shop",
            "endpoints cart",
            "endpoints shop",
            "override shop",
            "inbound spiffe://fusewire.local/web",
            "route www.shop",
            "answer nothing: not found",
            "answer shop: shop",
            "answer www.shop: www.shop",
            "answer 10.0.1.1:80: cart",
            "synced",
        ]
    );
}

#[tokio::test]
async fn what_is_not_found_is_found_when_it_appears_and_taken_away_when_it_goes() {
    let control = Control::start(SHOP).await;
    let identity = control.joined("web").await;
    let (mut stream, _) = Stream::synced(control.address, &identity, hello(vec![])).await;
    stream.subscribe(service("late")).await;
    assert_eq!(lines(&stream.until_synced().await), ["answer late: not found", "synced"]);
    control.write(&SHOP.replace("services:", "services:\n  late: {instances: [10.0.2.1:80]}"));
    assert_eq!(lines(&stream.until_synced().await), ["service late", "endpoints late", "answer late: late", "synced"]);
    control.write(SHOP);
    assert_eq!(
        lines(&stream.until_synced().await),
        ["answer late: not found", "removed endpoints late", "removed service late", "synced"]
    );
}

#[tokio::test]
async fn endpoints_travel_as_additions_and_removals() {
    let control = Control::start(SHOP).await;
    let identity = control.joined("web").await;
    let (mut stream, told) = Stream::synced(control.address, &identity, hello(vec![service("shop")])).await;
    let base = resources(&told).into_iter().find(|r| matches!(r.body, Some(v1::resource::Body::Endpoints(_)))).unwrap();
    let hash = base.hash.clone();
    let Ok(fusewire_model::resource::Resource::Endpoints(base)) = fusewire_api::resource_from_wire(base) else {
        panic!("no endpoints")
    };
    control.write(&SHOP.replace("{id: b, address: 10.0.0.2:80,", "{id: c, address: 10.0.0.3:80,"));
    let told = stream.until_synced().await;
    assert_eq!(lines(&told), [r#"change shop +["c"] -["b"]"#, "synced"]);
    let Told::EndpointsChange(change) = told[0].clone() else { panic!("no change") };
    let (after, after_hash) = fusewire_api::apply_change(&base, &hash, change.clone()).unwrap();
    let ids: Vec<_> = after.instances.iter().map(|i| i.id.as_str()).collect();
    assert_eq!(ids, ["a", "c"]);

    // the base was lost on the way
    let nack = v1::Nack {
        kind: Kind::Endpoints.into(),
        name: "shop".into(),
        hash: after_hash.clone(),
        send_whole: true,
        ..v1::Nack::default()
    };
    stream.ask(Ask::Nack(nack)).await;
    let told = stream.until_synced().await;
    assert_eq!(lines(&told), ["endpoints shop", "synced"]);
    assert_eq!(resources(&told)[0].hash, after_hash);
}

#[tokio::test]
async fn unused_services_cost_nothing() {
    let control = Control::start(&format!("{}  shop:\n", services(1000, 1))).await;
    let identity = control.joined("web").await;
    let (mut stream, told) = Stream::synced(control.address, &identity, hello(vec![service("shop")])).await;
    assert_eq!(told.len(), 6, "{:?}", lines(&told));
    control.write(&format!("{}  shop:\n", services(1000, 2)));
    assert_eq!(lines(&stream.until_synced().await), ["synced"], "a new version, and nothing of the thousand");
}

#[tokio::test]
async fn a_reconnecting_sidecar_is_not_told_what_it_holds() {
    let control = Control::start(SHOP).await;
    let identity = control.joined("web").await;
    let wanted = vec![service("shop"), authority("www.shop")];
    let (stream, told) = Stream::synced(control.address, &identity, hello(wanted.clone())).await;
    drop(stream);
    let mut again = hello(wanted.clone());
    for resource in resources(&told) {
        let kind = fusewire_api::kind_to_wire(fusewire_api::resource_from_wire(resource.clone()).unwrap().key().kind);
        again.held.push(v1::Held { kind: kind.into(), name: resource.name, hash: resource.hash });
    }
    let (stream, told) = Stream::synced(control.address, &identity, again.clone()).await;
    assert_eq!(lines(&told), ["answer shop: shop", "answer www.shop: www.shop", "synced"]);
    drop(stream);

    // what it holds and should not any more is taken away; what is outdated is sent
    again.held.push(v1::Held { kind: Kind::Service.into(), name: "gone".into(), hash: "x".into() });
    again.held.iter_mut().find(|h| h.name == "careful").unwrap().hash = "old".into();
    let (_stream, told) = Stream::synced(control.address, &identity, again).await;
    assert_eq!(
        lines(&told),
        ["policy careful", "answer shop: shop", "answer www.shop: www.shop", "removed service gone", "synced"]
    );
}

#[tokio::test]
async fn an_unsubscribed_service_is_taken_away_unless_something_still_needs_it() {
    let control = Control::start(SHOP).await;
    let identity = control.joined("web").await;
    let wanted = vec![service("shop"), service("cart"), authority("www.shop")];
    let (mut stream, _) = Stream::synced(control.address, &identity, hello(wanted)).await;
    stream.ask(Ask::Unsubscribe(v1::Unsubscribe { target: Some(service("cart")) })).await;
    stream.ask(Ask::Unsubscribe(v1::Unsubscribe { target: Some(authority("www.shop")) })).await;
    let mut told = stream.until_synced().await;
    if told.len() == 1 {
        told = stream.until_synced().await; // the two were heard one by one
    }
    assert_eq!(lines(&told), ["removed route www.shop", "removed endpoints cart", "removed service cart", "synced"]);
}

#[tokio::test]
async fn a_stalled_sidecar_holds_up_nobody_and_then_gets_only_the_newest() {
    const COUNT: usize = 1000;
    let control = Control::start(&services(COUNT, 1)).await;
    let (slow, quick) = (control.joined("slow").await, control.joined("quick").await);
    let wanted: Vec<_> = (0..COUNT).map(|i| service(&format!("s{i}"))).collect();
    let mut stalled = Stream::open(control.address, &slow, hello(wanted)).await.unwrap();
    control.status_when("both ends know of the stalled one", |s| s["sidecars"][0]["subscriptions"] == COUNT).await;

    let (mut stream, told) = Stream::synced(control.address, &quick, hello(vec![service("s0")])).await;
    stream.ack(&told).await;
    control.write(&services(COUNT, 2));
    let told = stream.until_synced().await;
    assert_eq!(lines(&told), ["endpoints s0", "synced"]);
    let newest = version(&told);

    // only now does the stalled one read
    let mut weights: HashMap<String, Vec<u32>> = HashMap::new();
    loop {
        match stalled.next().await {
            Told::Resource(v1::Resource { name, body: Some(v1::resource::Body::Endpoints(e)), .. }) => {
                weights.entry(name).or_default().push(e.instances[0].weight);
            }
            Told::EndpointsChange(change) => weights.entry(change.service).or_default().push(change.upserted[0].weight),
            Told::Synced(synced) if synced.version == newest => break,
            _ => {}
        }
    }
    assert_eq!(weights.len(), COUNT);
    assert!(weights.values().all(|w| w.last() == Some(&2)), "everything is the newest");
    let twice = weights.values().filter(|w| w.len() > 1).count();
    assert!(twice < COUNT / 2, "{twice} services were sent in a version that was no longer true");
}

#[tokio::test]
async fn refused_content_is_shown_and_not_sent_again_until_it_changes() {
    let control = Control::start(SHOP).await;
    let identity = control.joined("web").await;
    let (mut stream, told) = Stream::synced(control.address, &identity, hello(vec![service("shop")])).await;
    let refused = resources(&told).into_iter().find(|r| r.name == "careful").unwrap();
    let nack = v1::Nack {
        kind: Kind::Policy.into(),
        name: "careful".into(),
        hash: refused.hash.clone(),
        path: "breaker.buckets".into(),
        message: "must be 2..20, got 99".into(),
        send_whole: false,
    };
    stream.ask(Ask::Nack(nack.clone())).await;
    let status = control.status_when("the refusal", |s| s["sidecars"][0]["nacks"][0]["name"] == "careful").await;
    assert_eq!(
        status["sidecars"][0]["nacks"][0],
        serde_json::json!({"kind": "policy", "name": "careful", "path": "breaker.buckets", "message": "must be 2..20, got 99"})
    );
    // a refusal of what was never sent is nobody's
    stream.ask(Ask::Nack(v1::Nack { name: "other".into(), ..nack })).await;

    control.write(&format!("{SHOP}  - {{service: cart, breaker: open, owner: me, reason: unrelated}}\n"));
    assert_eq!(lines(&stream.until_synced().await), ["synced"], "not the same again");
    control.write(&SHOP.replace("careful: {}", "careful: {timeout: {connect: 2s}}"));
    assert_eq!(lines(&stream.until_synced().await), ["policy careful", "synced"]);
    let none = |s: &serde_json::Value| s["sidecars"][0]["nacks"].as_array().unwrap().is_empty();
    control.status_when("the refusal is over", none).await;
}

#[tokio::test]
async fn what_is_acknowledged_is_in_the_status() {
    let control = Control::start(SHOP).await;
    let identity = control.joined("web").await;
    let (mut stream, told) = Stream::synced(control.address, &identity, hello(vec![service("shop")])).await;
    let status = control.status().await;
    let sidecar = &status["sidecars"][0];
    assert_eq!(sidecar["workload"], "spiffe://fusewire.local/web");
    assert_eq!((&sidecar["instance"], &sidecar["program_version"]), (&"one".into(), &"test".into()));
    assert_eq!((&sidecar["current"], &sidecar["acked_version"]), (&false.into(), &serde_json::Value::Null));
    assert_eq!(sidecar["sent_version"], version(&told).as_str());
    stream.ack(&told).await;
    control.status_when("current", |s| s["sidecars"][0]["current"] == true).await;

    control.write(&format!("{SHOP}  - {{service: cart, breaker: open, owner: me, reason: unrelated}}\n"));
    let told = stream.until_synced().await;
    control.status_when("behind", |s| s["sidecars"][0]["current"] == false).await;
    stream.ack(&told).await;
    control.status_when("current again", |s| s["sidecars"][0]["current"] == true).await;
    drop(stream);
    control.status_when("gone", |s| s["sidecars"].as_array().unwrap().is_empty()).await;
}

#[tokio::test]
async fn a_new_stream_of_the_same_instance_takes_the_old_ones_place() {
    let control = Control::start(SHOP).await;
    let identity = control.joined("web").await;
    let (old, _) = Stream::synced(control.address, &identity, hello(vec![])).await;
    let (_new, _) = Stream::synced(control.address, &identity, hello(vec![service("shop")])).await;
    let one = |s: &serde_json::Value| s["sidecars"].as_array().unwrap().len() == 1;
    let status = control.status_when("one of them", one).await;
    assert_eq!(status["sidecars"][0]["subscriptions"], 1);
    drop(old);
    let other = v1::Hello { instance: "two".into(), ..hello(vec![]) };
    let (_other, _) = Stream::synced(control.address, &identity, other).await;
    let status = control.status().await;
    assert_eq!(status["sidecars"].as_array().unwrap().len(), 2, "the end of the old stream took nothing with it");
}

#[tokio::test]
async fn a_sidecar_without_a_common_wire_version_is_told_both_sides() {
    let control = Control::start("").await;
    let identity = control.joined("web").await;
    let strange = v1::Hello { wire: vec![7, 8], version: "9.9.9".into(), ..hello(vec![]) };
    let refused = Stream::open(control.address, &identity, strange).await.unwrap().end().await;
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    for part in ["[1]", "[7, 8]", "9.9.9", env!("CARGO_PKG_VERSION")] {
        assert!(refused.message().contains(part), "{part} in {refused}");
    }
}

#[tokio::test]
async fn kinds_that_a_sidecar_does_not_know_are_not_sent() {
    let control = Control::start(SHOP).await;
    let identity = control.joined("web").await;
    let mut old = hello(vec![service("shop")]);
    old.kinds = vec![Kind::Service.into(), Kind::Endpoints.into(), 99];
    let (_stream, told) = Stream::synced(control.address, &identity, old).await;
    assert_eq!(lines(&told), ["service shop", "endpoints shop", "answer shop: shop", "synced"]);
}

#[tokio::test]
async fn misbehaviour_ends_the_stream_with_a_reason() {
    let control = Control::start("").await;
    let identity = control.joined("web").await;
    let at = control.address;
    let (stream, _) = Stream::synced(at, &identity, hello(vec![])).await;
    stream.ask(Ask::Hello(hello(vec![]))).await;
    assert_eq!(stream.end().await.code(), Code::InvalidArgument);

    let (stream, _) = Stream::synced(at, &identity, hello(vec![])).await;
    stream.subscribe(address("not-an-address")).await;
    assert_eq!(stream.end().await.code(), Code::InvalidArgument);

    let many = (0..10_001).map(|i| service(&format!("s{i}"))).collect();
    let refused = Stream::open(at, &identity, hello(many)).await.unwrap().end().await;
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("10000"), "{refused}");
}
