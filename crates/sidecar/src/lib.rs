//! The data plane: stands beside one application instance and carries its traffic.
//!
//! It decides where a request goes, over which proven connection, and what the caller is told when that fails. What is
//! decided about instances is decided in `resilience`; what configuration means, in `model`. It deliberately never sees
//! the control plane's code, only its messages.
//!
//! Read one request top to bottom: `listener` (accept, detect), `http::serve` (the hyper connection), `http::proxy`
//! (begin, route, admit, send, judge, answer), `upstream` (pool, connect, send), `http::reply` (our own answers).

mod admin;
mod boot;
mod bounds;
mod carried;
mod clock;
mod config;
mod controls;
mod dns;
mod doors;
mod doubt;
mod drain;
pub mod enrol;
mod events;
mod export;
mod fault;
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod http;
mod intercept;
mod listener;
mod mesh;
mod probe;
mod registration;
mod snapshot;
mod sockets;
mod takeover;
mod tcp;
mod trust;
mod upstream;
mod watch;
mod work;

pub use boot::{Bound, SidecarError, Start, run};
pub use controls::Controls;
pub use registration::{Credentials, Registrar, Report};
