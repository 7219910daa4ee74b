//! One authority after another, when the roots were replaced from outside (an external CA's files changed, or an
//! external CA takes the place of our own).
//!
//! It decides how long the earlier roots stay believed, and whether the two accept each other's leaves. There is no
//! cross certificate here, because the keys are not ours: first the new roots are announced beside the old ones, then
//! the new authority signs, then the old roots leave when their leaves have ended. It deliberately waits for nobody.
//!
//! Invariant: a root that leaves holds under it lives on in the bundle until the last of them can have ended.

use rustls_pki_types::UnixTime;
use serde::Serialize;

use crate::authority::Authority;
use crate::bundle::Bundle;
use crate::error::IdentityError;
use crate::external::trial_leaf;
use crate::root::Root;
use crate::rotation::SETTLE_SECONDS;
use crate::trust_state::TrustState;
use crate::verify;

/// Whether two authorities accept each other's leaves without any root being kept or announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Overlap {
    /// Leaves of the old authority hold under the new one's own bundle.
    pub old_leaves_hold: bool,
    /// Leaves of the new authority hold under the bundle that peers have from the old one.
    pub new_leaves_hold: bool,
}

impl Overlap {
    /// Nothing needs to be kept or announced.
    pub fn is_full(self) -> bool {
        self.old_leaves_hold && self.new_leaves_hold
    }
}

impl Authority {
    /// What would happen to leaves if `next` replaced this authority at once; found by signing on trial.
    pub fn overlap(&self, next: &Self, now: UnixTime) -> Result<Overlap, IdentityError> {
        Ok(Overlap {
            old_leaves_hold: self.signs_for(next.bundle(), now)?,
            new_leaves_hold: next.signs_for(self.bundle(), now)?,
        })
    }

    fn signs_for(&self, bundle: &Bundle, now: UnixTime) -> Result<bool, IdentityError> {
        let signer = self.signer();
        let leaf = trial_leaf(&signer.issuer, self.trust_domain(), now).map_err(IdentityError::Crypto)?;
        Ok(self.trust_domain() == bundle.trust_domain()
            && verify::chain(&leaf, &signer.above, bundle.roots(), now).is_ok())
    }

    /// This authority goes on signing, but its bundle also holds the roots of `next`, so that peers believe them before
    /// the first leaf comes from there.
    pub fn announcing(&self, next: &Self) -> Result<Self, IdentityError> {
        self.same_domain(next.state())?;
        let mut state = self.to_state();
        state.add_kept(next.state().all().map(|root| Root { key: None, cross: None, ..root.clone() }))?;
        self.restated(state)
    }

    /// This authority after `old`: the old roots stay in the bundle until the leaves under them have ended, and are
    /// then dropped by [`Authority::without_ended`]. `old` is what was stored; no key of it is kept. Join tokens that
    /// pin an old root are of no use from here on: what the new authority signs does not lead there.
    pub fn succeeding(&self, old: &TrustState, now: UnixTime) -> Result<Self, IdentityError> {
        self.same_domain(old)?;
        let longest = old.all().map(|root| root.longest_leaf).fold(old.signer.longest_leaf(), u64::max);
        let until = now.as_secs().saturating_add(longest).saturating_add(SETTLE_SECONDS);
        let mut state = self.to_state();
        if let Some(same) = old.all().find(|root| root.hash == state.signer.hash) {
            state.signer.longest_leaf = state.signer.longest_leaf.max(same.longest_leaf);
        }
        state.add_kept(old.all().map(|root| {
            let until = root.keep_until.unwrap_or(until).min(root.not_after);
            Root { key: None, cross: None, keep_until: Some(until), ..root.clone() }
        }))?;
        state.drop_ended(now);
        self.restated(state)
    }

    /// This external authority's key, with the bookkeeping that another control plane of the same store has written: what
    /// it signs must lead to a root that `stored` believes.
    pub fn adopting(&self, stored: &TrustState) -> Result<Self, IdentityError> {
        self.same_domain(stored)?;
        let bad = |why: String| Err(IdentityError::State(why));
        if !self.state().is_external() || !stored.is_external() {
            return bad("only an external authority takes over what was written of another".into());
        }
        if stored.all().all(|root| root.hash != self.root_hash()) {
            return bad(format!("root {} is not among those that are believed", self.root_hash()));
        }
        self.restated(stored.clone())
    }

    fn same_domain(&self, other: &TrustState) -> Result<(), IdentityError> {
        if other.trust_domain() == self.trust_domain() {
            return Ok(());
        }
        let (theirs, ours) = (other.trust_domain(), self.trust_domain());
        Err(IdentityError::State(format!("the other authority is that of trust domain {theirs}, not of {ours}")))
    }
}
