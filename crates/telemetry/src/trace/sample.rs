//! Which traces are recorded, where no caller has decided it.
//!
//! By the trace id alone, as OpenTelemetry's `TraceIdRatioBased` does it: every sidecar with the same share decides alike,
//! and a smaller share's traces are among a larger one's.

use super::context::TraceId;
use fusewire_model::policy::Ratio;

/// Whether `trace` is within the share.
pub fn takes(ratio: Ratio, trace: TraceId) -> bool {
    // the lower eight bytes, but for one bit, as Go's, Java's and Rust's SDKs have it
    let [low, _] = [trace.get() as u64, (trace.get() >> 64) as u64];
    let bound = (u128::from(ratio.millionths()) << 63) / u128::from(Ratio::WHOLE);
    u128::from(low >> 1) < bound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(millionths: u32) -> Ratio {
        Ratio::from_millionths(millionths).unwrap()
    }

    #[test]
    fn nothing_and_everything_are_exact() {
        for id in [1, u128::from(u64::MAX), u128::MAX, 1 << 64] {
            assert!(!takes(ratio(0), TraceId::from_bits(id)));
            assert!(takes(ratio(1_000_000), TraceId::from_bits(id)));
        }
    }

    #[test]
    fn a_share_is_met_and_a_smaller_one_lies_within_a_larger_one() {
        let mut state = 7_u64;
        let mut random = || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        let ids: Vec<TraceId> =
            (0..100_000).map(|_| TraceId::from_bits((u128::from(random()) << 64) | u128::from(random()))).collect();
        let taken = |r: Ratio| ids.iter().filter(|id| takes(r, **id)).count();
        assert!((900..1_100).contains(&taken(ratio(10_000))), "{}", taken(ratio(10_000)));
        assert!((24_500..25_500).contains(&taken(ratio(250_000))));
        assert!(ids.iter().all(|id| !takes(ratio(10_000), *id) || takes(ratio(250_000), *id)));
    }

    #[test]
    fn the_bound_is_that_of_other_sdks() {
        // half: the lower eight bytes below 2^63, whatever the upper ones are
        let half = ratio(500_000);
        assert!(takes(half, TraceId::from_bits((u128::MAX << 64) | 0x7fff_ffff_ffff_ffff)));
        assert!(!takes(half, TraceId::from_bits((1 << 64) | 0x8000_0000_0000_0000)));
    }
}
