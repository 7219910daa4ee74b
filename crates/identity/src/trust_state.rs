//! What an authority is, as one value that any store can keep: its roots with their keys, which of them signs, and how
//! far a change of roots has come.
//!
//! It decides what is a coherent state; a text that is not one never becomes a value. It deliberately reads and writes
//! no file and no clock: the control plane keeps it (an embedded store, etcd) and compares it on every change.
//!
//! Invariant: the first root of the bundle is the one that signs, so that a sidecar can see whether its own leaf is
//! under it. Keys appear in the serialised text and nowhere else.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use fusewire_model::TrustDomain;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};

use crate::bundle::Bundle;
use crate::error::IdentityError;
use crate::root::{Root, RootView, RootWire};
use crate::workload::PrivateKey;
use crate::{cert, pem};

/// The longest serialised state that is read.
pub const MAX_STATE_BYTES: usize = 512 * 1024;
const FORMAT: u32 = 1;
/// Roots that may stay in the bundle beside those of a rotation.
const MAX_KEPT: usize = 16;

/// How far a change of roots has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// One root; nothing is under way.
    Stable,
    /// A new root is in the bundle, vouched for by the old one, which still signs.
    Prepared,
    /// The new root signs; the old one is still believed.
    Switched,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stable => "stable",
            Self::Prepared => "prepared",
            Self::Switched => "switched",
        })
    }
}

/// When each stage began, in seconds since 1970; none for a stage that was not reached, or was left backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTimes {
    pub stable: u64,
    pub prepared: Option<u64>,
    pub switched: Option<u64>,
}

/// The authority of one trust domain, as a value. Serialised it holds private keys: only for a store that keeps secrets.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct TrustState {
    pub(crate) domain: TrustDomain,
    pub(crate) times: StageTimes,
    pub(crate) signer: Root,
    /// The next root (prepared) or the one before (switched).
    pub(crate) other: Option<Root>,
    /// Believed still, or already, but never signing: an external bundle's further roots, and roots replaced from outside.
    pub(crate) kept: Vec<Root>,
    /// Of an external authority: the certificate that issues, then those above it, without the root.
    pub(crate) issuing: Option<Vec<CertificateDer<'static>>>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    format: u32,
    trust_domain: String,
    times: StageTimes,
    signer: RootWire,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    other: Option<RootWire>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    kept: Vec<RootWire>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issuing: Option<String>,
}

impl fmt::Debug for TrustState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustState")
            .field("trust_domain", &self.domain)
            .field("stage", &self.stage())
            .field("times", &self.times)
            .field("roots", &self.roots())
            .finish_non_exhaustive()
    }
}

impl TrustState {
    /// A new authority: one root, valid for ten years.
    pub fn create(domain: &TrustDomain, now: UnixTime) -> Result<Self, IdentityError> {
        let now = now.as_secs();
        Ok(Self::stable(domain.clone(), Root::generate(domain, now)?, now))
    }

    /// A root that was kept as two PEM files, key and certificate; its certificate names the trust domain. `longest_leaf`
    /// is the longest lifetime that it signed for until now.
    pub fn import(key_pem: &[u8], cert_pem: &[u8], longest_leaf: Duration) -> Result<Self, IdentityError> {
        let mut certs = pem::certificates("the authority's certificate", cert_pem)?;
        if certs.len() != 1 {
            return Err(IdentityError::Bundle("the authority's file must hold exactly one certificate".into()));
        }
        let mut root = Root::of(certs.remove(0), Some(PrivateKey::from_pem(key_pem)?))?;
        root.longest_leaf = longest_leaf.as_secs();
        let since = root.not_before;
        Self::stable(cert::root_domain(&root.cert)?, root, since).checked()
    }

    fn stable(domain: TrustDomain, signer: Root, now: u64) -> Self {
        let times = StageTimes { stable: now, prepared: None, switched: None };
        Self { domain, times, signer, other: None, kept: Vec::new(), issuing: None }
    }

    /// The reverse of [`TrustState::to_json`].
    pub fn from_json(text: &[u8]) -> Result<Self, IdentityError> {
        if text.len() > MAX_STATE_BYTES {
            let why = format!("it has {} bytes, more than {MAX_STATE_BYTES}", text.len());
            return Err(IdentityError::State(why));
        }
        // serde_json's own message may quote a string where it expected none, and that string may be a key
        let wire: Wire = serde_json::from_slice(text).map_err(|e| {
            IdentityError::State(format!("not the JSON of a state, at line {} column {}", e.line(), e.column()))
        })?;
        Self::try_from(wire)
    }

    /// As text, with private keys in it.
    pub fn to_json(&self) -> Result<String, IdentityError> {
        serde_json::to_string_pretty(self).map_err(|e| IdentityError::State(e.to_string()))
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    pub fn stage(&self) -> Stage {
        match (&self.other, self.times.switched) {
            (None, _) => Stage::Stable,
            (Some(_), None) => Stage::Prepared,
            (Some(_), Some(_)) => Stage::Switched,
        }
    }

    pub fn times(&self) -> StageTimes {
        self.times
    }

    /// Whether the root belongs to someone else, and comes from files.
    pub fn is_external(&self) -> bool {
        self.issuing.is_some()
    }

    /// The root that leaves are signed under now: what a new join token pins.
    pub fn root_hash(&self) -> &str {
        &self.signer.hash
    }

    /// All roots of the bundle, the one that signs first.
    pub fn roots(&self) -> Vec<RootView> {
        self.all().enumerate().map(|(place, root)| root.view(place == 0)).collect()
    }

    /// What workloads believe; the root that signs comes first.
    pub fn bundle(&self) -> Result<Bundle, IdentityError> {
        Bundle::new(self.domain.clone(), self.all().map(|root| root.cert.clone()).collect())
    }

    /// Notes that leaves are about to be signed for up to `lifetime`, so that a root is not retired while one of them
    /// holds. `None` when that is known already; otherwise store the answer before signing. What nobody noted counts
    /// as [`crate::MAX_LIFETIME`]. Call it at every start and after every step of a rotation.
    pub fn with_lifetime(&self, lifetime: Duration) -> Option<Self> {
        let mut next = self.clone();
        next.note_lifetime(lifetime).then_some(next)
    }

    /// Without the roots whose time to stay has ended; `None` when there are none.
    pub fn without_ended(&self, now: UnixTime) -> Option<Self> {
        let mut next = self.clone();
        next.drop_ended(now).then_some(next)
    }

    pub(crate) fn note_lifetime(&mut self, lifetime: Duration) -> bool {
        let lifetime = lifetime.as_secs();
        let longer = self.signer.longest_leaf < lifetime;
        self.signer.longest_leaf = self.signer.longest_leaf.max(lifetime);
        longer
    }

    pub(crate) fn drop_ended(&mut self, now: UnixTime) -> bool {
        let before = self.kept.len();
        self.kept.retain(|root| root.keep_until.is_none_or(|until| now.as_secs() < until));
        self.kept.len() != before
    }

    /// Believes further roots, except those that it believes already.
    pub(crate) fn add_kept(&mut self, roots: impl Iterator<Item = Root>) -> Result<(), IdentityError> {
        for root in roots {
            if self.all().all(|known| known.hash != root.hash) {
                self.kept.push(root);
            }
        }
        if self.kept.len() > MAX_KEPT {
            let why = format!("it would keep {} further roots, more than {MAX_KEPT}", self.kept.len());
            return Err(IdentityError::State(why));
        }
        Ok(())
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Root> {
        std::iter::once(&self.signer).chain(&self.other).chain(&self.kept)
    }

    /// What a text from outside must satisfy to be a state.
    fn checked(self) -> Result<Self, IdentityError> {
        let bad = |why: String| Err(IdentityError::State(why));
        let hashes: BTreeSet<_> = self.all().map(|root| &root.hash).collect();
        if hashes.len() != self.all().count() {
            return bad("a root is in it twice".into());
        }
        if self.kept.len() > MAX_KEPT {
            return bad(format!("it keeps {} further roots, more than {MAX_KEPT}", self.kept.len()));
        }
        if self.kept.iter().any(|root| root.key.is_some()) {
            return bad("a root that never signs has a key".into());
        }
        self.bundle()?;
        if self.issuing.is_some() {
            let ours = self.other.is_some() || self.signer.key.is_some();
            return if ours { bad("an external root has neither key nor rotation here".into()) } else { Ok(self) };
        }
        for root in std::iter::once(&self.signer).chain(&self.other) {
            let named = cert::root_domain(&root.cert)?;
            if named != self.domain {
                return bad(format!("root {} is that of {named}, not of {}", root.hash, self.domain));
            }
            root.issuer()?; // there is a key, and it signs
        }
        match (self.stage(), &self.other) {
            (Stage::Prepared, Some(next)) => vouched(next, &self.signer)?,
            (Stage::Switched, Some(previous)) => vouched(&self.signer, previous)?,
            _ if self.times.switched.is_some() => return bad("it has switched, but there is no other root".into()),
            _ => {}
        }
        Ok(self)
    }
}

/// `next` must carry a certificate that `previous` signed.
fn vouched(next: &Root, previous: &Root) -> Result<(), IdentityError> {
    let state = |why: String| IdentityError::State(why);
    let cross = next.cross.as_ref().ok_or_else(|| state(format!("root {} has no cross certificate", next.hash)))?;
    let previous = cert::parse(&previous.cert)?;
    cert::parse(cross)?
        .verify_signature(Some(previous.public_key()))
        .map_err(|_| state(format!("the cross certificate of root {} is not signed by the other root", next.hash)))
}

impl TryFrom<Wire> for TrustState {
    type Error = IdentityError;

    fn try_from(wire: Wire) -> Result<Self, IdentityError> {
        if wire.format != FORMAT {
            let why = format!("its format is {}, we know {FORMAT}: was it written by a newer release?", wire.format);
            return Err(IdentityError::State(why));
        }
        let domain = TrustDomain::parse(&wire.trust_domain).map_err(|e| IdentityError::State(e.to_string()))?;
        let issuing = match wire.issuing.as_deref() {
            Some("") => Some(Vec::new()), // the root itself issues
            Some(text) => Some(pem::certificates("the issuing chain", text.as_bytes())?),
            None => None,
        };
        let state = Self {
            domain,
            times: wire.times,
            signer: Root::from_wire(&wire.signer)?,
            other: wire.other.as_ref().map(Root::from_wire).transpose()?,
            kept: wire.kept.iter().map(Root::from_wire).collect::<Result<_, _>>()?,
            issuing,
        };
        state.checked()
    }
}

impl From<TrustState> for Wire {
    fn from(state: TrustState) -> Self {
        Self {
            format: FORMAT,
            trust_domain: state.domain.to_string(),
            times: state.times,
            signer: state.signer.to_wire(),
            other: state.other.as_ref().map(Root::to_wire),
            kept: state.kept.iter().map(Root::to_wire).collect(),
            issuing: state.issuing.as_ref().map(pem::encode_certificates),
        }
    }
}
