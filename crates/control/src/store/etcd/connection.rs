//! A way to a member of the cluster that answers.
//!
//! It decides when a call goes to the next endpoint and whether it may be repeated at all: reads always, changes only
//! where nothing was sent. A member's election lasts a second or two, so that a call is tried for five before it fails.
//! TLS files and the user's token are taken anew with each connection. It deliberately balances nothing: a control plane
//! asks little, and one connection is easier to reason about.
//!
//! Invariant: no call lasts longer than [`CALL`]; the password appears in no error.

use super::{unsigned, wire};
use crate::store::{Entry, EtcdSettings, EtcdTls, StoreError};
use bytes::Bytes;
use std::error::Error;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Response, Status};
use wire::auth_client::AuthClient;

/// How long one call may take, with all its tries.
pub(super) const CALL: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(2);
/// A member that vanished without a word is noticed within both. etcd refuses pings that come more often than every 5 s.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_ANSWER: Duration = Duration::from_secs(5);
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Whether a failed call may be made again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It changes nothing, or the second time changes nothing.
    Always,
    /// It may have happened unless the connection was never there.
    IfUnsent,
}

#[derive(Debug)]
pub(super) struct Connection {
    settings: EtcdSettings,
    state: Mutex<State>,
    history: std::sync::Mutex<History>,
}

/// What any answer has told of etcd's revision, to notice an etcd that was restored from a backup: whoever listed what is
/// no longer there must list again, although no watch of his ever told him of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct History {
    /// The highest revision since it last went back.
    pub(super) highest: u64,
    /// How often it went back.
    pub(super) restores: u64,
}

#[derive(Debug, Default)]
struct State {
    /// Which endpoint is next.
    endpoint: usize,
    /// Counts connections, so that an old one's failure does not close a new one.
    generation: u64,
    session: Option<Session>,
}

#[derive(Clone)]
pub(super) struct Session {
    pub(super) channel: Channel,
    generation: u64,
    token: Option<MetadataValue<Ascii>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        // a member that has lost the others ends the stream instead of going silent
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        request
    }
}

impl Connection {
    pub(super) fn new(settings: &EtcdSettings) -> Result<Self, StoreError> {
        if settings.endpoints.is_empty() {
            return Err(StoreError::Invalid(
                "no etcd endpoint is named: give one such as http://127.0.0.1:2379".into(),
            ));
        }
        if !settings.prefix.ends_with('/') {
            let said = format!("the prefix {:?} in etcd does not end with /: write /fusewire/", settings.prefix);
            return Err(StoreError::Invalid(said));
        }
        for endpoint in &settings.endpoints {
            let scheme = if settings.tls.is_some() { "https://" } else { "http://" };
            if !endpoint.starts_with(scheme) || Endpoint::from_shared(endpoint.clone()).is_err() {
                let said =
                    format!("the etcd endpoint {endpoint:?} is not a {scheme} URL: https goes with a CA, http without");
                return Err(StoreError::Invalid(said));
            }
        }
        Ok(Self { settings: settings.clone(), state: Mutex::default(), history: std::sync::Mutex::default() })
    }

    pub(super) fn key(&self, key: &str) -> Bytes {
        [&self.settings.prefix, key].concat().into()
    }

    /// From the first key below `prefix` to the first above it.
    pub(super) fn range(&self, prefix: &str) -> (Bytes, Bytes) {
        let from = self.key(prefix);
        let mut end = from.to_vec();
        // a key is text, whose bytes are below 0xff, and never empty: our own prefix ends with a slash
        end.last_mut().into_iter().for_each(|last| *last += 1);
        (from, end.into())
    }

    /// Without our prefix.
    pub(super) fn name(&self, key: &[u8]) -> Result<String, StoreError> {
        let name = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(&self.settings.prefix));
        name.map(str::to_owned).ok_or_else(|| {
            let said = format!("below {} lies a key that is not text: another program's?", self.settings.prefix);
            StoreError::Invalid(said)
        })
    }

    pub(super) fn entry(&self, kv: wire::KeyValue) -> Result<Entry, StoreError> {
        Ok(Entry { key: self.name(&kv.key)?, value: kv.value, revision: unsigned(kv.mod_revision) })
    }

    /// Calls, on another endpoint if this one fails, as often as `repeat` and [`CALL`] allow.
    pub(super) async fn call<Q: Clone, A, F>(
        &self,
        repeat: Repeat,
        message: Q,
        call: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, StoreError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let until = Instant::now() + CALL;
        let mut backoff = Backoff::default();
        loop {
            let (status, sent) = match self.session(until).await {
                Ok(session) => {
                    let calling = call(session.channel.clone(), session.request(message.clone()));
                    let status = match timeout_at(until, calling).await.unwrap_or_else(|_| Err(late())) {
                        Ok(answer) => return Ok(answer.into_inner()),
                        Err(status) => status,
                    };
                    if passes(&status) {
                        self.failed(&session).await;
                    }
                    let sent = !never_happened(&status);
                    (status, sent)
                }
                Err(Failed::For(error)) => return Err(error),
                Err(Failed::Now(status)) => (status, false),
            };
            let uncertain = sent && repeat == Repeat::IfUnsent && passes(&status);
            let wait = backoff.next();
            if uncertain || !passes(&status) || Instant::now() + wait >= until {
                return Err(self.with_hint(judge(&status, uncertain)));
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// A server that wants a client's certificate may close so hard that its alert, which says so, is lost.
    fn with_hint(&self, error: StoreError) -> StoreError {
        match (error, &self.settings.tls) {
            (StoreError::Unavailable(said), Some(EtcdTls { identity: None, .. })) => StoreError::Unavailable(format!(
                "{said}; no client certificate is shown to it, and if it asks for one this is why"
            )),
            (error, _) => error,
        }
    }

    /// What is held, or a new one.
    pub(super) async fn session(&self, until: Instant) -> Result<Session, Failed> {
        let Ok(mut state) = timeout_at(until, self.state.lock()).await else { return Err(Failed::Now(late())) };
        if let Some(session) = &state.session {
            return Ok(session.clone());
        }
        let endpoint = &self.settings.endpoints[state.endpoint % self.settings.endpoints.len()];
        state.generation += 1;
        let generation = state.generation;
        let opened = timeout_at(until, self.connect(endpoint, generation)).await;
        match opened.unwrap_or_else(|_| Err(Failed::Now(late()))) {
            Ok(session) => Ok(state.session.insert(session).clone()),
            Err(error) => {
                state.endpoint = state.endpoint.wrapping_add(1);
                Err(error)
            }
        }
    }

    async fn connect(&self, endpoint: &str, generation: u64) -> Result<Session, Failed> {
        let invalid =
            |error: tonic::transport::Error| StoreError::Invalid(format!("the etcd endpoint {endpoint}: {error}"));
        let mut way = Endpoint::from_shared(endpoint.to_owned())
            .map_err(|e| Failed::For(invalid(e)))?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER)
            .keep_alive_while_idle(true);
        if let Some(tls) = &self.settings.tls {
            let files = tls.clone();
            let read = tokio::task::spawn_blocking(move || read_tls(&files)).await;
            let config = read.unwrap_or_else(|e| Err(StoreError::Unavailable(e.to_string()))).map_err(Failed::For)?;
            way = way.tls_config(config).map_err(|e| Failed::For(invalid(e)))?;
        }
        let channel = way.connect().await.map_err(|e| {
            Failed::Now(Status::unavailable(format!("{endpoint}: {}", causes(&e.to_string(), e.source()))))
        })?;
        let token = match &self.settings.user {
            None => None,
            Some(user) => {
                let asked = wire::AuthenticateRequest { name: user.name.clone(), password: user.password.clone() };
                let answer = AuthClient::new(channel.clone()).authenticate(asked).await.map_err(Failed::Now)?;
                let token = answer.into_inner().token.parse();
                Some(token.map_err(|_| Failed::Now(Status::internal("the token is not ASCII")))?)
            }
        };
        Ok(Session { channel, generation, token })
    }

    /// Notes the revision of an answer.
    pub(super) fn saw(&self, revision: u64) {
        let mut history = self.history();
        history.highest = history.highest.max(revision);
    }

    /// Compares what a linearizable read said with what was known `before` it was asked: less means that etcd went back.
    pub(super) fn now_at(&self, revision: u64, before: History) -> History {
        let mut history = self.history();
        if revision < before.highest && history.restores == before.restores {
            *history = History { highest: revision, restores: before.restores + 1 };
        }
        *history
    }

    pub(super) fn history(&self) -> std::sync::MutexGuard<'_, History> {
        // numbers alone: whoever panicked while holding it left nothing half done
        self.history.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The next call takes a new connection, to the next endpoint.
    pub(super) async fn failed(&self, session: &Session) {
        let mut state = self.state.lock().await;
        if state.generation == session.generation && state.session.take().is_some() {
            state.endpoint = state.endpoint.wrapping_add(1);
        }
    }
}

/// Why there is no session.
pub(super) enum Failed {
    /// As long as nobody mends the settings.
    For(StoreError),
    Now(Status),
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::For(error) => error,
            Failed::Now(status) => judge(&status, false),
        }
    }
}

/// Doubling waits, of which up to half is left to chance so that replicas do not come back all at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(super) fn next(&mut self) -> Duration {
        let wait = (MIN_BACKOFF * 2u32.saturating_pow(self.failures)).min(MAX_BACKOFF);
        self.failures = (self.failures + 1).min(10);
        shorten(wait)
    }
}

/// Between half of `wait` and all of it.
pub(super) fn shorten(wait: Duration) -> Duration {
    // std seeds it from the system's randomness; nothing here is a secret
    let random = RandomState::new().build_hasher().finish();
    wait / 2 + wait.mul_f64((random % 1024) as f64 / 2048.0)
}

fn read_tls(tls: &EtcdTls) -> Result<ClientTlsConfig, StoreError> {
    let read = |path: &std::path::Path| {
        let failed = |e| StoreError::Invalid(format!("the TLS file {} for etcd: {e}", path.display()));
        std::fs::read(path).map_err(failed)
    };
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&tls.ca)?));
    Ok(match &tls.identity {
        None => config,
        Some((certificate, key)) => config.identity(Identity::from_pem(read(certificate)?, read(key)?)),
    })
}

fn late() -> Status {
    Status::deadline_exceeded(format!("no answer within {CALL:?}"))
}

fn stale_token(status: &Status) -> bool {
    let said = status.message();
    status.code() == Code::Unauthenticated || said.contains("invalid auth token") || said.contains("auth store is old")
}

/// Whether etcd certainly did not begin with it.
fn never_happened(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    // a member without a leader turns away what asks for one, or drops the proposal instead of passing it on
    let turned_away = ["too many requests", "no leader", "proposal dropped"];
    stale_token(status) || turned_away.iter().any(|said| status.message().contains(said))
}

/// Whether another try, or another member, may do better.
fn passes(status: &Status) -> bool {
    let codes =
        [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::Unknown, Code::Internal, Code::Aborted];
    codes.contains(&status.code()) || stale_token(status) || status.message().contains("too many requests")
}

/// Whether a list took so long that etcd no longer has the revision it reads at.
pub(super) fn compacted(said: &str) -> bool {
    said.contains("has been compacted")
}

/// Whether an answer was larger than we take.
pub(super) fn outgrown(said: &str) -> bool {
    said.contains("message length too large")
}

fn judge(status: &Status, uncertain: bool) -> StoreError {
    let said = &causes(status.message(), status.source());
    let any = |parts: &[&str]| parts.iter().any(|part| said.contains(part));
    if uncertain {
        return StoreError::Uncertain(format!("etcd: {said}"));
    }
    if any(&["request is too large", "too many operations", "larger than max"]) {
        return StoreError::TooLarge(format!(
            "etcd: {said}: change fewer objects at a time, or raise etcd's --max-txn-ops and --max-request-bytes"
        ));
    }
    if any(&["space exceeded"]) {
        return StoreError::Unavailable(format!(
            "etcd: {said}: its quota is used up; compact and defragment it, then disarm the alarm"
        ));
    }
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::FailedPrecondition => {
            StoreError::Refused(format!(
                "etcd: {said}: does the user exist, and may it read and write below the prefix?"
            ))
        }
        _ => StoreError::Unavailable(format!("etcd: {said}")),
    }
}

/// What was said, and what lies behind it where that says more: tonic hides the reason of a "transport error".
fn causes(said: &str, mut cause: Option<&dyn Error>) -> String {
    let mut said = said.to_owned();
    while let Some(error) = cause {
        let more = error.to_string();
        if !said.contains(&more) {
            said = format!("{said}: {more}");
        }
        cause = error.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etcd_that_knows_less_than_any_answer_told_went_back_once_for_all_who_ask() {
        let connection = Connection::new(&EtcdSettings::new(vec!["http://127.0.0.1:1".into()])).unwrap();
        connection.saw(22);
        connection.saw(20); // an answer that was overtaken
        let before = *connection.history();
        assert_eq!(connection.now_at(22, before), History { highest: 22, restores: 0 });
        let restored = History { highest: 2, restores: 1 };
        assert_eq!(connection.now_at(2, before), restored);
        assert_eq!(connection.now_at(2, before), restored, "another follower asked at the same time");
        connection.saw(3);
        assert_eq!(connection.now_at(3, restored), History { highest: 3, restores: 1 });
    }
}
