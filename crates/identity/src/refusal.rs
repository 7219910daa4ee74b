//! One word for why a handshake failed, on either side.
//!
//! It decides how rustls' errors and the peer's alerts read to an operator: the same word on both sides for the same
//! cause, [`Refusal::by_peer`] saying who refused. It deliberately does not decide what follows: whose fault it is,
//! and whether an instance suffers for it, is for the sidecar.
//!
//! In TLS 1.3 a client believes its handshake done before the server has judged its certificate, so a refusal
//! arrives as an alert on the first *read*. Give that read's error to [`refusal`] as well.
//!
//! Invariant: `None` means "not a TLS matter" (reset, end of stream, timeout), never "unknown".

use std::error::Error as StdError;
use std::io;

use fusewire_model::SpiffeId;
use rustls::{AlertDescription, CertificateError, CommonState, Error, InvalidMessage};
use rustls_pki_types::CertificateDer;

use crate::{CONTROL_PATH, cert};

/// Why a handshake failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error("the peer does not speak TLS: is it a plain port, or a caller outside the mesh?")]
    NotTls,
    #[error("the peer presented no certificate: is it outside the mesh, or not yet joined?")]
    NoCertificate,
    #[error(
        "the peer's certificate was signed by a foreign authority: does it belong to another control plane, or is the trust bundle outdated?"
    )]
    UnknownCa,
    #[error("the peer's certificate has ended: has it lost its control plane, or is a clock wrong?")]
    Expired,
    #[error("the peer's certificate does not hold yet: is a clock wrong?")]
    NotYetValid,
    #[error("the peer is {got}, not {expected}: has the address been given to another workload?")]
    WrongIdentity { expected: String, got: String },
    #[error("the peer's certificate does not name exactly one SPIFFE ID: was it issued for a mesh?")]
    NoSpiffeId,
    #[error("the peer belongs to another trust domain")]
    WrongTrustDomain,
    #[error("the peer's identity is denied: an operator shut it out with `fusewire trust deny`")]
    Denied,
    #[error("the peer's certificate is unusable: {0}")]
    BadCertificate(String),
    #[error("no protocol in common: do both sides run sidecars of compatible releases?")]
    Alpn,
    /// The other side refused us; the word is [`Refusal::word`]'s for the same cause, as far as its alert tells.
    #[error("the peer refused us: {0}")]
    RefusedByPeer(&'static str),
    #[error("the handshake failed: {0}")]
    Handshake(String),
}

impl Refusal {
    /// The label for logs and metrics: the same on both sides for one cause.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NotTls => "not-tls",
            Self::NoCertificate => "no-certificate",
            Self::UnknownCa => "unknown-ca",
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::WrongIdentity { .. } => "wrong-identity",
            Self::NoSpiffeId => "no-spiffe-id",
            Self::WrongTrustDomain => "wrong-trust-domain",
            Self::Denied => "denied",
            Self::BadCertificate(_) => "bad-certificate",
            Self::Alpn => "alpn",
            Self::RefusedByPeer(word) => word,
            Self::Handshake(_) => "handshake",
        }
    }

    /// Whether the other side refused us, rather than we it.
    pub fn by_peer(&self) -> bool {
        matches!(self, Self::RefusedByPeer(_))
    }
}

impl From<&Error> for Refusal {
    fn from(error: &Error) -> Self {
        match error {
            Error::AlertReceived(alert) => Self::RefusedByPeer(alert_word(*alert)),
            Error::InvalidCertificate(error) => certificate(error),
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::NoApplicationProtocol => Self::Alpn,
            // What the first bytes of HTTP, SSH or a database greeting look like to a TLS record reader.
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType
                | InvalidMessage::UnknownProtocolVersion
                | InvalidMessage::InvalidEmptyPayload
                | InvalidMessage::MessageTooLarge,
            ) => Self::NotTls,
            other => Self::Handshake(other.to_string()),
        }
    }
}

fn certificate(error: &CertificateError) -> Refusal {
    use CertificateError as C;
    match error {
        C::UnknownIssuer => Refusal::UnknownCa,
        C::Expired | C::ExpiredContext { .. } => Refusal::Expired,
        C::NotValidYet | C::NotValidYetContext { .. } => Refusal::NotYetValid,
        // what `verify` says with these four is explained there
        C::Revoked => Refusal::Denied,
        C::NotValidForName => Refusal::NoSpiffeId,
        C::ApplicationVerificationFailure => Refusal::WrongTrustDomain,
        C::NotValidForNameContext { expected, presented } => Refusal::WrongIdentity {
            expected: format!("spiffe://{}/{CONTROL_PATH}", expected.to_str()),
            got: presented.join(", "),
        },
        other => Refusal::BadCertificate(other.to_string()),
    }
}

/// What a peer's alert tells. Several causes share an alert, so some words are coarser than the refusing side's own:
/// its log has the rest.
fn alert_word(alert: AlertDescription) -> &'static str {
    use AlertDescription as A;
    match alert {
        A::UnknownCA => "unknown-ca",
        A::CertificateExpired => "expired", // or not yet valid: RFC 8446, section 6.2 has one alert for both
        A::CertificateRequired => "no-certificate",
        A::NoApplicationProtocol => "alpn",
        A::AccessDenied => "wrong-trust-domain",
        A::CertificateRevoked => "denied",
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown => "bad-certificate",
        _ => "handshake",
    }
}

/// The words by the names that rustls prints, for [`from_text`].
const ALERTS: [(&str, AlertDescription); 9] = [
    ("UnknownCA", AlertDescription::UnknownCA),
    ("CertificateExpired", AlertDescription::CertificateExpired),
    ("CertificateRequired", AlertDescription::CertificateRequired),
    ("NoApplicationProtocol", AlertDescription::NoApplicationProtocol),
    ("AccessDenied", AlertDescription::AccessDenied),
    ("CertificateRevoked", AlertDescription::CertificateRevoked),
    ("BadCertificate", AlertDescription::BadCertificate),
    ("UnsupportedCertificate", AlertDescription::UnsupportedCertificate),
    ("CertificateUnknown", AlertDescription::CertificateUnknown),
];

/// h2 keeps only the *text* of the error that its connection died of, and the alert that refuses a client's
/// certificate arrives exactly there: on the first read under HTTP/2.
fn from_text(text: &str) -> Option<Refusal> {
    let name = text.strip_prefix("received fatal alert: ")?;
    let known = ALERTS.iter().find(|(printed, _)| *printed == name).map(|(_, alert)| alert_word(*alert));
    Some(Refusal::RefusedByPeer(known.unwrap_or("handshake")))
}

/// The TLS matter in an I/O error; `None` when it is not one.
pub fn refusal(error: &io::Error) -> Option<Refusal> {
    refusal_in(error)
}

/// The same, for any error that may hold one in its chain of sources (hyper's, tonic's).
pub fn refusal_in(error: &(dyn StdError + 'static)) -> Option<Refusal> {
    let mut next = Some(error);
    // sources could in theory form a ring; no honest chain is this long
    for _ in 0..32 {
        let error = next?;
        if let Some(tls) = error.downcast_ref::<Error>() {
            return Some(Refusal::from(tls));
        }
        next = match error.downcast_ref::<io::Error>() {
            // `source()` of an io::Error skips what it holds and asks that for *its* source
            Some(io) => io.get_ref().map(|held| held as &(dyn StdError + 'static)),
            None => {
                if let Some(found) = from_text(&error.to_string()) {
                    return Some(found);
                }
                error.source()
            }
        };
    }
    None
}

/// After the handshake: is the peer the one that the caller meant?
pub fn expect_peer(certs: Option<&[CertificateDer<'_>]>, expected: &SpiffeId) -> Result<(), Refusal> {
    match cert::peer_id(certs) {
        Ok(got) if got == *expected => Ok(()),
        Ok(got) => Err(Refusal::WrongIdentity { expected: expected.to_string(), got: got.to_string() }),
        Err(crate::IdentityError::NoCertificate) => Err(Refusal::NoCertificate),
        Err(_) => Err(Refusal::NoSpiffeId),
    }
}

/// After the handshake: was this protocol agreed on? rustls refuses a *different* protocol by itself, but lets a
/// peer through that names none.
pub fn expect_alpn(connection: &CommonState, expected: &[u8]) -> Result<(), Refusal> {
    match connection.alpn_protocol() {
        Some(agreed) if agreed == expected => Ok(()),
        _ => Err(Refusal::Alpn),
    }
}
