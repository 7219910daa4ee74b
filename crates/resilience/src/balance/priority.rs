//! Which group of instances gets how much, where groups have an order: Envoy's priority levels and panic threshold.
//!
//! A level bears 1.4 times its healthy share; what the first cannot bear goes to the next. Once all together cannot bear
//! everything, what there is is scaled up, and a level below the panic threshold uses its unhealthy instances too.

/// What one level gets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PriorityLoad {
    /// Percent of the traffic; all levels together have 100, if any has a healthy instance.
    pub percent: u32,
    /// Use all of its instances, healthy or not.
    pub panic: bool,
}

/// Fills `loads`, as many as there are levels, in order; the rest of the longer slice is ignored. `healthy_percent`:
/// of each level's instances, 0..100. `panic_below`: percent, Envoy's default is 50. Returns how much of the traffic all
/// levels together can bear, 0..100.
pub fn priority_loads(healthy_percent: &[u32], panic_below: u32, loads: &mut [PriorityLoad]) -> u32 {
    let bears = |healthy: &u32| (*healthy).min(100) * 14 / 10;
    let bears = |healthy: &u32| bears(healthy).min(100);
    let sum: u32 = healthy_percent.iter().map(bears).sum();
    let total = sum.min(100);
    let (mut so_far, mut given) = (0, 0);
    for (healthy, load) in healthy_percent.iter().zip(loads) {
        so_far += bears(healthy);
        // Rounded where one level ends and the next begins, so that nothing is lost between them.
        let up_to = (so_far.min(total) * 100 + total / 2).checked_div(total).unwrap_or(0);
        *load = PriorityLoad { percent: up_to - given, panic: total < 100 && *healthy < panic_below };
        given = up_to;
    }
    total
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The table of `envoy.priority_panic`.
    #[test]
    fn loads_and_panic_are_envoys() {
        let table = [
            ([72, 100], [100, 0], [false, false], 100),
            ([71, 100], [99, 1], [false, false], 100),
            ([50, 100], [70, 30], [false, false], 100),
            ([25, 100], [35, 65], [false, false], 100),
            ([0, 100], [0, 100], [false, false], 100),
            ([72, 72], [100, 0], [false, false], 100),
            ([71, 71], [99, 1], [false, false], 100),
            ([50, 60], [70, 30], [false, false], 100),
            ([25, 100], [35, 65], [false, false], 100),
            ([25, 25], [50, 50], [true, true], 70),
            ([5, 65], [7, 93], [true, false], 98),
        ];
        for (healthy, percent, panic, total) in table {
            let mut loads = [PriorityLoad::default(); 2];
            assert_eq!(priority_loads(&healthy, 50, &mut loads), total, "{healthy:?}");
            assert_eq!(loads.map(|load| load.percent), percent, "{healthy:?}");
            assert_eq!(loads.map(|load| load.panic), panic, "{healthy:?}");
        }
    }

    #[test]
    fn nobody_healthy_is_panic_everywhere() {
        let mut loads = [PriorityLoad::default(); 3];
        assert_eq!(priority_loads(&[0, 0, 0], 50, &mut loads), 0);
        assert!(loads.iter().all(|load| load.panic && load.percent == 0));
        assert_eq!(priority_loads(&[], 50, &mut []), 0);
    }

    proptest! {
        #[test]
        fn all_levels_together_get_everything(healthy in prop::collection::vec(0u32..=100, 1..8)) {
            let mut loads = vec![PriorityLoad::default(); healthy.len()];
            let total = priority_loads(&healthy, 50, &mut loads);
            let given: u32 = loads.iter().map(|load| load.percent).sum();
            prop_assert_eq!(given, if total == 0 { 0 } else { 100 });
        }
    }
}
