//! What a name was last known to mean.
//!
//! Pure. It decides that an address missing from one good answer is still there, and from two in a row is gone; and that
//! no answer empties it. Invariant: it never holds more than [`MAX_INSTANCES`], and once it holds some, it is never empty.

use super::MAX_INSTANCES;
use fusewire_model::service::Instance;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Good answers in a row that an address must be missing from.
const MISSES: u32 = 2;

/// By address.
#[derive(Debug, Default)]
pub(super) struct Memory(BTreeMap<SocketAddr, Known>);

#[derive(Debug)]
struct Known {
    weight: u32,
    missed: u32,
}

impl Memory {
    /// What was known of the same name before.
    pub(super) fn of(instances: Vec<Instance>) -> Self {
        Self::with(instances, 0)
    }

    /// What was known of another name: in force until this one's first good answer.
    pub(super) fn until_answered(instances: Vec<Instance>) -> Self {
        Self::with(instances, MISSES - 1)
    }

    fn with(instances: Vec<Instance>, missed: u32) -> Self {
        let known = |instance: Instance| (instance.address, Known { weight: instance.weight, missed });
        Self(instances.into_iter().take(MAX_INSTANCES).map(known).collect())
    }

    /// A good answer: addresses with their weights. An empty one is none.
    pub(super) fn heard(&mut self, found: &BTreeMap<SocketAddr, u32>) {
        if found.is_empty() {
            return;
        }
        self.0.retain(|address, known| {
            known.missed = if found.contains_key(address) { 0 } else { known.missed + 1 };
            known.missed < MISSES
        });
        for (address, weight) in found {
            if self.0.len() < MAX_INSTANCES || self.0.contains_key(address) {
                self.0.insert(*address, Known { weight: *weight, missed: 0 });
            }
        }
    }

    /// Plain instances, each with its address as its id.
    pub(super) fn instances(&self) -> Vec<Instance> {
        let instance = |(address, known): (&SocketAddr, &Known)| Instance {
            id: address.to_string(),
            address: *address,
            sidecar: None,
            weight: known.weight,
            labels: BTreeMap::new(),
            zone: None,
            down: false,
        };
        self.0.iter().map(instance).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 80))
    }

    fn answer(numbers: &[u16]) -> BTreeMap<SocketAddr, u32> {
        numbers.iter().map(|n| (address(*n), 1)).collect()
    }

    fn known(memory: &Memory) -> Vec<u16> {
        memory.0.keys().map(|a| (1..2000).find(|n| address(*n) == *a).unwrap()).collect()
    }

    #[test]
    fn an_address_goes_when_two_good_answers_in_a_row_lack_it_and_no_sooner() {
        let mut memory = Memory::default();
        memory.heard(&answer(&[1, 2, 3]));
        memory.heard(&answer(&[1, 2]));
        assert_eq!(known(&memory), [1, 2, 3]);
        memory.heard(&answer(&[1, 2]));
        assert_eq!(known(&memory), [1, 2]);
    }

    #[test]
    fn subsets_that_take_turns_add_up_to_the_whole() {
        let mut memory = Memory::default();
        for round in 0..20 {
            memory.heard(&answer(if round % 2 == 0 { &[1, 2] } else { &[3, 4] }));
            assert!(round == 0 || known(&memory) == [1, 2, 3, 4], "round {round}: {:?}", known(&memory));
        }
    }

    #[test]
    fn an_empty_answer_changes_nothing() {
        let mut memory = Memory::default();
        memory.heard(&answer(&[1]));
        for _ in 0..5 {
            memory.heard(&answer(&[]));
        }
        assert_eq!(known(&memory), [1]);
        memory.heard(&answer(&[2]));
        assert_eq!(known(&memory), [1, 2], "an empty answer is no answer that lacks an address");
    }

    #[test]
    fn what_another_name_meant_stays_until_the_first_good_answer() {
        let mut memory = Memory::default();
        memory.heard(&answer(&[1]));
        let mut memory = Memory::until_answered(memory.instances());
        memory.heard(&answer(&[]));
        assert_eq!(known(&memory), [1]);
        memory.heard(&answer(&[2]));
        assert_eq!(known(&memory), [2]);
    }

    #[test]
    fn no_answer_makes_it_grow_beyond_its_bound() {
        let mut memory = Memory::default();
        let many: Vec<u16> = (1..1500).collect();
        memory.heard(&answer(&many));
        memory.heard(&answer(&many[700..]));
        assert_eq!(memory.0.len(), MAX_INSTANCES);
    }

    #[test]
    fn another_weight_is_heard_at_once() {
        let mut memory = Memory::default();
        memory.heard(&answer(&[1]));
        memory.heard(&BTreeMap::from([(address(1), 9)]));
        assert_eq!(memory.instances()[0].weight, 9);
        assert_eq!(memory.instances()[0].id, "10.0.0.1:80");
    }
}
