//! The file itself: blocking calls on redb.
//!
//! It decides when a file is ours and whole (its magic number, the checksum of every page, our format), and what follows
//! from a write that failed: redb then wants to be opened again, which happens at the next call, so that a full disk is
//! over when it has room. It deliberately repairs nothing beyond what redb does after a crash, and overwrites nothing.
//!
//! Invariants: the file is for its owner only before its first byte is written; under its final name it is complete.

use crate::store::{Change, Entry, Event, Expect, StoreError};
use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

/// Key to the revision that wrote it, and its value.
const ENTRIES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("entries");
/// Keys that end with the process.
const ALIVE: TableDefinition<'_, &str, ()> = TableDefinition::new("alive");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

const FORMAT: &str = "format";
const THIS_FORMAT: u64 = 1;
const REVISION: &str = "revision";

/// redb's default is a gigabyte; ours is a few megabytes of entries, most of them read once.
const CACHE_BYTES: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    /// `None` after a failure, until someone opens it again.
    database: RwLock<Option<Database>>,
}

pub(super) struct Written {
    pub(super) revision: u64,
    /// Whether the change changed anything.
    changed: bool,
    /// Deletes that found nothing.
    not_there: Vec<String>,
}

impl Written {
    pub(super) fn event(&self, prefix: &str, change: &Change) -> Option<Event> {
        let mut event = self.changed.then(|| Event::below(prefix, self.revision, change)).flatten()?;
        if let Event::Changed { puts, deletes, .. } = &mut event {
            deletes.retain(|key| !self.not_there.contains(key));
            if puts.is_empty() && deletes.is_empty() {
                return None;
            }
        }
        Some(event)
    }
}

impl File {
    /// Opens or creates it, and removes what was to last as long as the process before.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let file = Self { path: path.to_owned(), database: RwLock::new(Some(open(path)?)) };
        file.forget_the_dead()?;
        Ok(file)
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.on(|database| {
            let table = database.begin_read()?.open_table(ENTRIES)?;
            Ok(table.get(key)?.map(|found| entry(key, found.value())))
        })
    }

    pub(super) fn list(&self, prefix: &str) -> Result<(u64, Vec<Entry>), StoreError> {
        self.on(|database| {
            let transaction = database.begin_read()?;
            let revision = transaction.open_table(META)?.get(REVISION)?.map_or(0, |revision| revision.value());
            let mut entries = Vec::new();
            for found in transaction.open_table(ENTRIES)?.range(prefix..)? {
                let (key, value) = found?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                entries.push(entry(key.value(), value.value()));
            }
            Ok((revision, entries))
        })
    }

    pub(super) fn healthy(&self) -> Result<(), StoreError> {
        self.get(FORMAT).map(drop)
    }

    /// Does the changes one after the other, in one transaction with one fsync. One that conflicts is left out.
    pub(super) fn write(&self, changes: &[(Change, bool)]) -> Vec<Result<Written, StoreError>> {
        let mut committing = false;
        let written = self.on(|database| {
            let transaction = database.begin_write()?;
            let mut batch = Batch::open(&transaction)?;
            let before = batch.revision;
            let results = changes.iter().map(|(change, alive)| batch.one(change, *alive)).collect::<Result<_, _>>()?;
            let changed = batch.finish(before)?;
            if changed {
                committing = true;
                transaction.commit()?;
            } else {
                transaction.abort()?;
            }
            Ok(results)
        });
        written.unwrap_or_else(|error| {
            let error = match error {
                StoreError::Unavailable(why) if committing => StoreError::Uncertain(why),
                error => error,
            };
            changes.iter().map(|_| Err(error.clone())).collect()
        })
    }

    fn forget_the_dead(&self) -> Result<(), StoreError> {
        let dead = self.on(|database| {
            let table = database.begin_read()?.open_table(ALIVE)?;
            table.iter()?.map(|found| Ok(found?.0.value().to_owned())).collect::<Result<Vec<String>, redb::Error>>()
        });
        let change = Change { delete: dead?, ..Change::default() };
        self.write(&[(change, false)]).into_iter().try_for_each(|result| result.map(drop))
    }

    /// Runs `work`, opening the file again where an earlier failure closed it.
    fn on<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let held = loop {
            let held = self.database.read().unwrap_or_else(PoisonError::into_inner);
            if held.is_some() {
                break held;
            }
            drop(held);
            let mut closed = self.database.write().unwrap_or_else(PoisonError::into_inner);
            if closed.is_none() {
                *closed = Some(open(&self.path)?);
            }
        };
        let Some(database) = held.as_ref() else { return Err(StoreError::Unavailable("it is closed".into())) };
        let error = match work(database) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        drop(held);
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
        Err(judge(&self.path, error))
    }
}

/// The tables of one write transaction.
struct Batch<'t> {
    entries: Table<'t, &'static str, (u64, &'static [u8])>,
    alive: Table<'t, &'static str, ()>,
    meta: Table<'t, &'static str, u64>,
    revision: u64,
}

impl<'t> Batch<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self, redb::Error> {
        let meta = transaction.open_table(META)?;
        let revision = meta.get(REVISION)?.map_or(0, |revision| revision.value());
        Ok(Self { entries: transaction.open_table(ENTRIES)?, alive: transaction.open_table(ALIVE)?, meta, revision })
    }

    /// The inner result is the caller's, the outer the file's.
    fn one(&mut self, change: &Change, alive: bool) -> Result<Result<Written, StoreError>, redb::Error> {
        for (key, expect) in &change.expect {
            let found = self.entries.get(key.as_str())?.map(|found| found.value().0);
            let holds = match expect {
                Expect::Absent => found.is_none(),
                Expect::Revision(revision) => found == Some(*revision),
            };
            if !holds {
                return Ok(Err(StoreError::Conflict { key: key.clone() }));
            }
        }
        let mut not_there = Vec::new();
        for key in &change.delete {
            self.alive.remove(key.as_str())?;
            if self.entries.remove(key.as_str())?.is_none() {
                not_there.push(key.clone());
            }
        }
        let changed = !change.put.is_empty() || not_there.len() < change.delete.len();
        self.revision += u64::from(changed);
        for (key, value) in &change.put {
            self.entries.insert(key.as_str(), (self.revision, value.as_ref()))?;
            if alive {
                self.alive.insert(key.as_str(), ())?;
            } else {
                self.alive.remove(key.as_str())?;
            }
        }
        Ok(Ok(Written { revision: self.revision, changed, not_there }))
    }

    fn finish(mut self, before: u64) -> Result<bool, redb::Error> {
        self.meta.insert(REVISION, self.revision)?;
        Ok(self.revision > before)
    }
}

fn entry(key: &str, (revision, value): (u64, &[u8])) -> Entry {
    Entry { key: key.to_owned(), value: Bytes::copy_from_slice(value), revision }
}

fn open(path: &Path) -> Result<Database, StoreError> {
    let database = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => {
            let length = file.metadata().map_err(|error| unavailable(path, &error))?.len();
            if length == 0 {
                // redb would begin a new store in it; but whoever emptied the file emptied the trust root with it
                return Err(damaged(path, "it is empty"));
            }
            // what a kill in the middle of `create` may have left: another name of this very file, or nothing of worth
            let _ = std::fs::remove_file(unfinished(path));
            engine(path, file)?
        }
        Err(error) if error.kind() == ErrorKind::NotFound => create(path)?,
        Err(error) => return Err(unavailable(path, &error)),
    };
    let format = format(&database).map_err(|error| judge(path, error))?;
    match format {
        Some(THIS_FORMAT) => Ok(database),
        Some(other) => Err(damaged(path, &format!("it has format {other}, and this program knows {THIS_FORMAT}"))),
        None => Err(damaged(path, "it is another program's")),
    }
}

fn engine(path: &Path, file: std::fs::File) -> Result<Database, StoreError> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    // redb may panic on some kinds of damage; a panic must not read as "try again"
    let opened =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| builder.create_with_backend(FileBackend::new(file)?)));
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(error)) => Err(judge(path, error.into())),
        Err(_) => Err(damaged(path, "its pages make no sense")),
    }
}

/// Under another name until it is whole, so that a kill leaves no half of a store.
fn create(path: &Path) -> Result<Database, StoreError> {
    let failed = |error: std::io::Error| unavailable(path, &error);
    let unfinished = unfinished(path);
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&unfinished).map_err(failed)?;
    let database = engine(path, file)?;
    initialise(&database).map_err(|error| judge(path, error))?;
    // a link, not a rename: it fails where a store has come to be meanwhile
    std::fs::hard_link(&unfinished, path).map_err(failed)?;
    std::fs::remove_file(&unfinished).map_err(failed)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    Ok(database)
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn initialise(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(ENTRIES)?;
    transaction.open_table(ALIVE)?;
    let mut meta = transaction.open_table(META)?;
    meta.insert(FORMAT, THIS_FORMAT)?;
    meta.insert(REVISION, 0)?;
    drop(meta);
    Ok(transaction.commit()?)
}

fn format(database: &Database) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(META) {
        Ok(meta) => Ok(meta.get(FORMAT)?.map(|format| format.value())),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn judge(path: &Path, error: redb::Error) -> StoreError {
    match error {
        redb::Error::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_owned() },
        redb::Error::Io(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
            damaged(path, &error.to_string())
        }
        redb::Error::Io(error) => unavailable(path, &error),
        redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::LockPoisoned(_) => {
            StoreError::Unavailable(format!("{}: {error}", path.display()))
        }
        error => damaged(path, &error.to_string()),
    }
}

fn damaged(path: &Path, detail: &str) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), detail: detail.to_owned() }
}

fn unavailable(path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("{}: {error}: is the disk full, or may this user not write there?", path.display()))
}
