//! What anybody may know who reaches the port: for Prometheus, and for whoever restarts what does not live.
//!
//! It decides that a control plane whose store does not answer is ready all the same: it serves what it has, and were all
//! replicas taken out of service at once, sidecars would find none (the metric `fusewire_alerts` says it). It
//! deliberately shows nothing else; everything else is on the Unix socket.

use crate::metrics;
use crate::shared::Shared;
use fusewire_telemetry::admin::{self, Answer, Asked, Listener, not_found, serve as serve_http, text};
use hyper::{Method, StatusCode};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::net::TcpListener;

/// Serves until it is dropped; without a listener it only waits.
pub(crate) async fn serve(listener: Option<TcpListener>, shared: &Arc<Shared>) {
    let Some(listener) = listener else { return std::future::pending().await };
    if let Ok(address) = listener.local_addr() {
        tracing::info!("/live, /ready and /metrics are at http://{address}");
    }
    let shared = shared.clone();
    serve_http(Listener::Tcp(listener), move |asked| answer(shared.clone(), asked)).await;
}

async fn answer(shared: Arc<Shared>, asked: Asked) -> Answer {
    match (&asked.method, asked.path.as_str()) {
        (&Method::GET, "/ready") if !shared.injecting.load(Ordering::Relaxed) => {
            text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "the admission webhook does not serve yet\n")
        }
        // it listens only once it has everything that it serves from
        (&Method::GET, "/live" | "/ready") => text(StatusCode::OK, "text/plain", "ok\n"),
        (&Method::GET, "/metrics") => admin::metrics(&asked, metrics::text(&shared)),
        _ => not_found("GET /live, GET /ready, GET /metrics"),
    }
}
