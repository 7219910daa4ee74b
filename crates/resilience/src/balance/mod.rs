//! Other ways to choose an instance than the one that `pick` has built in.
//!
//! Decides an index into a set of instances that the caller describes by [`Instances`]: who takes traffic, how much each
//! has and how much it can bear. It deliberately knows no breaker, no attempt and no address: a proposal is then admitted
//! by the breaker like any other, and a set that changed gets a [`Balancer`] built anew, off the request path.
//!
//! Two choices by peak-EWMA latency, the default, stay in `pick`; a set whose rules name another policy holds a `Balancer`
//! and shows itself as [`Instances`]. A proposal is generic over those and allocates nothing.
//!
//! Invariants: a proposal is an index below [`Instances::len`] that is usable, and there is one whenever any is usable.
//! All of it may be shared between threads; only round robin writes, one counter.
//!
//! Reading order: `choices`, `round_robin`, `ring`, `maglev`; then what is chosen before an instance is: `zone`,
//! `priority`, `subset`.

mod choices;
mod maglev;
mod priority;
mod ring;
mod round_robin;
mod subset;
mod zone;

pub use maglev::{MAGLEV_SIZE, Maglev};
pub use priority::{PriorityLoad, priority_loads};
pub use ring::{HashRing, VNODES};
pub use round_robin::RoundRobin;
pub use subset::{subset, subset_size};
pub use zone::{Side, Zone};

use crate::time::mix;

/// One service's instances as a balancer sees them, for one request: what has been tried is not usable.
pub trait Instances {
    fn len(&self) -> usize;

    /// Takes traffic, and has not been tried by this request.
    fn usable(&self, index: usize) -> bool;

    fn inflight(&self, index: usize) -> u32;

    /// Above zero; the configured weight times the slow start.
    fn weight(&self, index: usize) -> f32;

    /// What one more request would cost there; the lower the better. Requests in flight over weight, unless the caller
    /// knows latencies.
    fn cost(&self, index: usize) -> f32 {
        (self.inflight(index) as f32 + 1.0) / self.weight(index)
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Requests in flight and weight of all usable instances together. Walks the set; a caller with counters overrides it.
    fn totals(&self) -> (u64, f64) {
        let usable = (0..self.len()).filter(|index| self.usable(*index));
        usable.fold((0, 0.0), |sum, index| {
            (sum.0 + u64::from(self.inflight(index)), sum.1 + f64::from(self.weight(index)))
        })
    }
}

/// What decides for one request.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// 64 random bits, fresh for each request.
    pub random: u64,
    /// [`hash`] of what the policy keys by; the same for requests that belong together.
    pub key: u64,
}

/// One instance of the set that a balancer is built for, by index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Seat {
    /// The same in every sidecar and for as long as the instance lives: [`hash`] of its name and address.
    pub id: u64,
    /// 0: gets nothing by weight.
    pub weight: u32,
}

/// A policy, ready for one set of instances.
pub enum Balancer {
    /// The cheaper of two different ones by [`Instances::cost`]; the default, where `cost` knows latencies.
    TwoChoices,
    /// The same by requests in flight over weight, whatever `cost` says.
    LeastRequest,
    RoundRobin(RoundRobin),
    RingHash(HashRing),
    Maglev(Maglev),
}

impl Balancer {
    /// `None`: no instance is usable.
    pub fn propose<I: Instances + ?Sized>(&self, draw: Draw, instances: &I) -> Option<usize> {
        match self {
            Balancer::TwoChoices => choices::cheaper_of_two(draw.random, instances, |index| instances.cost(index)),
            Balancer::LeastRequest => choices::cheaper_of_two(draw.random, instances, |index| {
                (instances.inflight(index) as f32 + 1.0) / instances.weight(index)
            }),
            Balancer::RoundRobin(turns) => turns.propose(draw.random, instances),
            Balancer::RingHash(ring) => ring.propose(draw.key, instances),
            Balancer::Maglev(table) => table.propose(draw.key, instances),
        }
    }
}

/// A 64-bit hash that is the same everywhere and in every version of this project: who hashes to whom must survive an
/// upgrade. Not secret: a caller who chooses its key chooses its instance, which is why the ring bounds loads.
pub fn hash(bytes: &[u8]) -> u64 {
    let word = |chunk: &[u8]| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    };
    bytes.chunks(8).fold(mix(bytes.len() as u64), |hash, chunk| mix(hash ^ word(chunk)))
}

/// Rendezvous hashing over what is usable: slow and always right. For when nearly nobody is.
fn highest<I: Instances + ?Sized>(key: u64, seats: &[Seat], instances: &I) -> Option<usize> {
    let known = (0..seats.len().min(instances.len())).filter(|index| instances.usable(*index));
    // Who has weight goes before who has none.
    let best = known.max_by_key(|index| (seats[*index].weight > 0, mix(key ^ mix(seats[*index].id))));
    best.or_else(|| choices::first_usable(key, instances))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A set for tests: who is usable, and with what load.
    pub(super) struct Set(pub(super) Vec<(bool, u32, f32)>);

    impl Set {
        pub(super) fn idle(n: usize) -> Set {
            Set(vec![(true, 0, 1.0); n])
        }
    }

    impl Instances for Set {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn usable(&self, index: usize) -> bool {
            self.0[index].0
        }

        fn inflight(&self, index: usize) -> u32 {
            self.0[index].1
        }

        fn weight(&self, index: usize) -> f32 {
            self.0[index].2
        }
    }

    pub(super) fn seats(weights: &[u32]) -> Vec<Seat> {
        weights.iter().enumerate().map(|(i, weight)| Seat { id: hash(&i.to_le_bytes()), weight: *weight }).collect()
    }

    pub(super) fn all(weights: &[u32]) -> [Balancer; 5] {
        let seats = seats(weights);
        [
            Balancer::TwoChoices,
            Balancer::LeastRequest,
            Balancer::RoundRobin(RoundRobin::new(weights)),
            Balancer::RingHash(HashRing::new(&seats, VNODES)),
            Balancer::Maglev(Maglev::new(&seats)),
        ]
    }

    #[test]
    fn hashes_are_what_they_were() {
        let expected = [16_294_208_416_658_607_535, 6_774_081_908_283_191_102, 2_347_437_247_783_561_178];
        assert_eq!([hash(b""), hash(b"a"), hash(b"inventory")], expected);
        assert_ne!(hash(b"a"), hash(b"a\0"), "length counts");
    }

    proptest! {
        // Each case fills a Maglev table.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_policy_finds_a_usable_instance_whenever_there_is_one(
            set in prop::collection::vec((any::<bool>(), 0u32..100, 0.1f32..5.0), 0..12),
            weights in prop::collection::vec(0u32..5, 0..12),
            random: u64,
            key: u64,
        ) {
            // The balancer may have been built for another number of instances.
            let set = Set(set);
            for (policy, balancer) in all(&weights).iter().enumerate() {
                for step in 0..3 {
                    let draw = Draw { random: random.wrapping_add(step), key: key.wrapping_add(step) };
                    match balancer.propose(draw, &set) {
                        Some(index) => prop_assert!(index < set.len() && set.usable(index), "policy {}", policy),
                        None => prop_assert!((0..set.len()).all(|index| !set.usable(index)), "policy {}", policy),
                    }
                }
            }
        }
    }
}
