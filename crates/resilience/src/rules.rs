//! Exceptions from the classification table, for applications that use statuses their own way.
//!
//! Only what an application says can be reclassified (HTTP and gRPC statuses); connections, timeouts and our own doing
//! keep the class of the table. First match wins, in the order hard, soft, ok.

use std::ops::RangeInclusive;

use crate::outcome::{Class, Evidence, Happening, Outcome, classify};

/// Statuses that a policy classifies differently. Empty by default, which is the table as it stands.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ClassRules {
    /// HTTP statuses that count as hard failures by status.
    pub hard: Vec<RangeInclusive<u16>>,
    /// HTTP statuses that count as soft failures, such as 500 for an application that answers it when overloaded, or
    /// 429 where it means overload and not one tenant's quota.
    pub soft: Vec<RangeInclusive<u16>>,
    /// HTTP statuses that are no failure at all.
    pub ok: Vec<RangeInclusive<u16>>,
    /// The same for gRPC status codes.
    pub grpc_hard: Vec<u8>,
    pub grpc_soft: Vec<u8>,
    pub grpc_ok: Vec<u8>,
}

impl ClassRules {
    pub fn classify(&self, happening: Happening) -> Outcome {
        let class = match happening {
            Happening::Status(code) => {
                let listed = |ranges: &[RangeInclusive<u16>]| ranges.iter().any(|range| range.contains(&code));
                first(listed(&self.hard), listed(&self.soft), listed(&self.ok))
            }
            Happening::Grpc(code) => {
                let listed = |codes: &[u8]| codes.contains(&code);
                first(listed(&self.grpc_hard), listed(&self.grpc_soft), listed(&self.grpc_ok))
            }
            _ => None,
        };
        match class {
            Some(Class::Ok) => Outcome::OK,
            Some(class) => Outcome::new(class, Evidence::Status),
            None => classify(happening),
        }
    }
}

fn first(hard: bool, soft: bool, ok: bool) -> Option<Class> {
    match (hard, soft, ok) {
        (true, _, _) => Some(Class::Hard),
        (_, true, _) => Some(Class::Soft),
        (_, _, true) => Some(Class::Ok),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_can_reclassify_statuses_and_nothing_else() {
        let rules = ClassRules { soft: vec![500..=500, 429..=429], grpc_ok: vec![2], ..ClassRules::default() };
        assert_eq!(rules.classify(Happening::Status(500)).class, Class::Soft);
        assert_eq!(rules.classify(Happening::Status(429)).class, Class::Soft);
        assert_eq!(rules.classify(Happening::Status(502)).class, Class::Hard);
        assert_eq!(rules.classify(Happening::Grpc(2)), Outcome::OK);
        assert_eq!(rules.classify(Happening::Grpc(13)).class, Class::Hard);
        assert_eq!(rules.classify(Happening::ConnectRefused).class, Class::Hard);
    }

    #[test]
    fn hard_wins_over_soft_and_soft_over_ok() {
        let rules =
            ClassRules { hard: vec![500..=501], soft: vec![500..=502], ok: vec![500..=599], ..ClassRules::default() };
        let class = |code| rules.classify(Happening::Status(code)).class;
        assert_eq!([class(501), class(502), class(503)], [Class::Hard, Class::Soft, Class::Ok]);
    }
}
