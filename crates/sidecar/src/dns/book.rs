//! Which name has which virtual address.
//!
//! The same name has the same address in every sidecar and after every start: the place follows from the name, and where
//! two names fall on one, the later moves on to the next that is free. What was given is kept in `data_dir`, because an
//! application may go on to use an address that it was told before a restart.
//!
//! Addresses are of class E (240.0.0.0/4, RFC 1112), which nobody routes and every kernel connects to. It deliberately
//! never takes one back: a name that returns finds its own. Invariant: at most [`MAX_NAMES`], and every one of them was a
//! name of the mesh.

use super::answer::TTL;
use fusewire_resilience::{Time, balance};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long upstream's word that a name does not exist is believed: as long as our own answer.
const DENIED: Duration = Duration::from_secs(TTL as u64);
/// And that it does: who has a name that the mesh has too, keeps it while upstream is slow.
const REAL: Duration = Duration::from_secs(3600);
/// Beyond it a name has no address, and is not found.
const MAX_NAMES: usize = 65_536;
pub(crate) const FILE: &str = "virtual-addresses";

/// `240.0.0.0/8`, without its first and last address.
const BASE: u32 = 0xf000_0000;
const SIZE: u32 = (1 << 24) - 2;

#[derive(Default)]
pub(crate) struct Book(Mutex<Pages>);

#[derive(Default)]
struct Pages {
    by_name: HashMap<Arc<str>, Entry>,
    by_address: HashMap<Ipv4Addr, Arc<str>>,
    /// Lines of `address name`, the later below.
    file: Option<File>,
    path: Option<PathBuf>,
}

struct Entry {
    address: Ipv4Addr,
    /// What upstream last said of it, and when.
    outside: Option<(Outside, Time)>,
}

/// Whether the name exists outside the mesh too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outside {
    Real,
    Denied,
}

impl Book {
    /// With what was given before. A line that cannot be read is left out.
    pub(crate) fn open(data_dir: Option<&Path>) -> io::Result<Self> {
        let mut pages = Pages::default();
        if let Some(dir) = data_dir {
            let path = dir.join(FILE);
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => String::new(),
                Err(e) => return Err(e),
            };
            pages.read(&text);
            pages.path = Some(path.clone());
            let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
            if !text.is_empty() && !text.ends_with('\n') {
                file.write_all(b"\n")?; // a line that a crash cut short
            }
            pages.file = Some(file);
        }
        Ok(Self(Mutex::new(pages)))
    }

    /// Reads what another sidecar gave out meanwhile, from which this one has taken over.
    pub(crate) fn reopen(&self) {
        let mut pages = self.pages();
        let Some(path) = pages.path.clone() else { return };
        match std::fs::read_to_string(&path) {
            Ok(text) => pages.read(&text),
            Err(e) => tracing::warn!("{}: {e}", path.display()),
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What upstream says of a name that has an address.
    pub(crate) fn said(&self, name: &str, outside: Outside, now: Time) {
        let mut pages = self.pages();
        if let Some(entry) = pages.by_name.get_mut(name) {
            entry.outside = Some((outside, now));
        }
    }

    /// What it said not long ago.
    pub(crate) fn outside(&self, name: &str, now: Time) -> Option<Outside> {
        let (outside, then) = self.pages().by_name.get(name)?.outside?;
        let believed = if outside == Outside::Real { REAL } else { DENIED };
        (now.since(then) < believed).then_some(outside)
    }

    /// The name's address, for good; `None`: there are too many.
    pub(crate) fn address(&self, name: &str) -> Option<Ipv4Addr> {
        let mut pages = self.pages();
        if let Some(entry) = pages.by_name.get(name) {
            return Some(entry.address);
        }
        if pages.by_name.len() >= MAX_NAMES {
            return None;
        }
        let mut at = place(name);
        while pages.by_address.contains_key(&address(at)) {
            at = (at + 1) % SIZE;
        }
        let address = address(at);
        let written = pages.file.as_mut().map(|file| file.write_all(format!("{address} {name}\n").as_bytes()));
        if let Some(Err(e)) = written {
            tracing::warn!("sidecar.data_dir: {FILE}: {e}; {name} may have another address after a restart");
        }
        pages.write(name, address);
        Some(address)
    }

    /// Whose address it is.
    pub(crate) fn name(&self, address: Ipv4Addr) -> Option<Arc<str>> {
        if !is_virtual(address) {
            return None; // nearly all, and without the lock
        }
        self.pages().by_address.get(&address).cloned()
    }
}

impl Pages {
    fn read(&mut self, text: &str) {
        for line in text.lines() {
            if let Some((address, name)) = line.split_once(' ')
                && let Ok(address) = address.parse()
                && is_virtual(address)
                && self.is_free(name, address)
            {
                self.write(name, address);
            }
        }
    }

    fn is_free(&self, name: &str, address: Ipv4Addr) -> bool {
        self.by_name.len() < MAX_NAMES && !self.by_name.contains_key(name) && !self.by_address.contains_key(&address)
    }

    fn write(&mut self, name: &str, address: Ipv4Addr) {
        let name: Arc<str> = name.into();
        self.by_name.insert(name.clone(), Entry { address, outside: None });
        self.by_address.insert(address, name);
    }
}

fn place(name: &str) -> u32 {
    (balance::hash(name.as_bytes()) % u64::from(SIZE)) as u32
}

fn address(place: u32) -> Ipv4Addr {
    Ipv4Addr::from(BASE + 1 + place)
}

/// Whether it is one that only a book knows.
pub(crate) fn is_virtual(address: Ipv4Addr) -> bool {
    address.octets()[0] == 240
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_address_everywhere_and_an_address_one_name() {
        let (one, other) = (Book::default(), Book::default());
        let names: Vec<String> = (0..5_000).map(|n| format!("service-{n}")).collect();
        for name in &names {
            let address = one.address(name).unwrap();
            assert!(is_virtual(address) && one.name(address).as_deref() == Some(name));
        }
        let moved = names.iter().rev().filter(|name| one.address(name) != other.address(name)).count();
        assert!(moved <= 4, "but for the few that fall on one place: {moved}");
        assert_eq!(one.name(Ipv4Addr::new(10, 0, 0, 1)), None);
        assert_eq!(Book::default().address("shop"), Some(Ipv4Addr::new(240, 85, 234, 105)), "and in every release");
    }

    #[test]
    fn that_a_name_does_not_exist_outside_is_believed_for_half_a_minute() {
        let (book, second) = (Book::default(), |n: u64| Time(n * 1_000_000_000));
        book.said("shop", Outside::Denied, second(1));
        assert_eq!(book.outside("shop", second(1)), None, "it has no address");
        book.address("shop");
        assert_eq!(book.outside("shop", second(1)), None, "nobody said so");
        book.said("shop", Outside::Denied, second(1));
        assert_eq!([30, 31].map(|n| book.outside("shop", second(n))), [Some(Outside::Denied), None]);
        book.said("shop", Outside::Real, second(1));
        assert_eq!(
            [3600, 3601].map(|n| book.outside("shop", second(n))),
            [Some(Outside::Real), None],
            "that it does, for longer"
        );
    }

    #[test]
    fn names_that_fall_on_one_place_have_each_their_own_and_keep_it_over_a_restart() {
        let dir = std::env::temp_dir().join(format!("fusewire-book-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        // what another name has already is moved on from
        let taken = address(place("shop"));
        std::fs::write(dir.join(FILE), format!("{taken} older\nnonsense\n10.0.0.1 not-virtual\n{taken} twice\n240.0"))
            .unwrap();
        let book = Book::open(Some(&dir)).unwrap();
        let shop = book.address("shop").unwrap();
        assert_eq!(shop, address(place("shop") + 1));
        assert_eq!(book.name(taken).as_deref(), Some("older"));
        assert_eq!(book.address("twice"), Some(address(place("twice"))), "an address has one name");
        drop(book);
        let book = Book::open(Some(&dir)).unwrap();
        assert_eq!((book.name(shop).as_deref(), book.address("shop")), (Some("shop"), Some(shop)));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
