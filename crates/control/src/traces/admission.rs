//! How many messages are received at once, and whose.
//!
//! It decides that those who proved who they are and those who did not never wait for each other, and that one identity takes
//! a part of the room only: a message may come as slowly as [`super::RECEIVE`] allows. Nobody waits for a place: exporters send
//! again, or drop.
//!
//! Invariant: at most [`MAX_PROVEN`] and [`MAX_CLEAR`] permits are out, of one identity at most [`MAX_OF_ONE`].

use crate::shared::lock;
use fusewire_identity::SpiffeId;
use std::collections::HashMap;
use std::sync::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::Status;

pub(crate) const MAX_PROVEN: usize = 32;
pub(crate) const MAX_CLEAR: usize = 8;
/// Many instances of one workload send under one identity, each for milliseconds; those that find no room try again.
pub(crate) const MAX_OF_ONE: usize = 8;

#[derive(Debug)]
pub(crate) struct Admission {
    proven: Semaphore,
    clear: Semaphore,
    /// Who has how many permits; who has none is not in it.
    of: Mutex<HashMap<SpiffeId, usize>>,
}

/// To send one message, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    _place: SemaphorePermit<'a>,
    sender: Option<(&'a Mutex<HashMap<SpiffeId, usize>>, SpiffeId)>,
}

impl Default for Admission {
    fn default() -> Self {
        Self { proven: Semaphore::new(MAX_PROVEN), clear: Semaphore::new(MAX_CLEAR), of: Mutex::default() }
    }
}

impl Admission {
    /// For a message of `peer`, or of who proved nothing.
    pub(crate) fn admit(&self, peer: Option<&SpiffeId>) -> Result<Permit<'_>, Status> {
        let busy = || Status::unavailable("too many messages are being received; send again later");
        let places = if peer.is_some() { &self.proven } else { &self.clear };
        let place = places.try_acquire().map_err(|_| busy())?;
        let Some(peer) = peer else { return Ok(Permit { _place: place, sender: None }) };
        let mut of = lock(&self.of);
        let count = of.entry(peer.clone()).or_default();
        if *count == MAX_OF_ONE {
            return Err(busy());
        }
        *count += 1;
        Ok(Permit { _place: place, sender: Some((&self.of, peer.clone())) })
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let Some((of, sender)) = &self.sender else { return };
        let mut of = lock(of);
        let left = of.get(sender).map_or(0, |count| count - 1);
        if left == 0 {
            of.remove(sender);
        } else {
            of.insert(sender.clone(), left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://shop.local/w{n}")).unwrap()
    }

    #[test]
    fn slow_senders_in_clear_or_of_one_identity_do_not_silence_the_others() {
        let admission = Admission::default();
        let clear: Vec<_> = (0..MAX_CLEAR).map(|_| admission.admit(None).unwrap()).collect();
        assert_eq!(admission.admit(None).unwrap_err().code(), tonic::Code::Unavailable);
        let of_one: Vec<_> = (0..MAX_OF_ONE).map(|_| admission.admit(Some(&id(0))).unwrap()).collect();
        assert_eq!(admission.admit(Some(&id(0))).unwrap_err().code(), tonic::Code::Unavailable);
        let others: Vec<_> = (MAX_OF_ONE..MAX_PROVEN).map(|n| admission.admit(Some(&id(n))).unwrap()).collect();
        assert!(admission.admit(Some(&id(99))).is_err(), "the bound of all");
        drop(of_one);
        assert!(admission.admit(Some(&id(0))).is_ok());
        drop((clear, others));
        assert!(admission.admit(None).is_ok());
        assert!(lock(&admission.of).is_empty(), "nothing stays of who is done");
    }
}
