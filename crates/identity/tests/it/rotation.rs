//! A root is replaced, and at every point of it everybody who should meet meets.

use std::sync::Arc;

use fusewire_identity::{
    ALPN_CONTROL, ALPN_WIRE, Authority, Clients, DEFAULT_LIFETIME, Identity, MAX_LIFETIME, NEW_ROOT, RotateError,
    SETTLE_SECONDS, Stage, Step, TrustState, client_config, joining_client_config,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType};
use tempfile::tempdir;

use crate::world::*;

const HOUR: u64 = 3600;

/// A state whose leaves live a day, and say so.
pub(crate) fn stable() -> TrustState {
    noted(&TrustState::create(&domain("mesh.test"), at(NOW - 30 * DAY)).unwrap())
}

pub(crate) fn noted(state: &TrustState) -> TrustState {
    state.with_lifetime(DEFAULT_LIFETIME).unwrap_or_else(|| state.clone())
}

fn sign_under(state: &TrustState) -> Authority {
    Authority::from_state(state.clone()).unwrap()
}

fn step(state: &TrustState, step: Step, seconds: u64) -> TrustState {
    noted(&state.step(step, at(seconds), false).unwrap())
}

/// What a workload holds at some point: its leaf of `leaf`, and the bundle of `bundle`.
struct Member {
    what: String,
    identity: Identity,
}

/// Everything that was given out until now, as a rotation goes on.
#[derive(Default)]
struct Mesh {
    members: Vec<Member>,
    pins: Vec<(String, String)>,
}

impl Mesh {
    /// At a new point: what exists already may or may not get the new bundle, and new leaves come with it.
    fn arrive(&mut self, point: &str, state: &TrustState, seconds: u64) {
        let authority = sign_under(state);
        self.members.retain(|member| member.identity.not_after() > seconds);
        let mut newer = Vec::new();
        for Member { what, identity } in &self.members {
            if identity.bundle().certs() != authority.bundle().certs() {
                let identity = identity.with_bundle(authority.bundle().clone()).unwrap();
                newer.push(Member { what: format!("{what}, bundle of {point}"), identity });
            }
        }
        self.members.append(&mut newer);
        let identity = issue_at(&authority, "shop/web", seconds);
        self.members.push(Member { what: format!("leaf of {point}"), identity });
        self.pins.push((format!("token of {point}"), state.root_hash().to_owned()));
    }

    async fn everybody_meets(&self, point: &str, state: &TrustState, seconds: u64) {
        let client = |m: &Member| Arc::new(fixed_at(client_config(&m.identity, &[ALPN_WIRE]).unwrap(), seconds));
        let clients: Vec<_> = self.members.iter().map(client).collect();
        for server in &self.members {
            let config = Arc::new(server_at(&server.identity, Clients::Required, ALPN_WIRE, seconds));
            for (client, config_of) in self.members.iter().zip(&clients) {
                let (served, called) = meet(config.clone(), config_of.clone()).await;
                let (served, called) = (served.map(|met| met.peer), called.map(|met| met.peer));
                let peer = Some(id("shop/web"));
                let told = format!("{point}: client with {}, server with {}", client.what, server.what);
                assert_eq!((served.as_ref(), called.as_ref()), (Ok(&peer), Ok(&peer)), "{told}");
            }
        }
        let own = sign_under(state).issue_own(DEFAULT_LIFETIME, at(seconds)).unwrap();
        let control = Arc::new(server_at(&own, Clients::Optional, ALPN_CONTROL, seconds));
        for member in &self.members {
            let config = fixed_at(client_config(&member.identity, &[ALPN_CONTROL]).unwrap(), seconds);
            let (served, called) = meet(control.clone(), config).await;
            assert!(served.is_ok() && called.is_ok(), "{point}: control plane met by {}: {called:?}", member.what);
        }
        for (what, hash) in &self.pins {
            let config = fixed_at(joining_client_config(hash, &[ALPN_CONTROL]).unwrap(), seconds);
            let (_, called) = meet(control.clone(), config).await;
            assert!(called.is_ok(), "{point}: joiner with {what}: {called:?}");
        }
    }
}

#[tokio::test]
async fn at_every_point_of_a_rotation_everybody_meets_everybody() {
    let mut mesh = Mesh::default();
    let mut state = stable();
    let retired = NOW + 5 * HOUR + DAY + SETTLE_SECONDS;
    let points = [
        ("stable", NOW, None),
        ("prepared", NOW + HOUR, Some(Step::Prepare)),
        ("switched", NOW + 2 * HOUR, Some(Step::Switch)),
        ("switched and aborted", NOW + 3 * HOUR, Some(Step::Abort)),
        ("switched again", NOW + 5 * HOUR, Some(Step::Switch)),
        ("renewed", NOW + 20 * HOUR, None),
        ("retired", retired, Some(Step::Retire)),
        ("long after", retired + 20 * HOUR, None),
    ];
    for (point, seconds, next) in points {
        if let Some(next) = next {
            let plan = state.plan(next, at(seconds), false);
            state = step(&state, next, seconds);
            mesh.pins.retain(|(_, hash)| !plan.unusable_pins.contains(hash));
        }
        mesh.arrive(point, &state, seconds);
        mesh.everybody_meets(point, &state, seconds).await;
    }
    assert_eq!(state.stage(), Stage::Stable);
    assert_eq!(state.roots().len(), 1);
    let left: Vec<_> = mesh.members.iter().map(|m| m.what.as_str()).collect();
    assert!(left.contains(&"leaf of renewed, bundle of retired") || left.contains(&"leaf of retired"), "{left:?}");
}

#[tokio::test]
async fn a_rotation_that_is_given_up_leaves_everybody_meeting() {
    let mut mesh = Mesh::default();
    let mut state = stable();
    let steps = [None, Some(Step::Prepare), Some(Step::Switch), Some(Step::Abort), Some(Step::Abort)];
    for (hour, next) in steps.into_iter().enumerate() {
        let (point, seconds) = (format!("hour {hour}"), NOW + hour as u64 * HOUR);
        if let Some(next) = next {
            let plan = state.plan(next, at(seconds), false);
            state = step(&state, next, seconds);
            mesh.pins.retain(|(_, hash)| !plan.unusable_pins.contains(hash));
        }
        mesh.arrive(&point, &state, seconds);
        mesh.everybody_meets(&point, &state, seconds).await;
    }
    assert_eq!((state.stage(), state.roots().len()), (Stage::Stable, 1));
    assert_eq!(mesh.pins.len(), 4, "only the token that pinned the root given up is lost");
}

#[test]
fn a_leaf_tells_under_which_root_it_is_and_a_save_keeps_its_way_to_the_old_one() {
    let old = stable();
    let before = issue(&sign_under(&old), "shop/web");
    let switched = step(&step(&old, Step::Prepare, NOW), Step::Switch, NOW);
    let authority = sign_under(&switched);
    let after = issue(&authority, "shop/web");
    assert_eq!((before.root_hash(), after.root_hash()), (old.root_hash(), switched.root_hash()));
    assert_ne!(before.root_hash(), after.root_hash());
    let told = before.with_bundle(authority.bundle().clone()).unwrap();
    assert!(before.is_under_signing_root() && after.is_under_signing_root());
    assert!(!told.is_under_signing_root(), "the bundle's first root is the one that signs");
    assert_eq!(after.with_bundle(sign_under(&old).bundle().clone()).unwrap().root_hash(), old.root_hash());

    assert_eq!(after.chain().len(), 2, "leaf and cross certificate");
    for identity in [told, after] {
        let dir = tempdir().unwrap();
        identity.save(dir.path()).unwrap();
        let back = Identity::load(dir.path()).unwrap();
        assert_eq!((back.chain(), back.root_hash()), (identity.chain(), identity.root_hash()));
    }
}

#[tokio::test]
async fn a_foreign_mesh_is_still_told_by_its_word_during_a_rotation() {
    let switched = step(&step(&stable(), Step::Prepare, NOW), Step::Switch, NOW);
    let (ours, foreign) = (issue(&sign_under(&switched), "shop/web"), issue(&authority(), "shop/web"));
    assert_eq!(words(server(&ours), client(&foreign)).await[1], ("unknown-ca", WE));
    assert_eq!(words(server(&foreign), client(&ours)).await[1], ("unknown-ca", WE));
}

#[test]
fn the_old_root_stays_until_its_last_leaf_has_ended_unless_forced() {
    let switched = step(&step(&stable(), Step::Prepare, NOW), Step::Switch, NOW + HOUR);
    let allowed = NOW + HOUR + DAY + SETTLE_SECONDS;
    assert_eq!(switched.retire_allowed_at(), Some(allowed));
    let error = switched.retire(at(allowed - 1), false).unwrap_err();
    assert!(matches!(error, RotateError::TooEarly { allowed_at, wait: 1 } if allowed_at == allowed), "{error}");
    assert_eq!(switched.retire(at(allowed), false).unwrap().root_hash(), switched.root_hash());
    assert_eq!(switched.retire(at(NOW + HOUR), true).unwrap().roots().len(), 1);

    let unnoted = TrustState::create(&domain("mesh.test"), at(NOW)).unwrap();
    let unnoted = unnoted.prepare(at(NOW)).unwrap().switch(at(NOW)).unwrap();
    let longest = NOW + MAX_LIFETIME.as_secs() + SETTLE_SECONDS;
    assert_eq!(unnoted.retire_allowed_at(), Some(longest), "what nobody noted may be as long as a leaf can be");
    assert!(stable().with_lifetime(DEFAULT_LIFETIME).is_none(), "known already");
    assert!(stable().with_lifetime(DEFAULT_LIFETIME / 2).is_none(), "longer ones may still hold");
    assert!(stable().with_lifetime(DEFAULT_LIFETIME * 2).is_some());
}

#[test]
fn steps_out_of_order_are_refused_with_the_way_on() {
    let stable = stable();
    let prepared = step(&stable, Step::Prepare, NOW);
    let switched = step(&prepared, Step::Switch, NOW);
    let refused = [
        (&stable, Step::Switch, "prepare a new root first"),
        (&stable, Step::Retire, "there is no old root"),
        (&stable, Step::Abort, "no rotation is under way"),
        (&prepared, Step::Prepare, "a rotation is under way"),
        (&prepared, Step::Retire, "switch first"),
        (&switched, Step::Prepare, "a rotation is under way"),
        (&switched, Step::Switch, "the new root signs already"),
        (&switched, Step::Retire, "cannot be retired yet"),
    ];
    for (state, step, why) in refused {
        let error = state.step(step, at(NOW), false).unwrap_err().to_string();
        assert!(error.contains(why), "{step}: {error}");
        let plan = state.plan(step, at(NOW), false);
        assert_eq!(plan.refused, Some(error));
        let same: Vec<_> = state.roots().into_iter().map(|root| root.hash).collect();
        if step != Step::Retire {
            assert_eq!((plan.allowed_at, &plan.bundle_after), (None, &same), "nothing changes");
        }
    }
    let ended = stable.prepare(at(NOW + 4000 * DAY)).unwrap_err();
    assert!(matches!(ended, RotateError::Ended { .. }), "{ended}");
    assert_eq!([&stable, &prepared, &switched].map(TrustState::next_step), [Step::Prepare, Step::Switch, Step::Retire]);
    for step in Step::ALL {
        assert_eq!(step.word().parse::<Step>().unwrap(), step);
    }
    assert!("Prepare ".parse::<Step>().is_err());
}

#[test]
fn a_plan_foretells_what_the_step_does() {
    let stable = stable();
    let prepared = step(&stable, Step::Prepare, NOW);
    let switched = step(&prepared, Step::Switch, NOW);
    let late = NOW + 2 * DAY;
    let steps = [(&stable, Step::Prepare), (&prepared, Step::Switch), (&switched, Step::Retire)];
    let back = [(&prepared, Step::Abort), (&switched, Step::Abort)];
    for (state, step) in steps.into_iter().chain(back) {
        let plan = state.plan(step, at(late), false);
        let after = state.step(step, at(late), false).unwrap();
        assert_eq!((plan.refused.as_ref(), plan.allowed_at), (None, Some(late)), "{step}");
        assert_eq!(plan.signer_after, after.root_hash(), "{step}");
        let hash = |root: fusewire_identity::RootView| {
            let known = state.roots().iter().any(|before| before.hash == root.hash);
            if known { root.hash } else { NEW_ROOT.to_owned() }
        };
        assert_eq!(plan.bundle_after, after.roots().into_iter().map(hash).collect::<Vec<_>>(), "{step}");
        assert!(!plan.notes.is_empty());
        assert!(serde_json::to_string(&plan).unwrap().contains("\"unusable_pins\""));
    }
    let early = switched.plan(Step::Retire, at(NOW), false);
    assert_eq!(early.allowed_at, switched.retire_allowed_at());
    assert_eq!(early.unusable_pins, [stable.root_hash()]);
    assert!(switched.plan(Step::Retire, at(NOW), true).refused.is_none());
}

#[test]
fn a_state_is_stored_and_found_again_at_every_stage() {
    let stable = stable();
    let prepared = step(&stable, Step::Prepare, NOW + 1);
    let switched = step(&prepared, Step::Switch, NOW + 2);
    for state in [&stable, &prepared, &switched] {
        let back = TrustState::from_json(state.to_json().unwrap().as_bytes()).unwrap();
        assert_eq!(back.to_json().unwrap(), state.to_json().unwrap());
        assert_eq!((back.stage(), back.times(), back.roots()), (state.stage(), state.times(), state.roots()));
        // what one signs, the other's bundle believes
        assert!(issue(&sign_under(&back), "shop/web").with_bundle(sign_under(state).bundle().clone()).is_ok());
    }
    let times = switched.times();
    assert_eq!((times.stable, times.prepared, times.switched), (NOW - 30 * DAY, Some(NOW + 1), Some(NOW + 2)));
}

#[test]
fn a_states_keys_are_in_its_text_alone() {
    let switched = step(&step(&stable(), Step::Prepare, NOW), Step::Switch, NOW);
    let shown = format!("{switched:?} {:?}", sign_under(&switched));
    let value: serde_json::Value = serde_json::from_str(&switched.to_json().unwrap()).unwrap();
    for root in ["signer", "other"] {
        let key = value[root]["key"].as_str().unwrap();
        let line = key.lines().nth(1).unwrap();
        assert!(!shown.contains(line) && !shown.contains("PRIVATE"), "{shown}");
        // a key where none belongs is not repeated by the error
        let mut odd = value.clone();
        odd["times"]["stable"] = key.into();
        let error = TrustState::from_json(odd.to_string().as_bytes()).unwrap_err().to_string();
        assert!(!error.contains(line) && error.contains("line 1"), "{error}");
    }
    assert!(shown.contains(switched.root_hash()));
}

type Change<'a> = &'a dyn Fn(&mut serde_json::Value);

#[test]
fn an_incoherent_state_is_refused() {
    let prepared = step(&stable(), Step::Prepare, NOW);
    let value: serde_json::Value = serde_json::from_str(&prepared.to_json().unwrap()).unwrap();
    let other: serde_json::Value =
        serde_json::from_str(&step(&stable(), Step::Prepare, NOW).to_json().unwrap()).unwrap();
    let refusal = |change: Change<'_>| {
        let mut changed = value.clone();
        change(&mut changed);
        TrustState::from_json(changed.to_string().as_bytes()).expect_err("incoherent").to_string()
    };
    let cases: [(&str, Change<'_>); 10] = [
        ("newer release", &|v| v["format"] = 2.into()),
        ("trust domain", &|v| v["trust_domain"] = "Not A Domain".into()),
        ("is that of mesh.test, not of other.test", &|v| v["trust_domain"] = "other.test".into()),
        ("private key", &|v| v["signer"]["key"] = other["signer"]["key"].clone()),
        ("the key of root", &|v| drop(v["signer"].as_object_mut().unwrap().remove("key"))),
        ("another root's", &|v| v["other"]["cross"] = other["other"]["cross"].clone()),
        ("has no cross certificate", &|v| drop(v["other"].as_object_mut().unwrap().remove("cross"))),
        ("not signed by the other root", &|v| v["signer"] = other["signer"].clone()),
        ("there is no other root", &|v| {
            v["times"]["switched"] = 5.into();
            v.as_object_mut().unwrap().remove("other");
        }),
        ("twice", &|v| v["kept"] = vec![v["signer"].clone()].into()),
    ];
    for (why, change) in cases {
        let error = refusal(change);
        assert!(error.contains(why), "{why}: {error}");
    }
    assert!(TrustState::from_json(&vec![b' '; fusewire_identity::MAX_STATE_BYTES + 1]).is_err());
}

/// Roots of the first release allow no certificate authority below them. webpki does not look at an anchor's own
/// constraints, so they can vouch for the next root all the same.
#[tokio::test]
async fn a_root_of_the_first_release_is_imported_and_replaced() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Fusewire root mesh.test");
    params.subject_alt_names = vec![SanType::URI("spiffe://mesh.test".try_into().unwrap())];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let cert = params.self_signed(&key).unwrap();
    let old = TrustState::import(key.serialize_pem().as_bytes(), cert.pem().as_bytes(), DEFAULT_LIFETIME).unwrap();
    let web = issue(&sign_under(&old), "shop/web");
    let switched = step(&step(&old, Step::Prepare, NOW), Step::Switch, NOW);
    let catalog = issue(&sign_under(&switched), "shop/catalog");
    assert!(meet(server(&catalog), client(&web)).await.1.is_ok());
    assert!(meet(server(&web), client(&catalog)).await.1.is_ok());
    assert_eq!(switched.retire_allowed_at(), Some(NOW + DAY + SETTLE_SECONDS));
}
