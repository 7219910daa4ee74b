//! What is routed by tables of our own, over loopback: the application's answers to a caller's address, which come back to the
//! sidecar by their mark [`ANSWERS`]; and virtual addresses, to which a namespace without a default route has no way, so that
//! a connection would end before the rules see it. As arguments for `ip` of iproute2.
//!
//! Invariant: mark, tables and priorities are ours alone, so that what names them can be taken out without a look at the rest.

use super::{Family, VIRTUAL};

/// The mark of packets that the sidecar sends to its application from a caller's address (SO_MARK), of their connection
/// (CONNMARK), and so of the answers.
pub const ANSWERS: u32 = 0xf05e;

/// A routing rule, and a route in a table that is asked by nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Of the answers to callers' addresses: every address is on this machine.
    Answers,
    /// To virtual addresses. They stay on this machine, also where nothing redirects them.
    Virtual,
}

impl Way {
    pub const ALL: [Self; 2] = [Self::Answers, Self::Virtual];

    /// Whether there is one in `family`: virtual addresses are of IPv4 only.
    pub fn is_of(self, family: Family) -> bool {
        self == Self::Answers || family == Family::V4
    }

    /// `ip` prints it by number unless somebody gave it a name.
    fn table(self) -> u32 {
        match self {
            Self::Answers => ANSWERS,
            Self::Virtual => ANSWERS + 1,
        }
    }

    /// Before the rules that a system begins with (32766 and 32767), and after that for its own addresses (0).
    fn priority(self) -> u32 {
        match self {
            Self::Answers => 1337,
            Self::Virtual => 1338,
        }
    }

    /// What is routed by it, as `ip` writes it.
    fn what(self) -> String {
        match self {
            Self::Answers => format!("fwmark {ANSWERS:#x}"),
            Self::Virtual => format!("to {VIRTUAL}"),
        }
    }

    fn rule(self) -> String {
        format!("priority {} {} lookup {}", self.priority(), self.what(), self.table())
    }

    fn route(self) -> String {
        let to = match self {
            Self::Answers => "local default dev lo".to_owned(),
            Self::Virtual => format!("{VIRTUAL} dev lo src 127.0.0.1"),
        };
        format!("{to} table {}", self.table())
    }

    /// Puts its route in, where that is there too.
    pub fn put_route(self, family: Family) -> String {
        format!("{} route replace {}", of(family), self.route())
    }

    /// Puts its rule in, where that is not.
    pub fn put_rule(self, family: Family) -> String {
        format!("{} rule add {}", of(family), self.rule())
    }

    pub fn take_rule(self, family: Family) -> String {
        format!("{} rule del {}", of(family), self.rule())
    }

    pub fn take_route(self, family: Family) -> String {
        format!("{} route flush table {}", of(family), self.table())
    }

    /// What prints its route, or fails where there is none.
    pub fn ask_route(self, family: Family) -> String {
        format!("{} route show table {}", of(family), self.table())
    }

    /// Its rule among those that [`ask_rules`] prints.
    pub fn shown(self, rules: &str) -> Option<&str> {
        let ours = format!("{} lookup {}", self.what(), self.table());
        let at = format!("{}:", self.priority());
        rules.lines().map(str::trim).find(|line| line.starts_with(&at) && line.contains(&ours))
    }
}

/// What prints the routing rules.
pub fn ask_rules(family: Family) -> String {
    format!("{} rule show", of(family))
}

/// The first words of each command.
fn of(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn rules_and_routes_of_our_own() {
        expect![[r#"
            -4 route replace local default dev lo table 61534
            -4 rule add priority 1337 fwmark 0xf05e lookup 61534
            -6 rule del priority 1337 fwmark 0xf05e lookup 61534
            -6 route flush table 61534
            -4 route replace 240.0.0.0/8 dev lo src 127.0.0.1 table 61535
            -4 rule add priority 1338 to 240.0.0.0/8 lookup 61535
        "#]]
        .assert_eq(
            &([
                Way::Answers.put_route(Family::V4),
                Way::Answers.put_rule(Family::V4),
                Way::Answers.take_rule(Family::V6),
                Way::Answers.take_route(Family::V6),
                Way::Virtual.put_route(Family::V4),
                Way::Virtual.put_rule(Family::V4),
            ]
            .join("\n")
                + "\n"),
        );
    }

    #[test]
    fn ours_are_told_from_others() {
        let printed = "0:\tfrom all lookup local\n1337:\tfrom all fwmark 0xf05e lookup 61534 \n1338:\tfrom all to 240.0.0.0/8 \
                       lookup 61535\n32766:\tfrom all lookup main\n";
        assert_eq!(Way::Answers.shown(printed), Some("1337:\tfrom all fwmark 0xf05e lookup 61534"));
        assert_eq!(Way::Virtual.shown(printed), Some("1338:\tfrom all to 240.0.0.0/8 lookup 61535"));
        let others = "1337:\tfrom all fwmark 0x1 lookup 133\n9:\tfrom all fwmark 0xf05e lookup 61534\n";
        assert_eq!(Way::Answers.shown(others), None);
    }
}
