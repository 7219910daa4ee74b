//! Seeded draws: the same run on every machine.

use std::time::Duration;

pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Never the state that stays zero for ever.
    pub(crate) fn seeded(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// A service time that varies as they do: four exponential steps, `mean` in all.
    pub(crate) fn erlang4(&mut self, mean: f64) -> f64 {
        (0..4).map(|_| self.exponential(mean / 4.0)).sum()
    }
}

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
