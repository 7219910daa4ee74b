//! How many of a kind have series of their own.
//!
//! Invariant: at most [`MAX_EACH`] places are taken at a time; who finds none shares the series named [`SHARED`], and is counted.

use super::labels::KindLabels;
use super::{MAX_EACH, SHARED};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Whether series are one's own, or those that all above the limit share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Own,
    Shared,
}

/// One kind of things that have series of their own.
#[derive(Debug)]
pub(super) struct Places {
    kind: &'static str,
    taken: AtomicUsize,
    refused: Counter,
}

impl Places {
    pub(super) fn new(kind: &'static str, refused: &Family<KindLabels, Counter>) -> Self {
        Self { kind, taken: AtomicUsize::new(0), refused: refused.get_or_create_owned(&KindLabels { kind }) }
    }

    pub(super) fn take(&self, name: &str) -> Place {
        let free = |taken: usize| (taken < MAX_EACH).then_some(taken + 1);
        if self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).is_ok() {
            return Place::Own;
        }
        if self.refused.inc() == 0 {
            let kind = self.kind;
            tracing::warn!(
                "more than {MAX_EACH} {kind}s are in use: from {name} on they share one name in metrics, {SHARED}"
            );
        }
        Place::Shared
    }

    pub(super) fn give(&self, place: Place) {
        if place == Place::Own {
            self.taken.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Place {
    pub(super) fn name(self, own: &str) -> Arc<str> {
        if self == Self::Own { own.into() } else { SHARED.into() }
    }
}
