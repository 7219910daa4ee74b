//! Bytes both ways between two streams, for as long as they last; and what their end says of the instance.
//!
//! It decides when a connection counts as served: once it has lasted for a moment. An instance that accepts and then resets
//! before a byte of its came has failed as one that refuses has, at once or with a question unanswered. All else that ends a
//! connection is nobody's failure as far as a breaker is concerned: what bytes mean is not known here.
//!
//! It looks at its connection from time to time ([`LOOK`]), as long as anything moves or is on its way: the bytes so far are
//! counted, and an end that is gone without a word is found. A connection on which nothing happens costs no timer.
//!
//! Invariant: every byte is counted once, whenever.

use super::instance::Instance;
use super::stream::Gone;
use super::tunnel::Io;
use crate::http::exchange::Exchange;
use fusewire_net::{Both, End, Heard, Moved, Silence};
use fusewire_resilience::{Attempt, Happening, Outcome, Time, classify};
use fusewire_telemetry::Reason;
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// For what has come from an end that is gone, and for what is on its way to one that will be reset.
const LAST: Duration = Duration::from_secs(1);
/// Between two looks; and what has lasted so long is served.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks at whether the last bytes have arrived.
const SOON: Duration = Duration::from_millis(5);

/// The attempt of a connection that was accepted.
pub(crate) struct Served {
    attempt: Attempt<Instance>,
    accepted: Time,
    has_lasted: bool,
}

impl Served {
    /// How soon it was accepted is known now. A probe is not over yet: to accept is all that a broken instance may do.
    pub(crate) fn new(exchange: &Exchange, mut attempt: Attempt<Instance>) -> Self {
        let accepted = exchange.worker.mesh.clock.now();
        if !attempt.is_probe() {
            attempt.answered(good(), accepted);
        }
        Self { attempt, accepted, has_lasted: false }
    }

    /// Connections may go on for hours, and who waits for a verdict cannot.
    fn lasts(&mut self, exchange: &mut Exchange) {
        if !std::mem::replace(&mut self.has_lasted, true) {
            exchange.conclude_with(good());
            self.attempt.answered(good(), self.accepted);
        }
    }

    pub(crate) fn end(self, exchange: &mut Exchange, how: Happening) {
        exchange.settle(self.attempt, classify(how));
    }
}

fn good() -> Outcome {
    classify(Happening::Status(200))
}

/// Copies both ways until both ends are done, one breaks, or nothing moved for `idle`. `served`: by whom, where the end says
/// something of it.
pub(crate) async fn join(
    mut near: impl Io,
    mut far: impl Io,
    exchange: &mut Exchange,
    idle: Option<Duration>,
    mut served: Option<Served>,
) {
    let (moved, mut both, mut looks) = (Moved::default(), Both::default(), Looks::default());
    looks.is_due = served.is_some();
    let mut silences = Silences::default();
    let mut is_unheard = false;
    let ended = {
        let mut still = pin!(still(&moved, idle));
        let (mut near_gone, mut far_gone) = (pin!(gone(near.gone())), pin!(gone(far.gone())));
        loop {
            let step = poll_fn(|cx| {
                let copied = both.poll(cx, (&mut near, Io::socket), (&mut far, Io::socket), &moved);
                if let Poll::Ready(copied) = copied {
                    return Poll::Ready(Some(copied.map_err(|broken| (Reason::Reset, Some(broken.end)))));
                }
                looks.poll(cx, so_far(&moved), both.is_half_over()).map(|()| None)
            });
            tokio::select! {
                biased;
                step = step => match step {
                    Some(ended) => break ended,
                    None => {
                        exchange.count([&moved.near, &moved.far].map(|count| count.load(Ordering::Relaxed)));
                        if let Some(served) = &mut served {
                            served.lasts(exchange);
                        }
                        let heard = silences.look(near.socket(), far.socket());
                        is_unheard = heard.lost.is_some();
                        let lost = heard.lost.or(both.gone(near.socket(), far.socket()));
                        if lost.is_some() {
                            break Err((Reason::Reset, lost));
                        }
                        looks.is_due = heard.is_waited_for;
                    }
                },
                () = &mut near_gone => break Err((Reason::Reset, Some(End::Near))),
                () = &mut far_gone => break Err((Reason::Reset, Some(End::Far))),
                () = &mut still => break Err((Reason::ResponseTimeout, None)),
            }
        }
    };
    let bytes = [moved.near.into_inner(), moved.far.into_inner()];
    exchange.count(bytes);
    if let Err((reason, end)) = ended {
        exchange.reason = Some(reason);
        match end {
            Some(End::Near) => arrived(&mut far).await,
            Some(End::Far) => arrived(&mut near).await,
            None => {}
        }
        near.abort();
        far.abort();
    }
    if let Some(served) = served {
        let is_soon = !served.has_lasted || bytes[0] > looks.seen[0] || is_unheard;
        let failed = ended.err().and_then(|(_, end)| end).filter(|_| !both.is_half_over());
        let how = verdict(failed, bytes, is_soon, served.has_lasted);
        served.end(exchange, how);
    }
}

/// By whose end failed, where neither had said its last, and what had come from the caller and from the instance by then.
/// `is_soon`: at once, or soon after the caller's last bytes. A connection that nobody used is closed in many ways, and it says
/// nothing; nor does one that took bytes for a while and needed no answer.
fn verdict(failed: Option<End>, [asked, answered]: [u64; 2], is_soon: bool, has_lasted: bool) -> Happening {
    let is_early = is_soon && (asked > 0 || !has_lasted);
    if failed == Some(End::Far) && answered == 0 && is_early { Happening::Reset } else { Happening::Complete }
}

fn so_far(moved: &Moved) -> [u64; 3] {
    [&moved.near, &moved.far, &moved.taken].map(|count| count.load(Ordering::Relaxed))
}

async fn still(moved: &Moved, idle: Option<Duration>) {
    let Some(limit) = idle else { return pending().await };
    let mut seen = None;
    loop {
        let now = so_far(moved);
        if seen == Some(now) {
            return;
        }
        seen = Some(now);
        sleep(limit).await;
    }
}

async fn gone(of: Option<Gone>) {
    match of {
        Some(gone) => gone.await,
        None => pending().await,
    }
    // what came before the end is still to be read, by the copy, which finds the end by itself where it reads there
    sleep(LAST).await;
}

/// Waits for what was written to arrive: a reset throws away what is still on its way.
async fn arrived(io: &mut impl Io) {
    let until = Instant::now() + LAST;
    let is_waiting = |io: &TcpStream| Silence::default().look(io, Instant::now()) == Heard::NotYet;
    while Instant::now() < until && io.socket().is_some_and(is_waiting) {
        sleep(SOON).await;
    }
}

/// Of both ends.
#[derive(Default)]
struct Silences {
    near: Silence,
    far: Silence,
}

struct Found {
    lost: Option<End>,
    /// Something is on its way to one of them.
    is_waited_for: bool,
}

impl Silences {
    fn look(&mut self, near: Option<&TcpStream>, far: Option<&TcpStream>) -> Found {
        let now = Instant::now();
        let mut found = Found { lost: None, is_waited_for: false };
        for (end, socket, silence) in [(End::Near, near, &mut self.near), (End::Far, far, &mut self.far)] {
            match socket.map(|socket| silence.look(socket, now)) {
                Some(Heard::Nothing) => found.lost = Some(end),
                Some(Heard::NotYet) => found.is_waited_for = true,
                Some(Heard::Everything) | None => {}
            }
        }
        found
    }
}

/// When to look next.
#[derive(Default)]
struct Looks {
    timer: Option<Pin<Box<Sleep>>>,
    is_running: bool,
    /// Whatever moves.
    is_due: bool,
    /// What had moved by the last look.
    seen: [u64; 3],
}

impl Looks {
    /// Ready [`LOOK`] after there was something to look at.
    fn poll(&mut self, cx: &mut Context<'_>, moved: [u64; 3], is_half_over: bool) -> Poll<()> {
        if !self.is_running && !self.is_due && !is_half_over && moved == self.seen {
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(LOOK)));
        if !std::mem::replace(&mut self.is_running, true) {
            timer.as_mut().reset(Instant::now() + LOOK);
        }
        let over = timer.as_mut().poll(cx);
        if over.is_ready() {
            (self.is_running, self.is_due, self.seen) = (false, false, moved);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_that_resets_before_a_byte_of_its_came_has_failed() {
        let reset = |failed, bytes, soon, lasted| verdict(failed, bytes, soon, lasted) == Happening::Reset;
        assert!(reset(Some(End::Far), [0, 0], true, false), "at once");
        assert!(reset(Some(End::Far), [9, 0], true, true), "with a question unanswered");
        assert!(
            !reset(Some(End::Far), [9, 0], false, true),
            "it took bytes for a while, and nobody asked for an answer"
        );
        assert!(!reset(Some(End::Far), [0, 0], true, true), "nobody used it");
        assert!(!reset(Some(End::Far), [9, 1], true, false), "it had answered");
        assert!(!reset(Some(End::Near), [9, 0], true, false), "the caller's own");
        assert!(!reset(None, [9, 0], true, false), "an end, or our own timeout");
    }

    /// How long it takes to the next look; `None`: there is none.
    async fn waits(looks: &mut Looks, moved: u64, is_half_over: bool) -> Option<Duration> {
        let began = Instant::now();
        let looked = poll_fn(|cx| looks.poll(cx, [moved, 0, 0], is_half_over));
        tokio::time::timeout(10 * LOOK, looked).await.ok().map(|()| began.elapsed()) // paused clock
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_looked_at_while_there_is_something_to_see_and_else_has_no_timer() {
        let mut looks = Looks::default();
        assert_eq!(waits(&mut looks, 0, false).await, None);
        assert!(looks.timer.is_none());
        assert_eq!(waits(&mut looks, 5, false).await, Some(LOOK), "something moved");
        assert_eq!(waits(&mut looks, 5, false).await, None);
        looks.is_due = true;
        assert_eq!(waits(&mut looks, 5, false).await, Some(LOOK), "something is on its way");
        assert_eq!(waits(&mut looks, 5, true).await, Some(LOOK), "an end that nobody reads may be reset");
        assert_eq!(waits(&mut looks, 5, true).await, Some(LOOK));
    }
}
