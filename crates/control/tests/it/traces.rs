//! OTLP in, over mTLS and in clear; the page's answers out.

use crate::harness::{Control, soon};
use crate::wire;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use fusewire_control::ControlError;
use fusewire_identity::{ALPN_CONTROL, Identity, client_config, joining_client_config};
use fusewire_testkit::free_port;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use serde_json::Value;
use std::io::Write;
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tonic::Code;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint};

struct Open {
    control: Control,
    web: SocketAddr,
    otlp: SocketAddr,
}

/// With its page and its clear listener.
async fn open() -> Open {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("mesh")).unwrap();
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let (web, otlp) = (at(free_port()), at(free_port()));
    let control = Control::start_in(dir, |settings| {
        settings.web_listen = Some(web);
        settings.web_hosts = vec!["mesh.example".into()];
        settings.otlp_listen = Some(otlp);
        settings.trace_memory = 1 << 20;
    });
    Open { control: control.await.unwrap(), web, otlp }
}

impl Open {
    async fn api(&self, path: &str) -> Value {
        let (status, _, body) = http(self.web, get(path)).await;
        assert_eq!(status, 200, "{path}: {body:?}");
        serde_json::from_slice(&body).unwrap()
    }

    async fn as_workload(&self, identity: &Identity) -> Channel {
        wire::channel(self.control.address, client_config(identity, &[ALPN_CONTROL]).unwrap()).await.unwrap()
    }
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "localhost").body(Full::default()).unwrap()
}

async fn http(at: SocketAddr, request: Request<Full<Bytes>>) -> (u16, HeaderMap, Bytes) {
    let stream = TcpStream::connect(at).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (head, body) = soon("an answer", sender.send_request(request)).await.unwrap().into_parts();
    (head.status.as_u16(), head.headers, body.collect().await.unwrap().to_bytes())
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Any::StringValue(value.into())) });
    KeyValue { key: key.into(), value, ..Default::default() }
}

fn resource(service: &str) -> Option<Resource> {
    Some(Resource { attributes: vec![text("service.name", service)], ..Default::default() })
}

fn spans(service: &str, trace: u8, count: u8) -> ExportTraceServiceRequest {
    let span = |id| Span {
        trace_id: vec![trace; 16],
        span_id: vec![id; 8],
        name: "GET /".into(),
        start_time_unix_nano: 1_000,
        end_time_unix_nano: 3_000,
        ..Default::default()
    };
    let scope_spans = vec![ScopeSpans { spans: (1..=count).map(span).collect(), ..Default::default() }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource: resource(service), scope_spans, ..Default::default() }],
    }
}

fn metrics(service: &str, value: i64) -> ExportMetricsServiceRequest {
    let attributes = vec![text("direction", "outbound"), text("service", "catalog"), text("class", "2xx")];
    let point = NumberDataPoint { attributes, value: Some(Number::AsInt(value)), ..Default::default() };
    let sum = Sum { data_points: vec![point], aggregation_temporality: 2, is_monotonic: true };
    let metric = Metric { name: "fusewire_responses".into(), data: Some(Data::Sum(sum)), ..Default::default() };
    let scope_metrics = vec![ScopeMetrics { metrics: vec![metric], ..Default::default() }];
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { resource: resource(service), scope_metrics, ..Default::default() }],
    }
}

fn posted(path: &str, kind: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
    Request::post(path).header("host", "otlp").header("content-type", kind).body(Full::new(body.into())).unwrap()
}

const PROTOBUF: &str = "application/x-protobuf";

#[tokio::test]
async fn what_a_sidecar_sends_is_its_own_whatever_it_says() {
    let open = open().await;
    let identity = open.control.joined("web").await;
    let mut client = TraceServiceClient::new(open.as_workload(&identity).await);
    client.export(spans("web", 1, 1)).await.unwrap();
    client.export(spans("bank", 2, 1)).await.unwrap();
    let told = open.api(&format!("/api/traces/{}", "02".repeat(16))).await;
    let span = &told["spans"][0];
    assert_eq!((&span["service"], &span["claimed"]), (&"web".into(), &"bank".into()));
    assert_eq!(span["identity"], "spiffe://fusewire.local/web");
    let honest = open.api(&format!("/api/traces/{}", "01".repeat(16))).await;
    assert_eq!(honest["spans"][0]["claimed"], "");
    assert_eq!(open.api("/api/traces?service=bank").await["traces"].as_array().unwrap().len(), 0);

    let mut client = MetricsServiceClient::new(open.as_workload(&identity).await);
    client.export(metrics("bank", 5)).await.unwrap();
    let map = open.api("/api/map").await;
    let names: Vec<_> = map["nodes"].as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["catalog", "web"]);
    assert_eq!(map["replicas"][0]["answered"], true);
}

#[tokio::test]
async fn without_a_certificate_or_with_one_that_is_denied_nothing_is_taken() {
    let open = open().await;
    let root = open.control.status().await["root_hash"].as_str().unwrap().to_owned();
    let nobody = joining_client_config(&root, &[ALPN_CONTROL]).unwrap();
    let mut client = TraceServiceClient::new(wire::channel(open.control.address, nobody).await.unwrap());
    assert_eq!(client.export(spans("web", 1, 1)).await.unwrap_err().code(), Code::Unauthenticated);
    let identity = open.control.joined("web").await;
    let (code, _) =
        open.control.ask("POST", "/trust/deny", serde_json::json!({ "identity": "web", "reason": "stolen" })).await;
    assert_eq!(code, 200);
    let mut client = TraceServiceClient::new(open.as_workload(&identity).await);
    assert_eq!(client.export(spans("web", 1, 1)).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(open.api("/api/traces").await["traces"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn malformed_spans_are_told_to_their_sender_and_the_others_are_kept() {
    let open = open().await;
    let mut sent = spans("app", 1, 3);
    sent.resource_spans[0].scope_spans[0].spans[1].end_time_unix_nano = 1;
    let at = format!("http://{}", open.otlp);
    let mut client = TraceServiceClient::new(Endpoint::from_shared(at).unwrap().connect().await.unwrap())
        .send_compressed(CompressionEncoding::Gzip);
    let partial = client.export(sent.clone()).await.unwrap().into_inner().partial_success.unwrap();
    assert_eq!((partial.rejected_spans, partial.error_message.as_str()), (1, "a span ends before it starts"));
    sent.resource_spans[0].scope_spans[0].spans[0].trace_id = vec![2; 15];
    let (status, headers, body) = http(open.otlp, posted("/v1/traces", PROTOBUF, sent.encode_to_vec())).await;
    assert_eq!((status, headers["content-type"].to_str().unwrap()), (200, PROTOBUF));
    let partial = ExportTraceServiceResponse::decode(body).unwrap().partial_success.unwrap();
    assert_eq!(partial.rejected_spans, 2);
    let told = open.api("/api/traces").await;
    assert_eq!((&told["traces"][0]["spans"], &told["store"]["malformed_spans"]), (&2.into(), &3.into()));
    let told = open.api(&format!("/api/traces/{}", "01".repeat(16))).await;
    assert_eq!(told["spans"][0]["identity"], "", "nothing was proven");
}

#[tokio::test]
async fn clear_messages_are_bounded_before_and_after_they_are_unpacked() {
    let open = open().await;
    let zipped = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let with = |encoding: &str, body: Vec<u8>| {
        let mut request = posted("/v1/traces", PROTOBUF, body);
        request.headers_mut().insert("content-encoding", encoding.parse().unwrap());
        request
    };
    let (status, ..) = http(open.otlp, with("gzip", zipped(&spans("app", 1, 1).encode_to_vec()))).await;
    assert_eq!(status, 200);
    // some 4 KiB that become 5 MiB
    let (status, ..) = http(open.otlp, with("gzip", zipped(&vec![0; 5 << 20]))).await;
    assert_eq!(status, 413);
    for (request, wanted) in [
        (with("gzip", b"no gzip".to_vec()), 400),
        (with("br", Vec::new()), 415),
        (posted("/v1/traces", "application/json", b"{}".to_vec()), 415),
        (posted("/v1/traces", PROTOBUF, vec![255; 100]), 400),
        (posted("/v1/metrics", PROTOBUF, metrics("app", 1).encode_to_vec()), 200),
        (posted("/v1/logs", PROTOBUF, Vec::new()), 404),
        (get("/v1/traces"), 404),
    ] {
        let asked = format!("{request:?}");
        assert_eq!(http(open.otlp, request).await.0, wanted, "{asked}");
    }
    let (status, ..) = http(open.otlp, posted("/v1/traces", PROTOBUF, vec![0; (4 << 20) + 1])).await;
    assert_eq!(status, 413);
    assert_eq!(open.api("/api/traces").await["traces"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_a_web_page_sends_to_the_clear_listener_is_refused() {
    let open = open().await;
    let export = format!("/{}/Export", "opentelemetry.proto.collector.trace.v1.TraceService");
    for (path, kind) in [
        ("/v1/traces", "text/plain"),
        ("/v1/traces", PROTOBUF),
        ("/v1/metrics", PROTOBUF),
        (&export, "application/grpc"),
    ] {
        let mut request = posted(path, kind, spans("app", 1, 1).encode_to_vec());
        request.headers_mut().insert("origin", "https://evil.example".parse().unwrap());
        assert_eq!(http(open.otlp, request).await.0, 403, "{path} as {kind}");
    }
    assert_eq!(open.api("/api/traces").await["traces"].as_array().unwrap().len(), 0);
    let (status, ..) = http(open.otlp, posted("/v1/traces", PROTOBUF, spans("app", 1, 1).encode_to_vec())).await;
    assert_eq!(status, 200, "without it, as SDKs send");
}

#[tokio::test]
async fn a_workload_does_not_measure_another_ones_service() {
    let open = open().await;
    let sent = |value| {
        let mut sent = metrics("bank", value);
        let metric = &mut sent.resource_metrics[0].scope_metrics[0].metrics[0];
        let Some(Data::Sum(sum)) = &mut metric.data else { unreachable!() };
        sum.data_points[0].attributes =
            vec![text("direction", "inbound"), text("service", "bank"), text("class", "5xx")];
        sent
    };
    let names = async || {
        let map = open.api("/api/map").await;
        let nodes = map["nodes"].as_array().unwrap().clone();
        nodes.iter().map(|node| node["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut evil = MetricsServiceClient::new(open.as_workload(&open.control.joined("evil").await).await);
    evil.export(sent(900)).await.unwrap();
    assert_eq!(names().await, ["evil"]);
    let mut bank = MetricsServiceClient::new(open.as_workload(&open.control.joined("bank").await).await);
    bank.export(sent(1)).await.unwrap();
    assert_eq!(names().await, ["bank", "evil"]);
}

#[tokio::test]
async fn the_page_is_for_known_names_for_seeing_and_forbids_everything_else() {
    let open = open().await;
    let ask = async |method: &str, path: &str, host: &str| {
        let request = Request::builder().method(method).uri(path).header("host", host).body(Full::default()).unwrap();
        let (status, headers, _) = http(open.web, request).await;
        (status, headers)
    };
    for path in ["/", "/app.js", "/style.css", "/api/traces", "/api/map"] {
        let (status, headers) = ask("GET", path, &format!("127.0.0.1:{}", open.web.port())).await;
        let header = |name: &str| headers[name].to_str().unwrap().to_owned();
        assert_eq!(status, 200, "{path}");
        assert!(header("content-security-policy").starts_with("default-src 'none'; script-src 'self';"));
        assert_eq!((header("x-content-type-options"), header("x-frame-options")), ("nosniff".into(), "DENY".into()));
        assert!(!headers.contains_key("set-cookie") && !headers.contains_key("access-control-allow-origin"));
        for foreign in ["evil.example", "127.0.0.1.evil.example", ""] {
            assert_eq!(ask("GET", path, foreign).await.0, 421, "{path} as {foreign:?}");
        }
        assert_eq!(ask("GET", path, "mesh.example:80").await.0, 200, "{path}");
        for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"] {
            assert_eq!(ask(method, path, "localhost").await.0, 405, "{method} {path}");
        }
    }
    for (path, wanted) in [
        ("/api/traces?limit=x", 400),
        ("/api/traces?what=1", 400),
        ("/api/traces/xyz", 400),
        ("/../etc", 404),
        ("/api", 404),
    ] {
        assert_eq!(ask("GET", path, "localhost").await.0, wanted, "{path}");
    }
}

#[tokio::test]
async fn beyond_loopback_a_control_plane_does_not_start_with_its_page_unless_told_to() {
    let start = async |hosts: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("mesh")).unwrap();
        Control::start_in(dir, |settings| {
            settings.web_listen = Some(SocketAddr::from(([0, 0, 0, 0], 0)));
            settings.web_hosts = hosts.iter().map(ToString::to_string).collect();
        })
        .await
    };
    let refused = start(&[]).await.err().unwrap();
    assert!(matches!(refused, ControlError::Web(_)), "{refused}");
    start(&["mesh.example"]).await.unwrap();
}
