//! What is kept on disk, and what a crash leaves of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use fusewire_identity::{Identity, IdentityError, PrivateKey};
use tempfile::tempdir;

use crate::world::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

const NAMES: [&str; 3] = ["key.pem", "cert.pem", "bundle.pem"];

#[test]
fn an_identity_comes_back_from_disk_as_it_was() {
    let dir = tempdir().unwrap();
    let home = dir.path().join("a/b");
    let identity = issue(&authority(), "shop/web");
    identity.save(&home).unwrap();
    let back = Identity::load(&home).unwrap();
    assert_eq!(back.id, identity.id);
    assert_eq!(back.chain(), identity.chain());
    assert_eq!(back.serial(), identity.serial());
    assert_eq!(mode(&home), 0o700);
    for name in NAMES {
        assert_eq!(mode(&home.join(name)), 0o600, "{name}");
    }
    assert_eq!(fs::read_dir(&home).unwrap().count(), 3, "no temporary file stays");
}

#[test]
fn a_file_of_looser_mode_is_replaced_by_a_strict_one_and_still_loads() {
    let dir = tempdir().unwrap();
    let identity = issue(&authority(), "shop/web");
    identity.save(dir.path()).unwrap();
    fs::set_permissions(dir.path().join("key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(dir.path().join("key.pem.new"), "left by a crash, open to all").unwrap();
    assert!(Identity::load(dir.path()).is_ok()); // with a warning
    identity.save(dir.path()).unwrap();
    assert_eq!(mode(&dir.path().join("key.pem")), 0o600);
}

/// A rotation has a new key, so a crash between two renames leaves files that do not belong together.
#[test]
fn a_crash_at_any_point_of_a_rotation_leaves_the_old_identity_or_the_new_one() {
    let ca = authority();
    let other = authority();
    let old = issue(&ca, "shop/web");
    let rotations = [issue(&ca, "shop/web"), issue(&other, "shop/web")]; // the same root, and a new one
    for new in rotations {
        let fresh = tempdir().unwrap();
        new.save(fresh.path()).unwrap();
        for written in 0..=3 {
            let dir = tempdir().unwrap();
            old.save(dir.path()).unwrap();
            for name in &NAMES[..written] {
                fs::copy(fresh.path().join(name), dir.path().join(format!("{name}.new"))).unwrap();
            }
            assert_eq!(Identity::load(dir.path()).unwrap().serial(), old.serial(), "{written} written, none renamed");
            if written < 3 {
                continue;
            }
            for (renamed, name) in NAMES.iter().enumerate() {
                fs::rename(dir.path().join(format!("{name}.new")), dir.path().join(name)).unwrap();
                let found = Identity::load(dir.path()).unwrap();
                assert_eq!(found.serial(), new.serial(), "{} renamed", renamed + 1);
            }
        }
    }
}

#[test]
fn what_does_not_belong_together_is_refused_with_its_reason() {
    let ca = authority();
    let (web, other) = (issue(&ca, "shop/web"), issue(&authority(), "shop/web"));
    let (chain, key, bundle) = (web.chain_pem(), web.key().to_pem(), web.bundle().to_pem());
    let make = |chain: &str, key: &str, bundle: &str| {
        Identity::from_pem(chain.as_bytes(), key.as_bytes(), bundle.as_bytes()).map(drop)
    };
    assert!(make(&chain, &key, &bundle).is_ok());
    let foreign_key = make(&chain, &other.key().to_pem(), &bundle);
    assert!(matches!(foreign_key, Err(IdentityError::KeyMismatch { .. })), "{foreign_key:?}");
    let foreign_bundle = make(&chain, &key, &other.bundle().to_pem());
    assert!(matches!(foreign_bundle, Err(IdentityError::Untrusted { .. })), "{foreign_bundle:?}");
    let leaf_as_bundle = make(&chain, &key, &chain);
    assert!(matches!(leaf_as_bundle, Err(IdentityError::Bundle(_))), "{leaf_as_bundle:?}");
    assert!(matches!(make("", &key, &bundle), Err(IdentityError::Pem { .. })));
    assert!(matches!(make(&chain, "", &bundle), Err(IdentityError::Pem { .. })));
    assert!(matches!(make(&chain, &chain, &bundle), Err(IdentityError::Pem { .. })));
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
    assert!(matches!(PrivateKey::from_pem(p384.as_bytes()), Err(IdentityError::Key(_))));
}

#[test]
fn an_ended_identity_still_loads_so_that_it_can_be_renewed() {
    let dir = tempdir().unwrap();
    issue_at(&authority(), "shop/web", NOW - 20 * DAY).save(dir.path()).unwrap();
    assert!(Identity::load(dir.path()).unwrap().remaining(now()).is_zero());
}

#[test]
fn a_missing_file_is_named() {
    let dir = tempdir().unwrap();
    let error = Identity::load(dir.path()).unwrap_err();
    assert!(error.to_string().contains("key.pem"), "{error}");
}
