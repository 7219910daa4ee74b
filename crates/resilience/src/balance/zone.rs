//! How much of the traffic stays in the caller's zone.
//!
//! As much as the zone's share of the instances that take traffic can bear, if every zone's callers ask for as much as every
//! other's: `min(1, ready here x zones / ready in all)`. Where less than 70 % of the zone's instances are ready the rest goes
//! elsewhere in proportion (Envoy's overprovisioning factor of 1.4), which a service that shrank everywhere alike would
//! otherwise hide. Off where a zone has fewer than two instances: one that fails would take its zone's traffic along.

use crate::pick::Draws;

/// What is known of one service's zones, seen from one of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Zone {
    /// Zones that have instances of the service, this one included.
    pub zones: u32,
    /// Instances in the zone that has the fewest.
    pub smallest: u32,
    /// Instances in this zone.
    pub local: u32,
    /// Those of them that take traffic.
    pub local_ready: u32,
    /// Instances in all zones that take traffic.
    pub ready: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side {
    /// Pick from the instances of this zone.
    Local,
    /// Pick from those of the others.
    Elsewhere,
    /// Pick from all; zones do not matter.
    Anywhere,
}

const OVERPROVISIONED: f64 = 1.4;
const FEWEST: u32 = 2;

impl Zone {
    /// The share that stays, 0..1; `None` while zones do not matter.
    pub fn local_share(self) -> Option<f64> {
        if self.zones < 2 || self.smallest < FEWEST || self.local == 0 || self.ready == 0 {
            return None;
        }
        let ready = f64::from(self.local_ready);
        let by_capacity = ready * f64::from(self.zones) / f64::from(self.ready);
        let by_health = OVERPROVISIONED * ready / f64::from(self.local);
        Some(by_capacity.min(by_health).min(1.0))
    }

    /// `random`: 64 random bits, fresh for each request.
    pub fn choose(self, random: u64) -> Side {
        match self.local_share() {
            None => Side::Anywhere,
            // 2^32 steps, so that a share of exactly one never leaves the zone.
            Some(share) if (Draws(random).below(1 << 32) as f64) < share * 4_294_967_296.0 => Side::Local,
            Some(_) => Side::Elsewhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn even() -> Zone {
        Zone { zones: 3, smallest: 10, local: 10, local_ready: 10, ready: 30 }
    }

    #[test]
    fn equal_zones_keep_everything() {
        assert_eq!(even().local_share(), Some(1.0));
        assert!((0..1000).all(|random| even().choose(random) == Side::Local));
    }

    #[test]
    fn a_zone_keeps_what_its_capacity_can_bear_and_no_more_than_its_health_allows() {
        let share = |zone: Zone| zone.local_share().unwrap();
        let small = Zone { local: 5, local_ready: 5, smallest: 5, ready: 25, ..even() };
        assert!((share(small) - 0.6).abs() < 1e-9);
        let ill = Zone { local_ready: 5, ready: 15, ..even() };
        assert!((share(ill) - 0.7).abs() < 1e-9, "half everywhere: capacity alone would keep all");
        assert_eq!(share(Zone { local_ready: 8, ready: 24, ..even() }), 1.0, "a fifth may be missing");
        assert_eq!(share(Zone { local_ready: 0, ready: 20, ..even() }), 0.0);
    }

    #[test]
    fn zones_do_not_matter_where_one_has_a_single_instance_or_there_is_only_one() {
        for off in [Zone { smallest: 1, ..even() }, Zone { zones: 1, ..even() }, Zone { ready: 0, ..even() }] {
            assert_eq!((off.local_share(), off.choose(1)), (None, Side::Anywhere));
        }
    }

    #[test]
    fn the_rest_goes_elsewhere_in_proportion() {
        let small = Zone { local: 5, local_ready: 5, smallest: 5, ready: 25, ..even() };
        let local = (0..100_000).filter(|random| small.choose(*random) == Side::Local).count();
        assert!(local.abs_diff(60_000) < 1_000, "{local}");
    }

    proptest! {
        #[test]
        fn a_share_is_a_share(zones: u32, smallest: u32, local: u32, local_ready: u32, ready: u32) {
            let zone = Zone { zones, smallest, local, local_ready, ready };
            prop_assert!(zone.local_share().is_none_or(|share| (0.0..=1.0).contains(&share)));
        }
    }
}
