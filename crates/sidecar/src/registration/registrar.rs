//! One client of the registry: registers, heartbeats at the pace it is granted, reports, and leaves.
//!
//! It decides when to say it again: a control plane that does not know the registration is told at once; after a broken
//! connection a heartbeat asks first, so that a restart costs no writes. It deliberately does not know what is registered
//! nor whether it is well.
//!
//! Invariants: of each instance only the newest report is kept, of at most [`MAX_REPORTS`]; attempts to connect are jittered
//! and back off to 5 s, each at the next control plane; without a registration no connection is opened before there is something to report.

use crate::clock::fraction;
use crate::controls::{Controls, Pause};
use crate::trust::{self, BoxError};
use fusewire_api::v1;
use fusewire_api::v1::registry_client::RegistryClient;
use fusewire_model::ServiceName;
use fusewire_model::health::Health;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// Until there is a certificate.
const JOINING: Duration = Duration::from_millis(100);
/// One call to the control plane.
const CALL: Duration = Duration::from_secs(10);
const UNDER_WAY: usize = 16;
const MAX_REPORTS: usize = 1_024;

/// How an instance beside this sidecar is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub service: ServiceName,
    pub instance: String,
    pub health: Health,
    /// Why, in words.
    pub detail: String,
}

/// What makes a connection to the control plane mutually proven; `None` while there is no certificate.
pub type Credentials = Box<dyn Fn() -> Option<Arc<rustls::ClientConfig>> + Send + Sync>;

/// Keeps one registration alive.
pub struct Registrar {
    controls: Controls,
    registration: Option<v1::Registration>,
    credentials: Credentials,
    /// The control plane took it at least once.
    registered: bool,
    every: Duration,
    known: BTreeMap<(ServiceName, String), Report>,
}

type Client = RegistryClient<Channel>;

enum Ended {
    Left,
    Broken(BoxError),
}

impl Registrar {
    /// Without a registration only reports are passed on.
    pub fn new(controls: Controls, registration: Option<v1::Registration>, credentials: Credentials) -> Self {
        let every = Duration::from_secs(5);
        Self { controls, registration, credentials, registered: false, every, known: BTreeMap::new() }
    }

    /// Until `leave` says so (then it deregisters) or is dropped (then it just ends).
    pub async fn run(mut self, mut reports: mpsc::Receiver<Report>, mut leave: oneshot::Receiver<()>) {
        let mut pause = Pause::default();
        loop {
            if self.registration.is_none() && self.known.is_empty() {
                tokio::select! {
                    _ = &mut leave => return,
                    report = reports.recv() => match report {
                        Some(report) => self.note(report),
                        None => return,
                    },
                }
            }
            if (self.credentials)().is_none() {
                // joining, and telling about it, is somebody else's task
                if self.wait(Instant::now() + JOINING, &mut reports, &mut leave).await {
                    return;
                }
                continue;
            }
            let began = Instant::now();
            match self.session(&mut reports, &mut leave).await {
                Ended::Left => return,
                Ended::Broken(error) => {
                    tracing::warn!(control = self.controls.now(), "registry: {error}");
                    self.controls.pass();
                }
            }
            if self.wait(Instant::now() + pause.after(began.elapsed()), &mut reports, &mut leave).await {
                // once more, within the time that whoever leaves gives us
                if let Ok(mut client) = self.connect().await {
                    let _ = self.deregister(&mut client).await;
                }
                return;
            }
        }
    }

    /// Offline, until the next attempt; whether it is to leave.
    async fn wait(
        &mut self,
        until: Instant,
        reports: &mut mpsc::Receiver<Report>,
        leave: &mut oneshot::Receiver<()>,
    ) -> bool {
        loop {
            tokio::select! {
                _ = &mut *leave => return true,
                () = sleep_until(until) => return false,
                Some(report) = reports.recv() => self.note(report),
            }
        }
    }

    fn note(&mut self, report: Report) {
        let key = (report.service.clone(), report.instance.clone());
        if report.health == Health::Unchecked {
            self.known.remove(&key);
        } else if self.known.len() < MAX_REPORTS || self.known.contains_key(&key) {
            self.known.insert(key, report);
        }
    }

    async fn connect(&self) -> Result<Client, BoxError> {
        let tls = (self.credentials)().ok_or("no certificate yet")?;
        Ok(RegistryClient::new(trust::channel(self.controls.now(), tls).await?))
    }

    /// One connection, to its end.
    async fn session(&mut self, reports: &mut mpsc::Receiver<Report>, leave: &mut oneshot::Receiver<()>) -> Ended {
        let opened = async {
            let mut client = self.connect().await?;
            if !self.registered {
                self.register(&mut client).await?;
            }
            let (up, requests) = mpsc::channel(UNDER_WAY);
            up.send(self.beat(true)).await?;
            let down = timeout(CALL, client.heartbeat(ReceiverStream::new(requests))).await??.into_inner();
            Ok::<_, BoxError>((client, up, down))
        };
        let opened = tokio::select! {
            opened = opened => opened,
            _ = &mut *leave => return self.leave_anew().await,
        };
        match opened {
            Ok((client, up, down)) => match self.serve((client, up, down), reports, leave).await {
                Ok(()) => Ended::Left,
                Err(error) => Ended::Broken(error),
            },
            Err(error) => Ended::Broken(error),
        }
    }

    async fn leave_anew(&self) -> Ended {
        if self.registered
            && let Ok(mut client) = self.connect().await
        {
            let _ = self.deregister(&mut client).await;
        }
        Ended::Left
    }

    /// While the stream is open. `Ok`: it left.
    async fn serve(
        &mut self,
        (mut client, up, mut down): (Client, mpsc::Sender<v1::Beat>, Streaming<v1::BeatAnswer>),
        reports: &mut mpsc::Receiver<Report>,
        leave: &mut oneshot::Receiver<()>,
    ) -> Result<(), BoxError> {
        let mut next = self.next_beat();
        loop {
            tokio::select! {
                _ = &mut *leave => return self.deregister(&mut client).await,
                () = sleep_until(next), if self.registration.is_some() => {
                    next = self.next_beat();
                    up.send(self.beat(false)).await?;
                }
                Some(report) = reports.recv() => {
                    let mut news = vec![wire(&report)];
                    self.note(report);
                    while let Ok(report) = reports.try_recv() {
                        news.push(wire(&report));
                        self.note(report);
                    }
                    up.send(v1::Beat { registration: String::new(), reports: news }).await?;
                }
                answer = down.message() => {
                    let Some(answer) = answer.map_err(worded)? else { return Err("the control plane ended the stream".into()) };
                    if answer.heartbeat_every_ms > 0 {
                        self.every = Duration::from_millis(answer.heartbeat_every_ms);
                    }
                    if !answer.known {
                        tracing::info!("the control plane does not know the registration: registering again");
                        self.register(&mut client).await?;
                        up.send(self.beat(true)).await?;
                    }
                }
            }
        }
    }

    fn next_beat(&self) -> Instant {
        // never later than granted: a third of the TTL already leaves room for two that are lost
        Instant::now() + self.every.mul_f64(0.8 + 0.2 * fraction())
    }

    fn beat(&self, whole: bool) -> v1::Beat {
        let registration = self.registration.as_ref().map(|it| it.id.clone()).unwrap_or_default();
        let reports = if whole { self.known.values().map(wire).collect() } else { Vec::new() };
        v1::Beat { registration, reports }
    }

    async fn register(&mut self, client: &mut Client) -> Result<(), BoxError> {
        let Some(registration) = &self.registration else { return Ok(()) };
        let up = self.known.values().any(|report| report.instance == registration.id && report.health == Health::Up);
        let wanted = v1::Registration { starting: registration.starting && !up, ..registration.clone() };
        let id = wanted.id.clone();
        let request = v1::RegisterRequest { registration: Some(wanted) };
        let granted = timeout(CALL, client.register(request)).await?.map_err(worded)?.into_inner();
        self.every = Duration::from_millis(granted.heartbeat_every_ms.max(1));
        self.registered = true;
        tracing::info!(id, ttl_ms = granted.ttl_ms, grace_ms = granted.grace_ms, "registered");
        Ok(())
    }

    async fn deregister(&self, client: &mut Client) -> Result<(), BoxError> {
        let Some(registration) = self.registration.as_ref().filter(|_| self.registered) else { return Ok(()) };
        let request = v1::DeregisterRequest { id: registration.id.clone() };
        timeout(CALL, client.deregister(request)).await?.map_err(worded)?;
        tracing::info!(id = registration.id, "deregistered");
        Ok(())
    }
}

fn wire(report: &Report) -> v1::Report {
    let health = match report.health {
        Health::Unchecked => v1::Health::Unspecified,
        Health::Starting => v1::Health::Starting,
        Health::Up => v1::Health::Up,
        Health::Down => v1::Health::Down,
    };
    v1::Report {
        service: report.service.to_string(),
        instance: report.instance.clone(),
        health: health.into(),
        detail: report.detail.clone(),
    }
}

/// The control plane's own words where it had any.
fn worded(status: Status) -> BoxError {
    match status.code() {
        Code::PermissionDenied | Code::InvalidArgument | Code::AlreadyExists | Code::ResourceExhausted => {
            format!("refused: {}", status.message()).into()
        }
        _ => status.into(),
    }
}
