//! How the application is, where its service names no health check: whether its port takes a connection.
//!
//! It decides the pace: every 250 ms until it answers for the first time, and while it has just failed; else every second,
//! each jittered by a tenth. Two failures in a row make it down. It deliberately sends no byte.

use super::{Own, Report};
use crate::mesh::Mesh;
use fusewire_model::ServiceName;
use fusewire_model::health::Health;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

const SOON: Duration = Duration::from_millis(250);
const STEADY: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(1);
const DOWN_AFTER: u32 = 2;

/// `was_up`: the services that are known to have been up.
pub(super) fn start(mesh: &Arc<Mesh>, own: &Own, was_up: &BTreeSet<ServiceName>, reports: &mpsc::Sender<Report>) {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let app = mesh.settings.inbound.as_ref().map_or(loopback, |inbound| inbound.app);
    for (port, service) in &own.register.ports {
        let of = (service.clone(), own.id.clone());
        let told = was_up.contains(service).then_some(Health::Up);
        tokio::spawn(ask(mesh.clone(), SocketAddr::new(app, *port), of, told, reports.clone()));
    }
}

async fn ask(
    mesh: Arc<Mesh>,
    address: SocketAddr,
    (service, instance): (ServiceName, String),
    mut told: Option<Health>,
    reports: mpsc::Sender<Report>,
) {
    let mut failures = 0;
    loop {
        if has_check(&mesh, address.port()) {
            // its findings are told; ours anew if it is ever taken away
            (told, failures) = (None, 0);
        } else {
            let answer = tokio::time::timeout(TIMEOUT, fusewire_net::dial(address)).await;
            let detail = match answer {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(format!("connect to {address}: {error}")),
                Err(_) => Some(format!("connect to {address}: no answer within {TIMEOUT:?}")),
            };
            failures = if detail.is_none() { 0 } else { failures + 1 };
            let health = match (&detail, told) {
                (None, _) => Health::Up,
                (Some(_), None | Some(Health::Starting)) => Health::Starting,
                (Some(_), Some(_)) if failures >= DOWN_AFTER => Health::Down,
                (Some(_), Some(before)) => before,
            };
            if told != Some(health) {
                let (service, instance) = (service.clone(), instance.clone());
                let detail = detail.unwrap_or_default();
                tracing::info!(%service, instance, health = health.as_str(), detail, "the application beside this sidecar");
                if reports.send(Report { service, instance, health, detail }).await.is_err() {
                    return;
                }
                told = Some(health);
            }
        }
        let pause = if told == Some(Health::Up) && failures == 0 { STEADY } else { SOON };
        tokio::time::sleep(pause.mul_f64(0.9 + 0.2 * crate::clock::fraction())).await;
    }
}

fn has_check(mesh: &Mesh, port: u16) -> bool {
    let snapshot = mesh.snapshot.load();
    snapshot.inbound.as_ref().and_then(|ports| ports.get(&port)).is_some_and(|port| port.health.is_some())
}
