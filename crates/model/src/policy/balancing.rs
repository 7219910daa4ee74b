//! `lb`: how a service's traffic is spread over its instances.

/// Which instance is proposed for a request; its breaker then disposes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Balancing {
    pub algorithm: Algorithm,
    /// `zone_aware`: instances of the sidecar's own zone are preferred while they can carry it. Default false: it needs
    /// zones that are about equally large.
    pub zone: Zoning,
    /// `subset`: above a hundred instances each sidecar uses only a tenth of them, at least twenty, the same after every
    /// restart. Default false.
    pub subset: Subsetting,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// `p2c_ewma`: of two drawn at random the one where one more request would wait for less time. The default.
    #[default]
    PeakEwma,
    /// `least_request`: of two drawn at random the one with fewer requests in flight for its weight.
    LeastRequest,
    /// `round_robin`: in turns, by weight.
    RoundRobin,
    /// `ring_hash`: what has the same key goes to the same instance, unless that one is open, or loaded a quarter above its
    /// fair share.
    RingHash(RequestKey),
    /// `maglev`: as `ring_hash`, cheaper to look up and more even, without a bound on the load.
    Maglev(RequestKey),
}

/// What belongs together, for hashing and for limits by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestKey {
    /// The value of this field, name in lower case; requests without it belong together.
    Header(String),
    /// The path without its query.
    Path,
    /// The proven identity of who asks; the address where there is none.
    Peer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Subsetting {
    #[default]
    All,
    Tenth,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Zoning {
    #[default]
    Ignore,
    Prefer,
}
