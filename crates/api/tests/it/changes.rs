use crate::given;
use fusewire_api::{ChangeError, apply_change, change_between, resource_to_wire, v1};
use fusewire_model::resource::{Endpoints, Resource};
use proptest::prelude::*;
use std::sync::Arc;

fn hash(endpoints: &Endpoints) -> String {
    resource_to_wire(&Resource::Endpoints(Arc::new(endpoints.clone()))).hash
}

fn change(old: &Endpoints, new: &Endpoints) -> v1::EndpointsChange {
    change_between(old, &hash(old), new, &hash(new))
}

proptest! {
    #[test]
    fn a_change_turns_the_old_endpoints_into_the_new(
        old in given::endpoints_of("shop"),
        new in given::endpoints_of("shop"),
    ) {
        let (result, result_hash) = apply_change(&old, &hash(&old), change(&old, &new)).unwrap();
        prop_assert_eq!(&result, &new);
        prop_assert_eq!(result_hash, hash(&new));
        for (before, after) in old.instances.iter().flat_map(|b| result.instances.iter().map(move |a| (b, a))) {
            if before == after {
                prop_assert!(Arc::ptr_eq(before, after), "an unchanged instance is kept, not rebuilt");
            }
        }
    }

    #[test]
    fn a_change_against_another_base_is_a_mismatch_never_a_wrong_set(
        base in given::endpoints_of("shop"),
        old in given::endpoints_of("shop"),
        new in given::endpoints_of("shop"),
    ) {
        let mismatch = apply_change(&base, &hash(&base), change(&old, &new));
        match mismatch {
            Ok((result, _)) => prop_assert_eq!(result, new.clone()),
            Err(error) => prop_assert_eq!(error, ChangeError::BaseMismatch { service: "shop".into() }),
        }
        // a base whose hash lies
        match apply_change(&base, &hash(&old), change(&old, &new)) {
            Ok((result, _)) => prop_assert_eq!(result, new),
            Err(error) => prop_assert_eq!(error, ChangeError::BaseMismatch { service: "shop".into() }),
        }
    }
}

#[test]
fn a_change_says_only_what_changed() {
    let endpoint = |id: &str, weight| v1::Instance {
        id: id.into(),
        address: "10.0.0.1:80".into(),
        weight,
        ..v1::Instance::default()
    };
    let set = |list: Vec<v1::Instance>| {
        let body = v1::resource::Body::Endpoints(v1::Endpoints { instances: list });
        let wire = v1::Resource { name: "shop".into(), hash: String::new(), body: Some(body) };
        match fusewire_api::resource_from_wire(wire).unwrap() {
            Resource::Endpoints(endpoints) => endpoints,
            other => panic!("{other:?}"),
        }
    };
    let old = set(vec![endpoint("b", 1), endpoint("a", 1), endpoint("c", 1)]);
    let new = set(vec![endpoint("d", 1), endpoint("a", 1), endpoint("c", 2)]);
    let change = change(&old, &new);
    assert_eq!(change.upserted, [endpoint("c", 2), endpoint("d", 1)]);
    assert_eq!(change.removed, ["b"]);

    let mut wrong = change.clone();
    wrong.upserted[1].address = "10.0.0.1".into();
    let Err(ChangeError::Wire(error)) = apply_change(&old, &hash(&old), wrong) else { panic!("taken") };
    assert_eq!(
        (error.kind, error.name.as_str(), error.path.as_str()),
        (v1::Kind::Endpoints, "shop", "upserted[1].address")
    );
}
