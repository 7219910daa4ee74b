//! HTTP: one connection served, one request proxied, one answer given.

pub(crate) mod body;
pub(crate) mod connect;
pub(crate) mod exchange;
pub(crate) mod headers;
pub(crate) mod outgoing;
pub(crate) mod proxy;
pub(crate) mod reply;
pub(crate) mod serve;
