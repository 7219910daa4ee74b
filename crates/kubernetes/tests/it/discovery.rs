//! What is known while the cluster changes, and while its API server is away.

use crate::objects::{endpoint, plain_pod, pod, ready, service, slice};
use crate::{cluster, until};
use fusewire_kubernetes::{Change, Discovery, Setting, Standing};
use fusewire_model::{ServiceName, TrustDomain};
use fusewire_testkit::KubeApi;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

struct Bed {
    api: KubeApi,
    discovery: Arc<Discovery>,
    told: Arc<Mutex<Vec<BTreeSet<ServiceName>>>>,
}

impl Bed {
    async fn new() -> Self {
        let api = KubeApi::start();
        api.put(service("shop", "web", json!({"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]})));
        api.put(pod("shop", "a", "web"));
        api.put(plain_pod("shop", "b"));
        api.put(plain_pod("shop", "c"));
        api.put(slice("shop", "web-1", "web", json!([endpoint("10.0.0.1", "a", ready())])));
        let told = Arc::<Mutex<Vec<_>>>::default();
        let tell = told.clone();
        let domain = TrustDomain::parse("t.example").unwrap();
        let setting = Setting { trust_domain: domain, cluster_domain: "cluster.local".into() };
        let discovery = Discovery::new(cluster(&api).await, setting, move |change| {
            if let Change::Services(names) = change {
                tell.lock().unwrap().push(names);
            }
        });
        let discovery = Arc::new(discovery);
        let running = discovery.clone();
        tokio::spawn(async move { running.run().await });
        let bed = Self { api, discovery, told };
        bed.knows(&["10.0.0.1:8080"]).await;
        bed
    }

    fn addresses(&self) -> Vec<String> {
        let web = ServiceName::parse("web.shop").unwrap();
        let offered = self.discovery.endpoints(&web).into_iter().filter(|endpoint| endpoint.standing.is_offered());
        offered.map(|endpoint| endpoint.instance.address.to_string()).collect()
    }

    async fn knows(&self, addresses: &[&str]) {
        until(&format!("{addresses:?}"), || (self.addresses() == addresses).then_some(())).await;
    }

    /// With the pods `a`, `b` and so on.
    fn offer(&self, pods: &[&str]) {
        let all = pods.iter().map(|pod| {
            let number = pod.as_bytes()[0] - b'a' + 1;
            endpoint(&format!("10.0.0.{number}"), pod, ready())
        });
        self.api.put(slice("shop", "web-1", "web", all.collect()));
    }

    fn lists(&self) -> usize {
        let asked = self.api.requests();
        asked.iter().filter(|r| r.starts_with("GET /apis/discovery.k8s.io/v1/endpointslices?&limit")).count()
    }
}

#[tokio::test]
async fn a_change_of_endpoints_is_told_by_name() {
    let bed = Bed::new().await;
    bed.told.lock().unwrap().clear();
    bed.offer(&["a", "b"]);
    bed.knows(&["10.0.0.1:8080", "10.0.0.2:8080"]).await;
    let web = ServiceName::parse("web.shop").unwrap();
    until("it is told", || bed.told.lock().unwrap().iter().any(|names| names.contains(&web)).then_some(())).await;
    bed.api.remove("services", "shop", "web");
    until("the service is gone", || bed.discovery.services().is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_pod_that_is_gone_keeps_its_sidecar_for_as_long_as_a_slice_has_it() {
    let bed = Bed::new().await;
    bed.api.remove("pods", "shop", "a");
    bed.offer(&["a", "b"]);
    bed.knows(&["10.0.0.1:8080", "10.0.0.2:8080"]).await;
    let web = ServiceName::parse("web.shop").unwrap();
    let endpoints = bed.discovery.endpoints(&web);
    let sidecars: Vec<bool> = endpoints.iter().map(|e| e.instance.sidecar.is_some()).collect();
    assert_eq!(sidecars, [true, false]);
    assert_eq!(endpoints[0].standing, Standing::Ready);
}

#[tokio::test]
async fn a_pod_that_no_watch_tells_of_is_offered_in_clear_only_once_it_was_asked_for() {
    let bed = Bed::new().await;
    bed.api.refuse(&["GET /api/v1/namespaces/shop/pods/"]);
    bed.offer(&["a", "b"]);
    let asked = || bed.api.requests().iter().filter(|r| r.starts_with("GET /api/v1/namespaces/shop/pods/b")).count();
    until("it is asked for, and again", || (asked() > 1).then_some(())).await;
    let web = ServiceName::parse("web.shop").unwrap();
    let standings: Vec<Standing> = bed.discovery.endpoints(&web).into_iter().map(|e| e.standing).collect();
    assert_eq!(standings, [Standing::Ready, Standing::Unknown]);
    bed.api.refuse(&[]);
    bed.knows(&["10.0.0.1:8080", "10.0.0.2:8080"]).await;
    let before = asked();
    bed.offer(&["b"]);
    bed.knows(&["10.0.0.2:8080"]).await;
    // one that is gone is of nobody knows what
    bed.offer(&["b", "d"]);
    until("the slice is known", || (bed.discovery.endpoints(&web).len() == 2).then_some(())).await;
    assert_eq!((bed.addresses().len(), asked()), (1, before), "what is known is not asked for again");
}

#[tokio::test]
async fn a_watch_that_is_cut_goes_on_where_it_was() {
    let bed = Bed::new().await;
    let before = bed.lists();
    for pods in [&["a", "b"][..], &["b"], &["a", "b", "c"]] {
        bed.api.cut();
        bed.offer(pods);
        let wanted: Vec<String> = pods.iter().map(|p| format!("10.0.0.{}:8080", p.as_bytes()[0] - b'a' + 1)).collect();
        until("what was offered meanwhile", || (bed.addresses() == wanted).then_some(())).await;
    }
    assert_eq!(bed.lists(), before, "nothing was to be listed again");
}

#[tokio::test]
async fn an_expired_watch_lists_again_and_what_was_known_stays_meanwhile() {
    let bed = Bed::new().await;
    let before = bed.lists();
    bed.told.lock().unwrap().clear();
    bed.api.expire();
    bed.offer(&["b"]);
    bed.knows(&["10.0.0.2:8080"]).await;
    assert!(bed.lists() > before);
    let services = bed.discovery.services();
    assert_eq!(services.len(), 1, "{services:?}");
}

#[tokio::test]
async fn with_the_api_server_away_the_last_known_stays_and_its_age_grows() {
    let bed = Bed::new().await;
    until("it is well", || bed.discovery.age().failing.is_none().then_some(())).await;
    bed.api.go_down();
    let age = until("it fails", || Some(bed.discovery.age()).filter(|age| age.failing.is_some())).await;
    until("its age grows", || (bed.discovery.age().age > age.age).then_some(())).await;
    assert_eq!(bed.addresses(), ["10.0.0.1:8080"]);
    bed.offer(&["c"]);
    bed.api.come_up();
    bed.knows(&["10.0.0.3:8080"]).await;
    until("it is well again", || bed.discovery.age().failing.is_none().then_some(())).await;
}

#[tokio::test]
async fn who_may_not_see_pods_takes_nobody_for_one_without_a_sidecar() {
    let bed = Bed::new().await;
    bed.api.refuse(&["GET /api/v1/pods"]);
    bed.api.cut();
    let failing = until("pods are refused", || bed.discovery.age().failing).await;
    bed.offer(&["a", "b"]);
    let asked = bed.api.requests().len();
    until("it goes on asking", || (bed.api.requests().len() > asked + 4).then_some(())).await;
    assert_eq!(bed.addresses(), ["10.0.0.1:8080"], "{failing}");
    let told = bed.told.lock().unwrap().len();
    bed.api.refuse(&[]);
    bed.knows(&["10.0.0.1:8080", "10.0.0.2:8080"]).await;
    until("it is told at last", || (bed.told.lock().unwrap().len() > told).then_some(())).await;
}
