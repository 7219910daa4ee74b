//! gRPC: what is said in trailers alone can be made again, and a server may say when, or that not.

use super::FUSEWIRE;
use bytes::Bytes;
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::{Mesh, h2c};
use http::{HeaderMap, Response};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Three instances that share what they answer: the fields of a trailers-only answer each, and then one message.
struct Calls {
    web: Sidecar,
    script: Arc<Mutex<(VecDeque<HeaderMap>, usize)>>,
    _mesh: Mesh,
    _apps: Vec<h2c::App>,
}

impl Calls {
    fn new(policy: &str) -> Self {
        let script = Arc::<Mutex<(VecDeque<HeaderMap>, usize)>>::default();
        let app = |_| {
            let script = script.clone();
            h2c::App::start(move |request, mut respond| {
                let script = script.clone();
                async move {
                    let mut body = request.into_body();
                    assert_eq!(h2c::whole(&mut body).await.unwrap(), "call");
                    let next = {
                        let mut script = script.lock().unwrap();
                        script.1 += 1;
                        script.0.pop_front()
                    };
                    let head = Response::builder().header("content-type", "application/grpc");
                    match next {
                        Some(fields) => {
                            let mut response = head.body(()).unwrap();
                            response.headers_mut().extend(fields);
                            respond.send_response(response, true).unwrap();
                        }
                        None => {
                            let done = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
                            h2c::answer(&mut respond, head, b"\0\0\0\0\x02ok", Some(done));
                        }
                    }
                }
            })
        };
        let apps: Vec<_> = (0..3).map(app).collect();
        let instances: Vec<_> = apps.iter().map(|a| format!("127.0.0.1:{}", a.port)).collect();
        let mesh = Mesh::new(
            FUSEWIRE,
            &format!(
                "policies:\n  shop: {{plain: allow, {policy}}}\nservices:\n  shop: {{protocol: http2, policy: shop, instances: [{}]}}\n",
                instances.join(", ")
            ),
        );
        let web = mesh.sidecar("web", "web-1", None);
        Self { web, script, _mesh: mesh, _apps: apps }
    }

    /// The statuses that the next calls get, with a pushback where there is one; what the caller got, and in how many calls.
    fn call(&self, fails: &[(&str, &str)]) -> (String, usize) {
        let fields = |(status, pushback): &(&str, &str)| {
            let mut fields = HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]);
            if !pushback.is_empty() {
                fields.insert("grpc-retry-pushback-ms", pushback.parse().unwrap());
            }
            fields
        };
        *self.script.lock().unwrap() = (fails.iter().map(fields).collect(), 0);
        let status = h2c::run(async {
            let client = h2c::client(self.web.outbound).await;
            let request = h2c::request("POST", "shop/shop.Shop/Buy").header("content-type", "application/grpc");
            let (response, mut up) = h2c::open(&client, request.header("te", "trailers")).await;
            up.send_data(Bytes::from_static(b"call"), true).unwrap();
            let (head, mut body) = response.await.unwrap().into_parts();
            h2c::whole(&mut body).await.unwrap();
            let trailers = body.trailers().await.unwrap().unwrap_or(head.headers);
            trailers["grpc-status"].to_str().unwrap().to_owned()
        });
        (status, self.script.lock().unwrap().1)
    }
}

#[test]
fn unavailable_is_made_again_where_the_policy_says_that_it_may_be() {
    let calls = Calls::new("trace: {sample: 0}");
    assert_eq!(calls.call(&[("14", "")]), ("14".into(), 1), "a call may be anything");
    let calls = Calls::new("retry: {on: [connect, unavailable]}");
    assert_eq!(calls.call(&[("14", ""), ("14", "")]), ("0".into(), 3), "named: the servers mean \"not done\" by it");
    assert_eq!(calls.call(&[("13", "")]), ("13".into(), 1));
    let calls = Calls::new("retry: {idempotent: true}");
    assert_eq!(calls.call(&[("14", "")]), ("0".into(), 2));
}

#[test]
fn a_servers_pushback_says_when_or_that_not() {
    let calls = Calls::new("retry: {idempotent: true}");
    let began = Instant::now();
    assert_eq!(calls.call(&[("14", "600")]), ("0".into(), 2));
    assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
    assert_eq!(calls.call(&[("8", "10")]), ("0".into(), 2));
    for (fails, why) in [
        (("14", "-1"), "it said no"),
        (("14", "soon"), "what cannot be understood is a no"),
        (("14", "1001"), "longer than anyone should wait"),
        (("8", ""), "a quota that says nothing of when"),
    ] {
        assert_eq!(calls.call(&[fails]), (fails.0.into(), 1), "{why}");
    }
}
