//! Any request to sign is refused, or signed for the name that was proven and for no other; and nothing else that is read
//! of identities panics.

use fusewire_identity::{
    Authority, Bundle, DEFAULT_LIFETIME, Identity, JoinToken, MAX_CSR_BYTES, PrivateKey, SpiffeId, TrustDomain,
    TrustState, UnixTime, peer_id, peer_not_after,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::sync::OnceLock;
use std::time::Duration;

/// What the corpus' requests ask for.
const PROVEN: &str = "spiffe://cluster.local/shop";

struct World {
    authority: Authority,
    proven: SpiffeId,
    now: UnixTime,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
        let domain = TrustDomain::parse("cluster.local").expect("a domain");
        let authority = Authority::create(&domain, now).expect("an authority");
        World { authority, proven: SpiffeId::parse(PROVEN).expect("an id"), now }
    })
}

pub(super) fn check(data: &[u8]) {
    let world = world();
    if let Ok(signed) = world.authority.sign(data, &world.proven, DEFAULT_LIFETIME, world.now) {
        assert!(data.len() <= MAX_CSR_BYTES);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(signed.chain_pem.as_bytes()).collect();
        let chain = chain.expect("a chain of our own");
        assert_eq!(peer_id(Some(&chain)).as_ref().ok(), Some(&world.proven));
        let ends = world.now.as_secs() + DEFAULT_LIFETIME.as_secs();
        assert_eq!(peer_not_after(Some(&chain)).ok(), Some(ends.min(world.authority.not_after())));
    }
    let _ = PrivateKey::from_pem(data);
    let _ = Bundle::from_pem(world.authority.trust_domain().clone(), data);
    let _ = TrustState::from_json(data);
    let bundle = world.authority.bundle().to_pem();
    let _ = Identity::from_pem(data, data, bundle.as_bytes());
    let _ = peer_id(Some(&[CertificateDer::from(data)]));
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = JoinToken::parse(text);
    }
}
