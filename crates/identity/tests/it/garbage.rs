//! Whatever is read from outside: arbitrary bytes, and good ones altered. Errors, never a panic.

use std::sync::OnceLock;

use fusewire_identity::{
    Authority, Bundle, DEFAULT_LIFETIME, Identity, JoinToken, PrivateKey, TrustState, csr, joining_client_config,
};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::world::*;

struct Good {
    authority: Authority,
    csr: Vec<u8>,
    state: String,
    chain: String,
    key: String,
    bundle: String,
}

fn good() -> &'static Good {
    static GOOD: OnceLock<Good> = OnceLock::new();
    GOOD.get_or_init(|| {
        let state = TrustState::create(&domain("mesh.test"), at(NOW - DAY)).unwrap();
        let state = state.prepare(now()).unwrap().switch(now()).unwrap();
        let authority = Authority::from_state(state.clone()).unwrap();
        let web = issue(&authority, "shop/web");
        let key = PrivateKey::generate().unwrap();
        Good {
            csr: csr(&key, &id("shop/web")).unwrap(),
            state: state.to_json().unwrap(),
            chain: web.chain_pem(),
            key: web.key().to_pem(),
            bundle: web.bundle().to_pem(),
            authority,
        }
    })
}

/// What may happen to bytes on their way.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Cut(Index),
    Repeat(Index, usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = any::<Index>;
    let one = prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), prop::collection::vec(any::<u8>(), 1..40)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), 1..60_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        at().prop_map(Change::Cut),
        (at(), 1..400_usize).prop_map(|(at, length)| Change::Repeat(at, length)),
    ];
    prop::collection::vec(one, 1..6)
}

fn altered(bytes: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for change in changes {
        if bytes.is_empty() {
            break;
        }
        match change {
            Change::Set(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Change::Insert(at, more) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, more.iter().copied());
            }
            Change::Remove(at, length) => {
                let at = at.index(bytes.len());
                bytes.drain(at..(at + length).min(bytes.len()));
            }
            Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Change::Repeat(at, length) => {
                let at = at.index(bytes.len());
                let piece = bytes[at..(at + length).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}

fn sign(bytes: &[u8]) -> Option<String> {
    let signed = good().authority.sign(bytes, &id("shop/web"), DEFAULT_LIFETIME, now()).ok()?;
    Some(signed.chain_pem)
}

fn read_everything(bytes: &[u8]) {
    let good = good();
    let _ = TrustState::from_json(bytes);
    let _ = Bundle::from_pem(domain("mesh.test"), bytes);
    let _ = PrivateKey::from_pem(bytes);
    let _ = TrustState::import(bytes, good.bundle.as_bytes(), DEFAULT_LIFETIME);
    let _ = TrustState::import(good.key.as_bytes(), bytes, DEFAULT_LIFETIME);
    let _ = Identity::from_pem(bytes, good.key.as_bytes(), good.bundle.as_bytes());
    let _ = Identity::from_pem(good.chain.as_bytes(), good.key.as_bytes(), bytes);
    for place in 0..3 {
        let mut files = [good.bundle.as_bytes(), good.key.as_bytes(), good.bundle.as_bytes()];
        files[place] = bytes;
        let _ = Authority::external(&domain("mesh.test"), files[0], files[1], files[2], now());
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = JoinToken::parse(text);
        let _ = joining_client_config(text, &[]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_nothing_that_we_know(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(sign(&bytes).is_none());
        prop_assert!(TrustState::from_json(&bytes).is_err());
        read_everything(&bytes);
    }

    /// PEM around arbitrary bytes gets past the envelope.
    #[test]
    fn arbitrary_bytes_in_an_envelope_are_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        label in prop::sample::select(vec!["CERTIFICATE", "PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"]),
    ) {
        use base64::Engine as _;
        let body = base64::engine::general_purpose::STANDARD.encode(bytes);
        read_everything(format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n").as_bytes());
    }

    #[test]
    fn an_altered_request_is_refused_or_signed_for_the_proven_name_alone(changes in changes()) {
        let bytes = altered(&good().csr, &changes);
        if let Some(chain) = sign(&bytes) {
            let (_, pem) = x509_parser::pem::parse_x509_pem(chain.as_bytes()).unwrap();
            let leaf = rustls_pki_types::CertificateDer::from(pem.contents);
            prop_assert_eq!(fusewire_identity::peer_id(Some(&[leaf])).unwrap(), id("shop/web"));
        }
    }

    #[test]
    fn an_altered_state_is_refused_or_still_coherent(changes in changes()) {
        let bytes = altered(good().state.as_bytes(), &changes);
        if let Ok(state) = TrustState::from_json(&bytes) {
            // whatever else was changed (a time, a space), it signs what its own bundle believes
            let authority = Authority::from_state(state).unwrap();
            let web = authority.issue(&id("shop/web"), DEFAULT_LIFETIME, now());
            prop_assert!(web.is_ok(), "{:?}", web);
        }
    }

    #[test]
    fn altered_files_are_read_without_a_panic(changes in changes()) {
        let good = good();
        for text in [&good.chain, &good.key, &good.bundle] {
            read_everything(&altered(text.as_bytes(), &changes));
        }
    }
}
