//! How many requests a second: the local rate limit.
//!
//! Decides by GCRA, the leaky bucket that needs one number: the theoretical arrival time, when the bucket would be full
//! again. It deliberately knows no other sidecar: a limit is per sidecar, and a share of a global one is only another
//! `Rate`. A request that is refused is answered 429 and never recorded on an instance.
//!
//! Reading order: `gcra`, `keys`, `fields`.

mod fields;
mod gcra;
mod keys;

pub use fields::{RateLimit, RateLimitPolicy};
pub use gcra::{Gcra, Rate, RateConfig, Standing};
pub use keys::{KEYS, KeyedLimits};
