//! Identity proves: keys and requests, the authority that signs, the rustls configurations between sidecars, and one
//! word for why a handshake was refused.
//!
//! It decides who is believed: a chain to the trust domain's roots, exactly one SPIFFE ID, a time that holds. It
//! deliberately does not decide what a proven identity *may do* (the inbound resource and the control plane say
//! that), opens no connection, spawns no task, and keeps no state: [`TrustState`] and [`TokenRecord`] are values for any store;
//! only [`Identity`] touches files.
//!
//! Invariant: secrets (keys, token texts) appear in no `Debug`, error or log line.

mod authority;
mod bundle;
mod cert;
mod error;
mod external;
mod files;
mod hex;
mod pem;
mod plan;
mod refusal;
mod renewal;
mod request;
mod root;
mod rotation;
mod shape;
mod succession;
mod tls;
mod token;
mod token_record;
mod trust_state;
mod verify;
mod workload;

pub use authority::{Authority, DEFAULT_LIFETIME, MAX_LIFETIME, MIN_LIFETIME, Signed};
pub use bundle::{Bundle, root_hash};
pub use cert::{peer_id, peer_not_after};
pub use error::IdentityError;
pub use external::{ExternalError, ExternalFile};
pub use fusewire_model::{SpiffeId, TrustDomain};
pub use plan::{NEW_ROOT, Plan};
pub use refusal::{Refusal, expect_alpn, expect_peer, refusal, refusal_in};
pub use renewal::renewal_at;
pub use request::{MAX_CSR_BYTES, SignError};
pub use root::RootView;
pub use rotation::{RotateError, SETTLE_SECONDS, Step};
pub use rustls_pki_types::UnixTime;
pub use succession::Overlap;
pub use tls::{Clients, client_config, joining_client_config, joining_under, provider, server_config, unchecked_name};
pub use token::JoinToken;
pub use token_record::{MAX_TOKENS, TokenError, TokenRecord, mint};
pub use trust_state::{MAX_STATE_BYTES, Stage, StageTimes, TrustState};
pub use verify::peer_root;
pub use workload::{Identity, PrivateKey, csr};

/// ALPN between sidecars.
pub const ALPN_WIRE: &[u8] = b"fusewire/1";
/// ALPN of gRPC to the control plane.
pub const ALPN_CONTROL: &[u8] = b"h2";
/// The path of the control plane's own SPIFFE ID: `spiffe://<trust domain>/fusewire/control`.
pub const CONTROL_PATH: &str = "fusewire/control";
