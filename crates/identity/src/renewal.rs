//! When a leaf is renewed.
//!
//! It decides one moment: two thirds of the leaf's life, spread by a tenth of the life either way, so that a fleet that
//! was started at once does not ask its control plane at once for ever. It deliberately reads no clock and draws no
//! number: both are the caller's.

/// When to renew a leaf that holds from `not_before` to `not_after` (seconds since 1970), which is also what this
/// returns. `random` is any number, evenly drawn.
///
/// Two thirds of the life, plus or minus a tenth of the life: never before half of it, never after five sixths, and
/// never after `not_after`. Lives of a few seconds are spread by whole seconds.
pub fn renewal_at(not_before: u64, not_after: u64, random: u64) -> u64 {
    let life = u128::from(not_after.saturating_sub(not_before));
    let (earliest, latest) = (life * 17 / 30, life * 23 / 30); // 2/3 -+ 1/10
    let drawn = earliest + u128::from(random) % (latest - earliest + 1);
    // rounding down may put a very short life's moment before its half
    let offset = drawn.max(life.div_ceil(2)).min(life);
    not_before.saturating_add(u64::try_from(offset).unwrap_or(u64::MAX))
}
