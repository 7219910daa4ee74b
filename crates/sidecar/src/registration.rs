//! The application beside this sidecar, in the control plane's registry.
//!
//! It decides what is registered, under which id, and that leaving comes before the drain. It deliberately leaves to
//! [`gate`] when callers are told of it, to [`registrar`] how that reaches the control plane, and to whoever checks (the
//! service's health check, else [`ready`]) how the application is. Instances that are written in files are not registered,
//! but their health is reported all the same, on the same stream.

mod gate;
mod ready;
mod registrar;

use gate::Gate;
pub use registrar::{Credentials, Registrar, Report};

use crate::controls::Controls;
use crate::mesh::Mesh;
use crate::trust;
use fusewire_api::v1;
use fusewire_model::ServiceName;
use fusewire_model::node::{Register, SidecarSettings};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Reports that may wait.
const QUEUE: usize = 256;
/// How long leaving may take before the drain begins all the same.
const LEAVE: Duration = Duration::from_secs(2);
const ID_FILE: &str = "instance-id";

/// A running registration.
pub(crate) struct Registration {
    task: JoinHandle<()>,
    leave: Option<oneshot::Sender<()>>,
    left: Option<oneshot::Receiver<()>>,
}

impl Registration {
    /// It ends with this sidecar, at the control plane only where it has left before: another may have taken over.
    pub(crate) fn end(self) {
        self.task.abort();
    }

    /// The same once another sidecar has had the time to speak for the application.
    pub(crate) async fn end_soon(self) {
        tokio::time::sleep(LEAVE).await;
        self.end();
    }

    /// Ends it at the control plane, so that callers turn elsewhere; at most [`LEAVE`].
    pub(crate) async fn leave(&mut self) {
        let (Some(leave), Some(left)) = (self.leave.take(), self.left.take()) else { return };
        if leave.send(()).is_ok() && tokio::time::timeout(LEAVE, left).await.is_err() {
            tracing::warn!("the control plane did not take the deregistration within {LEAVE:?}; its TTL ends it");
        }
    }
}

/// The id that is registered, which is this sidecar's instance from here on: configured, else kept from an earlier run,
/// else a new one.
pub(crate) fn settle_id(settings: &mut SidecarSettings) -> io::Result<()> {
    let Some(register) = &settings.register else { return Ok(()) };
    let id = match (&register.id, &settings.instance, &settings.data_dir) {
        (Some(id), _, _) | (None, Some(id), _) => id.clone(),
        (None, None, Some(dir)) => kept_id(dir)?,
        (None, None, None) => new_id(),
    };
    settings.instance = Some(id);
    Ok(())
}

fn kept_id(dir: &Path) -> io::Result<String> {
    let path = dir.join(ID_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() && text.len() <= 253 => Ok(text.trim().to_owned()),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(_) | Err(_) => {
            let id = new_id();
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            file.write_all(id.as_bytes())?;
            Ok(id)
        }
    }
}

/// Unique, not secret: 128 bits of the system's entropy by way of the hasher's keys.
fn new_id() -> String {
    use std::hash::{BuildHasher, Hasher};
    let bits = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    let time = crate::clock::unix_micros();
    format!("{:016x}{:016x}", bits() ^ time, bits() ^ u64::from(std::process::id()))
}

/// Registers (where the file says so), heartbeats and reports until [`Registration::leave`]. `inbound`: as bound. `was_up`: the
/// services whose instance here callers know of, by the sidecar before this one: in none they see it begin anew.
pub(crate) fn start(
    mesh: &Arc<Mesh>,
    controls: Controls,
    inbound: Option<SocketAddr>,
    was_up: &BTreeSet<ServiceName>,
) -> Registration {
    let (tell, told) = mpsc::channel(QUEUE);
    let (pass, passed) = mpsc::channel(QUEUE);
    let (leave, leaving) = oneshot::channel();
    let (gone, left) = oneshot::channel();
    let own = Own::new(mesh, inbound);
    let registration = own.as_ref().map(|own| own.registration(was_up));
    if let Some(own) = &own {
        ready::start(mesh, own, was_up, &tell);
    }
    tokio::spawn(Gate::new(mesh.clone(), own, was_up.clone()).run(told, pass));
    let of = mesh.clone();
    let credentials = move || trust::control_client(&of.tls()?.identity).ok();
    let registrar = Registrar::new(controls, registration, Box::new(credentials));
    let task = tokio::spawn(async move {
        registrar.run(passed, leaving).await;
        let _ = gone.send(());
    });
    Registration { task, leave: Some(leave), left: Some(left) }
}

/// What this sidecar registers.
pub(crate) struct Own {
    id: String,
    register: Register,
    sidecar: SocketAddr,
}

impl Own {
    fn new(mesh: &Mesh, inbound: Option<SocketAddr>) -> Option<Self> {
        let register = mesh.settings.register.clone()?;
        let sidecar = SocketAddr::new(register.address, inbound?.port());
        Some(Self { id: mesh.settings.instance.clone()?, register, sidecar })
    }

    fn registration(&self, was_up: &BTreeSet<ServiceName>) -> v1::Registration {
        let port =
            |(port, service): (&u16, &ServiceName)| v1::Port { port: (*port).into(), service: service.to_string() };
        let Register { address, ports, weight, zone, labels, ttl, .. } = &self.register;
        v1::Registration {
            id: self.id.clone(),
            host: address.to_string(),
            ports: ports.iter().map(port).collect(),
            sidecar: self.sidecar.to_string(),
            weight: *weight,
            zone: zone.clone().unwrap_or_default(),
            metadata: labels.clone().into_iter().collect(),
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            starting: !ports.values().any(|service| was_up.contains(service)),
        }
    }

    /// `None`: it is not our own instance.
    fn port_of(&self, service: &ServiceName, instance: &str) -> Option<u16> {
        let ports = self.register.ports.iter().filter(|_| self.id == instance);
        ports.filter(|(_, of)| *of == service).map(|(port, _)| *port).next()
    }
}
