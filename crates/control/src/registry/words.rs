//! Between replicas: what sidecars say of instances that are written in files.
//!
//! It decides that a replica keeps in the store what it hears, for as long as it hears it, so that a failed check at one
//! reaches the callers of all. It deliberately keeps nothing there that outlives the replica: the others take it out.
//!
//! Keys: `reports/<replica>/<service>/<id, percent-encoded>`.

use super::persist::{Record, decoded, encoded};
use super::reports::Speaker;
use super::{Registrations, wire};
use crate::store::{Change, Entry, Expect, Store, StoreError};
use fusewire_api::v1;
use fusewire_model::health::Health;
use fusewire_model::{ServiceName, SpiffeId};

pub(super) const PREFIX: &str = "reports/";
/// Of one change of the store.
const AT_ONCE: usize = 100;

impl Registrations {
    /// Keeps what was said here, for the other replicas.
    pub(super) fn tell(&self, identity: &SpiffeId, of: (&ServiceName, &str), (health, detail): (Health, &str)) {
        let (service, id) = of;
        let report = v1::Report {
            service: service.to_string(),
            instance: id.to_owned(),
            health: wire::health_to_wire(health).into(),
            detail: detail.to_owned(),
        };
        let (identity, home) = (identity.to_string(), self.home.clone());
        let record = Record { registration: None, identity, home, health: vec![report], said: super::now_micros() };
        self.pending.put_at(key(&self.home, service, id), Some(record.encode()));
    }

    /// All that was said here.
    pub(super) fn tell_again(&self) {
        for (service, id, identity, (health, detail)) in self.reports.here() {
            self.tell(&identity, (&service, &id), (health, &detail));
        }
    }

    pub(super) fn untell(&self, service: &ServiceName, id: &str) {
        self.pending.put_at(key(&self.home, service, id), None);
    }

    /// Another replica said it.
    pub(super) fn told(&self, entry: &Entry) {
        let Some((record, report, service)) = parsed(entry).filter(|(record, ..)| record.home != self.home) else {
            return;
        };
        let (Ok(identity), Some(health)) = (SpiffeId::parse(&record.identity), wire::health_from_wire(report.health))
        else {
            return; // of a newer build
        };
        let speaker = Speaker::Replica(record.home);
        if self.reports.put(&service, &report.instance, (&identity, speaker), (health, &report.detail)) {
            self.touch([service]);
        }
    }

    /// Another replica took it back.
    pub(super) fn untold(&self, store_key: &str) {
        let Some((home, service, id)) = unkey(store_key).filter(|(home, ..)| *home != self.home) else { return };
        self.touched(self.reports.forget_one(&Speaker::Replica(home), &service, &id).into_iter().collect());
    }

    /// All that others say now.
    pub(super) fn told_anew(&self, entries: &[Entry]) {
        self.touched(self.reports.forget_others());
        entries.iter().for_each(|entry| self.told(entry));
    }

    pub(super) fn touched(&self, gone: Vec<(ServiceName, String)>) {
        self.touch(gone.into_iter().map(|(service, _)| service));
    }
}

/// Takes out what `replica` kept, unless it was written meanwhile.
pub(super) async fn sweep(store: &Store, replica: &str) -> Result<(), StoreError> {
    let (_, entries) = store.list(&format!("{PREFIX}{replica}/")).await?;
    for some in entries.chunks(AT_ONCE) {
        let change = some.iter().fold(Change::default(), |change, entry| {
            change.expect(&entry.key, Expect::Revision(entry.revision)).delete(&entry.key)
        });
        match store.commit(change).await {
            // others sweep too
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whose word an entry is.
pub(super) fn replica_of(store_key: &str) -> Option<&str> {
    Some(store_key.strip_prefix(PREFIX)?.split_once('/')?.0)
}

fn parsed(entry: &Entry) -> Option<(Record, v1::Report, ServiceName)> {
    let mut record = Record::parse(&entry.value)?;
    let report = record.health.pop()?;
    let service = ServiceName::parse(&report.service).ok()?;
    Some((record, report, service))
}

fn key(home: &str, service: &ServiceName, id: &str) -> String {
    format!("{PREFIX}{home}/{service}/{}", encoded(id))
}

fn unkey(store_key: &str) -> Option<(String, ServiceName, String)> {
    let (home, rest) = store_key.strip_prefix(PREFIX)?.split_once('/')?;
    let (service, id) = rest.split_once('/')?;
    Some((home.to_owned(), ServiceName::parse(service).ok()?, decoded(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_whatever_the_id() {
        let service = ServiceName::parse("shop").unwrap();
        for id in ["a", "10.0.0.1:80", "a/b%2f"] {
            let made = key("host-1", &service, id);
            assert_eq!(unkey(&made), Some(("host-1".into(), service.clone(), id.into())));
            assert_eq!(replica_of(&made), Some("host-1"));
        }
    }
}
