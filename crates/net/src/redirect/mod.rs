//! The rules that bring a workload's traffic to its sidecar, as text for `nft` or `iptables-restore`.
//!
//! It decides which connections are redirected: TCP that comes in or leaves, but for the sidecar's own, for what stays on
//! loopback, and for what was excluded; and, where it is asked for, every question to a resolver, also to one on loopback
//! (systemd's is). What is excluded wins over what is included. It deliberately runs nothing and reads
//! nothing of the machine: the same settings are the same text.
//!
//! What comes in for another address than this machine's own is left alone, and so is what comes from outside for 127.0.0.0/8: the
//! kernel drops that, and a redirection would let it in.
//!
//! Loopback is left alone in both directions: an application that calls its own address reaches itself, and the way from a
//! sidecar to its application cannot come back to the sidecar.
//!
//! What comes in is redirected by changing its destination, and then the application sees its sidecar as its caller; or it is
//! handed to the sidecar's socket as it is ([`Inbound::Tproxy`]), which may then call the application by its caller's address.
//! The application's answers to that address would leave the machine: they are known by their connection's mark, and led
//! back over loopback ([`routes`]).
//!
//! Invariant: every rule stands in a table or chain of our own, but for one jump from each of two base chains of iptables in
//! each of its tables, and a routing rule with numbers of our own; so taking out what bears our name takes out everything, and
//! nothing else.

mod iptables;
mod nft;
pub mod routes;
mod set;

pub use iptables::{Jumps, TABLES, iptables_back, iptables_down, iptables_up};
pub use nft::{TABLE, nft_down, nft_state, nft_up};
pub use routes::{ANSWERS, Way};
pub use set::{Cidr, PortRange};

/// The mark of a connection that came in and is the sidecar's by TPROXY, from its first packet on: what belongs to it goes to
/// the sidecar or nowhere, also where the kernel answers with SYN cookies.
const TAKEN: u32 = ANSWERS + 1;

/// Where names that exist only in the mesh have their addresses; redirected whatever is excluded, for nobody else is there.
pub const VIRTUAL: &str = "240.0.0.0/8";

/// What `fusewire intercept up` was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Where the sidecar takes what leaves, and what comes in.
    pub outbound_port: u16,
    pub inbound_port: u16,
    /// Where it answers questions for names; `None`: they are left alone.
    pub dns_port: Option<u16>,
    pub sidecar: Vec<Owner>,
    pub by: Inbound,
    pub inbound: Ports,
    pub outbound: Ports,
    /// Only destinations in these; empty: all.
    pub only_to: Vec<Cidr>,
    pub except_to: Vec<Cidr>,
}

impl Rules {
    /// What has to be routed for them.
    pub fn ways(&self) -> Vec<Way> {
        let answers = (self.by == Inbound::Tproxy).then_some(Way::Answers);
        answers.into_iter().chain(self.dns_port.map(|_| Way::Virtual)).collect()
    }

    /// Whom the rules leave alone. By TPROXY a socket that calls the application for its caller bears [`ANSWERS`], and no mark
    /// beside it.
    fn left_alone(&self) -> impl Iterator<Item = Owner> {
        let by_mark = self.sidecar.iter().any(|owner| matches!(owner, Owner::Mark(_)));
        let answers = (self.by == Inbound::Tproxy && by_mark).then_some(Owner::Mark(ANSWERS));
        self.sidecar.iter().copied().chain(answers)
    }
}

/// How what comes in is brought to the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Inbound {
    /// Its destination is changed.
    #[default]
    Redirect,
    /// It is handed over as it is, to a socket that may have it (IP_TRANSPARENT). Where there is no such socket it is dropped.
    Tproxy,
}

/// How the sidecar's own connections are told from its application's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    User(u32),
    Group(u32),
    /// A socket's SO_MARK.
    Mark(u32),
}

/// By the port that a connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Ports {
    /// Only these; empty: all.
    pub only: Vec<PortRange>,
    pub except: Vec<PortRange>,
}

/// How much of what `up` puts in is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Both directions are led to us, and redirected there.
    Whole,
    Part,
    /// Something of ours is there, and nothing leads to it.
    Unused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

#[cfg(test)]
mod tests;
