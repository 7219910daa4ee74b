//! The roots in every namespace.

use crate::{cluster, until};
use fusewire_kubernetes::{BUNDLE, publish_bundle};
use fusewire_testkit::KubeApi;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;

fn written(api: &KubeApi) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let one = |map: &Value| (text(&map["metadata"]["namespace"]), text(&map["data"]["ca.pem"]));
    let maps = api.all("configmaps");
    maps.iter().filter(|map| map["metadata"]["name"] == BUNDLE).map(one).collect()
}

fn writes(api: &KubeApi) -> usize {
    api.requests().iter().filter(|request| !request.starts_with("GET")).count()
}

#[tokio::test]
async fn the_roots_are_in_every_namespace_but_one_and_written_only_where_they_are_others() {
    let api = KubeApi::start();
    let names = |all: &[&str]| Arc::new(all.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>());
    let (leads, leading) = watch::channel(false);
    let (bundle, bundles) = watch::channel(Arc::<str>::from("one"));
    let (namespaces, active) = watch::channel(names(&["default", "kube-system"]));
    let of = cluster(&api).await;
    tokio::spawn(async move { publish_bundle(&of, leading, bundles, active).await });
    let both = |a: &str, b: &str| vec![("default".to_owned(), a.to_owned()), ("shop".to_owned(), b.to_owned())];
    leads.send_replace(true);
    until("the first", || (written(&api) == [("default".to_owned(), "one".to_owned())]).then_some(())).await;
    namespaces.send_replace(names(&["default", "kube-system", "shop"]));
    until("the second", || (written(&api) == both("one", "one")).then_some(())).await;
    bundle.send_replace("two".into());
    until("the new roots", || (written(&api) == both("two", "two")).then_some(())).await;
    // whoever changes one is undone
    api.put(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "shop", "name": BUNDLE}, "data": {"ca.pem": "bad"},
    }));
    until("it is put right", || (written(&api) == both("two", "two")).then_some(())).await;
    api.remove("configmaps", "shop", BUNDLE);
    until("it is there again", || (written(&api) == both("two", "two")).then_some(())).await;
    let before = writes(&api);
    api.expire();
    let asked = api.requests().len();
    until("it has listed again", || (api.requests().len() > asked + 1).then_some(())).await;
    leads.send_replace(false);
    assert_eq!(writes(&api), before, "{:?}", api.requests());
}
