//! What is in force, what is wrong, and which sidecar has what, at the moment of asking.
//!
//! It decides that a sidecar is `current` only when it said itself that the version in force is in force there. The same
//! answer is given by gRPC and, as JSON, on the admin socket.

use crate::alerts::Alert;
use crate::assembly;
use crate::shared::{Shared, lock};
use crate::sidecars::Sidecar;
use fusewire_api::{kind_from_wire, v1};
use fusewire_model::ServiceName;
use fusewire_model::yaml::Fault;
use tonic::Status;

/// This replica's part of the answer.
pub(crate) fn here(shared: &Shared) -> v1::StatusResponse {
    let in_force = shared.in_force.borrow().world.version().to_owned();
    let (registrations, silent, preserved) = shared.registrations.state();
    v1::StatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        trust_domain: shared.trust.domain().to_string(),
        root_hash: shared.trust.now().authority.root_hash().to_owned(),
        started: shared.started.to_string(),
        sidecars: shared
            .sidecars
            .list()
            .iter()
            .map(|sidecar| connected(sidecar, &in_force, shared.replicas.name()))
            .collect(),
        configuration: Some(configuration(shared, in_force)),
        alerts: shared.alerts.list().into_iter().map(alert).collect(),
        registry: Some(v1::RegistryStatus {
            registrations: registrations as u64,
            silent: silent as u64,
            preserved: preserved.iter().map(ToString::to_string).collect(),
        }),
        sources: sources(shared),
        replicas: Vec::new(),
    }
}

fn configuration(shared: &Shared, version: String) -> v1::ConfigurationStatus {
    let written = shared.written_now();
    let configuration = lock(&shared.configuration);
    v1::ConfigurationStatus {
        files: configuration.files.clone(),
        version,
        valid: configuration.faults.is_empty(),
        faults: configuration.faults.iter().map(fault).collect(),
        loaded_at: configuration.loaded_at.to_string(),
        revision: shared.in_force.borrow().revision,
        shadowed: written.shadowed.iter().map(|(name, file)| (name.to_string(), file.clone())).collect(),
    }
}

pub(crate) fn fault(fault: &Fault) -> v1::ConfigFault {
    let Fault { file, line, column, path, message, remedy } = fault.clone();
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    v1::ConfigFault { file, line: small(line), column: small(column), path, message, remedy }
}

fn connected(sidecar: &Sidecar, in_force: &str, replica: &str) -> v1::SidecarStatus {
    let state = sidecar.state();
    v1::SidecarStatus {
        workload: sidecar.workload.clone(),
        instance: sidecar.instance.clone(),
        program_version: sidecar.program_version.clone(),
        address: sidecar.address.to_string(),
        connected_since: sidecar.connected_since.to_string(),
        current: state.acked_version.as_deref() == Some(in_force),
        sent_version: state.sent_version,
        acked_version: state.acked_version,
        subscriptions: u32::try_from(state.subscriptions).unwrap_or(u32::MAX),
        nacks: state.nacks.into_values().map(nack).collect(),
        replica: replica.to_owned(),
        trust: state.acked_trust,
        root: sidecar.root.clone(),
    }
}

fn alert(alert: Alert) -> v1::Alert {
    let Alert { name, about, message, since } = alert;
    v1::Alert { name: name.to_owned(), about, message, since: since.to_string() }
}

fn nack(nack: v1::Nack) -> v1::NackStatus {
    let kind = kind_from_wire(nack.kind).map(|kind| format!("{kind:?}").to_lowercase()).unwrap_or_default();
    v1::NackStatus { kind, name: nack.name, path: nack.path, message: nack.message }
}

/// Sources that can fail, with the age of what is served from them.
fn sources(shared: &Shared) -> Vec<v1::SourceStatus> {
    let status = |age: crate::dns::Age| v1::SourceStatus {
        source: "dns".into(),
        service: age.service.to_string(),
        age_ms: u64::try_from(age.age.as_millis()).unwrap_or(u64::MAX),
        failing: age.failing,
    };
    let in_cluster = shared.kubernetes.as_ref().map(|kubernetes| {
        let age = kubernetes.age();
        let age_ms = u64::try_from(age.age.as_millis()).unwrap_or(u64::MAX);
        v1::SourceStatus { source: "kubernetes".into(), service: String::new(), age_ms, failing: age.failing }
    });
    shared.names.ages().into_iter().map(status).chain(in_cluster).collect()
}

/// Who serves one service, from which source, in which health.
pub(crate) fn endpoints(shared: &Shared, asked: &v1::EndpointsRequest) -> Result<v1::EndpointsResponse, Status> {
    let name = ServiceName::parse(&asked.service).map_err(|e| Status::invalid_argument(e.to_string()))?;
    let written = shared.written_now();
    let (mesh, _) = shared.mesh_with(&written);
    let seen = assembly::seen(shared, &written, &mesh, &name);
    let defined = mesh.services.contains_key(&name);
    if !defined && seen.is_empty() {
        let known = shared.in_force.borrow().world.clone();
        let near: Vec<&str> = known.services().map(|(name, _)| name.as_str()).take(10).collect();
        let near =
            if near.is_empty() { "there is none yet".to_owned() } else { format!("there are {}", near.join(", ")) };
        return Err(Status::not_found(format!("no service {name} is defined, and nobody registered for it; {near}")));
    }
    let endpoint = |seen: &crate::view::Seen| {
        let age_ms = seen.age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        v1::Endpoint { found: Some(v1::Found { age_ms, ..assembly::told(seen) }), offered: seen.offered }
    };
    Ok(v1::EndpointsResponse {
        service: name.to_string(),
        defined,
        instances: seen.iter().map(endpoint).collect(),
        sources: sources(shared).into_iter().filter(|s| s.service == name.as_str() || s.service.is_empty()).collect(),
    })
}
