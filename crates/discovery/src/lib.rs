//! Finds: where instances are known from, and for how long what was heard may be believed.
//!
//! It decides about registrations ([`registry`]) and names ([`dns`]). It deliberately speaks no protocol of ours: whoever does (`control`)
//! brings what was heard, and the time.

pub mod dns;
pub mod registry;
