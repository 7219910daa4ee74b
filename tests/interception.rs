//! Traffic comes to the sidecars by the kernel, and the applications know nothing of it: curl and a Python server in network
//! namespaces of their own, with real addresses, IPv4 and IPv6.
//!
//! Host 1 is `web`, which calls; host 2 is `shop`, which is called; host 3 has the control plane and an application that the
//! mesh does not know.

#![allow(clippy::unwrap_used)]

#[path = "interception/cables.rs"]
mod cables;
#[path = "interception/churn.rs"]
mod churn;
#[path = "interception/delay.rs"]
mod delay;
#[path = "interception/ends.rs"]
mod ends;
#[path = "interception/host.rs"]
mod host;
#[path = "interception/inbound.rs"]
mod inbound;
#[path = "interception/marked.rs"]
mod marked;
#[path = "interception/names.rs"]
mod names;
#[path = "interception/outbound.rs"]
mod outbound;
#[path = "interception/parts.rs"]
mod parts;
#[path = "interception/programs.rs"]
mod programs;
#[path = "interception/restart.rs"]
mod restart;
#[path = "interception/rules.rs"]
mod rules;
#[path = "interception/start.rs"]
mod start;
#[path = "interception/tproxy.rs"]
mod tproxy;
