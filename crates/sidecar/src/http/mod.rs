//! HTTP: one connection served, one request proxied, one answer given.

pub(crate) mod again;
pub(crate) mod answer;
pub(crate) mod attempt;
pub(crate) mod body;
pub(crate) mod calm;
pub(crate) mod check;
pub(crate) mod chunks;
pub(crate) mod connect;
pub(crate) mod cors;
pub(crate) mod deadline;
pub(crate) mod exchange;
pub(crate) mod fallback;
pub(crate) mod filters;
pub(crate) mod forwarded;
pub(crate) mod head;
pub(crate) mod headers;
mod mirror;
pub(crate) mod outgoing;
pub(crate) mod proxy;
mod record;
pub(crate) mod reply;
pub(crate) mod serve;
pub(crate) mod stale;
pub(crate) mod strict;
#[cfg(test)]
mod strict_tests;
pub(crate) mod trace;
pub(crate) mod turns;
pub(crate) mod unread;
