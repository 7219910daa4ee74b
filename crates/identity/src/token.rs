//! Join tokens, the text: `fwj1.<root hash>.<SPIFFE ID>.<secret>`.
//!
//! It decides how a token reads, so that one string gives a new sidecar all that it needs: whom to believe, who it
//! will be, and the secret that proves it may. It deliberately does not know expiry or uses: those are the record's,
//! and nothing that a holder could rewrite is believed.
//!
//! Invariant: `Display` gives the text because somebody must hand it over; `Debug` never shows the secret.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fusewire_model::SpiffeId;
use sha2::{Digest, Sha256};

use crate::hex;
use crate::token_record::TokenError;

const PREFIX: &str = "fwj1.";
const MAX_BYTES: usize = 2048 + 128; // the longest SPIFFE ID, and the rest
pub(crate) const SECRET_BYTES: usize = 32;

/// What a workload joins the mesh with.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    text: String,
    root: [u8; 32],
    id: SpiffeId,
    secret_hash: [u8; 32],
}

impl JoinToken {
    pub(crate) fn new(root: [u8; 32], id: &SpiffeId, secret: &[u8; SECRET_BYTES]) -> Self {
        let text = format!("{PREFIX}{}.{id}.{}", URL_SAFE_NO_PAD.encode(root), URL_SAFE_NO_PAD.encode(secret));
        Self { text, root, id: id.clone(), secret_hash: Sha256::digest(secret).into() }
    }

    /// The SPIFFE ID may hold dots; hash and secret cannot, so they are cut off from either end.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim(); // files and environment variables end in newlines
        if text.len() > MAX_BYTES {
            return Err(TokenError::Malformed);
        }
        let rest = text.strip_prefix(PREFIX).ok_or(TokenError::Malformed)?;
        let (root, rest) = rest.split_once('.').ok_or(TokenError::Malformed)?;
        let (id, secret) = rest.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let root: [u8; 32] = decode(root)?;
        let secret: [u8; SECRET_BYTES] = decode(secret)?;
        let id = SpiffeId::parse(id).map_err(|_| TokenError::Malformed)?;
        Ok(Self { text: text.to_owned(), root, id, secret_hash: Sha256::digest(secret).into() })
    }

    /// For [`crate::joining_client_config`]: whom to believe.
    pub fn root_hash(&self) -> String {
        hex::encode(&self.root)
    }

    /// The identity that this token is for.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The public name of this token, for listing and revoking.
    pub fn handle(&self) -> String {
        handle(&self.secret_hash)
    }

    pub(crate) fn secret_hash(&self) -> &[u8; 32] {
        &self.secret_hash
    }
}

/// Enough of the hash to tell 100,000 tokens apart, and nothing of the secret.
pub(crate) fn handle(secret_hash: &[u8; 32]) -> String {
    hex::encode(&secret_hash[..8])
}

fn decode(text: &str) -> Result<[u8; 32], TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed)?;
    bytes.try_into().map_err(|_| TokenError::Malformed)
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .field("root_hash", &self.root_hash())
            .field("handle", &self.handle())
            .finish_non_exhaustive()
    }
}
