//! Only one layer retries.
//!
//! Three layers that try three times each make 27 requests of one. So the outermost layer that may retry does, and says
//! so: the allowance and the origin travel with the request (`tracestate`, key `fusewire`), and a sidecar ties its
//! application's outbound requests to the inbound one by trace id. Inside a request that is itself a retry, or whose
//! caller can still retry, nobody does. Where an application propagates nothing the chain is broken and each hop's budget
//! is the bound.
//!
//! Pure facts in, a number out; two bytes on the wire. It deliberately reads no header: who may be believed is
//! decided where the peer's identity is known.

/// Whether a request is a layer's first attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Origin {
    First,
    /// Some layer outside sent it again.
    Retry,
}

/// What travels with a request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Carried {
    pub origin: Origin,
    /// Retries that the layers outside can still make if this attempt fails, 0..9.
    pub left: u8,
}

impl Carried {
    /// `f2`: a first attempt, and two more could follow. `r0`: the last of its retries.
    pub fn encode(self) -> [u8; 2] {
        let letter = if self.origin == Origin::First { b'f' } else { b'r' };
        [letter, b'0' + self.left.min(9)]
    }

    /// `None` for anything else; the chain is broken then.
    pub fn decode(value: &[u8]) -> Option<Carried> {
        let [letter, left @ b'0'..=b'9'] = value else { return None };
        let origin = match letter {
            b'f' => Origin::First,
            b'r' => Origin::Retry,
            _ => return None,
        };
        Some(Carried { origin, left: left - b'0' })
    }
}

/// What is known about the layers outside.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Chain {
    Known(Carried),
    /// This is the edge, or the application did not propagate its trace.
    Broken,
}

/// What an answer says about the layers inside, as the peer's sidecar marked it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Mark {
    #[default]
    None,
    /// A layer inside has spent its retries on it: `retry-exhausted`.
    RetryExhausted,
    /// Something behind the peer's application was overloaded; more requests would not help it. The peer's own
    /// refusal is [`Happening::Overloaded`](crate::Happening::Overloaded) instead, and this layer's to retry.
    OverloadedInside,
}

/// How often this layer may retry one request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Allowance {
    retries: u8,
    chain: Chain,
}

impl Allowance {
    /// `own`: the retries that this layer's policy gives the request; 0 if it cannot be repeated from here, so that
    /// a layer inside that can is not kept from it.
    pub fn of(chain: Chain, own: u8) -> Allowance {
        let retries = match chain {
            Chain::Known(Carried { origin: Origin::First, left: 0 }) | Chain::Broken => own,
            Chain::Known(_) => 0,
        };
        Allowance { retries, chain }
    }

    /// In all, for this request.
    pub fn retries(self) -> u8 {
        self.retries
    }

    /// Whether another retry after `done` of them is this layer's to make.
    pub fn permits(self, done: u8, mark: Mark) -> bool {
        mark == Mark::None && done < self.retries
    }

    /// What the attempt after `done` retries tells the next layer.
    pub fn onward(self, done: u8) -> Carried {
        let own = self.retries.saturating_sub(done);
        let outside = match self.chain {
            Chain::Known(carried) => carried,
            Chain::Broken => Carried { origin: Origin::First, left: 0 },
        };
        let origin = if done > 0 { Origin::Retry } else { outside.origin };
        Carried { origin, left: own.max(outside.left).min(9) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known(origin: Origin, left: u8) -> Chain {
        Chain::Known(Carried { origin, left })
    }

    #[test]
    fn a_layer_retries_only_if_nobody_outside_does_or_did() {
        let table = [
            (Chain::Broken, 2),
            (known(Origin::First, 0), 2),
            (known(Origin::First, 1), 0),
            (known(Origin::Retry, 0), 0),
            (known(Origin::Retry, 2), 0),
        ];
        for (chain, retries) in table {
            assert_eq!(Allowance::of(chain, 2).retries(), retries, "{chain:?}");
        }
    }

    #[test]
    fn an_answer_that_says_the_inside_gave_up_is_final() {
        let allowance = Allowance::of(Chain::Broken, 2);
        assert!(allowance.permits(0, Mark::None) && allowance.permits(1, Mark::None));
        assert!(!allowance.permits(2, Mark::None));
        assert!(!allowance.permits(0, Mark::RetryExhausted) && !allowance.permits(0, Mark::OverloadedInside));
    }

    /// Requests that reach the innermost of `own.len()` layers if every attempt fails.
    fn leaves(chain: Chain, own: &[u8], propagates: bool) -> u32 {
        let Some((first, inner)) = own.split_first() else { return 1 };
        let allowance = Allowance::of(chain, *first);
        let attempt = |done| {
            let next = if propagates { Chain::Known(allowance.onward(done)) } else { Chain::Broken };
            leaves(next, inner, propagates)
        };
        (0..=allowance.retries()).map(attempt).sum()
    }

    #[test]
    fn three_layers_of_three_attempts_make_three_requests_and_not_twenty_seven() {
        assert_eq!(leaves(Chain::Broken, &[2, 2, 2], true), 3);
        assert_eq!(leaves(Chain::Broken, &[2, 2, 2], false), 27);
    }

    #[test]
    fn a_layer_that_cannot_repeat_leaves_it_to_the_next() {
        assert_eq!(leaves(Chain::Broken, &[0, 2, 2], true), 3);
        assert_eq!(leaves(Chain::Broken, &[0, 0, 4], true), 5);
    }

    #[test]
    fn what_travels_is_read_back_and_nothing_else_is() {
        for left in 0..=9 {
            for origin in [Origin::First, Origin::Retry] {
                let carried = Carried { origin, left };
                assert_eq!(Carried::decode(&carried.encode()), Some(carried));
            }
        }
        for bad in [&b""[..], b"f", b"f-", b"f10", b"x1", b"F1", b"f\xff"] {
            assert_eq!(Carried::decode(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn requests_never_exceed_the_attempts_of_the_most_generous_layer(own in prop::collection::vec(0u8..=4, 1..6)) {
            let most = own.iter().max().copied().unwrap_or(0);
            prop_assert!(leaves(Chain::Broken, &own, true) <= u32::from(most) + 1);
        }
    }
}
