//! How often one address may ask for a signature: 50 at once, then 10 a second.
//!
//! It decides per IP address, not per identity, because a joiner has none. It deliberately is generous: a node's sidecars
//! join together after a restart, and perhaps from behind one address; it bounds what guessing and floods cost.
//!
//! Invariant: at most [`MAX_ADDRESSES`] are remembered; those with a full allowance are forgotten first.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const BURST: f64 = 50.0;
const PER_SECOND: f64 = 10.0;
const MAX_ADDRESSES: usize = 4_096;

#[derive(Debug, Default)]
pub(crate) struct Rate {
    left: HashMap<IpAddr, (f64, Instant)>,
}

impl Rate {
    /// Takes one, or says how long to wait for it.
    pub(crate) fn take(&mut self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        if self.left.len() >= MAX_ADDRESSES && !self.left.contains_key(&address) {
            self.left.retain(|_, (left, at)| grown(*left, *at, now) < BURST);
            if self.left.len() >= MAX_ADDRESSES {
                return Err(Duration::from_secs(1));
            }
        }
        let (left, at) = self.left.entry(address).or_insert((BURST, now));
        let grown = grown(*left, *at, now);
        *at = now;
        if grown < 1.0 {
            *left = grown;
            return Err(Duration::from_secs_f64((1.0 - grown) / PER_SECOND));
        }
        *left = grown - 1.0;
        Ok(())
    }
}

fn grown(left: f64, at: Instant, now: Instant) -> f64 {
    (left + now.saturating_duration_since(at).as_secs_f64() * PER_SECOND).min(BURST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_flood_is_held_to_the_rate_and_hurts_no_other_address() {
        let (mut rate, now) = (Rate::default(), Instant::now());
        let (loud, quiet) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let granted = (0..1000).filter(|_| rate.take(loud, now).is_ok()).count();
        assert_eq!(granted, 50);
        assert_eq!(rate.take(loud, now), Err(Duration::from_millis(100)));
        assert_eq!(rate.take(quiet, now), Ok(()));
        assert_eq!(rate.take(loud, now + Duration::from_millis(150)), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_recovers() {
        let (mut rate, now) = (Rate::default(), Instant::now());
        for i in 0..100_000 {
            let _ = rate.take(Ipv4Addr::from_bits(i).into(), now);
        }
        assert_eq!(rate.left.len(), MAX_ADDRESSES);
        assert_eq!(rate.take(Ipv4Addr::from_bits(1 << 30).into(), now + Duration::from_secs(9)), Ok(()));
        assert_eq!(rate.left.len(), 1);
    }
}
