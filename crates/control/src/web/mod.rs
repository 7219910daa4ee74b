//! The page: traces and the service map for people, and the JSON that it is made of.
//!
//! It decides who may ask: whoever reaches the port, but only by a name that is known (so that a foreign site cannot point a
//! name of its own at it and read along), and only to see. It deliberately has no login and no cookie, which is why it stays
//! on loopback unless the operator names where else; and it loads nothing from anywhere, so that it works offline.
//!
//! Invariant: every answer forbids the browser everything but this page's own files.

use crate::shared::Shared;
use crate::{ControlError, Settings, traces};
use fusewire_api::v1;
use fusewire_telemetry::admin::{Answer, Asked, Listener, json, serve as serve_http, text};
use hyper::header::{self, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tonic::{Code, Status};

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Everything that the page consists of.
const FILES: [(&str, &str, &str); 8] = [
    ("/", HTML, include_str!("index.html")),
    ("/style.css", STYLE, include_str!("style.css")),
    ("/icon.svg", "image/svg+xml", include_str!("icon.svg")),
    ("/app.js", SCRIPT, include_str!("app.js")),
    ("/dom.js", SCRIPT, include_str!("dom.js")),
    ("/list.js", SCRIPT, include_str!("list.js")),
    ("/trace.js", SCRIPT, include_str!("trace.js")),
    ("/map.js", SCRIPT, include_str!("map.js")),
];

const HEADERS: [(header::HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// # Errors
/// The page would be served beyond loopback, and nobody said under which name.
pub(crate) fn check(settings: &Settings) -> Result<(), ControlError> {
    match settings.web_listen {
        Some(address) if !address.ip().is_loopback() && settings.web_hosts.is_empty() => {
            Err(ControlError::Web(address))
        }
        _ => Ok(()),
    }
}

/// Serves until it is dropped; without a listener it only waits.
pub(crate) async fn serve(listener: Option<TcpListener>, hosts: Vec<String>, shared: &Arc<Shared>) {
    let Some(listener) = listener else { return std::future::pending().await };
    if let Ok(address) = listener.local_addr() {
        tracing::info!("traces and service map are at http://{address}/");
    }
    let (shared, hosts) = (shared.clone(), Arc::new(hosts));
    serve_http(Listener::Tcp(listener), move |asked| {
        let (shared, hosts) = (shared.clone(), hosts.clone());
        async move { guarded(answer(&shared, &hosts, asked).await) }
    })
    .await;
}

fn guarded(mut answer: Answer) -> Answer {
    for (name, value) in HEADERS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

async fn answer(shared: &Shared, hosts: &[String], asked: Asked) -> Answer {
    let host = asked.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_known(host, hosts) {
        let said = "this page is not served under that name; a name is added with --web-host\n";
        return text(StatusCode::MISDIRECTED_REQUEST, "text/plain", said);
    }
    if asked.method != Method::GET {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "there is only something to see here\n");
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return refused;
    }
    if let Some((_, kind, file)) = FILES.iter().find(|(path, ..)| *path == asked.path) {
        return text(StatusCode::OK, kind, *file);
    }
    match asked.path.as_str() {
        "/api/traces" => told(match asked_for(&asked.query) {
            Ok(asked) => traces::list(shared, asked).await,
            Err(fault) => Err(Status::invalid_argument(fault)),
        }),
        "/api/map" => told(Ok(traces::service_map(shared, v1::ServiceMapRequest::default()).await)),
        path => match path.strip_prefix("/api/traces/") {
            Some(id) => {
                let asked = v1::GetTraceRequest { trace_id: id.into(), ..Default::default() };
                told(traces::get(shared, asked).await.map(|trace| with_offsets(&trace)))
            }
            None => text(StatusCode::NOT_FOUND, "text/plain", "there is no such page\n"),
        },
    }
}

fn told(answer: Result<impl Serialize, Status>) -> Answer {
    match answer {
        Ok(answer) => json(StatusCode::OK, &answer),
        Err(status) => {
            let code = match status.code() {
                Code::InvalidArgument => StatusCode::BAD_REQUEST,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            json(code, &json!({ "error": status.message() }))
        }
    }
}

/// With `after_ns` beside each time, from the trace's start on: a script's numbers do not hold nanoseconds since 1970 exactly.
fn with_offsets(trace: &v1::GetTraceResponse) -> Value {
    let start = trace.summary.as_ref().map_or(0, |summary| summary.start_ns);
    let after = |ns: u64| match ns.checked_sub(start) {
        Some(after) => json!(after),
        // an event may come before everything else
        None => json!(i64::try_from(start - ns).map_or(i64::MIN, |before| -before)),
    };
    let mut told = json!(trace);
    for (span, shown) in trace.spans.iter().zip(told["spans"].as_array_mut().into_iter().flatten()) {
        shown["after_ns"] = after(span.start_ns);
        for (event, shown) in span.events.iter().zip(shown["events"].as_array_mut().into_iter().flatten()) {
            shown["after_ns"] = after(event.time_ns);
        }
    }
    told
}

/// The filter of a list, as the page writes it in its address.
fn asked_for(query: &str) -> Result<v1::ListTracesRequest, String> {
    let mut asked = v1::ListTracesRequest::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let number = || value.parse().map_err(|_| format!("{name}: must be a number"));
        match &*name {
            "service" => asked.service = value.into_owned(),
            "q" => asked.text = value.into_owned(),
            "status" => asked.status = value.into_owned(),
            "before" => asked.before = value.into_owned(),
            "errors" => asked.errors = value == "1",
            "circuit" => asked.circuit = value == "1",
            "limit" => asked.limit = number()?,
            "min_us" => asked.min_duration_ns = u64::from(number()?).saturating_mul(1_000),
            _ => return Err("there are service, q, status, before, errors, circuit, limit and min_us".to_owned()),
        }
    }
    Ok(asked)
}

/// Whether `Host` is this machine's loopback, by any port, or a name that the operator gave, by that port or any.
fn is_known(host: &str, hosts: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(host) || known.eq_ignore_ascii_case(bare))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_name_that_points_here_is_refused() {
        let hosts = ["mesh.example".to_owned(), "10.0.0.7:9000".to_owned()];
        for known in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:15020",
            "127.8.0.1",
            "[::1]:80",
            "mesh.example:15020",
            "10.0.0.7:9000",
        ] {
            assert!(is_known(known, &hosts), "{known}");
        }
        for foreign in [
            "",
            ":80",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.7:9001",
            "10.0.0.8",
            "[::2]",
            "mesh.example.evil",
            "localhost:80:90",
        ] {
            assert!(!is_known(foreign, &hosts), "{foreign}");
        }
    }

    #[test]
    fn a_filter_is_read_from_the_query() {
        let asked = asked_for("service=a%20b&q=%3Cscript%3E&errors=1&min_us=1500&limit=10&before=x").unwrap();
        assert_eq!((asked.service.as_str(), asked.text.as_str(), asked.before.as_str()), ("a b", "<script>", "x"));
        assert_eq!((asked.errors, asked.circuit, asked.min_duration_ns, asked.limit), (true, false, 1_500_000, 10));
        assert!(asked_for("limit=many").unwrap_err().contains("limit"));
        assert!(asked_for("wat=1").is_err());
    }

    #[test]
    fn times_in_a_trace_are_told_from_its_start_to_the_nanosecond() {
        const START: u64 = 1_764_180_000_123_456_789;
        let event = |time_ns| v1::SpanEvent { time_ns, ..Default::default() };
        let span = v1::TraceSpan {
            start_ns: START + 1,
            events: vec![event(START + 3), event(START - 1), event(0), event(u64::MAX)],
            ..Default::default()
        };
        let summary = v1::TraceSummary { start_ns: START, ..Default::default() };
        let trace = v1::GetTraceResponse { summary: Some(summary), spans: vec![span], ..Default::default() };
        let told = with_offsets(&trace);
        assert_eq!((&told["summary"]["start_ns"], &told["spans"][0]["after_ns"]), (&json!(START), &json!(1)));
        let events: Vec<_> = (0..4).map(|n| told["spans"][0]["events"][n]["after_ns"].clone()).collect();
        assert_eq!(events, [json!(3), json!(-1), json!(-1_764_180_000_123_456_789_i64), json!(u64::MAX - START)]);
        assert!(with_offsets(&v1::GetTraceResponse::default())["summary"].is_null());
    }

    #[test]
    fn the_page_names_no_other_host_and_runs_nothing_inline() {
        for (path, _, file) in FILES {
            // the name of SVG's vocabulary is no address that anybody asks
            let file = file.replace("http://www.w3.org/2000/svg", "");
            assert!(!file.contains("http://") && !file.contains("https://"), "{path}");
            assert!(!file.contains("innerHTML") && !file.contains("eval("), "{path}");
        }
        let html = FILES[0].2;
        assert!(!html.contains("<style") && !html.contains(" style=") && !html.contains(" onclick"));
        assert_eq!(html.matches("<script").count(), html.matches("<script type=\"module\" src=").count());
    }

    #[test]
    fn beyond_loopback_the_page_needs_a_name() {
        let settings = |listen: &str, hosts: &[&str]| Settings {
            web_listen: Some(listen.parse().unwrap()),
            web_hosts: hosts.iter().map(ToString::to_string).collect(),
            ..Settings::new(Vec::new(), "data".into())
        };
        assert!(check(&settings("127.0.0.1:0", &[])).is_ok());
        assert!(check(&settings("[::1]:0", &[])).is_ok());
        let refused = check(&settings("0.0.0.0:0", &[])).unwrap_err().to_string();
        assert!(refused.contains("--web-host"), "{refused}");
        assert!(check(&settings("0.0.0.0:0", &["mesh.example"])).is_ok());
    }
}
