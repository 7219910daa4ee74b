//! One round of questions to a real socket.

use fusewire_discovery::dns::{Asks, Round, question};
use fusewire_model::service::{Dns, DnsRecords};
use fusewire_testkit::dns::{NameServer, Script};
use std::net::IpAddr;
use std::time::Duration;

const NAME: &str = "db.shop.example";
const SERVICE: &str = "_pg._tcp.shop.example";

fn asking(server: &NameServer, name: &str, records: DnsRecords) -> Box<dyn Asks> {
    question(Dns { name: name.into(), records, server: Some(server.address), refresh: Duration::from_secs(30) })
}

fn shown(round: &Round) -> Vec<String> {
    round.found.iter().map(|(address, weight)| format!("{address}*{weight}")).collect()
}

const PORT: DnsRecords = DnsRecords::Address { port: 5432 };

#[tokio::test]
async fn both_families_are_one_answer_with_the_shorter_ttl() {
    let server = NameServer::start();
    let addresses = |list: &[&str], ttl| Script::Addresses(list.iter().map(|a| a.parse().unwrap()).collect(), ttl);
    server.set_type(NAME, "A", addresses(&["10.0.0.2", "10.0.0.1"], 60));
    server.set_type(NAME, "AAAA", addresses(&["fd00::1"], 20));
    let round = asking(&server, NAME, PORT).round().await.unwrap();
    assert_eq!(shown(&round), ["10.0.0.1:5432*1", "10.0.0.2:5432*1", "[fd00::1]:5432*1"]);
    assert_eq!((round.ttl, round.lacking), (Duration::from_secs(20), None));
}

#[tokio::test]
async fn what_cannot_be_connected_to_is_no_address() {
    let server = NameServer::start();
    server.set(NAME, Script::addresses(&["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "10.0.0.1"]));
    assert_eq!(shown(&asking(&server, NAME, PORT).round().await.unwrap()), ["10.0.0.1:5432*1"]);
}

#[tokio::test]
async fn every_way_to_say_no_is_a_failure_and_says_which() {
    let server = NameServer::start();
    for (script, wanted) in [
        (Script::NxDomain, "db.shop.example: no such name"),
        (Script::Addresses(Vec::new(), 1), "db.shop.example: no such records"),
        (Script::ServFail, "db.shop.example AAAA: Server Failure"),
        (Script::addresses(&["0.0.0.0"]), "db.shop.example: no address that can be connected to"),
    ] {
        server.set(NAME, script);
        let failed = asking(&server, NAME, PORT).round().await.unwrap_err();
        assert_eq!(failed, wanted);
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_waited_for_only_so_long() {
    let server = NameServer::start();
    server.set(NAME, Script::Silence);
    let failed = tokio::time::timeout(Duration::from_secs(20), asking(&server, NAME, PORT).round()).await.unwrap();
    let failed = failed.unwrap_err();
    assert!(failed.contains("no answer"), "{failed}");
}

#[tokio::test]
async fn a_family_that_fails_keeps_what_it_had_and_one_that_never_had_any_is_not_missed() {
    let server = NameServer::start();
    server.set_type(NAME, "A", Script::addresses(&["10.0.0.1"]));
    server.set_type(NAME, "AAAA", Script::ServFail);
    let mut asks = asking(&server, NAME, PORT);
    let round = asks.round().await.unwrap();
    assert_eq!((shown(&round), round.lacking), (vec!["10.0.0.1:5432*1".to_owned()], None));

    server.set_type(NAME, "AAAA", Script::addresses(&["fd00::1"]));
    assert_eq!(asks.round().await.unwrap().found.len(), 2);
    server.set_type(NAME, "AAAA", Script::ServFail);
    let round = asks.round().await.unwrap();
    assert_eq!(round.found.len(), 2);
    assert_eq!(round.lacking.as_deref(), Some("db.shop.example AAAA: Server Failure"));
    // an answer at last that there are none is an answer
    server.set_type(NAME, "AAAA", Script::Addresses(Vec::new(), 1));
    assert_eq!(shown(&asks.round().await.unwrap()), ["10.0.0.1:5432*1"]);
}

fn services(list: &[(u16, u16, u16, &str)]) -> Script {
    Script::Services(list.iter().map(|(p, w, port, t)| (*p, *w, *port, (*t).to_owned())).collect(), 9)
}

#[tokio::test]
async fn srv_offers_the_lowest_priority_with_its_weights() {
    let server = NameServer::start();
    let list = [(10, 3, 5432, "a.shop.example"), (10, 0, 5433, "B.shop.example"), (20, 9, 5432, "c.shop.example")];
    server.set(SERVICE, services(&list));
    for (name, ip) in [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")] {
        let ip: IpAddr = ip.parse().unwrap();
        server.set(&format!("{name}.shop.example"), Script::Addresses(vec![ip], 60));
    }
    let round = asking(&server, SERVICE, DnsRecords::Srv).round().await.unwrap();
    assert_eq!(shown(&round), ["10.0.0.1:5432*3", "10.0.0.2:5433*1"]);
    assert_eq!(round.ttl, Duration::from_secs(9));
}

#[tokio::test]
async fn great_srv_weights_are_scaled_to_what_instances_have() {
    let server = NameServer::start();
    server.set(SERVICE, services(&[(1, 65_535, 80, "a.shop.example"), (1, 6_553, 80, "b.shop.example")]));
    server.set("a.shop.example", Script::addresses(&["10.0.0.1"]));
    server.set("b.shop.example", Script::addresses(&["10.0.0.2"]));
    let round = asking(&server, SERVICE, DnsRecords::Srv).round().await.unwrap();
    assert_eq!(shown(&round), ["10.0.0.1:80*1000", "10.0.0.2:80*99"]);
}

#[tokio::test]
async fn the_next_priority_is_offered_where_no_target_of_the_lower_has_an_address() {
    let server = NameServer::start();
    server.set(SERVICE, services(&[(1, 1, 80, "gone.shop.example"), (2, 1, 80, "there.shop.example")]));
    server.set("there.shop.example", Script::addresses(&["10.0.0.2"]));
    let mut asks = asking(&server, SERVICE, DnsRecords::Srv);
    assert_eq!(shown(&asks.round().await.unwrap()), ["10.0.0.2:80*1"]);
    // a target that was known and fails stands for itself
    server.set("gone.shop.example", Script::addresses(&["10.0.0.1"]));
    assert_eq!(shown(&asks.round().await.unwrap()), ["10.0.0.1:80*1"]);
    server.set("gone.shop.example", Script::ServFail);
    let round = asks.round().await.unwrap();
    assert_eq!(shown(&round), ["10.0.0.1:80*1"]);
    assert!(round.lacking.unwrap().starts_with("gone.shop.example"));
}

#[tokio::test]
async fn an_srv_record_that_says_there_is_no_such_service_is_no_answer() {
    let server = NameServer::start();
    server.set(SERVICE, services(&[(0, 0, 0, "")]));
    let failed = asking(&server, SERVICE, DnsRecords::Srv).round().await.unwrap_err();
    assert_eq!(failed, "_pg._tcp.shop.example SRV: offers no target");
}
