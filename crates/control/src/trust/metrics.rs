//! Figures of trust, for whoever shows them.

use super::Trust;
use fusewire_identity::RootView;
use fusewire_telemetry::exposition::{Family, Sample};
use std::sync::atomic::{AtomicU64, Ordering};

/// Since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    signed: AtomicU64,
    refused: AtomicU64,
    /// End of the control plane's own certificate, in seconds since 1970.
    own_not_after: AtomicU64,
}

impl Counts {
    pub(crate) fn count_signed(&self) {
        self.signed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note_own(&self, not_after: u64) {
        self.own_not_after.store(not_after, Ordering::Relaxed);
    }
}

impl Trust {
    /// Families for one scrape.
    pub(crate) fn families(&self) -> Vec<Family> {
        let standing = self.now();
        let roots = standing.authority.state().roots();
        let sample = |root: RootView| Sample { labels: vec![("root", root.hash)], value: root.not_after as f64 };
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let issuing = standing.authority.not_after() as f64;
        vec![
            Family::gauge("root_expiry_timestamp_seconds", "Unix time at which a root that is believed ends")
                .with_all(roots.into_iter().map(sample)),
            Family::gauge("issuer_expiry_timestamp_seconds", "Unix time from which on nothing can be signed")
                .with([], issuing),
            Family::gauge(
                "control_identity_expiry_timestamp_seconds",
                "Unix time at which the control plane's certificate ends",
            )
            .with([], count(&self.counts.own_not_after)),
            Family::gauge("trust_denied", "Identities that are shut out").with([], standing.denials.len() as f64),
            Family::gauge("join_tokens_usable", "Join tokens with which a sidecar may still join")
                .with([], self.tokens.usable() as f64),
            Family::counter("certificates_signed", "Certificates given out").with([], count(&self.counts.signed)),
            Family::counter("certificates_refused", "Requests for certificates that were refused")
                .with([], count(&self.counts.refused)),
        ]
    }
}
