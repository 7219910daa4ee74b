//! The watched configuration: which world is in force, and what is wrong with the files if it is not theirs.
//!
//! It decides when files have settled (unchanged for one poll, before and after they were read, so that half a write is
//! not taken for the whole) and that a bad state never replaces a good one: not a fault, not a folder that vanished, not
//! a file that became empty, not a folder without files (which is also what an unmounted volume looks like). What is in
//! force is files and objects applied by API together; where they disagree, the file's word counts
//! ([`fusewire_model::yaml::merge`]). It deliberately does not merge good files with bad ones: what is in force was written
//! together.
//!
//! Invariant: the world in force came from files and objects without a fault.

use crate::files::{self, Stamp, fault};
use crate::last_good;
use crate::objects::Snapshot;
use crate::{ControlError, Settings};
use fusewire_model::TrustDomain;
use fusewire_model::world::Mesh;
use fusewire_model::yaml::{self, Fault, ObjectKind, ObjectName, Source};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const POLL: Duration = Duration::from_millis(250);

type Scan = Result<Vec<Stamp>, Fault>;
type Sources = Arc<[Source]>;

/// Files and objects on their way to a world. Blocking: poll it off the runtime.
#[derive(Debug)]
pub(crate) struct Watched {
    paths: Vec<PathBuf>,
    data_dir: PathBuf,
    trust_domain: TrustDomain,
    /// What the last poll saw.
    seen: Scan,
    /// What was last judged.
    judged: Scan,
    /// What that says, or why it says nothing.
    latest: Result<Sources, Vec<Fault>>,
    /// The files in force.
    good: Sources,
    objects: Snapshot,
    /// In force, and not yet kept as the last good.
    unkept: bool,
}

/// What is in force, as it was written.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) files: Sources,
    /// Of the objects that were applied by API.
    pub(crate) revision: u64,
    /// Objects applied by API that a file defines too, and where: they are not in force.
    pub(crate) shadowed: BTreeMap<ObjectName, String>,
    /// Services that were applied by API.
    pub(crate) applied: BTreeSet<String>,
}

/// What became of the present state of files and objects.
#[derive(Debug)]
pub(crate) struct Judged {
    /// The files there are.
    pub(crate) files: Vec<String>,
    /// What is newly in force; `None`: the old one stays.
    pub(crate) written: Option<Written>,
    /// What is wrong with the files there are, if they are not what is in force.
    pub(crate) faults: Vec<Fault>,
}

impl Watched {
    /// The first reading. Faults are survived only with a last good configuration from an earlier run.
    pub(crate) fn start(settings: &Settings, objects: Snapshot) -> Result<(Self, Written, Judged), ControlError> {
        if settings.config.is_empty() && settings.kubernetes.is_none() {
            return Err(ControlError::NoConfiguration);
        }
        let scan = files::scan(&settings.config);
        if let Err(fault) = scan {
            return Err(ControlError::Configuration(vec![fault]));
        }
        let kept = last_good::load(&settings.data_dir);
        let latest = read(&scan, kept.is_some() && !settings.config.is_empty());
        let (written, faults) = match latest.clone().and_then(|files| merge(&files, &objects, None)) {
            Ok(written) => (written, Vec::new()),
            Err(faults) => match kept.and_then(|files| merge(&files.into(), &objects, None).ok()) {
                Some(written) => (written, faults),
                None => return Err(ControlError::Configuration(faults)),
            },
        };
        let judged = Judged { files: names(&scan), written: None, faults };
        let watched = Self {
            paths: settings.config.clone(),
            data_dir: settings.data_dir.clone(),
            trust_domain: written.mesh.trust_domain.clone(),
            seen: scan.clone(),
            judged: scan,
            latest,
            good: written.files.clone(),
            objects,
            unkept: judged.faults.is_empty(),
        };
        Ok((watched, written, judged))
    }

    /// The authority is of the same trust domain: from here on this configuration is one to go back to.
    pub(crate) fn confirm(&mut self) {
        if std::mem::take(&mut self.unkept) {
            keep(&self.data_dir, &self.good);
        }
    }

    /// Looks once. `None` while nothing has changed, or what changed has not settled.
    pub(crate) fn poll(&mut self) -> Option<Judged> {
        let scan = files::scan(&self.paths);
        let settled = self.seen == scan;
        self.seen = scan;
        if !settled || self.judged == self.seen {
            return None;
        }
        let latest = read(&self.seen, true);
        if files::scan(&self.paths) != self.seen {
            return None; // written to while we read
        }
        self.judged = self.seen.clone();
        self.latest = latest;
        Some(self.judge())
    }

    /// Takes over the objects as they are now. `None` where they are the ones it has.
    pub(crate) fn take(&mut self, objects: Snapshot) -> Option<Judged> {
        if objects.revision == self.objects.revision {
            return None;
        }
        if objects.revision == 0 {
            // revisions never go back to nothing by an operator's hand: the store was emptied, or is another one
            return Some(Judged {
                files: names(&self.judged),
                written: None,
                faults: vec![lost(self.objects.revision)],
            });
        }
        self.objects = objects;
        let mut judged = self.judge();
        if judged.written.is_none() {
            // the files there are have faults; that is no reason to leave out what was applied over the good ones
            match merge(&self.good, &self.objects, Some(&self.trust_domain)) {
                Ok(written) => judged.written = Some(written),
                Err(faults) => judged.faults.extend(faults),
            }
        }
        Some(judged)
    }

    fn judge(&mut self) -> Judged {
        let merged = self.latest.clone().and_then(|files| merge(&files, &self.objects, Some(&self.trust_domain)));
        let files = names(&self.judged);
        match merged {
            Ok(written) => {
                if self.good != written.files {
                    keep(&self.data_dir, &written.files);
                    self.good = written.files.clone();
                }
                Judged { files, written: Some(written), faults: Vec::new() }
            }
            Err(faults) => Judged { files, written: None, faults },
        }
    }
}

fn names(scan: &Scan) -> Vec<String> {
    scan.iter().flatten().map(Stamp::name).collect()
}

fn keep(data_dir: &Path, sources: &[Source]) {
    if let Err(error) = last_good::save(data_dir, sources) {
        tracing::warn!(%error, dir = %data_dir.display(), "cannot keep the last good configuration: a restart with broken files would not come up; is the disk full?");
    }
}

/// `something_before`: emptiness would take away what is in force, so it is a fault; on a first start it is a beginning.
fn read(scan: &Scan, something_before: bool) -> Result<Sources, Vec<Fault>> {
    let stamps = scan.as_ref().map_err(|fault| vec![fault.clone()])?;
    let sources = files::read(stamps)?;
    let sources = if something_before { not_empty(sources)? } else { sources };
    Ok(sources.into())
}

fn merge(files: &Sources, objects: &Snapshot, trust_domain: Option<&TrustDomain>) -> Result<Written, Vec<Fault>> {
    let merged = yaml::merge(files, &objects.objects)?;
    let found = &merged.mesh.trust_domain;
    let in_force = objects.objects.keys().filter(|object| !merged.shadowed.contains_key(*object));
    let applied = in_force.filter(|object| object.kind == ObjectKind::Service).map(|object| &object.name);
    match trust_domain {
        Some(fixed) if fixed != found => Err(vec![other_domain(files, found, fixed)]),
        _ => Ok(Written {
            mesh: Arc::new(merged.mesh),
            files: files.clone(),
            revision: objects.revision,
            applied: applied.cloned().collect(),
            shadowed: merged.shadowed,
        }),
    }
}

fn lost(revision: u64) -> Fault {
    let message = format!("the store has lost the applied objects, last at revision {revision}; they stay in force");
    let remedy = "restore the store from a copy; to go on without them, restart this control plane";
    fault(Path::new("api"), message, remedy)
}

fn not_empty(sources: Vec<Source>) -> Result<Vec<Source>, Vec<Fault>> {
    const REMEDY: &str = "if nothing is meant, say so with a file that holds only a comment";
    if sources.is_empty() {
        let message = "no *.yaml or *.yml files are left; the last good configuration stays in force";
        return Err(vec![fault(Path::new("configuration"), message, REMEDY)]);
    }
    let empty = sources.iter().filter(|s| s.text.trim().is_empty());
    let faults: Vec<_> = empty.map(|s| fault(Path::new(&s.name), "is empty: half a write?", REMEDY)).collect();
    if faults.is_empty() { Ok(sources) } else { Err(faults) }
}

fn other_domain(files: &[Source], found: &TrustDomain, fixed: &TrustDomain) -> Fault {
    let file = files.first().map_or("configuration", |source| source.name.as_str());
    let message = format!("is {found}, but the certificate authority was made for {fixed}");
    let remedy = format!("write `trust_domain: {fixed}`; another trust domain needs another --data-dir");
    Fault { path: "trust_domain".into(), ..fault(Path::new(file), message, &remedy) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusewire_model::yaml::Objects;

    fn snapshot(revision: u64, objects: Objects) -> Snapshot {
        let mut snapshot = Snapshot::default();
        (snapshot.revision, snapshot.objects) = (revision, objects);
        snapshot
    }

    #[test]
    fn a_store_that_has_lost_everything_takes_nothing_out_of_force() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mesh.yaml"), "services: {bank: }").unwrap();
        let settings = Settings::new(vec![dir.path().join("mesh.yaml")], dir.path().to_owned());
        let shop = Objects::from([(ObjectName::parse("service/shop").unwrap(), "services: {shop: }".into())]);
        let (mut watched, written, judged) = Watched::start(&settings, snapshot(3, shop.clone())).unwrap();
        assert_eq!((written.mesh.services.len(), written.revision, judged.faults.len()), (2, 3, 0));
        assert!(watched.take(snapshot(3, shop.clone())).is_none(), "nothing has changed");
        let judged = watched.take(Snapshot::default()).expect("a fault");
        assert!(judged.written.is_none() && judged.faults[0].message.contains("has lost"), "{:?}", judged.faults);
        // what is deleted by hand is deleted
        let judged = watched.take(snapshot(4, Objects::new())).expect("a change");
        assert_eq!(judged.written.map(|w| (w.mesh.services.len(), w.revision)), Some((1, 4)));
    }
}
