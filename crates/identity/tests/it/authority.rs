//! What the authority signs, and what it refuses.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fusewire_identity::{
    Authority, Bundle, DEFAULT_LIFETIME, Identity, IdentityError, MAX_CSR_BYTES, MAX_LIFETIME, MIN_LIFETIME,
    PrivateKey, SignError, SpiffeId, TrustState, csr, root_hash,
};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    RsaKeySize, SanType, SignatureAlgorithm,
};
use x509_parser::prelude::*;

use crate::world::*;

fn key() -> PrivateKey {
    PrivateKey::generate().unwrap()
}

fn request(pair: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id("shop/web").as_str().try_into().unwrap())];
    change(&mut params);
    params.serialize_request(pair).unwrap().der().to_vec()
}

fn sign(ca: &Authority, csr: &[u8]) -> Result<fusewire_identity::Signed, SignError> {
    ca.sign(csr, &id("shop/web"), DEFAULT_LIFETIME, now())
}

#[test]
fn a_signed_leaf_makes_an_identity() {
    let (ca, key) = (authority(), key());
    let signed = sign(&ca, &csr(&key, &id("shop/web")).unwrap()).unwrap();
    let identity =
        Identity::from_pem(signed.chain_pem.as_bytes(), key.to_pem().as_bytes(), signed.bundle_pem.as_bytes()).unwrap();
    assert_eq!(identity.id, id("shop/web"));
    assert_eq!((identity.not_before(), identity.not_after()), (NOW - 60, NOW + DAY));
    assert_eq!(signed.not_after, NOW + DAY);
    assert_eq!(identity.remaining(now()), DEFAULT_LIFETIME);
    assert_eq!(identity.remaining(at(NOW + 2 * DAY)), Duration::ZERO);
    assert_eq!(identity.bundle().root_hashes(), [ca.root_hash()]);
}

#[test]
fn a_leaf_holds_what_we_build_and_nothing_that_was_asked_for() {
    let ca = authority();
    let pair = KeyPair::generate().unwrap();
    let greedy = request(&pair, |params| {
        params.subject_alt_names.push(SanType::DnsName("bank.example".try_into().unwrap()));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0])];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let signed = sign(&ca, &greedy).unwrap();
    let (_, pem) = parse_x509_pem(signed.chain_pem.as_bytes()).unwrap();
    let leaf = pem.parse_x509().unwrap();
    assert!(!leaf.is_ca());
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(san.value.general_names, [GeneralName::URI("spiffe://mesh.test/shop/web")]);
    assert!(san.critical, "the subject is empty: RFC 5280, section 4.2.1.6");
    assert_eq!(leaf.subject().iter().count(), 0);
    assert_eq!(leaf.key_usage().unwrap().unwrap().value.flags, 1, "digitalSignature alone");
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.code_signing && !usage.any && usage.other.is_empty());
    let oids: Vec<_> = leaf.extensions().iter().map(|e| e.oid.to_id_string()).collect();
    for oid in &oids {
        let known = ["2.5.29.17", "2.5.29.15", "2.5.29.37", "2.5.29.19", "2.5.29.14", "2.5.29.35"];
        assert!(known.contains(&oid.as_str()), "{oids:?}");
    }
}

#[test]
fn a_root_is_a_ca_for_leaves_and_for_standing_under_another_root() {
    let ca = authority();
    let der = &ca.bundle().certs()[0];
    let (_, root) = X509Certificate::from_der(der).unwrap();
    let constraints = root.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(1));
    assert_eq!(root.subject().to_string(), "CN=Fusewire root mesh.test");
    let usage = root.key_usage().unwrap().unwrap();
    assert!(usage.value.key_cert_sign() && usage.value.crl_sign() && !usage.value.digital_signature());
    assert_eq!(ca.root_hash(), root_hash(der));
    assert_eq!(ca.root_hash().len(), 64);
    assert!(ca.not_after() > NOW + 9 * 365 * DAY);
}

#[test]
fn every_leaf_has_its_own_serial_even_under_one_key() {
    let (ca, key) = (authority(), key());
    let request = csr(&key, &id("shop/web")).unwrap();
    let serial = |pem: String| parse_x509_pem(pem.as_bytes()).unwrap().1.parse_x509().unwrap().raw_serial_as_string();
    let first = serial(sign(&ca, &request).unwrap().chain_pem);
    assert_ne!(first, serial(sign(&ca, &request).unwrap().chain_pem));
}

#[test]
fn only_the_proven_name_is_signed() {
    let (ca, key) = (authority(), key());
    let other = csr(&key, &id("shop/admin")).unwrap();
    let error = sign(&ca, &other).unwrap_err();
    assert!(matches!(&error, SignError::Identity { asked, .. } if asked == "spiffe://mesh.test/shop/admin"), "{error}");

    let pair = KeyPair::generate().unwrap();
    let none = request(&pair, |p| p.subject_alt_names.clear());
    assert_eq!(sign(&ca, &none).unwrap_err(), SignError::Names { found: 0 });
    let two = request(&pair, |p| p.subject_alt_names.push(SanType::URI("spiffe://mesh.test/x".try_into().unwrap())));
    assert_eq!(sign(&ca, &two).unwrap_err(), SignError::Names { found: 2 });

    let elsewhere = SpiffeId::parse("spiffe://other.test/shop/web").unwrap();
    let error = ca.sign(&csr(&key, &elsewhere).unwrap(), &elsewhere, DEFAULT_LIFETIME, now()).unwrap_err();
    assert!(matches!(error, SignError::TrustDomain { .. }), "{error}");
}

#[test]
fn lifetimes_are_bounded_and_end_with_the_root() {
    let (ca, key) = (authority(), key());
    let request = csr(&key, &id("shop/web")).unwrap();
    let ask = |lifetime, seconds| ca.sign(&request, &id("shop/web"), lifetime, at(seconds));
    for lifetime in [MIN_LIFETIME, MAX_LIFETIME] {
        assert_eq!(ask(lifetime, NOW).unwrap().not_after, NOW + lifetime.as_secs());
    }
    for lifetime in [Duration::ZERO, Duration::from_secs(9), MAX_LIFETIME + Duration::from_secs(1), Duration::MAX] {
        assert!(matches!(ask(lifetime, NOW), Err(SignError::Lifetime { .. })), "{lifetime:?}");
    }
    let end = ca.not_after();
    assert_eq!(ask(DEFAULT_LIFETIME, end - 3600).unwrap().not_after, end);
    for seconds in [end - 9, end, end + DAY, u64::MAX] {
        assert_eq!(ask(DEFAULT_LIFETIME, seconds).unwrap_err(), SignError::RootEnded { not_after: end });
    }
}

/// A leaf that holds a minute into the past and ten seconds into the future would be due for renewal when it is born.
#[test]
fn a_short_leaf_begins_at_most_a_tenth_of_its_life_in_the_past() {
    let ca = authority();
    for (lifetime, begins) in [(10, NOW - 1), (300, NOW - 30), (600, NOW - 60), (3600, NOW - 60)] {
        let leaf = ca.issue(&id("shop/web"), Duration::from_secs(lifetime), now()).unwrap();
        assert_eq!(leaf.not_before(), begins, "{lifetime}");
        assert!(fusewire_identity::renewal_at(leaf.not_before(), leaf.not_after(), 0) > NOW);
    }
}

#[test]
fn keys_of_the_accepted_kinds_are_signed_and_make_working_chains() {
    let ca = authority();
    let pairs = [
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
        KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(),
    ];
    for pair in pairs {
        let signed = sign(&ca, &request(&pair, |_| ())).unwrap();
        let (_, pem) = parse_x509_pem(signed.chain_pem.as_bytes()).unwrap();
        let leaf = pem.parse_x509().unwrap();
        assert_eq!(leaf.public_key().subject_public_key.data.as_ref(), pair.public_key_raw());
        let (_, root) = X509Certificate::from_der(&ca.bundle().certs()[0]).unwrap();
        leaf.verify_signature(Some(root.public_key())).unwrap();
    }
}

/// `openssl req -newkey rsa:1024 -sha1` and `-sha256`: the verifier underneath would take the first.
const RSA_1024: [&str; 2] = [
    "MIIBeDCB4gIBADAAMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDffYiy/YyW5iaQHhPeQVRBsPGp303uR4iZCd+7t7C4iLViokmaFr9zOXyo1iVskzXeBB6Sh+My/8I7KTBfiFo/XOesxD9+AqpVkhUjDX/nKT3f5q5ggd/1PLk4yPgmnye3ZvLAvZ3eCUDRdE6SjHGCE+v7QZEEGcgTVtZhtmqo0QIDAQABoDkwNwYJKoZIhvcNAQkOMSowKDAmBgNVHREEHzAdhhtzcGlmZmU6Ly9tZXNoLnRlc3Qvc2hvcC93ZWIwDQYJKoZIhvcNAQEFBQADgYEAgWS7S0Tp3Qj4gJi5LObeuGqt+oNQ08LsoZdxDejFodpzCrawLJBSqvi5D2mx3tVXv2+Hq33osa0ucpOpnpi3rAMGL2sHFcCvkhxmj3zYwM6FKnRZGYULa57yscFFqLUasLQ+TQUMMiTS+MSA3xp8PeFAZS+kcOPivp+bhNOQ798=",
    "MIIBeDCB4gIBADAAMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDUzTz6IQtDZ5h6DGTwlv2bujYbz4kpCHopYmOutGOw2p0AUosQnkpO6FjgqJMWU0LgZgNot70K92K+0wIYvzI5V+d1PNBrBm4LVw05JJA/VMPJeN6ATPFY5bICYdFiNcsT6po8ZFguxabx5uj5BW0fkK1LlO66d0pTgOcEgLtLdQIDAQABoDkwNwYJKoZIhvcNAQkOMSowKDAmBgNVHREEHzAdhhtzcGlmZmU6Ly9tZXNoLnRlc3Qvc2hvcC93ZWIwDQYJKoZIhvcNAQELBQADgYEAed0Sg9P9vI642jvLILHKB/Cq944KlZ+W+nlomG7f19Qnefy37HX3RPHp9CafOTN59eqW3tS7c1KpyjgpM5nyxKbNwZGKnLoIbnsldOPulrSdgXVFBRvQzyW+CFXMbfULta2Yrq+15cH8aLlqYxEiaqg4D0maXi5j3osvR+mCnbs=",
];

#[test]
fn weak_and_unlisted_keys_are_refused() {
    let ca = authority();
    for text in RSA_1024 {
        let der = STANDARD.decode(text).unwrap();
        assert_eq!(sign(&ca, &der).unwrap_err(), SignError::Algorithm);
    }
    let unlisted: [&'static SignatureAlgorithm; 2] = [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ECDSA_P521_SHA512];
    for algorithm in unlisted {
        let pair = KeyPair::generate_for(algorithm).unwrap();
        assert_eq!(sign(&ca, &request(&pair, |_| ())).unwrap_err(), SignError::Algorithm);
    }
}

#[test]
fn a_request_whose_signature_is_anothers_is_refused() {
    let ca = authority();
    let mut der = csr(&key(), &id("shop/web")).unwrap();
    // the public key, replaced by another: the name is right, the possession unproven
    let (ours, other) = (key_bytes(&der), key_bytes(&csr(&key(), &id("shop/web")).unwrap()));
    let from = der.windows(ours.len()).position(|w| w == ours).unwrap();
    der[from..from + other.len()].copy_from_slice(&other);
    assert_eq!(sign(&ca, &der).unwrap_err(), SignError::BadSignature);
}

fn key_bytes(csr: &[u8]) -> Vec<u8> {
    let (_, csr) = X509CertificationRequest::from_der(csr).unwrap();
    csr.certification_request_info.subject_pki.subject_public_key.data.to_vec()
}

#[test]
fn requests_are_bounded_and_whole() {
    let ca = authority();
    let der = csr(&key(), &id("shop/web")).unwrap();
    let mut longer = der.clone();
    longer.push(0);
    assert_eq!(sign(&ca, &longer).unwrap_err(), SignError::Malformed);
    assert_eq!(sign(&ca, &[]).unwrap_err(), SignError::Malformed);
    assert_eq!(sign(&ca, &[0x30; MAX_CSR_BYTES]).unwrap_err(), SignError::Malformed);
    assert_eq!(sign(&ca, &[0x30; MAX_CSR_BYTES + 1]).unwrap_err(), SignError::TooLarge(MAX_CSR_BYTES + 1));
}

/// Invariant of `request`: garbage yields an error, never a panic.
#[test]
fn mutated_requests_neither_panic_nor_gain_anything() {
    let ca = authority();
    let seeds = [
        csr(&key(), &id("shop/web")).unwrap(),
        request(&KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(), |_| ()),
        STANDARD.decode(RSA_1024[1]).unwrap(),
    ];
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    for seed in &seeds {
        for length in 0..seed.len() {
            assert!(sign(&ca, &seed[..length]).is_err());
        }
        for at in 0..seed.len() {
            for byte in [0, 0x7f, 0x80, 0xff, seed[at] ^ 1] {
                let mut changed = seed.clone();
                changed[at] = byte;
                check(&ca, seed, &changed);
            }
        }
        for _ in 0..3000 {
            let mut changed = seed.clone();
            for _ in 0..1 + next() % 8 {
                let at = next() % changed.len();
                match next() % 3 {
                    0 => changed[at] = next() as u8,
                    1 => drop(changed.remove(at)),
                    _ => changed.insert(at, next() as u8),
                }
            }
            check(&ca, seed, &changed);
        }
    }
}

fn check(ca: &Authority, seed: &[u8], changed: &[u8]) {
    let Ok(signed) = sign(ca, changed) else { return };
    // some bytes say nothing (an unused-bits count, an optional NULL): what is signed must then be what was asked
    assert_eq!(key_bytes(seed), key_bytes(changed));
    assert!(Bundle::from_pem(domain("mesh.test"), signed.bundle_pem.as_bytes()).is_ok());
}

#[test]
fn secrets_stay_out_of_debug() {
    let ca = authority();
    let identity = issue(&ca, "shop/web");
    let shown = format!("{ca:?} {identity:?} {:?} {:?}", identity.key(), PrivateKey::generate());
    for pem in [root_key(&ca), identity.key().to_pem()] {
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let bytes = STANDARD.decode(&body).unwrap();
        assert!(!shown.contains(&body[20..40]));
        assert!(!shown.contains(&format!("{}, {}, {}", bytes[40], bytes[41], bytes[42])));
    }
    assert!(shown.contains("PrivateKey(..)"));
}

#[test]
fn a_root_kept_as_two_files_is_imported_when_they_belong_together() {
    let (one, two) = (authority(), authority());
    let import = |key: &Authority, cert: &Authority| {
        TrustState::import(root_key(key).as_bytes(), cert.bundle().to_pem().as_bytes(), DEFAULT_LIFETIME)
    };
    assert!(matches!(import(&one, &two), Err(IdentityError::KeyMismatch { .. })));
    let imported = Authority::from_state(import(&one, &one).unwrap()).unwrap();
    assert_eq!(imported.root_hash(), one.root_hash());
    // what one signs, the other's bundle believes
    assert!(issue(&imported, "shop/web").with_bundle(one.bundle().clone()).is_ok());
    let twice = one.bundle().to_pem().repeat(2);
    assert!(TrustState::import(root_key(&one).as_bytes(), twice.as_bytes(), DEFAULT_LIFETIME).is_err());
}
