//! Whom a handshake believes.
//!
//! It decides with rustls' own webpki: chain, times, key usage. Then it adds what a mesh means by a name: exactly one
//! SPIFFE ID, of the right trust domain. It deliberately does not check DNS names (an instance is called by what it
//! is, not where it is), nor the exact ID that the caller expected: that needs the endpoint, which the caller holds.
//!
//! The alerts differ, because the refused side learns nothing else: foreign CA -> unknown_ca, outside its times ->
//! certificate_expired, no SPIFFE ID -> bad_certificate, another trust domain -> access_denied, a denied identity ->
//! certificate_revoked.
//!
//! Invariant: no certificate passes that webpki alone would refuse.

use std::sync::Arc;

use fusewire_model::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

use crate::bundle::{Bundle, root_hash};
use crate::error::IdentityError;
use crate::{CONTROL_PATH, cert, tls};

/// Chain, times and purpose of a certificate that serves.
pub(crate) fn chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    now: UnixTime,
) -> Result<(), Error> {
    let algorithms = tls::provider().signature_verification_algorithms.all;
    let parsed = ParsedCertificate::try_from(leaf)?;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms).map_err(unknown_ca)
}

/// The root that a leaf leads to by the shortest way: with as few of its intermediates as possible. A leaf that also
/// carries a cross certificate leads to several; the shortest way names the one whose key signed it.
pub(crate) fn root_of(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &[CertificateDer<'static>],
    now: UnixTime,
) -> Result<String, Error> {
    if let [only] = roots {
        alone(leaf, intermediates, only, now)?;
        return Ok(root_hash(only));
    }
    for used in 0..=intermediates.len() {
        if let Some(root) = roots.iter().find(|root| alone(leaf, &intermediates[..used], root, now).is_ok()) {
            return Ok(root_hash(root));
        }
    }
    Err(CertificateError::UnknownIssuer.into())
}

/// The root of `bundle` that a peer's chain leads to by the shortest way, which names the one whose key signed it. `None`
/// where it leads to none of them now. Give it what `CommonState::peer_certificates` returns.
pub fn peer_root(certs: Option<&[CertificateDer<'_>]>, bundle: &Bundle, now: UnixTime) -> Option<String> {
    let (leaf, intermediates) = certs?.split_first()?;
    root_of(leaf, intermediates, bundle.certs(), now).ok()
}

/// Whether the leaf leads to this one root.
pub(crate) fn alone(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    root: &CertificateDer<'static>,
    now: UnixTime,
) -> Result<(), Error> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone())?;
    chain(leaf, intermediates, &roots, now)
}

/// Two authorities of one trust domain carry the same name, so a foreign one shows as a signature that does not fit
/// our root's key. webpki is right to call that a bad signature; whoever reads the alert needs "unknown CA".
#[allow(deprecated)] // some versions of webpki still answer with the variant without context
fn unknown_ca(error: Error) -> Error {
    use CertificateError as C;
    match error {
        Error::InvalidCertificate(
            C::BadSignature
            | C::UnsupportedSignatureAlgorithm
            | C::UnsupportedSignatureAlgorithmContext { .. }
            | C::UnsupportedSignatureAlgorithmForPublicKeyContext { .. },
        ) => C::UnknownIssuer.into(),
        other => other,
    }
}

/// No usable SPIFFE ID. `NotValidForName` is otherwise unused here, as no DNS name is ever checked.
fn spiffe_id(leaf: &CertificateDer<'_>) -> Result<SpiffeId, Error> {
    cert::spiffe_id(leaf).map_err(|error| {
        tracing::debug!(%error, "refused a certificate");
        CertificateError::NotValidForName.into()
    })
}

fn admitted(leaf: &CertificateDer<'_>, bundle: &Bundle) -> Result<(), Error> {
    let id = spiffe_id(leaf)?;
    let domain = bundle.trust_domain();
    if id.trust_domain() != domain.as_str() {
        tracing::debug!(%id, expected = %domain, "refused a certificate of another trust domain");
        return Err(CertificateError::ApplicationVerificationFailure.into());
    }
    if bundle.denies(&id) {
        tracing::debug!(%id, "refused a denied identity");
        return Err(CertificateError::Revoked.into());
    }
    Ok(())
}

fn never_tls12() -> Error {
    Error::General("TLS 1.2 is never offered".into())
}

/// Which servers are believed.
#[derive(Debug)]
enum Trust {
    /// Those of our trust domain.
    Bundle(Bundle),
    /// The control plane alone, as one sees it who holds only the SHA-256 of each root that it may be under.
    Pinned(Vec<[u8; 32]>),
}

impl Trust {
    fn judge(&self, leaf: &CertificateDer<'_>, presented: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        match self {
            Self::Bundle(bundle) => {
                chain(leaf, presented, bundle.roots(), now)?;
                admitted(leaf, bundle)
            }
            Self::Pinned(hashes) => {
                let is_pinned = |cert: &CertificateDer<'_>| hashes.iter().any(|h| Sha256::digest(cert)[..] == *h);
                let mut roots = RootCertStore::empty();
                for pinned in presented.iter().filter(|cert| is_pinned(cert)) {
                    roots.add(pinned.clone().into_owned())?;
                }
                if roots.is_empty() {
                    return Err(CertificateError::UnknownIssuer.into());
                }
                // Presenting the root proves nothing: the leaf must be signed by it.
                chain(leaf, presented, &roots, now)?;
                is_control(leaf)
            }
        }
    }
}

fn is_control(leaf: &CertificateDer<'_>) -> Result<(), Error> {
    let id = spiffe_id(leaf)?;
    if id.path() == CONTROL_PATH {
        return Ok(());
    }
    tracing::debug!(%id, "refused a server that is not the control plane");
    Err(not_control(&id))
}

/// The client's side of trust.
#[derive(Debug)]
pub(crate) struct Servers {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl Servers {
    pub(crate) fn of_mesh(bundle: Bundle) -> Self {
        Self { trust: Trust::Bundle(bundle), provider: tls::provider() }
    }

    pub(crate) fn control_under(roots: Vec<[u8; 32]>) -> Self {
        Self { trust: Trust::Pinned(roots), provider: tls::provider() }
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        presented: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.trust.judge(leaf, presented, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(never_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Only `NotValidForNameContext` carries both names out of rustls; `refusal` reads them back.
fn not_control(got: &SpiffeId) -> Error {
    match ServerName::try_from(got.trust_domain().to_owned()) {
        Ok(expected) => CertificateError::NotValidForNameContext { expected, presented: vec![got.to_string()] }.into(),
        Err(_) => CertificateError::ApplicationVerificationFailure.into(),
    }
}

/// The server's side of trust: clients of our trust domain.
#[derive(Debug)]
pub(crate) struct MeshClients {
    webpki: Arc<dyn ClientCertVerifier>,
    bundle: Bundle,
}

impl MeshClients {
    pub(crate) fn new(bundle: &Bundle, clients: tls::Clients) -> Result<Self, IdentityError> {
        let builder = WebPkiClientVerifier::builder_with_provider(bundle.roots().clone(), tls::provider())
            // A sidecar has one certificate and chooses by no hint; naming our roots would only cost bytes.
            .clear_root_hint_subjects();
        let builder = match clients {
            tls::Clients::Required => builder,
            tls::Clients::Optional => builder.allow_unauthenticated(),
        };
        let webpki = builder.build().map_err(|e| IdentityError::Bundle(e.to_string()))?;
        Ok(Self { webpki, bundle: bundle.clone() })
    }
}

impl ClientCertVerifier for MeshClients {
    fn offer_client_auth(&self) -> bool {
        self.webpki.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.webpki.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.webpki.verify_client_cert(leaf, intermediates, now).map_err(unknown_ca)?;
        admitted(leaf, &self.bundle)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(never_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}
