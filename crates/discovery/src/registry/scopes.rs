//! Self-preservation at work: when it begins for a scope, whom it keeps, and what its end means for them.
//!
//! The numbers are in [`super::preserve`]. Invariant: a registration is kept for as long as any of its scopes is preserved.

use super::entry::{Lease, Serial};
use super::preserve::{Preservation, Scope};
use super::{Change, Gone, Registry};
use fusewire_model::ServiceName;
use std::time::Duration;

impl Registry {
    /// Whether silence does not count for what is in `services`; begins to preserve where that is due.
    pub(super) fn protect(&mut self, services: &[ServiceName], now: Duration, changes: &mut Vec<Change>) -> bool {
        let scopes: Vec<_> = [None].into_iter().chain(services.iter().cloned().map(Some)).collect();
        if scopes.iter().any(|scope| self.scope(scope).since.is_some()) {
            return true;
        }
        let Some(scope) = scopes.into_iter().find(|scope| self.scope(scope).suspicious()) else { return false };
        if let Some(counts) = self.scope_mut(&scope) {
            counts.since = Some(now);
        }
        self.preserved.insert(scope.clone());
        changes.extend(self.preservation(&scope).map(Change::Preserving));
        true
    }

    pub(super) fn preservation(&self, service: &Option<ServiceName>) -> Option<Preservation> {
        let Scope { here, silent, since } = self.scope(service);
        let since = since?;
        let until = since + self.limits.self_preservation;
        Some(Preservation { service: service.clone(), registrations: here, silent, since, until })
    }

    /// Ends the preservation of whatever has recovered.
    pub(super) fn recover(&mut self, now: Duration, changes: &mut Vec<Change>) {
        if self.preserved.is_empty() {
            return;
        }
        let well: Vec<_> = self.preserved.iter().filter(|scope| self.scope(scope).recovered()).cloned().collect();
        for scope in well {
            self.end(&scope, true, now, changes);
        }
    }

    pub(super) fn end(
        &mut self,
        scope: &Option<ServiceName>,
        recovered: bool,
        now: Duration,
        changes: &mut Vec<Change>,
    ) {
        self.preserved.remove(scope);
        if let Some(counts) = self.scope_mut(scope) {
            counts.since = None;
        }
        changes.push(Change::Preserved { service: scope.clone(), recovered });
        let mut members: Vec<Serial> = match scope {
            None => self.entries.keys().copied().collect(),
            Some(name) => self.services.get(name).into_iter().flat_map(|m| m.ids.values().copied()).collect(),
        };
        members.sort_unstable();
        for serial in members {
            let Some(entry) = self.entries.get_mut(&serial) else { continue };
            let still = self.preserved.contains(&None)
                || entry.registration.ports.keys().any(|name| self.preserved.contains(&Some(name.clone())));
            match entry.lease {
                Lease::Late if recovered && !still => {
                    entry.from = now;
                    self.queue(serial);
                }
                Lease::Kept if recovered && !still => {
                    entry.from = now;
                    let change = Change::Lease { key: entry.key.clone(), services: entry.services() };
                    self.set_lease(serial, Lease::Late);
                    self.queue(serial);
                    changes.push(change);
                }
                Lease::Kept if !still => changes.extend(self.remove(serial, Gone::Expired)),
                Lease::Fresh | Lease::Late | Lease::Kept => {}
            }
        }
        self.forget_empty(scope);
    }

    pub(super) fn scope(&self, scope: &Option<ServiceName>) -> Scope {
        match scope {
            None => self.all,
            Some(name) => self.services.get(name).map(|members| members.scope).unwrap_or_default(),
        }
    }

    fn scope_mut(&mut self, scope: &Option<ServiceName>) -> Option<&mut Scope> {
        match scope {
            None => Some(&mut self.all),
            Some(name) => self.services.get_mut(name).map(|members| &mut members.scope),
        }
    }

    fn forget_empty(&mut self, scope: &Option<ServiceName>) {
        if let Some(name) = scope
            && self.services.get(name).is_some_and(|members| members.ids.is_empty())
        {
            self.services.remove(name);
        }
    }
}
