//! One object, as far as it could be understood, rule by rule.
//!
//! It decides what becomes of a rule that cannot be had: the others stay in force.

use super::object::{Metadata, ParentRef};
use super::rank::Rank;
use super::{Told, filter, policy};
use crate::known::{RouteId, RouteKind};
use fusewire_model::policy::Policy;
use fusewire_model::route::{MAX_PATTERNS, Rule};

pub(super) struct Translated<'a> {
    pub(super) kind: RouteKind,
    pub(super) metadata: &'a Metadata,
    pub(super) parents: &'a [ParentRef],
    /// Of its rules, those that are not in force among them.
    count: usize,
    pub(super) rules: Vec<(Rank, Rule)>,
    pub(super) policies: Vec<Policy>,
    pub(super) told: Told,
    /// A rule has a filter without which no request of its may go on.
    pub(super) guards: bool,
}

/// What becomes of requests for a rule that is not in force. They may be for another rule only where it cannot be told which
/// they are, as far as any match of the rule can be read: what a filter was to keep away must not go on without it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    /// With 500, or UNAVAILABLE.
    Answered,
    Unmatched,
}

/// How much of an object was read.
pub(super) struct Read {
    rules: usize,
    policies: usize,
    faults: usize,
}

impl<'a> Translated<'a> {
    /// Of so many rules.
    pub(super) fn new(kind: RouteKind, metadata: &'a Metadata, (parents, count): (&'a [ParentRef], usize)) -> Self {
        let (rules, policies, told) = (Vec::new(), Vec::new(), Told::default());
        Self { kind, metadata, parents, count, rules, policies, told, guards: false }
    }

    /// Whether any of it is in force.
    pub(super) fn is_usable(&self) -> bool {
        let dropped = self.told.dropped.len();
        let any = dropped == 0 || dropped < self.count || (self.guards && !self.rules.is_empty());
        any && self.told.unsupported.is_empty()
    }

    /// How much was read up to now.
    pub(super) fn read(&self) -> Read {
        Read { rules: self.rules.len(), policies: self.policies.len(), faults: self.told.unsupported.len() }
    }

    /// Rule `index` is what was read since `before`; it is not in force where any of that cannot be had.
    pub(super) fn judge(&mut self, index: usize, before: Read) {
        let why = self.told.unsupported.split_off(before.faults);
        if why.is_empty() {
            return;
        }
        self.policies.truncate(before.policies);
        for (_, rule) in &mut self.rules[before.rules..] {
            (rule.backends, rule.policy, rule.filters) = (vec![filter::nowhere()], None, None);
        }
        let became = if self.rules.len() > before.rules { Dropped::Answered } else { Dropped::Unmatched };
        self.told.dropped.insert(index, (became, why));
    }

    pub(super) fn id(&self) -> RouteId {
        let (namespace, name) = (self.metadata.namespace.clone(), self.metadata.name.clone());
        RouteId { kind: self.kind, namespace, name }
    }

    /// `checkout.shop.httproute`: names of objects of both kinds may be the same.
    fn object(&self) -> String {
        policy::object(&self.id())
    }

    /// `checkout.shop.httproute[0]`, as metrics and logs name it.
    pub(super) fn rule_name(&self, index: usize) -> String {
        format!("{}[{index}]", self.object())
    }

    pub(super) fn policy_name(&self, index: usize) -> String {
        format!("{}{index}", policy::policy_prefix(&self.id()))
    }

    /// A sidecar takes only so many in one table.
    pub(super) fn bound_patterns(&mut self) {
        let count: usize = self.rules.iter().map(|(_, rule)| rule.matches.patterns()).sum();
        if count > MAX_PATTERNS / 4 {
            self.told.unsupported("spec.rules", format_args!("hold {count} regular expressions: too many"));
        }
    }
}
