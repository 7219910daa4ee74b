//! What happened to circuits, kept for who asks and told to who follows.
//!
//! It decides how much is kept ([`KEPT`]), how many may follow, and what a follower is told that reads more slowly than
//! things happen: how many events it missed. A follower has a position, not a queue, so that it costs what one chunk
//! costs. It deliberately knows nothing of breakers: the watch makes the events.
//!
//! Invariant: events are told in the order of their numbers, each once; a gap is announced before what follows it.

use fusewire_telemetry::admin::{Answer, ReaderGone, Writer, stream};
use serde::Serialize;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// Events that are kept; the oldest go first.
const KEPT: usize = 4096;
/// Who may follow at the same time.
pub(crate) const MAX_FOLLOWERS: usize = 16;
/// Events in one chunk of a stream.
const CHUNK: usize = 256;

/// What happened to a circuit, as it is shown and streamed.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Event {
    /// Of this sidecar since it started, from 1, without gaps.
    pub(crate) seq: u64,
    pub(crate) time: String,
    pub(crate) scope: &'static str,
    pub(crate) service: String,
    pub(crate) instance: String,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) reason: &'static str,
    /// What kind of failure opened it, while one has: connection, status or soft.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) class: Option<&'static str>,
    /// The circuit's period that begins, and its openings in a row.
    pub(crate) generation: u32,
    pub(crate) k: u8,
    /// `None`: until somebody says otherwise.
    pub(crate) open_ms: Option<u64>,
    /// What the calls below were counted over: a time, or a number of calls.
    pub(crate) window_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) window_calls: Option<u16>,
    pub(crate) total: u32,
    pub(crate) hard: u32,
    pub(crate) soft: u32,
    pub(crate) slow: u32,
    pub(crate) probes_needed: u8,
    pub(crate) probes_ok: u8,
    pub(crate) probes_failed: u8,
    pub(crate) observed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) actor: Option<String>,
    /// Why an operator did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

/// The last of them, and who waits for the next.
pub(crate) struct Events {
    kept: Mutex<Kept>,
    news: watch::Sender<News>,
    followers: Arc<Semaphore>,
    /// Told to slow followers as missed, and not yet to the metrics.
    missed: AtomicU64,
}

#[derive(Default)]
struct Kept {
    last: u64,
    events: VecDeque<Event>,
}

#[derive(Clone, Copy, Default)]
struct News {
    last: u64,
    ended: bool,
}

/// What a follower gets next.
struct Batch {
    missed: u64,
    events: Vec<Event>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            news: watch::Sender::default(),
            followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
            missed: AtomicU64::new(0),
        }
    }
}

impl Events {
    /// How many had to go for it: 0 or 1.
    pub(crate) fn push(&self, mut event: Event) -> u64 {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        event.seq = kept.last;
        let full = kept.events.len() == KEPT;
        if full {
            kept.events.pop_front();
        }
        kept.events.push_back(event);
        let last = kept.last;
        self.news.send_modify(|news| news.last = last);
        u64::from(full)
    }

    /// Those after `seq`, oldest first. A number that was not given yet is one of a process before this: then all.
    pub(crate) fn after(&self, seq: u64) -> Vec<Event> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let seq = if seq > kept.last { 0 } else { seq };
        kept.events.iter().filter(|e| e.seq > seq).cloned().collect()
    }

    /// The last of a circuit that `wanted` chooses.
    pub(crate) fn last(&self, wanted: impl Fn(&Event) -> bool) -> Option<Event> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.events.iter().rev().find(|e| wanted(e)).cloned()
    }

    /// Told to followers as missed since the last call.
    pub(crate) fn take_missed(&self) -> u64 {
        self.missed.swap(0, Relaxed)
    }

    /// No more will come: streams are told so and end. Waits for that, a second at most.
    pub(crate) async fn end(&self) {
        self.news.send_modify(|news| news.ended = true);
        let all = self.followers.acquire_many(MAX_FOLLOWERS as u32);
        let _ = tokio::time::timeout(Duration::from_secs(1), all).await;
    }

    /// A stream of those after `seq` and of all that come. `None`: as many follow as may.
    pub(crate) fn follow(self: &Arc<Self>, seq: u64, form: Form) -> Option<Answer> {
        let place = self.followers.clone().try_acquire_owned().ok()?;
        let (answer, writer) = stream(form.content_type());
        let events = self.clone();
        tokio::spawn(async move {
            let _place = place;
            let _ = events.tell(seq, form, &writer).await;
        });
        Some(answer)
    }

    async fn tell(&self, seq: u64, form: Form, writer: &Writer) -> Result<(), ReaderGone> {
        let mut news = self.news.subscribe();
        let mut at = self.position(seq);
        loop {
            // before the look at what there is: what comes after it wakes us again
            let ended = news.borrow_and_update().ended;
            let Batch { missed, events } = self.batch(at);
            if let Some(last) = events.last() {
                let mut chunk = String::new();
                if missed > 0 {
                    form.write(&mut chunk, "missed", None, &json!({ "missed": missed }));
                    self.missed.fetch_add(missed, Relaxed);
                }
                for event in &events {
                    form.write(&mut chunk, "transition", Some(event.seq), event);
                }
                at = last.seq;
                writer.write(chunk).await?;
            } else if ended {
                let mut chunk = String::new();
                form.write(&mut chunk, "ended", None, &json!({ "ended": "the sidecar stops" }));
                return writer.write(chunk).await;
            } else {
                tokio::select! {
                    changed = news.changed() => if changed.is_err() { return Ok(()) },
                    () = writer.reader_gone() => return Ok(()),
                }
            }
        }
    }

    /// Where a follower begins: who asks for all begins with what is kept, and has missed nothing.
    fn position(&self, seq: u64) -> u64 {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = kept.events.front().map_or(kept.last, |e| e.seq - 1);
        if seq == 0 || seq > kept.last { oldest } else { seq }
    }

    fn batch(&self, after: u64) -> Batch {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = kept.events.front().map_or(after + 1, |e| e.seq);
        let missed = oldest.saturating_sub(after + 1);
        let skip = usize::try_from((after + 1).saturating_sub(oldest)).unwrap_or(usize::MAX);
        Batch { missed, events: kept.events.iter().skip(skip).take(CHUNK).cloned().collect() }
    }
}

/// How a stream is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// One JSON document a line.
    Lines,
    /// `text/event-stream`, for browsers.
    ServerSent,
}

impl Form {
    fn content_type(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::ServerSent => "text/event-stream",
        }
    }

    fn write(self, out: &mut String, kind: &str, seq: Option<u64>, value: &impl Serialize) {
        let Ok(text) = serde_json::to_string(value) else { return };
        match (self, seq) {
            (Self::Lines, _) => *out += &format!("{text}\n"),
            (Self::ServerSent, Some(seq)) => *out += &format!("id: {seq}\nevent: {kind}\ndata: {text}\n\n"),
            (Self::ServerSent, None) => *out += &format!("event: {kind}\ndata: {text}\n\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use serde_json::Value;

    fn event(service: &str) -> Event {
        Event { service: service.into(), to: "open", ..Event::default() }
    }

    async fn next(answer: &mut Answer) -> Option<Vec<Value>> {
        let frame = tokio::time::timeout(Duration::from_secs(10), answer.body_mut().frame()).await.unwrap()?;
        let chunk = frame.unwrap().into_data().unwrap();
        Some(String::from_utf8_lossy(&chunk).lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    #[tokio::test]
    async fn who_follows_gets_what_is_kept_then_what_comes_and_is_told_of_the_end() {
        let events = Arc::new(Events::default());
        events.push(event("a"));
        events.push(event("b"));
        let mut all = events.follow(0, Form::Lines).unwrap();
        let mut later = events.follow(1, Form::Lines).unwrap();
        let seen: Vec<Value> = next(&mut all).await.unwrap();
        assert_eq!((&seen[0]["service"], &seen[1]["service"]), (&"a".into(), &"b".into()));
        assert_eq!(next(&mut later).await.unwrap()[0]["seq"], 2);
        events.push(event("c"));
        for answer in [&mut all, &mut later] {
            let seen = next(answer).await.unwrap();
            assert_eq!((&seen[0]["service"], &seen[0]["seq"]), (&"c".into(), &3.into()));
        }
        let ending = tokio::spawn(async move { events.end().await });
        for answer in [&mut all, &mut later] {
            assert_eq!(next(answer).await.unwrap()[0]["ended"], "the sidecar stops");
            assert!(next(answer).await.is_none());
        }
        ending.await.unwrap();
    }

    #[tokio::test]
    async fn who_reads_slowly_is_told_how_many_it_missed_and_costs_no_more_than_who_reads() {
        let events = Arc::new(Events::default());
        let mut slow = events.follow(0, Form::Lines).unwrap();
        events.push(event("first"));
        // taken into the stream's one place, and not read
        while events.news.receiver_count() == 0 || slow_is_empty(&slow) {
            tokio::task::yield_now().await;
        }
        let flood = KEPT as u64 + CHUNK as u64 + 10;
        let dropped: u64 = (0..flood).map(|_| events.push(event("flood"))).sum();
        assert_eq!(dropped, flood + 1 - KEPT as u64);
        let (mut seen, mut missed) = (0, 0);
        while seen + missed < flood + 1 {
            for line in next(&mut slow).await.unwrap() {
                match line["missed"].as_u64() {
                    Some(n) => missed += n,
                    None => {
                        seen += 1;
                        assert_eq!(line["seq"], seen + missed, "a gap is announced before what follows it");
                    }
                }
            }
        }
        assert!(missed > 0 && seen >= KEPT as u64, "{seen} seen, {missed} missed");
        assert_eq!(events.take_missed(), missed);
    }

    fn slow_is_empty(answer: &Answer) -> bool {
        match answer.body() {
            fusewire_telemetry::admin::Reply::Stream { chunks, .. } => chunks.is_empty(),
            fusewire_telemetry::admin::Reply::Whole(_) => false,
        }
    }

    #[tokio::test]
    async fn only_so_many_follow_at_once_and_a_place_comes_back_with_its_reader() {
        let events = Arc::new(Events::default());
        let mut all: Vec<Answer> = (0..MAX_FOLLOWERS).map(|_| events.follow(0, Form::ServerSent).unwrap()).collect();
        assert!(events.follow(0, Form::Lines).is_none());
        all.pop();
        let followed = async {
            while events.follow(0, Form::Lines).is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), followed).await.unwrap();
    }

    #[test]
    fn a_browser_gets_each_event_with_its_number_and_kind() {
        let mut out = String::new();
        Form::ServerSent.write(&mut out, "transition", Some(7), &json!({ "a": 1 }));
        Form::ServerSent.write(&mut out, "missed", None, &json!({ "missed": 2 }));
        assert_eq!(out, "id: 7\nevent: transition\ndata: {\"a\":1}\n\nevent: missed\ndata: {\"missed\":2}\n\n");
    }
}
