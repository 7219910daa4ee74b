//! `limit.rate` and `limit.inbound.rate`.

use crate::FUSEWIRE;
use fusewire_testkit::client::{Answer, App, get, send};
use fusewire_testkit::{Mesh, eventually, free_port, h2c};
use http::Request;
use http_body_util::Full;

/// Three at once, then one an hour.
const SLOW: &str = "requests: 1, per: 1h, burst: 3";

fn yaml(app: u16, inbound: u16, limit: &str) -> String {
    format!(
        "policies:\n  p: {{limit: {{{limit}}}}}\nservices:\n  shop: {{policy: p, allow: [web, cron], instances: \
         [{{id: shop-1, address: 127.0.0.1:{app}, sidecar: 127.0.0.1:{inbound}}}]}}\n"
    )
}

fn of_tenant(port: u16, tenant: &str) -> Answer {
    let request = Request::get("/").header("host", "shop").header("X-Tenant", tenant);
    send(port, request.body(Full::default()).unwrap()).unwrap()
}

#[test]
fn each_tenant_has_its_own_rate_and_who_is_over_it_is_told_when_to_come_back() {
    let app = App::saying(0, "ok");
    let inbound = free_port();
    let limit = |rate: &str| yaml(app.port, inbound, &format!("rate: {{{rate}, key: {{header: x-tenant}}}}"));
    let mesh = Mesh::new(FUSEWIRE, &limit(SLOW));
    let _shop = mesh.sidecar("shop", "shop-1", Some(inbound));
    let web = mesh.sidecar("web", "web-1", None);
    for tenant in ["a", "b"] {
        for _ in 0..3 {
            assert_eq!(of_tenant(web.outbound, tenant).status, 200);
        }
        let over = of_tenant(web.outbound, tenant);
        assert_eq!((over.status, over.header("fusewire-reason")), (429, Some("rate-limited")));
        assert_eq!(over.header("ratelimit-policy"), Some("\"p\";q=3;w=10800"));
        let fields = [over.header("ratelimit"), over.header("retry-after")].map(|f| f.unwrap().to_owned());
        assert!(fields[0].starts_with("\"p\";r=0;t="), "{fields:?}");
        assert!((3500..=3600).contains(&fields[1].parse::<u32>().unwrap()), "{fields:?}");
    }
    let grpc = h2c::run(async {
        let request = h2c::request("POST", "shop/a.B/C").header("content-type", "application/grpc");
        h2c::call(&h2c::client(web.outbound).await, request.header("x-tenant", "a")).await.unwrap()
    });
    assert_eq!((grpc.status().as_u16(), grpc.headers()["grpc-status"].as_bytes()), (200, &b"8"[..]));
    let pushback: u64 = grpc.headers()["grpc-retry-pushback-ms"].to_str().unwrap().parse().unwrap();
    assert!((3_500_000..=3_600_000).contains(&pushback), "{pushback}");
    // nobody else's breaker or metric heard of it
    let refused = "fusewire_limit_refused_total{direction=\"outbound\",service=\"shop\",limit=\"rate\"}";
    assert_eq!(web.metric(refused), Some(3.0));
    assert_eq!(web.breaker("shop-1")["window"]["total"], 6);
    assert_eq!(web.socket("/limits")["outbound"][0]["rate_keys"], 2);
    // a larger burst: what was used stays used
    mesh.configure(&limit("requests: 1, per: 1h, burst: 4"));
    eventually("one more passes", || of_tenant(web.outbound, "a").status == 200);
    assert_eq!(of_tenant(web.outbound, "a").status, 429);
}

#[test]
fn each_peer_has_its_own_rate_before_the_application() {
    let app = App::saying(0, "ok");
    let inbound = free_port();
    let mesh = Mesh::new(FUSEWIRE, &yaml(app.port, inbound, &format!("inbound: {{rate: {{{SLOW}, key: peer}}}}")));
    let shop = mesh.sidecar("shop", "shop-1", Some(inbound));
    for workload in ["web", "cron"] {
        let caller = mesh.sidecar(workload, &format!("{workload}-1"), None);
        let statuses: Vec<u16> = (0..5).map(|_| get(caller.outbound, "shop", "/").unwrap().status).collect();
        assert_eq!(statuses, [200, 200, 200, 429, 429], "{workload}");
        let over = get(caller.outbound, "shop", "/").unwrap();
        assert_eq!(over.header("fusewire-reason"), Some("rate-limited"));
        assert!(over.header("retry-after").is_some() && over.header("ratelimit").is_some());
        let id = format!("{workload}-1");
        assert_eq!(caller.breaker("shop-1")["window"]["hard"], 0, "{id}");
    }
    let refused = "fusewire_limit_refused_total{direction=\"inbound\",service=\"shop\",limit=\"rate\"}";
    assert_eq!(shop.metric(refused), Some(6.0));
}
