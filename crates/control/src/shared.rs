//! What every part of one control plane sees.

use crate::Settings;
use crate::alerts::Alerts;
use crate::assembly::Marks;
use crate::checks::Verdicts;
use crate::configuration::{Judged, Written};
use crate::dns::Answers;
use crate::encoded::Encoded;
use crate::feed::Feeds;
use crate::kubernetes::{Kubernetes, Standing};
use crate::objects::ObjectStore;
use crate::rate::Rate;
use crate::registry::Registrations;
use crate::replicas::Replicas;
use crate::sidecars::Sidecars;
use crate::store::Store;
use crate::traces::Traces;
use crate::trust::Trust;
use fusewire_discovery::registry::Limits;
use fusewire_model::World;
use fusewire_model::resource::Resource;
use fusewire_model::world::Mesh;
use fusewire_model::yaml::Fault;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) replicas: Replicas,
    pub(crate) trust: Trust,
    pub(crate) alerts: Alerts,
    pub(crate) signing: Mutex<Rate>,
    pub(crate) in_force: watch::Sender<Arc<InForce>>,
    pub(crate) encoded: Arc<Encoded>,
    pub(crate) configuration: Mutex<Configuration>,
    pub(crate) objects: ObjectStore,
    pub(crate) sidecars: Arc<Sidecars>,
    /// What files say, and objects applied by API.
    pub(crate) written: Mutex<Arc<Written>>,
    pub(crate) marks: Arc<Marks>,
    pub(crate) registrations: Arc<Registrations>,
    pub(crate) feeds: Arc<Feeds>,
    /// Of instances without a sidecar.
    pub(crate) verdicts: Verdicts,
    pub(crate) traces: Arc<Traces>,
    /// What DNS says.
    pub(crate) names: Answers,
    /// The cluster, where there is one to look at.
    pub(crate) kubernetes: Option<Kubernetes>,
    /// The admission webhook serves, or there is to be none.
    pub(crate) injecting: AtomicBool,
    pub(crate) started: Timestamp,
    /// Becomes true once.
    pub(crate) stopping: watch::Sender<bool>,
}

/// What sidecars are told, at one moment.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    pub(crate) world: Arc<World>,
    pub(crate) trust: Resource,
    /// Of the objects applied by API that the world holds.
    pub(crate) revision: u64,
    /// What the world holds of the objects in the cluster.
    pub(crate) standing: Arc<Standing>,
}

/// The files as they were last judged.
#[derive(Debug)]
pub(crate) struct Configuration {
    pub(crate) files: Vec<String>,
    pub(crate) faults: Vec<Fault>,
    /// When the world in force was read.
    pub(crate) loaded_at: Timestamp,
}

impl Shared {
    pub(crate) fn new(
        store: Store,
        replicas: Replicas,
        trust: Trust,
        alerts: Alerts,
        (written, judged): (Written, Judged),
        (kubernetes, marks): (Option<Kubernetes>, Arc<Marks>),
        settings: &Settings,
    ) -> Self {
        let now = Timestamp::now();
        let limits = Limits { self_preservation: settings.self_preservation, ..Limits::default() };
        let domain = written.mesh.trust_domain.clone();
        let world = World::empty(domain.clone()).after(written.mesh.clone(), &BTreeMap::new());
        let trust_now = trust.now().resource.clone();
        let in_force =
            InForce { world: Arc::new(world), trust: trust_now, revision: written.revision, standing: Arc::default() };
        let objects = ObjectStore::new(store.clone(), domain);
        let Judged { files, faults, .. } = judged;
        let home = replicas.name().to_owned();
        Self {
            store,
            replicas,
            trust,
            alerts,
            signing: Mutex::default(),
            written: Mutex::new(Arc::new(written)),
            in_force: watch::Sender::new(Arc::new(in_force)),
            encoded: Arc::default(),
            configuration: Mutex::new(Configuration { files, faults, loaded_at: now }),
            objects,
            sidecars: Arc::default(),
            registrations: Arc::new(Registrations::new(limits, home, marks.clone())),
            verdicts: Verdicts::new(marks.clone()),
            traces: Arc::new(Traces::new(settings.trace_memory)),
            names: Answers::open(&settings.data_dir, marks.clone()),
            kubernetes,
            marks,
            feeds: Arc::default(),
            injecting: AtomicBool::new(settings.webhook.is_none()),
            started: now,
            stopping: watch::Sender::new(false),
        }
    }

    /// Puts what files and objects say in force, or notes why it is not.
    pub(crate) fn judged(&self, judged: Judged) {
        let mut configuration = lock(&self.configuration);
        configuration.files = judged.files;
        if !judged.faults.is_empty() && judged.faults != configuration.faults {
            log_faults(&judged.faults);
        }
        configuration.faults = judged.faults;
        let Some(new) = judged.written else { return };
        let (files, revision) = (new.files.len(), new.revision);
        tracing::info!(files, revision, "configuration taken over");
        let mut written = lock(&self.written);
        for (object, file) in new.shadowed.iter().filter(|(object, _)| !written.shadowed.contains_key(*object)) {
            tracing::warn!(%object, file, "an object applied by API is not in force, since a file defines it too");
        }
        configuration.loaded_at = Timestamp::now();
        *written = Arc::new(new);
        self.marks.mark_all();
    }

    /// What was written together with what was found in the cluster, and what is declared there.
    pub(crate) fn mesh_with(&self, written: &Written) -> (Arc<Mesh>, Arc<Standing>) {
        let alone = || (written.mesh.clone(), Arc::default());
        self.kubernetes.as_ref().map_or_else(alone, |kubernetes| kubernetes.merge(&written.mesh))
    }

    pub(crate) fn written_now(&self) -> Arc<Written> {
        lock(&self.written).clone()
    }

    /// Puts in force who is believed and who is not, with whatever world is in force.
    pub(crate) fn put_trust(&self, trust: Resource) {
        self.in_force.send_if_modified(|now| {
            let changed = !now.trust.is_same(&trust);
            if changed {
                *now = Arc::new(InForce { trust, ..InForce::clone(now) });
            }
            changed
        });
        self.encoded.prune();
        // whose identity is denied is offered to nobody
        self.marks.mark_all();
    }

    /// Ends when the control plane is to end.
    pub(crate) async fn stopping(&self) {
        // an error would mean that `self` is gone
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }
}

pub(crate) fn log_faults(faults: &[Fault]) {
    for fault in faults {
        let remedy = fault.remedy.as_deref().unwrap_or_default();
        tracing::error!(
            file = fault.file,
            line = fault.line,
            column = fault.column,
            path = fault.path,
            remedy,
            "{}",
            fault.message
        );
    }
    tracing::error!(faults = faults.len(), "the configuration has faults; the last good one stays in force");
}

/// A panic under one of these locks leaves plain data, so the lock may be used on.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
