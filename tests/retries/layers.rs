//! Only one layer retries: `web` calls `shop`, whose application calls `stock`, whose application calls `bank`, which fails.

use super::FUSEWIRE;
use fusewire_testkit::client::{App, get, send};
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::{Faulty, Mesh, Reply, free_port};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// Each service has three instances, `shop` and `stock` each with a sidecar of its own.
struct Layers {
    web: Sidecar,
    bank: Faulty,
    _sidecars: Vec<Sidecar>,
    _mesh: Mesh,
    _apps: Vec<App>,
}

/// An application that asks `next` through the sidecar at `out` and answers as it was answered, passing on these fields.
fn middle(next: &'static str, out: &Arc<AtomicU16>, propagated: &'static [&'static str]) -> App {
    let out = out.clone();
    App::start_async(0, move |request| {
        let mut onward = Request::get("/").header("host", next).body(Full::default()).unwrap();
        for name in propagated {
            if let Some(value) = request.headers().get(*name) {
                onward.headers_mut().insert(*name, value.clone());
            }
        }
        let port = out.load(Ordering::SeqCst);
        async move {
            let answer = tokio::task::spawn_blocking(move || send(port, onward)).await.unwrap().unwrap();
            let mut response = Response::new(Full::from(answer.body));
            *response.status_mut() = StatusCode::from_u16(answer.status).unwrap();
            response
        }
    })
}

/// Three instances of a service: their sidecars' ports, their applications, and where these call out.
struct Layer {
    name: &'static str,
    inbound: [u16; 3],
    outs: [Arc<AtomicU16>; 3],
    apps: Vec<App>,
}

impl Layer {
    fn new(name: &'static str, next: &'static str, propagated: &'static [&'static str]) -> Self {
        let outs: [Arc<AtomicU16>; 3] = Default::default();
        let apps = outs.iter().map(|out| middle(next, out, propagated)).collect();
        Self { name, inbound: [free_port(), free_port(), free_port()], outs, apps }
    }
    fn instances(&self) -> String {
        let one = |n: usize| {
            let (app, sidecar) = (self.apps[n].port, self.inbound[n]);
            format!("{{id: {}-{n}, address: 127.0.0.1:{app}, sidecar: 127.0.0.1:{sidecar}}}", self.name)
        };
        (0..3).map(one).collect::<Vec<_>>().join(", ")
    }
    fn start(&self, mesh: &Mesh) -> Vec<Sidecar> {
        let one = |n: usize| {
            let sidecar = mesh.sidecar(self.name, &format!("{}-{n}", self.name), Some(self.inbound[n]));
            self.outs[n].store(sidecar.outbound, Ordering::SeqCst);
            sidecar
        };
        (0..3).map(one).collect()
    }
}

impl Layers {
    fn new(propagated: &'static [&'static str], policy: &str) -> Self {
        let bank = Faulty::new(3);
        bank.always(Some(Reply::Status(503)));
        let layers = [Layer::new("shop", "stock", propagated), Layer::new("stock", "bank", propagated)];
        let mesh = Mesh::new(
            FUSEWIRE,
            &format!(
                "policies:\n  all: {{plain: allow{policy}}}\nservices:\n  \
                 shop: {{policy: all, allow: [web], instances: [{}]}}\n  \
                 stock: {{policy: all, allow: [shop], instances: [{}]}}\n  \
                 bank: {{policy: all, instances: {}}}\n",
                layers[0].instances(),
                layers[1].instances(),
                bank.instances("bank"),
            ),
        );
        let sidecars = layers.iter().rev().flat_map(|layer| layer.start(&mesh)).collect();
        let web = mesh.sidecar("web", "web-1", None);
        let apps = layers.into_iter().flat_map(|layer| layer.apps).collect();
        Self { web, bank, _sidecars: sidecars, _mesh: mesh, _apps: apps }
    }
}

#[test]
fn three_layers_of_three_attempts_make_three_requests_where_applications_carry_no_more_than_traceparent() {
    let layers = Layers::new(&["traceparent"], "");
    assert_eq!(get(layers.web.outbound, "shop", "/").unwrap().status, 503);
    assert_eq!(layers.bank.seen().len(), 3, "the outermost layer's alone");
    // the layer outside cannot repeat a POST, so the next one may
    let post = Request::post("/").header("host", "shop").body(Full::default()).unwrap();
    assert_eq!(send(layers.web.outbound, post).unwrap().status, 503);
    assert_eq!(layers.bank.seen().len(), 3);
}

#[test]
fn where_an_application_carries_nothing_each_hops_budget_is_the_bound() {
    let layers = Layers::new(&[], ", retry: {budget: {start: 2, min_per_second: 0}}");
    assert_eq!(get(layers.web.outbound, "shop", "/").unwrap().status, 503);
    assert_eq!(layers.bank.seen().len(), 15, "3 at shop, each of whose sidecars may retry twice");
    assert_eq!(get(layers.web.outbound, "shop", "/").unwrap().status, 503);
    assert_eq!(layers.bank.seen().len(), 1, "all three are spent");
}
