//! A certificate for DNS names, for servers whose callers know nothing of SPIFFE.
//!
//! Invariant: it has no SPIFFE ID, so that it is nobody in the mesh.

use rustls_pki_types::CertificateDer;

use crate::workload::PrivateKey;

/// Leaf and key, made by [`crate::Authority::issue_server`].
#[derive(Clone, Debug)]
pub struct ServerLeaf {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    times: [u64; 2],
}

impl ServerLeaf {
    pub(crate) fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKey, times: [u64; 2]) -> Self {
        Self { chain, key, times }
    }

    /// Leaf first, without the root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub(crate) fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Seconds since 1970.
    pub fn not_before(&self) -> u64 {
        self.times[0]
    }

    /// Seconds since 1970.
    pub fn not_after(&self) -> u64 {
        self.times[1]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls_pki_types::{ServerName, UnixTime};

    use crate::{Authority, TrustDomain, peer_id, provider};

    #[test]
    fn it_is_believed_by_its_name_under_our_root_and_is_nobody_in_the_mesh() {
        let now = UnixTime::now();
        let authority = Authority::create(&TrustDomain::parse("cluster.local").unwrap(), now).unwrap();
        let name = "fusewire-injector.fusewire-system.svc";
        let leaf = authority.issue_server(&[name.to_owned()], Duration::from_secs(3_600), now).unwrap();
        // rustls' own verifier, which knows nothing of us
        let roots = Arc::clone(authority.bundle().roots());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build().unwrap();
        let judged = |name: &str| {
            let name = ServerName::try_from(name.to_owned()).unwrap();
            verifier.verify_server_cert(&leaf.chain()[0], &leaf.chain()[1..], &name, &[], now).is_ok()
        };
        assert!(judged(name) && !judged("other.fusewire-system.svc"));
        assert!(peer_id(Some(leaf.chain())).is_err());
        assert_eq!(leaf.not_after() - now.as_secs(), 3_600);
    }
}
