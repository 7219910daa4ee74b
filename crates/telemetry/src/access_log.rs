//! One line for each exchange, as text or JSON, written when its body ended.
//!
//! Lines go through a bounded queue to a thread of their own: a terminal or disk that stalls costs lines (counted in
//! `fusewire_access_log_dropped_total`), never a request.

use crate::trace::{SpanId, TraceId};
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Lines that may wait for the writer.
const QUEUE: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

/// What one exchange was. Borrowed: it is formatted at once.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    /// Unix time in microseconds at which the exchange ended.
    #[serde(serialize_with = "rfc3339")]
    pub time: u64,
    pub direction: &'static str,
    /// The proven identity at the other end, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<&'a str>,
    pub protocol: &'static str,
    pub method: &'a str,
    pub authority: &'a str,
    pub path: &'a str,
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<&'a str>,
    pub attempts: u32,
    /// Attempts that were retries: paid for by the budget, unlike what was sent elsewhere as unsent.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// Why there was no further retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_denied: Option<&'static str>,
    /// What stood in for the service's own answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub probe: bool,
    /// To the response headers.
    pub first_byte_us: u64,
    pub duration_us: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    #[serde(serialize_with = "shown")]
    pub trace_id: TraceId,
    /// Of the exchange.
    #[serde(serialize_with = "shown")]
    pub span_id: SpanId,
    /// Whether there are spans of it: the ids are there in any case.
    pub sampled: bool,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn shown<S: serde::Serializer>(id: &impl std::fmt::Display, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(id)
}

impl Line<'_> {
    /// A line ends well when the mesh did not answer itself and the body arrived.
    pub fn is_error(&self) -> bool {
        self.reason.is_some() || self.status >= 500
    }
}

fn rfc3339<S: serde::Serializer>(micros: &u64, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&timestamp(*micros))
}

/// RFC 3339 in UTC, to the microsecond.
pub fn timestamp(unix_micros: u64) -> String {
    let micros = i64::try_from(unix_micros).unwrap_or(i64::MAX);
    jiff::Timestamp::from_microsecond(micros).map(|t| format!("{t:.6}")).unwrap_or_default()
}

/// Quotes only what would break a line into more fields than it has; control characters never reach a terminal.
fn text(value: &str) -> std::borrow::Cow<'_, str> {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '"';
    if value.is_empty() {
        "-".into()
    } else if value.chars().all(plain) {
        value.into()
    } else {
        format!("{value:?}").into()
    }
}

impl Format {
    pub fn line(self, line: &Line<'_>) -> String {
        match self {
            Format::Json => serde_json::to_string(line).unwrap_or_default(),
            Format::Text => {
                let time = timestamp(line.time);
                let or = |v: Option<&str>| text(v.unwrap_or("")).into_owned();
                let grpc = line.grpc_status.map(|s| format!(" grpc={s}")).unwrap_or_default();
                let reason = line.reason.map(|r| format!(" reason={r}")).unwrap_or_default();
                let detail = line.detail.map(|d| format!(" detail={}", text(d))).unwrap_or_default();
                let probe = if line.probe { " probe" } else { "" };
                let retries = if line.retries > 0 { format!(" retries={}", line.retries) } else { String::new() };
                let denied = line.retry_denied.map(|d| format!(" retry_denied={d}")).unwrap_or_default();
                let fallback = line.fallback.map(|f| format!(" fallback={f}")).unwrap_or_default();
                format!(
                    "{time} {} {} {} {}{} {} {}{grpc} service={} instance={} peer={} attempts={} first_byte={}us duration={}us in={} out={} trace_id={} span_id={} sampled={}{reason}{detail}{retries}{denied}{fallback}{probe}",
                    line.direction,
                    line.protocol,
                    text(line.method),
                    text(line.authority),
                    text(line.path),
                    line.status,
                    if line.reason.is_some() { "mesh" } else { "app" },
                    or(line.service),
                    or(line.instance),
                    or(line.peer),
                    line.attempts,
                    line.first_byte_us,
                    line.duration_us,
                    line.bytes_in,
                    line.bytes_out,
                    line.trace_id,
                    line.span_id,
                    line.sampled,
                )
            }
        }
    }
}

#[derive(Debug)]
enum Item {
    Line(String),
    /// Answered when all before it is written.
    Flush(SyncSender<()>),
}

/// How long a flush may wait for a slow reader.
const FLUSH: Duration = Duration::from_secs(1);

/// Which lines are written, and how.
#[derive(Clone, Debug)]
pub struct AccessLog {
    format: Format,
    errors_only: bool,
    queue: SyncSender<Item>,
    dropped: Counter,
}

impl AccessLog {
    /// Starts the writer thread. `dropped` counts the lines lost.
    pub fn to(
        out: impl Write + Send + 'static,
        format: Format,
        errors_only: bool,
        dropped: Counter,
    ) -> std::io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(out, &lines))?;
        Ok(Self { format, errors_only, queue, dropped })
    }

    /// Never blocks.
    pub fn write(&self, line: &Line<'_>) {
        if self.errors_only && !line.is_error() {
            return;
        }
        if self.queue.try_send(Item::Line(self.format.line(line))).is_err() {
            self.dropped.inc();
        }
    }

    /// Waits until what was written so far has left, at most a second: for the end of the process.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.queue.try_send(Item::Flush(done)).is_ok() {
            let _ = written.recv_timeout(FLUSH);
        }
    }
}

/// Batches what is there, then flushes, so that a quiet log is current and a busy one is cheap.
fn write_all(out: impl Write, lines: &Receiver<Item>) {
    let mut out = std::io::BufWriter::new(out);
    while let Ok(first) = lines.recv() {
        for line in std::iter::once(first).chain(std::iter::from_fn(|| lines.try_recv().ok())) {
            let written = match line {
                Item::Line(line) => writeln!(out, "{line}"),
                Item::Flush(done) => out.flush().inspect(|()| done.try_send(()).unwrap_or_default()),
            };
            if written.is_err() {
                return; // the reader is gone: further lines count as dropped
            }
        }
        let _ = out.flush();
    }
}
