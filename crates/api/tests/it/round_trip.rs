use crate::given;
use fusewire_api::{
    answer_from_wire, answer_to_wire, content_hash, resource_from_wire, resource_to_wire, target_from_wire,
    target_to_wire, v1,
};
use fusewire_model::resource::{Answer, Key, Kind};
use proptest::prelude::*;
use prost::Message;

proptest! {
    #[test]
    fn a_resource_of_any_kind_survives_the_wire(resource in given::resource()) {
        let wire = resource_to_wire(&resource);
        let bytes = wire.encode_to_vec();
        let received = v1::Resource::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(&received, &wire);
        prop_assert_eq!(&received.name, &resource.key().name);
        prop_assert_eq!(resource_from_wire(received).unwrap(), resource);
    }

    #[test]
    fn the_hash_is_that_of_the_content_and_of_nothing_else(a in given::resource(), b in given::resource()) {
        let (a_wire, b_wire) = (resource_to_wire(&a), resource_to_wire(&b));
        prop_assert_eq!(a_wire.hash.len(), 16);
        let again = resource_to_wire(&resource_from_wire(a_wire.clone()).unwrap());
        prop_assert_eq!(&again.hash, &a_wire.hash);
        prop_assert_eq!(a_wire.hash == b_wire.hash, a_wire.body == b_wire.body);
        prop_assert_eq!(content_hash(a_wire.body.as_ref().unwrap()), a_wire.hash);
    }

    #[test]
    fn a_subscription_and_its_answer_survive_the_wire(subscription in given::subscription(), found in any::<bool>()) {
        prop_assert_eq!(target_from_wire(target_to_wire(&subscription)).unwrap(), subscription.clone());
        let key = Key { kind: Kind::Route, name: "shop".into() };
        let answer = if found { Answer::Found(key) } else { Answer::NotFound };
        let received = answer_from_wire(answer_to_wire(&subscription, &answer)).unwrap();
        prop_assert_eq!(received, (subscription, answer));
    }

    /// Whatever a peer sends becomes a model value or an error; neither a panic nor a loop.
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), resource in given::resource(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        if let Ok(wire) = v1::Resource::decode(bytes.as_slice()) {
            let _ = resource_from_wire(wire);
        }
        let mut near = resource_to_wire(&resource).encode_to_vec();
        let at = at.index(near.len());
        near[at] ^= flip;
        if let Ok(wire) = v1::Resource::decode(near.as_slice()) {
            let _ = resource_from_wire(wire);
        }
    }
}
