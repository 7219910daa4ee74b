//! The way up: a service's instances, their connections, and the sending of one attempt.

pub(crate) mod connect;
pub(crate) mod dials;
pub(crate) mod instance;
pub(crate) mod join;
pub(crate) mod kept;
pub(crate) mod ledger;
pub(crate) mod metered;
pub(crate) mod pool;
pub(crate) mod send;
pub(crate) mod service;
pub(crate) mod stream;
pub(crate) mod tunnel;
