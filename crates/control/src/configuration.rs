//! The watched configuration: which world is in force, and what is wrong with the files if it is not theirs.
//!
//! It decides when files have settled (unchanged for one poll, before and after they were read, so that half a write is
//! not taken for the whole) and that a bad state never replaces a good one: not a fault, not a folder that vanished, not
//! a file that became empty, not a folder without files (which is also what an unmounted volume looks like). It
//! deliberately does not merge good files with bad ones: what is in force was written together.
//!
//! Invariant: the world in force came from files without a fault.

use crate::files::{self, Stamp, fault};
use crate::last_good;
use crate::{ControlError, Settings};
use fusewire_model::yaml::{self, Fault, Source};
use fusewire_model::{TrustDomain, World};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const POLL: Duration = Duration::from_millis(250);

type Scan = Result<Vec<Stamp>, Fault>;

/// Files on their way to a world. Blocking: poll it off the runtime.
#[derive(Debug)]
pub(crate) struct Watched {
    paths: Vec<PathBuf>,
    data_dir: PathBuf,
    trust_domain: TrustDomain,
    /// What the last poll saw.
    seen: Scan,
    /// What was last judged.
    judged: Scan,
    /// In force, and not yet kept as the last good.
    unkept: Vec<Source>,
}

/// What became of the files' present state.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) files: Vec<String>,
    /// The new world, or why the old one stays.
    pub(crate) world: Result<Arc<World>, Vec<Fault>>,
}

impl Watched {
    /// The first reading. Faults are survived only with a last good configuration from an earlier run.
    pub(crate) fn start(settings: &Settings) -> Result<(Self, Arc<World>, Judged), ControlError> {
        if settings.config.is_empty() {
            return Err(ControlError::NoConfiguration);
        }
        let scan = files::scan(&settings.config);
        if let Err(fault) = scan {
            return Err(ControlError::Configuration(vec![fault]));
        }
        let kept = last_good::load(&settings.data_dir);
        let judged = judge(&scan, kept.is_some(), None);
        let (world, unkept) = match &judged.world {
            Ok((world, sources)) => (world.clone(), sources.clone()),
            Err(faults) => match kept.and_then(|sources| yaml::parse(&sources).ok()) {
                Some(parsed) => (Arc::new(World::new(parsed.mesh)), Vec::new()),
                None => return Err(ControlError::Configuration(faults.clone())),
            },
        };
        let watched = Self {
            paths: settings.config.clone(),
            data_dir: settings.data_dir.clone(),
            trust_domain: world.trust_domain().clone(),
            seen: scan.clone(),
            judged: scan,
            unkept,
        };
        Ok((watched, world, judged.without_sources()))
    }

    /// The authority is of the same trust domain: from here on this configuration is one to go back to.
    pub(crate) fn confirm(&mut self) {
        let sources = std::mem::take(&mut self.unkept);
        if !sources.is_empty() {
            keep(&self.data_dir, &sources);
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
        let judged = judge(&self.seen, true, Some(&self.trust_domain));
        if files::scan(&self.paths) != self.seen {
            return None; // written to while we read
        }
        self.judged = self.seen.clone();
        if let Ok((_, sources)) = &judged.world {
            keep(&self.data_dir, sources);
        }
        Some(judged.without_sources())
    }
}

fn keep(data_dir: &Path, sources: &[Source]) {
    if let Err(error) = last_good::save(data_dir, sources) {
        tracing::warn!(%error, dir = %data_dir.display(), "cannot keep the last good configuration: a restart with broken files would not come up; is the disk full?");
    }
}

struct Read {
    files: Vec<String>,
    world: Result<(Arc<World>, Vec<Source>), Vec<Fault>>,
}

impl Read {
    fn without_sources(self) -> Judged {
        Judged { files: self.files, world: self.world.map(|(world, _)| world) }
    }
}

/// `something_before`: emptiness would take away what is in force, so it is a fault; on a first start it is a beginning.
fn judge(scan: &Scan, something_before: bool, trust_domain: Option<&TrustDomain>) -> Read {
    let stamps = match scan {
        Ok(stamps) => stamps,
        Err(fault) => return Read { files: Vec::new(), world: Err(vec![fault.clone()]) },
    };
    let names: Vec<String> = stamps.iter().map(Stamp::name).collect();
    let world = files::read(stamps)
        .and_then(|sources| if something_before { not_empty(sources) } else { Ok(sources) })
        .and_then(|sources| Ok((yaml::parse(&sources)?, sources)))
        .and_then(|(parsed, sources)| {
            let found = &parsed.mesh.trust_domain;
            match trust_domain {
                Some(fixed) if fixed != found => Err(vec![other_domain(&names, found, fixed)]),
                _ => Ok((Arc::new(World::new(parsed.mesh)), sources)),
            }
        });
    Read { files: names, world }
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

fn other_domain(names: &[String], found: &TrustDomain, fixed: &TrustDomain) -> Fault {
    let file = names.first().map_or("configuration", String::as_str);
    let message = format!("is {found}, but the certificate authority was made for {fixed}");
    let remedy = format!("write `trust_domain: {fixed}`; another trust domain needs another --data-dir");
    Fault { path: "trust_domain".into(), ..fault(Path::new(file), message, &remedy) }
}
