//! `fusewire demo-app`: one instance of the demo's shop, a plain HTTP/1.1 server that knows nothing of the mesh.
//!
//! With `--upstream` it asks the next service through its sidecar and passes a failure on, so that the client sees it;
//! without, it does the work itself, and can be told to fail (`POST /fault`: errors, hang or none). `GET /stats` says
//! what it measured in the last second. It deliberately retries nothing and answers nothing in the other's stead.

use super::http1::Client;
use super::process;
use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What `GET /stats` looks back on.
const LOOK_BACK: Duration = Duration::from_secs(1);
/// Longer than any timeout of the mesh, so that the mesh decides.
const PATIENCE: Duration = Duration::from_secs(10);
/// What inventory takes for an answer: a query or two. With a few requests always under way at each instance, the
/// balancer compares queues, as it does in production.
const WORK: Duration = Duration::from_millis(20);
const SPREAD_US: u64 = 20_000;

#[derive(Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    /// The outbound listener of this application's sidecar.
    #[arg(long, requires = "service")]
    upstream: Option<SocketAddr>,
    /// The service to ask there.
    #[arg(long)]
    service: Option<String>,
    /// Seed of the failures.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A folder to remove when the parent is gone, and could not remove it.
    #[arg(long)]
    remove: Option<PathBuf>,
}

/// How an instance is ill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Errors,
    Hang,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Errors => "errors",
            Kind::Hang => "hang",
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Kind::Errors => "now fails half of its requests",
            Kind::Hang => "now accepts requests and never answers",
        }
    }
}

/// The answer to `GET /stats`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Stats {
    /// Requests that ended, answered or given up by the caller.
    pub(crate) ended: u32,
    pub(crate) ok: u32,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

struct App {
    next: Option<Client>,
    fault: watch::Sender<Option<Kind>>,
    state: Mutex<State>,
}

struct State {
    /// Where the sequence of failures and working times is.
    random: u64,
    ended: VecDeque<(Instant, bool, Duration)>,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    process::exit_with_parent(arguments.remove);
    let next = match (arguments.upstream, &arguments.service) {
        (Some(address), Some(service)) => Some(Client::new(address, service)?),
        _ => None,
    };
    let state = State { random: arguments.seed, ended: VecDeque::new() };
    let app = Arc::new(App { next, fault: watch::Sender::new(None), state: Mutex::new(state) });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let address = arguments.listen;
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            let app = app.clone();
            let service = service_fn(move |request| {
                let app = app.clone();
                async move { Ok::<_, Infallible>(app.answer(request).await) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    })
}

impl App {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/fault") => {
                let body = Limited::new(request.into_body(), 64).collect().await;
                let fault = match body.map(|b| b.to_bytes()).as_deref().unwrap_or_default() {
                    b"errors" => Some(Kind::Errors),
                    b"hang" => Some(Kind::Hang),
                    b"none" => None,
                    _ => return plain(StatusCode::BAD_REQUEST, "errors, hang or none"),
                };
                self.fault.send_replace(fault);
                plain(StatusCode::OK, "")
            }
            (&Method::GET, "/stats") => {
                let stats = serde_json::to_vec(&self.stats()).unwrap_or_default();
                Response::new(Full::from(stats))
            }
            _ => {
                let call = Call::begin(self);
                let status = match &self.next {
                    Some(next) => ask(next, &context(request.headers())).await,
                    None => self.work().await,
                };
                call.end(status.is_success());
                plain(status, "")
            }
        }
    }

    async fn work(&self) -> StatusCode {
        let random = self.draw();
        let fault = *self.fault.borrow();
        match fault {
            Some(Kind::Hang) => {
                // as a process that was stopped and goes on: what is still waited for is answered then
                let _ = self.fault.subscribe().wait_for(|fault| *fault != Some(Kind::Hang)).await;
                StatusCode::OK
            }
            Some(Kind::Errors) if random & 1 == 0 => StatusCode::INTERNAL_SERVER_ERROR,
            _ => {
                tokio::time::sleep(WORK + Duration::from_micros((random >> 8) % SPREAD_US)).await;
                StatusCode::OK
            }
        }
    }

    /// The next number of a sequence that is the same in every run (splitmix64).
    fn draw(&self) -> u64 {
        let mut state = self.state();
        state.random = state.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn stats(&self) -> Stats {
        let mut state = self.state();
        state.forget();
        let mut took: Vec<Duration> = state.ended.iter().map(|(_, _, took)| *took).collect();
        took.sort_unstable();
        Stats {
            ended: u32::try_from(took.len()).unwrap_or(u32::MAX),
            ok: u32::try_from(state.ended.iter().filter(|(_, ok, _)| *ok).count()).unwrap_or(u32::MAX),
            p50_us: percentile(&took, 50),
            p99_us: percentile(&took, 99),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self) {
        while self.ended.front().is_some_and(|(at, ..)| at.elapsed() > LOOK_BACK) {
            self.ended.pop_front();
        }
    }
}

/// In microseconds, of durations in order; 0 of none.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

/// One request being worked on. Dropped without an end, its caller gave it up: it counts as failed.
struct Call<'a> {
    app: &'a App,
    began: Instant,
    ok: bool,
}

impl<'a> Call<'a> {
    fn begin(app: &'a App) -> Self {
        Self { app, began: Instant::now(), ok: false }
    }

    fn end(mut self, ok: bool) {
        self.ok = ok;
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut state = self.app.state();
        state.forget();
        state.ended.push_back((Instant::now(), self.ok, self.began.elapsed()));
    }
}

/// All that an application has to do for a trace that goes on behind it: what came goes on.
fn context(came: &HeaderMap) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for name in ["traceparent", "tracestate"].map(HeaderName::from_static) {
        for value in came.get_all(&name) {
            fields.append(&name, value.clone());
        }
    }
    fields
}

/// The next service's failure is ours: a gateway's two words for it.
async fn ask(next: &Client, fields: &HeaderMap) -> StatusCode {
    match tokio::time::timeout(PATIENCE, next.send_with(fields, Method::GET, "/", "")).await {
        Ok(Ok((status, _))) if status.is_success() => StatusCode::OK,
        Ok(Ok((StatusCode::GATEWAY_TIMEOUT, _))) | Err(_) => StatusCode::GATEWAY_TIMEOUT,
        Ok(_) => StatusCode::BAD_GATEWAY,
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
