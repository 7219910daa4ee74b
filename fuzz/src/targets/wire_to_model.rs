//! Any bytes of a peer's message are refused or become a model value that survives the way back.

use fusewire_api::{
    answer_from_wire, answer_to_wire, apply_change, resource_from_wire, resource_to_wire, target_from_wire,
    target_to_wire, v1,
};
use fusewire_model::resource::{Endpoints, Resource};
use prost::Message;

/// The first byte says which message the others are.
pub(super) fn check(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 4 {
        0 => resource(bytes),
        1 => {
            let Ok(wire) = v1::Target::decode(bytes) else { return };
            if let Ok(target) = target_from_wire(wire) {
                assert_eq!(target_from_wire(target_to_wire(&target)).as_ref(), Ok(&target));
            }
        }
        2 => {
            let Ok(wire) = v1::Answer::decode(bytes) else { return };
            if let Ok((target, answer)) = answer_from_wire(wire) {
                let back = answer_from_wire(answer_to_wire(&target, &answer));
                assert_eq!(back.expect("it was understood once"), (target, answer));
            }
        }
        _ => {
            let Ok(wire) = v1::EndpointsChange::decode(bytes) else { return };
            let base =
                Endpoints { service: fusewire_model::ServiceName::parse("a").expect("a name"), instances: Vec::new() };
            let hash = wire.base_hash.clone();
            let _ = apply_change(&base, &hash, wire);
        }
    }
}

fn resource(bytes: &[u8]) {
    let Ok(wire) = v1::Resource::decode(bytes) else { return };
    let Ok(model) = resource_from_wire(wire) else { return };
    let wire = resource_to_wire(&model);
    let received = v1::Resource::decode(wire.encode_to_vec().as_slice()).expect("what we wrote");
    assert_eq!(received, wire);
    let again: Resource = resource_from_wire(received).unwrap_or_else(|e| panic!("{model:#?} is refused: {e}"));
    assert_eq!(again, model);
}
