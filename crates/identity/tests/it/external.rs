//! A certificate authority of someone else's, as three files.

use fusewire_identity::{
    ALPN_CONTROL, Authority, Clients, DEFAULT_LIFETIME, ExternalError, ExternalFile, RotateError, SETTLE_SECONDS, Step,
    TrustState, joining_client_config, root_hash,
};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, RsaKeySize,
    SignatureAlgorithm, date_time_ymd,
};

use crate::world::*;

struct Ca {
    cert: Certificate,
    params: CertificateParams,
    key: KeyPair,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2060, 1, 1);
    params.use_authority_key_identifier_extension = true;
    params
}

fn root_with(name: &str, key: KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Ca {
    let mut params = params(name);
    change(&mut params);
    Ca { cert: params.self_signed(&key).unwrap(), params, key }
}

fn root(name: &str) -> Ca {
    root_with(name, KeyPair::generate().unwrap(), |_| ())
}

impl Ca {
    fn below(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = params(name);
        change(&mut params);
        let issuer = Issuer::from_params(&self.params, &self.key);
        Ca { cert: params.signed_by(&key, &issuer).unwrap(), params, key }
    }
}

fn pem(certs: &[&Ca]) -> String {
    certs.iter().map(|ca| ca.cert.pem()).collect()
}

fn read(tls_crt: &str, tls_key: &str, ca_crt: &str) -> Result<Authority, ExternalError> {
    Authority::external(&domain("mesh.test"), tls_crt.as_bytes(), tls_key.as_bytes(), ca_crt.as_bytes(), now())
}

fn of(issuing: &[&Ca], roots: &[&Ca]) -> Authority {
    read(&pem(issuing), &issuing[0].key.serialize_pem(), &pem(roots)).unwrap()
}

async fn works(authority: &Authority) {
    let (catalog, web) = (issue(authority, "shop/catalog"), issue(authority, "shop/web"));
    let (served, called) = meet(server(&catalog), client(&web)).await;
    assert_eq!((served.unwrap().peer, called.unwrap().peer), (Some(id("shop/web")), Some(id("shop/catalog"))));
    let own = authority.issue_own(DEFAULT_LIFETIME, now()).unwrap();
    let joiner = fixed(joining_client_config(authority.root_hash(), &[ALPN_CONTROL]).unwrap());
    let (_, called) = meet(server_of(&own, Clients::Optional, ALPN_CONTROL), joiner).await;
    called.unwrap();
    assert_eq!(web.root_hash(), authority.root_hash());
}

#[tokio::test]
async fn an_intermediate_of_a_company_signs_for_the_mesh() {
    let company = root("Company root");
    let middle = company.below("Company issuing 1", |_| ());
    let mesh = middle.below("Mesh issuing", |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let authority = of(&[&mesh, &middle], &[&company]);
    works(&authority).await;
    assert_eq!(authority.root_hash(), root_hash(company.cert.der()));
    assert_eq!(issue(&authority, "shop/web").chain().len(), 3, "leaf and two intermediates");
    assert!(authority.bundle().to_pem().matches("BEGIN CERTIFICATE").count() == 1);
    // a root that is in tls.crt too is not sent along
    assert_eq!(issue(&of(&[&mesh, &middle, &company], &[&company]), "shop/web").chain().len(), 3);
}

#[tokio::test]
async fn a_self_signed_root_may_issue_by_itself_and_its_bundle_hold_others() {
    let (ours, others) = (root("Ours"), [root("Before"), root("After")]);
    let authority = of(&[&ours], &[&others[0], &ours, &others[1], &ours]);
    works(&authority).await;
    assert_eq!(issue(&authority, "shop/web").chain().len(), 1);
    assert_eq!(authority.root_hash(), root_hash(ours.cert.der()));
    assert_eq!(authority.bundle().certs().len(), 3, "the one that signs first, each once");
    assert_eq!(authority.bundle().root_hashes()[0], authority.root_hash());
}

fn ec(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).unwrap()
}

/// The key inside PKCS#8: SEQUENCE { version, algorithm, OCTET STRING { the key } }.
fn inner(pkcs8: &[u8]) -> Vec<u8> {
    use x509_parser::der_parser::parse_der;
    let (_, outer) = parse_der(pkcs8).unwrap();
    outer.as_sequence().unwrap()[2].as_slice().unwrap().to_vec()
}

fn envelope(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

/// RFC 5915 as OpenSSL writes it: with the curve, and the public key.
fn sec1_p256(key: &KeyPair) -> String {
    let plain = inner(&key.serialize_der());
    let secret = plain.windows(34).find(|w| w[..2] == [4, 32]).unwrap();
    let mut der = vec![0x30, 0x77, 2, 1, 1];
    der.extend_from_slice(secret);
    der.extend([0xa0, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7, 0xa1, 0x44, 3, 0x42, 0]);
    der.extend_from_slice(key.public_key_raw());
    envelope("EC PRIVATE KEY", &der)
}

#[tokio::test]
async fn keys_of_the_usual_kinds_and_forms_are_accepted() {
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let pkcs1 = envelope("RSA PRIVATE KEY", &inner(&rsa.serialize_der()));
    let p256 = ec(&rcgen::PKCS_ECDSA_P256_SHA256);
    let sec1 = sec1_p256(&p256);
    // the curve's name before the key, as `openssl ecparam -genkey` writes it
    let with_parameters =
        format!("{}{sec1}", envelope("EC PARAMETERS", &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]));
    let p384 = ec(&rcgen::PKCS_ECDSA_P384_SHA384);
    let sec1_384 = envelope("EC PRIVATE KEY", &inner(&p384.serialize_der()));
    let cases = [
        ("RSA", rsa, vec![pkcs1]),
        ("P-256", p256, vec![sec1, with_parameters]),
        ("P-384", p384, vec![sec1_384]),
        ("P-521", ec(&rcgen::PKCS_ECDSA_P521_SHA512), vec![]),
        ("Ed25519", ec(&rcgen::PKCS_ED25519), vec![]),
    ];
    for (what, key, mut forms) in cases {
        forms.push(key.serialize_pem());
        let ca = root_with("Company", key, |_| ());
        for form in forms {
            let authority = read(&ca.cert.pem(), &form, &ca.cert.pem()).unwrap_or_else(|e| panic!("{what}: {e}"));
            works(&authority).await;
        }
    }
}

#[test]
fn the_file_that_is_wrong_is_named_with_how() {
    let (ca, other) = (root("Company"), root("Other"));
    let middle = ca.below("Middle", |_| ());
    let leaf = ca.below("Leaf", |p| p.is_ca = IsCa::NoCa);
    let no_signing = ca.below("No signing", |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    let ended = ca.below("Ended", |p| p.not_after = date_time_ymd(2029, 1, 1));
    let early = ca.below("Early", |p| p.not_before = date_time_ymd(2040, 1, 1));
    let short =
        root_with("Short", KeyPair::generate().unwrap(), |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let below_short = short.below("Below", |_| ());
    let lower = below_short.below("Lower", |_| ());
    let key = |ca: &Ca| ca.key.serialize_pem();
    let encrypted = envelope("ENCRYPTED PRIVATE KEY", &[48, 3, 2, 1, 0]);
    use ExternalFile::{Certificate, Key, Roots};
    let cases = [
        (pem(&[]), key(&ca), pem(&[&ca]), Certificate, "no CERTIFICATE block"),
        ("-----BEGIN CERTIFICATE-----\n".into(), key(&ca), pem(&[&ca]), Certificate, "is it the right file, and whole"),
        (envelope("CERTIFICATE", &[1, 2, 3]), key(&ca), pem(&[&ca]), Certificate, "cannot be parsed"),
        (pem(&[&leaf]), key(&leaf), pem(&[&ca]), Certificate, "may not sign others"),
        (pem(&[&no_signing]), key(&no_signing), pem(&[&ca]), Certificate, "may not sign others"),
        (pem(&[&ended]), key(&ended), pem(&[&ca]), Certificate, "ended at 1861920000"),
        (pem(&[&early]), key(&early), pem(&[&ca]), Certificate, "holds only from"),
        (pem(&[&ca]), pem(&[&ca]), pem(&[&ca]), Key, "accepted are ECDSA P-256"),
        (pem(&[&ca]), encrypted, pem(&[&ca]), Key, "without a passphrase"),
        (pem(&[&ca]), envelope("PRIVATE KEY", &[48, 3, 2, 1, 0]), pem(&[&ca]), Key, "its key cannot be used"),
        (pem(&[&ca]), key(&other), pem(&[&ca]), Key, "does not belong to the first certificate"),
        (pem(&[&ca, &middle]), key(&middle), pem(&[&ca]), Key, "belongs to certificate 2 of tls.crt"),
        (pem(&[&ca]), key(&ca), String::new(), Roots, "no CERTIFICATE block"),
        (pem(&[&ca]), key(&ca), pem(&[&leaf]), Roots, "is not a CA"),
        (pem(&[&middle]), key(&middle), pem(&[&other]), Roots, "does not lead to any root in it"),
        (pem(&[&lower]), key(&lower), pem(&[&short]), Roots, "does not lead to any root in it"),
    ];
    for (crt, secret, roots, file, why) in cases {
        let error = read(&crt, &secret, &roots).expect_err(why);
        assert_eq!(error.file, file, "{error}");
        assert!(error.to_string().starts_with(&format!("{file} of the external authority: ")), "{error}");
        assert!(error.why.contains(why), "{why}: {error}");
        let body = secret.lines().nth(1).unwrap_or("-");
        assert!(!error.to_string().contains(body), "{error}");
    }
}

#[test]
fn leaves_end_with_the_issuing_certificate() {
    let company = root("Company");
    let mesh = company.below("Mesh", |p| p.not_after = date_time_ymd(2030, 3, 18)); // NOW is on the day before
    let authority = of(&[&mesh], &[&company]);
    let end = authority.not_after();
    assert!((NOW..NOW + DAY).contains(&end), "{end}");
    assert_eq!(issue(&authority, "shop/web").not_after(), end);
    assert!(authority.issue(&id("shop/web"), DEFAULT_LIFETIME, at(end)).is_err());
}

#[test]
fn an_external_state_holds_no_key_and_does_not_rotate() {
    let company = root("Company");
    let authority = of(&[&company.below("Mesh", |_| ())], &[&company]);
    let state = TrustState::from_json(authority.state().to_json().unwrap().as_bytes()).unwrap();
    assert!(!state.to_json().unwrap().contains("PRIVATE"));
    assert_eq!(state.root_hash(), authority.root_hash());
    assert!(state.is_external());
    for step in Step::ALL {
        assert!(matches!(state.step(step, now(), true), Err(RotateError::External)));
        assert!(state.plan(step, now(), true).refused.is_some());
    }
    let error = Authority::from_state(state).unwrap_err();
    assert!(error.to_string().contains("files"), "{error}");
}

#[tokio::test]
async fn a_renewed_issuing_certificate_under_the_same_root_changes_nothing_for_peers() {
    let company = root("Company");
    let (before, after) = (company.below("Mesh 1", |_| ()), company.below("Mesh 2", |_| ()));
    let (before, after) = (of(&[&before], &[&company]), of(&[&after], &[&company]));
    assert!(before.overlap(&after, now()).unwrap().is_full());
    let next = after.succeeding(before.state(), now()).unwrap();
    assert_eq!(next.bundle().certs(), after.bundle().certs());
    let (web, catalog) = (issue(&before, "shop/web"), issue(&next, "shop/catalog"));
    assert!(meet(server(&web), client(&catalog)).await.1.is_ok());
}

#[tokio::test]
async fn a_replaced_external_root_is_announced_then_signs_then_the_old_one_leaves() {
    let (old, new) = (root("Company 2020"), root("Company 2030"));
    let (old, new) = (of(&[&old], &[&old]), of(&[&new], &[&new]));
    let old = old.with_lifetime(DEFAULT_LIFETIME).unwrap();
    let overlap = old.overlap(&new, now()).unwrap();
    assert!(!overlap.old_leaves_hold && !overlap.new_leaves_hold);
    // at once, the two would not meet
    let (web, catalog) = (issue(&old, "shop/web"), issue(&new, "shop/catalog"));
    assert!(meet(server(&web), client(&catalog)).await.1.is_err());

    let announced = old.announcing(&new).unwrap();
    assert_eq!(announced.root_hash(), old.root_hash());
    let told = web.with_bundle(announced.bundle().clone()).unwrap();
    // restarted between: the stored state knows the old roots, the files only the new one
    let stored = TrustState::from_json(announced.state().to_json().unwrap().as_bytes()).unwrap();
    let next = new.succeeding(&stored, now()).unwrap();
    let catalog = issue(&next, "shop/catalog");
    assert_eq!(catalog.root_hash(), new.root_hash());
    for (server_of, client_of) in [(&told, &catalog), (&catalog, &told)] {
        assert!(meet(server(server_of), client(client_of)).await.1.is_ok());
    }
    assert!(!told.with_bundle(next.bundle().clone()).unwrap().is_under_signing_root());
    let overlap = announced.overlap(&next, now()).unwrap();
    assert!(overlap.is_full());

    // another restart does not lengthen the old root's stay
    let again = new.succeeding(next.state(), at(NOW + 3600)).unwrap();
    let leaves = NOW + DAY + SETTLE_SECONDS;
    for authority in [&next, &again] {
        assert!(authority.without_ended(at(leaves - 1)).unwrap().is_none());
        let alone = authority.without_ended(at(leaves)).unwrap().unwrap();
        assert_eq!(alone.bundle().certs(), new.bundle().certs());
    }
}

#[tokio::test]
async fn our_own_root_gives_way_to_an_external_one_and_back() {
    let own = authority().with_lifetime(DEFAULT_LIFETIME).unwrap();
    let company = root("Company");
    let external = of(&[&company], &[&company]);
    let next = external.succeeding(own.announcing(&external).unwrap().state(), now()).unwrap();
    assert!(!next.state().to_json().unwrap().contains("PRIVATE"), "the old key is not kept");
    let old = issue(&own, "shop/web").with_bundle(next.bundle().clone()).unwrap();
    assert!(meet(server(&old), client(&issue(&next, "shop/catalog"))).await.1.is_ok());

    let back = authority().succeeding(next.state(), now()).unwrap();
    let back = Authority::from_state(back.to_state()).unwrap();
    assert_eq!(back.bundle().certs().len(), 3);
    let stable = back.state().prepare(now()).unwrap().switch(now()).unwrap().retire(now(), true).unwrap();
    assert_eq!(stable.roots().len(), 3, "roots kept for their leaves outlast a rotation");
    let stranger = Authority::create(&domain("other.test"), now()).unwrap();
    assert!(stranger.succeeding(back.state(), now()).is_err());
    assert!(stranger.announcing(&back).is_err());
}
