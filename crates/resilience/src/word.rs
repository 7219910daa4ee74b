//! The control word: everything about a breaker's state that the request path reads, in one `AtomicU64`.
//!
//! `phase:2 | k:6 | outstanding:8 | ok:8 | fail:8 | slow:8 | ground:3 | generation:21`. Every transition is one
//! compare-and-swap that increments the generation, so it has exactly one winner, and a permit that carries an older
//! generation is recognised by one comparison.

use crate::trigger::Ground;

/// Where a circuit stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

/// The state as stored: an operator's forced opening is a phase of its own, so that the request path sees it without
/// reading the override.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Closed,
    Open,
    HalfOpen,
    ForcedOpen,
}

impl Phase {
    pub(crate) fn state(self) -> State {
        match self {
            Phase::Closed => State::Closed,
            Phase::Open | Phase::ForcedOpen => State::Open,
            Phase::HalfOpen => State::HalfOpen,
        }
    }
}

pub(crate) const MAX_K: u8 = 63;
const GENERATION_BITS: u32 = 21;
const GENERATIONS: u32 = 1 << GENERATION_BITS;

/// The control word, unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Word {
    pub(crate) phase: Phase,
    /// How many openings in a row; the exponent of the next open time. 0..=63.
    pub(crate) k: u8,
    /// Probes in flight.
    pub(crate) outstanding: u8,
    /// Clean and failed probes of this half-open round.
    pub(crate) ok: u8,
    pub(crate) fail: u8,
    /// Those of them that were slow, clean or not.
    pub(crate) slow: u8,
    /// The kind of evidence that opened the circuit; meaningful while it is not closed.
    pub(crate) ground: Ground,
    pub(crate) generation: u32,
}

impl Word {
    pub(crate) const START: Word = Word {
        phase: Phase::Closed,
        k: 0,
        outstanding: 0,
        ok: 0,
        fail: 0,
        slow: 0,
        ground: Ground::Manual,
        generation: 0,
    };

    pub(crate) fn pack(self) -> u64 {
        (self.phase as u64) << 62
            | u64::from(self.k) << 56
            | u64::from(self.outstanding) << 48
            | u64::from(self.ok) << 40
            | u64::from(self.fail) << 32
            | u64::from(self.slow) << 24
            | (self.ground as u64) << GENERATION_BITS
            | u64::from(self.generation)
    }

    pub(crate) fn unpack(bits: u64) -> Word {
        Word {
            phase: match bits >> 62 {
                0 => Phase::Closed,
                1 => Phase::Open,
                2 => Phase::HalfOpen,
                _ => Phase::ForcedOpen,
            },
            k: (bits >> 56) as u8 & MAX_K,
            outstanding: (bits >> 48) as u8,
            ok: (bits >> 40) as u8,
            fail: (bits >> 32) as u8,
            slow: (bits >> 24) as u8,
            ground: Ground::from_bits((bits >> GENERATION_BITS) as u8 & 7),
            generation: bits as u32 & (GENERATIONS - 1),
        }
    }

    /// The word after a transition: a new generation with no probes, and the same ground.
    pub(crate) fn next(self, phase: Phase, k: u8) -> Word {
        let generation = (self.generation + 1) % GENERATIONS;
        Word { phase, k: k.min(MAX_K), outstanding: 0, ok: 0, fail: 0, slow: 0, generation, ..self }
    }

    pub(crate) fn probes_done(self) -> u8 {
        self.ok.saturating_add(self.fail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_loses_nothing() {
        for phase in [Phase::Closed, Phase::Open, Phase::HalfOpen, Phase::ForcedOpen] {
            for (k, small, ground, generation) in [
                (0, 0, Ground::Absolute, 0),
                (63, 255, Ground::SoftOutlier, GENERATIONS - 1),
                (17, 20, Ground::Manual, 77),
            ] {
                let word =
                    Word { phase, k, outstanding: small, ok: small, fail: small, slow: small, ground, generation };
                assert_eq!(Word::unpack(word.pack()), word);
            }
        }
    }

    #[test]
    fn generations_wrap_and_k_saturates() {
        let last = Word { generation: GENERATIONS - 1, k: 63, ..Word::START };
        let next = last.next(Phase::Open, 64);
        assert_eq!((next.generation, next.k), (0, 63));
    }
}
