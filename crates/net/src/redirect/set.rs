//! Ports and networks as people write them, and without overlaps, which `nft` refuses in a set.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// `8080` or `8000-8010`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl FromStr for PortRange {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(Self { first, last }),
            _ => Err(format!("must be a port such as 8080 or a range such as 8000-8010, got {text:?}")),
        }
    }
}

impl PortRange {
    pub(super) fn written(self, between: char) -> String {
        let Self { first, last } = self;
        if first == last { first.to_string() } else { format!("{first}{between}{last}") }
    }

    /// Sorted, each port in one range.
    pub(super) fn merged(all: &[Self]) -> Vec<Self> {
        let mut all = all.to_vec();
        all.sort_unstable();
        let mut merged: Vec<Self> = Vec::new();
        for next in all {
            match merged.last_mut() {
                Some(before) if next.first <= before.last.saturating_add(1) => before.last = before.last.max(next.last),
                _ => merged.push(next),
            }
        }
        merged
    }
}

/// A network: `10.0.0.0/8`, `fd00::/8`, or one address. Bits behind the prefix are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl FromStr for Cidr {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("must be a network such as 10.0.0.0/8 or fd00::/8, or an address, got {text:?}");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(bits);
        if prefix > bits {
            return Err(wrong());
        }
        Ok(Self { address: masked(address, prefix), prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(v4) => IpAddr::from((v4.to_bits() & u32::MAX.checked_shl(32 - prefix).unwrap_or(0)).to_be_bytes()),
        IpAddr::V6(v6) => IpAddr::from((v6.to_bits() & u128::MAX.checked_shl(128 - prefix).unwrap_or(0)).to_be_bytes()),
    }
}

impl Cidr {
    pub(super) fn is_v4(&self) -> bool {
        self.address.is_ipv4()
    }
    fn holds(&self, other: &Self) -> bool {
        self.is_v4() == other.is_v4()
            && self.prefix <= other.prefix
            && masked(other.address, self.prefix) == self.address
    }

    /// Those of one family, none within another, sorted.
    pub(super) fn merged(all: &[Self], v4: bool) -> Vec<Self> {
        let mut all: Vec<Self> = all.iter().filter(|cidr| cidr.is_v4() == v4).copied().collect();
        all.sort_unstable();
        all.dedup();
        let within_another = |one: &Self| all.iter().any(|other| other != one && other.holds(one));
        all.iter().filter(|one| !within_another(one)).copied().collect()
    }
}
