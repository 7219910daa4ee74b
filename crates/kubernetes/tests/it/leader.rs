//! One leader at a time.

use crate::{cluster, until};
use fusewire_kubernetes::{Leader, LeaderTiming};
use fusewire_testkit::KubeApi;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

struct Candidate {
    leader: Arc<Leader>,
    leading: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

async fn candidate(api: &KubeApi, name: &str) -> Candidate {
    let timing = LeaderTiming { duration: Duration::from_secs(1), retry: Duration::from_millis(100) };
    let leader = Arc::new(Leader::new(&cluster(api).await, "fusewire-leader", name, timing));
    let (leading, running) = (leader.leading(), leader.clone());
    let task = tokio::spawn(async move { running.run().await });
    Candidate { leader, leading, task }
}

fn leads(candidate: &Candidate) -> Option<()> {
    candidate.leading.borrow().then_some(())
}

fn holder(api: &KubeApi) -> String {
    let lease = api.get("coordination.k8s.io/v1/leases", "fusewire", "fusewire-leader").unwrap_or_default();
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().into()
}

#[tokio::test]
async fn of_two_one_leads_and_the_other_follows_when_it_dies() {
    let api = KubeApi::start();
    let a = candidate(&api, "a").await;
    until("a leads", || leads(&a)).await;
    let b = candidate(&api, "b").await;
    let before = api.requests().len();
    until("b has looked", || (api.requests().len() > before + 6).then_some(())).await;
    assert_eq!(holder(&api), "a");
    a.task.abort();
    until("b leads", || leads(&b)).await;
    assert_eq!(holder(&api), "b");
    let lease = api.get("coordination.k8s.io/v1/leases", "fusewire", "fusewire-leader").unwrap();
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
}

#[tokio::test]
async fn who_resigns_leaves_it_to_the_next_at_once() {
    let api = KubeApi::start();
    let a = candidate(&api, "a").await;
    until("a leads", || leads(&a)).await;
    a.task.abort();
    a.leader.resign().await;
    assert!(leads(&a).is_none());
    assert_eq!(holder(&api), "");
    let b = candidate(&api, "b").await;
    until("b leads", || leads(&b)).await;
}

#[tokio::test]
async fn a_leader_that_cannot_renew_stops_by_its_own_clock() {
    let api = KubeApi::start();
    let a = candidate(&api, "a").await;
    until("a leads", || leads(&a)).await;
    api.freeze();
    until("a stops", || leads(&a).is_none().then_some(())).await;
    api.thaw();
    until("a leads again", || leads(&a)).await;
}

#[tokio::test]
async fn a_holder_whose_clock_is_wrong_is_believed_for_as_long_as_it_renews() {
    let api = KubeApi::start();
    let lease = |renewed: &str, transitions: u32| {
        api.put(json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"namespace": "fusewire", "name": "fusewire-leader"},
            "spec": {"holderIdentity": "old", "leaseDurationSeconds": 1, "renewTime": renewed, "leaseTransitions": transitions},
        }));
    };
    // its time is long over, by its stamps
    lease("2001-01-01T00:00:00.000000Z", 0);
    let a = candidate(&api, "a").await;
    for round in 1..15 {
        lease("2001-01-01T00:00:00.000000Z", round);
        let before = api.requests().len();
        until("a has looked", || (api.requests().len() > before).then_some(())).await;
        assert!(leads(&a).is_none(), "round {round}");
    }
    until("a leads once it is silent", || leads(&a)).await;
}
