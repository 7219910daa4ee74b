//! The way of an admitted request to the application: its turn ends with the answer's headers, or when the application
//! closes, *also when the caller has gone*.
//!
//! The application does not stop working because somebody lost patience, and to give the slot to the next would let callers
//! who retry pile up work for ever. So a request that its caller abandons is seen through by a task of its own. The
//! application is told all the same, and those that can stop do: on HTTP/1.1 our half of the connection ends, which leaves
//! its half to answer or to close. HTTP/2 has no such word but RST_STREAM, after which nothing is heard any more; it is said
//! [`SHORT_PATIENCE`] later, and so is a reset to an application at another address than loopback, where each half that we
//! end first would keep a port for a minute.
//!
//! It deliberately does not see to requests that no connection was found for yet: nobody works on those.

use super::algorithm::Ended;
use super::gate::Turn;
use crate::fault::Fault;
use crate::http::body::SendBody;
use crate::mesh::Worker;
use crate::snapshot::Target;
use crate::upstream::instance::Instance;
use crate::upstream::send::{Held, On, send, send_on};
use futures_util::FutureExt;
use http::{Request, Response};
use hyper::body::Incoming;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// For as long an application may work on what nobody waits for, and hold the slot.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same where the application is not told at once. HTTP/2's callers cancel as a matter of course and expect to be heard.
const SHORT_PATIENCE: Duration = Duration::from_secs(2);
/// Requests of one port that are seen through at once; each holds a connection or a stream. More are cut off at once.
const MAX_ABANDONED: u32 = 1024;

type Answered = Result<(Response<Incoming>, Held), Fault>;
type Sending = Pin<Box<dyn Future<Output = Answered> + Send>>;

/// [`send`], under the turn that the exchange holds. After a failure it holds the turn again, for another try.
///
/// # Cancel safety
/// Dropped before the answer, the request is seen through.
pub(crate) async fn dispatch(
    worker: &Arc<Worker>,
    instance: &Arc<Instance>,
    target: &Target,
    turn: &mut Option<Turn>,
    request: Request<SendBody>,
) -> Answered {
    let (policy, metrics) = (&target.policy, &target.upstream.metrics);
    let Some(mine) = turn.take() else { return send(worker, instance, policy, metrics, request).await };
    let begun = Arc::<OnceLock<On>>::default();
    let sending = {
        let (worker, instance, begun) = (worker.clone(), instance.clone(), begun.clone());
        let (policy, metrics) = (policy.clone(), metrics.clone());
        async move { send_on(&worker, &instance, &policy, &metrics, request, Some(&begun)).await }.boxed()
    };
    let mut under = UnderWay {
        sending: Some(sending),
        turn: Some(mine),
        is_loopback: instance.key.address.ip().is_loopback(),
        begun,
    };
    let answered = poll_fn(|cx| match &mut under.sending {
        Some(sending) => sending.as_mut().poll(cx),
        None => std::task::Poll::Ready(Err(Fault::CallerGone)),
    })
    .await;
    under.sending = None;
    if let Some(mine) = under.turn.take() {
        *turn = settle(mine, Ended::Answered, &answered);
    }
    answered
}

/// Gives the turn back, but where the request may be tried again. `how`: an answer came.
fn settle(turn: Turn, how: Ended, answered: &Answered) -> Option<Turn> {
    let now = turn.gate().now();
    match answered {
        Ok(_) => turn.answered(how, now),
        Err(Fault::ConnectTimeout) => turn.connect_timed_out(now),
        Err(_) => return Some(turn),
    }
    None
}

/// # Drop behavior
/// Dropped without an answer to a request that was sent, it is seen through.
struct UnderWay {
    sending: Option<Sending>,
    turn: Option<Turn>,
    is_loopback: bool,
    /// Set once the request is on its way to the application.
    begun: Arc<OnceLock<On>>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let (Some(sending), Some(turn), Some(on)) = (self.sending.take(), self.turn.take(), self.begun.get()) else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let gate = turn.gate().clone();
        let step = |n: u32| (n < MAX_ABANDONED).then_some(n + 1);
        if gate.abandoned.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).is_err() {
            return;
        }
        let patience = match on {
            On::H1(gauge) if self.is_loopback => {
                gauge.hang_up();
                PATIENCE
            }
            On::H1(_) | On::H2 => SHORT_PATIENCE,
        };
        runtime.spawn(async move {
            let counted = Counted(gate);
            if let Ok(answered) = tokio::time::timeout(patience, sending).await {
                drop(settle(turn, Ended::AnsweredInVain, &answered));
            }
            drop(counted);
        });
    }
}

struct Counted(Arc<super::Gate>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.abandoned.fetch_sub(1, Ordering::Relaxed);
    }
}
