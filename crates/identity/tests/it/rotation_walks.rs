//! Rotations that wander: steps at any time, back and forth, through the store's text.

use fusewire_identity::{Authority, Bundle, DEFAULT_LIFETIME, Identity, Step, TrustState, UnixTime};
use proptest::prelude::*;

use crate::rotation::{noted, stable};
use crate::world::*;

#[derive(Clone, Copy, Debug)]
enum Move {
    Take(Step),
    Retire,
    Wait(u64),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        2 => Just(Move::Take(Step::Prepare)),
        3 => Just(Move::Take(Step::Switch)),
        2 => Just(Move::Take(Step::Abort)),
        3 => Just(Move::Retire),
        5 => (1..30_u64).prop_map(|hours| Move::Wait(hours * 3600)),
    ];
    prop::collection::vec(one, 1..24)
}

/// The longest that a workload may go without hearing of a new bundle: its leaf, which came with one, has then ended.
fn in_force_lately(bundles: &[(u64, Bundle)], seconds: u64) -> Vec<&Bundle> {
    let horizon = seconds - DEFAULT_LIFETIME.as_secs();
    let mut lately = Vec::new();
    for (place, (_, bundle)) in bundles.iter().enumerate() {
        let until = bundles.get(place + 1).map_or(u64::MAX, |(next, _)| *next);
        if until > horizon {
            lately.push(bundle);
        }
    }
    lately
}

fn follow(moves: &[Move]) {
    let mut state = stable();
    let mut seconds = NOW;
    let mut leaves: Vec<Identity> = Vec::new();
    let mut bundles: Vec<(u64, Bundle)> = vec![(seconds, state.bundle().unwrap())];
    for &next in moves {
        seconds += 1;
        let at_now: UnixTime = at(seconds);
        let taken = match next {
            Move::Wait(more) => {
                seconds += more;
                None
            }
            Move::Take(step) => state.step(step, at_now, false).ok(),
            Move::Retire => {
                // as an operator would: as early as is allowed
                seconds = state.retire_allowed_at().map_or(seconds, |allowed| allowed.max(seconds));
                state.step(Step::Retire, at(seconds), false).ok()
            }
        };
        if let Some(taken) = taken {
            state = noted(&TrustState::from_json(taken.to_json().unwrap().as_bytes()).unwrap());
            bundles.push((seconds, state.bundle().unwrap()));
        }
        let authority = Authority::from_state(state.clone()).unwrap();
        leaves.push(issue_at(&authority, "shop/web", seconds));
        leaves.push(authority.issue_own(DEFAULT_LIFETIME, at(seconds)).unwrap());
        leaves.retain(|leaf| leaf.not_after() > seconds);
        for leaf in &leaves {
            for bundle in in_force_lately(&bundles, seconds) {
                assert!(
                    leaf.with_bundle(bundle.clone()).is_ok(),
                    "{next:?} at {}: a leaf of {} is refused",
                    seconds - NOW,
                    leaf.not_before() + 60 - NOW
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_walk_of_unforced_steps_ever_refuses_a_leaf_that_holds(moves in moves()) {
        follow(&moves);
    }
}

#[test]
fn there_and_back_and_through_is_such_a_walk() {
    use Move::{Retire, Take, Wait};
    let forth = [Take(Step::Prepare), Take(Step::Switch)];
    let back = [Take(Step::Abort), Take(Step::Abort)];
    follow(&[forth, back, forth, [Retire, Wait(3600)], forth, [Retire, Retire]].concat());
}
