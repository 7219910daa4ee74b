//! Errors on their way to whoever asked: the code, a message for people, and faults for programs.
//!
//! It decides how much of many faults is told. They travel in trailers, of which gRPC libraries take 8 KiB unless told
//! otherwise; a caller that takes more says so in the metadata `fusewire-details-bytes`, and is then told everything.
//!
//! Invariant: an answer says how many faults there are, also where it cannot say them all.

use crate::objects::ObjectsError;
use crate::store::StoreError;
use fusewire_api::v1;
use fusewire_model::yaml::Fault;
use prost::Message;
use tonic::{Code, Request, Status};

const ASKED: &str = "fusewire-details-bytes";
/// With base64 and the message below 8 KiB.
const USUAL: usize = 4 << 10;
const MOST: usize = 512 << 10;
/// Of the message for people.
const MAX_MESSAGE: usize = 1_024;

/// How many bytes of details the caller takes.
pub(super) fn room<T>(request: &Request<T>) -> usize {
    let asked = request.metadata().get(ASKED).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    asked.unwrap_or(USUAL).min(MOST)
}

pub(super) fn status(error: ObjectsError, room: usize) -> Status {
    let code = match &error {
        ObjectsError::Faults(faults) => return faulty(faults, room),
        ObjectsError::Invalid(_) => Code::InvalidArgument,
        ObjectsError::Stale(_) | ObjectsError::Busy => Code::Aborted,
        ObjectsError::NotFound(_) => Code::NotFound,
        ObjectsError::OfAFile(_) => Code::FailedPrecondition,
        ObjectsError::TooLarge(_) => Code::ResourceExhausted,
        ObjectsError::Store(StoreError::Unavailable(_) | StoreError::Uncertain(_)) => Code::Unavailable,
        ObjectsError::Unreadable(_) | ObjectsError::Broken | ObjectsError::Store(_) => Code::Internal,
    };
    if matches!(code, Code::Internal | Code::Unavailable) {
        tracing::error!(%error, "the applied objects could not be read or changed");
    }
    Status::new(code, clipped(error.to_string()))
}

fn faulty(faults: &[Fault], room: usize) -> Status {
    let mut told = v1::Faults::default();
    for (number, fault) in faults.iter().enumerate() {
        told.faults.push(wire(fault));
        if told.encoded_len() > room {
            told.faults.pop();
            let message = format!("and {} more faults", faults.len() - number);
            let remedy = Some(format!("ask with the metadata {ASKED}: {MOST} to be told all"));
            told.faults.push(v1::ConfigFault { message, remedy, line: 1, column: 1, ..v1::ConfigFault::default() });
            break;
        }
    }
    let mut message = format!("{} faults, and nothing was changed", faults.len());
    for fault in faults {
        let line = format!("\n{fault}");
        if message.len() + line.len() > MAX_MESSAGE {
            break;
        }
        message.push_str(&line);
    }
    Status::with_details(Code::InvalidArgument, message, told.encode_to_vec().into())
}

pub(super) fn wire(fault: &Fault) -> v1::ConfigFault {
    let Fault { file, line, column, path, message, remedy } = fault.clone();
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    v1::ConfigFault { file, line: number(line), column: number(column), path, message, remedy }
}

fn clipped(text: String) -> String {
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
