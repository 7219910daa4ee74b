//! What every part of one control plane sees.

use crate::configuration::Judged;
use crate::rate::Rate;
use crate::sidecars::Sidecars;
use fusewire_identity::{Authority, TokenBook};
use fusewire_model::World;
use fusewire_model::resource::{Resource, Trust};
use fusewire_model::yaml::Fault;
use jiff::Timestamp;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) authority: Authority,
    pub(crate) leaf_lifetime: Duration,
    /// Redeeming writes to disk: lock it off the runtime.
    pub(crate) tokens: Mutex<TokenBook>,
    pub(crate) signing: Mutex<Rate>,
    pub(crate) world: watch::Sender<Arc<World>>,
    pub(crate) configuration: Mutex<Configuration>,
    pub(crate) sidecars: Arc<Sidecars>,
    pub(crate) trust: Resource,
    pub(crate) started: Timestamp,
    /// Becomes true once.
    pub(crate) stopping: watch::Sender<bool>,
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
        authority: Authority,
        tokens: TokenBook,
        leaf_lifetime: Duration,
        world: Arc<World>,
        judged: Judged,
    ) -> Self {
        let now = Timestamp::now();
        let trust = Trust { trust_domain: authority.trust_domain().to_string(), bundle: authority.bundle().to_pem() };
        let faults = judged.world.err().unwrap_or_default();
        Self {
            authority,
            leaf_lifetime,
            tokens: Mutex::new(tokens),
            signing: Mutex::default(),
            world: watch::Sender::new(world),
            configuration: Mutex::new(Configuration { files: judged.files, faults, loaded_at: now }),
            sidecars: Arc::default(),
            trust: Resource::Trust(trust.into()),
            started: now,
            stopping: watch::Sender::new(false),
        }
    }

    /// Puts what the files say in force, or notes why it is not.
    pub(crate) fn judged(&self, judged: Judged) {
        let mut configuration = lock(&self.configuration);
        configuration.files = judged.files;
        match judged.world {
            Ok(world) => {
                tracing::info!(version = world.version(), files = configuration.files.len(), "configuration in force");
                configuration.faults.clear();
                configuration.loaded_at = Timestamp::now();
                self.world.send_replace(world);
            }
            Err(faults) => {
                log_faults(&faults);
                configuration.faults = faults;
            }
        }
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
