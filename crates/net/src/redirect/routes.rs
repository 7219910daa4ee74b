//! How the application's answers to a caller's address come back to the sidecar: what bears the mark [`ANSWERS`] is routed by
//! a table of its own, in which every address is on this machine. As arguments for `ip` of iproute2.
//!
//! Invariant: mark, table and priority are ours alone, so that what names them can be taken out without a look at the rest.

use super::Family;

/// The mark of packets that the sidecar sends to its application from a caller's address (SO_MARK), of their connection
/// (CONNMARK), and so of the answers.
pub const ANSWERS: u32 = 0xf05e;

/// The routing table. `ip` prints it by number unless somebody gave it a name.
const TABLE: u32 = ANSWERS;
/// Before the rules that a system begins with (32766 and 32767), and after that for its own addresses (0).
const PRIORITY: u32 = 1337;

/// The first words of each command.
fn of(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

fn rule() -> String {
    format!("priority {PRIORITY} fwmark {ANSWERS:#x} lookup {TABLE}")
}

fn route() -> String {
    format!("local default dev lo table {TABLE}")
}

/// Puts both in, where neither is: the arguments of two calls of `ip`.
pub fn up(family: Family) -> [String; 2] {
    let family = of(family);
    [format!("{family} route replace {}", route()), format!("{family} rule add {}", rule())]
}

/// Takes out what [`shown`] found.
pub fn down(family: Family) -> [String; 2] {
    let family = of(family);
    [format!("{family} rule del {}", rule()), format!("{family} route flush table {TABLE}")]
}

/// What prints the routing rules, for [`shown`].
pub fn ask(family: Family) -> String {
    format!("{} rule show", of(family))
}

/// Our rule among those that `ip rule show` prints.
pub fn shown(rules: &str) -> Option<&str> {
    rules.lines().map(str::trim).find(|line| {
        line.starts_with(&format!("{PRIORITY}:")) && line.contains(&format!("fwmark {ANSWERS:#x} lookup {TABLE}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn a_rule_and_a_route_of_our_own() {
        expect![[r#"
            -4 route replace local default dev lo table 61534
            -4 rule add priority 1337 fwmark 0xf05e lookup 61534
            -6 rule del priority 1337 fwmark 0xf05e lookup 61534
            -6 route flush table 61534
        "#]]
        .assert_eq(&([up(Family::V4), down(Family::V6)].concat().join("\n") + "\n"));
    }

    #[test]
    fn ours_is_told_from_others() {
        let printed =
            "0:\tfrom all lookup local\n1337:\tfrom all fwmark 0xf05e lookup 61534 \n32766:\tfrom all lookup main\n";
        assert_eq!(shown(printed), Some("1337:\tfrom all fwmark 0xf05e lookup 61534"));
        assert_eq!(shown("1337:\tfrom all fwmark 0x1 lookup 133\n9:\tfrom all fwmark 0xf05e lookup 61534\n"), None);
    }
}
