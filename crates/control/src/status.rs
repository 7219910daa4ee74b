//! What `GET /status` says: which configuration is in force, what is wrong with the files, and which sidecar has what.
//!
//! It decides that a sidecar is `current` only when it said itself that the world in force is in force there.

use crate::shared::{Shared, lock};
use crate::sidecars::Sidecar;
use fusewire_api::{kind_from_wire, v1};
use fusewire_model::yaml::Fault;
use serde::Serialize;

#[derive(Serialize)]
pub(crate) struct Status {
    version: &'static str,
    trust_domain: String,
    root_hash: String,
    started: String,
    configuration: Configuration,
    sidecars: Vec<Connected>,
}

#[derive(Serialize)]
struct Configuration {
    files: Vec<String>,
    /// Of the world in force.
    version: String,
    /// False: the files have faults, and the world in force is that of the last good ones.
    valid: bool,
    faults: Vec<FaultView>,
    loaded_at: String,
}

#[derive(Serialize)]
struct FaultView {
    file: String,
    line: usize,
    column: usize,
    path: String,
    message: String,
    remedy: Option<String>,
}

#[derive(Serialize)]
struct Connected {
    workload: String,
    instance: Option<String>,
    program_version: String,
    address: String,
    connected_since: String,
    sent_version: Option<String>,
    acked_version: Option<String>,
    current: bool,
    subscriptions: usize,
    nacks: Vec<NackView>,
}

#[derive(Serialize)]
struct NackView {
    kind: String,
    name: String,
    path: String,
    message: String,
}

impl Status {
    pub(crate) fn now(shared: &Shared) -> Self {
        let version = shared.world.borrow().version().to_owned();
        let sidecars = shared.sidecars.list().iter().map(|sidecar| connected(sidecar, &version)).collect();
        let configuration = lock(&shared.configuration);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            trust_domain: shared.authority.trust_domain().to_string(),
            root_hash: shared.authority.root_hash().to_owned(),
            started: shared.started.to_string(),
            configuration: Configuration {
                files: configuration.files.clone(),
                version,
                valid: configuration.faults.is_empty(),
                faults: configuration.faults.iter().map(fault).collect(),
                loaded_at: configuration.loaded_at.to_string(),
            },
            sidecars,
        }
    }
}

fn fault(fault: &Fault) -> FaultView {
    let Fault { file, line, column, path, message, remedy } = fault.clone();
    FaultView { file, line, column, path, message, remedy }
}

fn connected(sidecar: &Sidecar, in_force: &str) -> Connected {
    let state = sidecar.state();
    Connected {
        workload: sidecar.workload.clone(),
        instance: sidecar.instance.clone(),
        program_version: sidecar.program_version.clone(),
        address: sidecar.address.to_string(),
        connected_since: sidecar.connected_since.to_string(),
        current: state.acked_version.as_deref() == Some(in_force),
        sent_version: state.sent_version,
        acked_version: state.acked_version,
        subscriptions: state.subscriptions,
        nacks: state.nacks.into_values().map(nack).collect(),
    }
}

fn nack(nack: v1::Nack) -> NackView {
    let kind = kind_from_wire(nack.kind).map(|kind| format!("{kind:?}").to_lowercase()).unwrap_or_default();
    NackView { kind, name: nack.name, path: nack.path, message: nack.message }
}
