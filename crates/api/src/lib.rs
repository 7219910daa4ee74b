//! The wire contract: what is generated from `proto/`, and the conversions between wire and model.
//!
//! It decides nothing about meaning: a message becomes model types or a [`WireError`] with the path of the fault.
//! It deliberately opens no connection and keeps no state.

/// Generated from `proto/fusewire/v1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("fusewire.v1");
}

mod from_wire;
mod to_wire;

pub use from_wire::{ChangeError, WireError, answer_from_wire, apply_change, resource_from_wire, target_from_wire};
pub use to_wire::{answer_to_wire, change_between, content_hash, instance_to_wire, resource_to_wire, target_to_wire};

use fusewire_model::resource::Kind;

/// The versions of the configuration protocol that this build speaks, newest first.
pub const WIRE_VERSIONS: [u32; 1] = [1];

/// The largest message that either side takes: a service of some 65,000 instances, sent whole. gRPC's usual 4 MiB would
/// end the stream at about 20,000.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

pub fn kind_to_wire(kind: Kind) -> v1::Kind {
    match kind {
        Kind::Trust => v1::Kind::Trust,
        Kind::Policy => v1::Kind::Policy,
        Kind::Service => v1::Kind::Service,
        Kind::Endpoints => v1::Kind::Endpoints,
        Kind::Override => v1::Kind::Override,
        Kind::Inbound => v1::Kind::Inbound,
        Kind::Route => v1::Kind::Route,
    }
}

/// `None` for a kind that this build does not know.
pub fn kind_from_wire(kind: i32) -> Option<Kind> {
    Some(match v1::Kind::try_from(kind).ok()? {
        v1::Kind::Unspecified => return None,
        v1::Kind::Trust => Kind::Trust,
        v1::Kind::Policy => Kind::Policy,
        v1::Kind::Service => Kind::Service,
        v1::Kind::Endpoints => Kind::Endpoints,
        v1::Kind::Override => Kind::Override,
        v1::Kind::Inbound => Kind::Inbound,
        v1::Kind::Route => Kind::Route,
    })
}
