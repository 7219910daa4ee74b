//! Identity proves: keys and requests, the authority that signs, the rustls configurations between sidecars, and one
//! word for why a handshake was refused.
//!
//! It decides who is believed: a chain to the trust domain's roots, exactly one SPIFFE ID, a time that holds. It
//! deliberately does not decide what a proven identity *may do* (the inbound resource and the control plane say
//! that), opens no connection and spawns no task; only [`Identity`], [`Authority`] and [`TokenBook`] touch files.
//!
//! Invariant: secrets (keys, token texts) appear in no `Debug`, error or log line.

mod authority;
mod bundle;
mod cert;
mod error;
mod files;
mod hex;
mod pem;
mod refusal;
mod request;
mod tls;
mod token;
mod token_book;
mod verify;
mod workload;

pub use authority::{Authority, AuthorityError, DEFAULT_LIFETIME, MAX_LIFETIME, MIN_LIFETIME, Signed};
pub use bundle::{Bundle, root_hash};
pub use cert::{peer_id, peer_not_after};
pub use error::IdentityError;
pub use fusewire_model::{SpiffeId, TrustDomain};
pub use refusal::{Refusal, expect_alpn, expect_peer, refusal, refusal_in};
pub use request::{MAX_CSR_BYTES, SignError};
pub use rustls_pki_types::UnixTime;
pub use tls::{Clients, client_config, joining_client_config, provider, server_config, unchecked_name};
pub use token::JoinToken;
pub use token_book::{TokenBook, TokenEntry, TokenError};
pub use workload::{Identity, PrivateKey, csr};

/// ALPN between sidecars.
pub const ALPN_WIRE: &[u8] = b"fusewire/1";
/// ALPN of gRPC to the control plane.
pub const ALPN_CONTROL: &[u8] = b"h2";
/// The path of the control plane's own SPIFFE ID: `spiffe://<trust domain>/fusewire/control`.
pub const CONTROL_PATH: &str = "fusewire/control";
