//! Certificates from the control plane: the first by a join token, and the next before each ends.
//!
//! It decides when: at two thirds of a certificate's life, with jitter; sooner, spread over a tenth of the life, when the
//! root that signs is another one; again and again, with backoff, while it fails. It deliberately keeps the certificate in
//! force until it has the next one, and closes no connection.

use super::{install, keep};
use crate::clock;
use crate::controls::Controls;
use crate::enrol::{self, EnrolError, Joining};
use crate::mesh::Mesh;
use crate::work;
use fusewire_identity::{Bundle, Identity, TrustDomain, UnixTime, renewal_at};
use fusewire_model::node::SidecarSettings;
use fusewire_resilience::Time;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(30);
const MIN_RETRY: Duration = Duration::from_millis(100);
/// Never sooner after a certificate came: with a clock that is wrong every new one would be due.
const AT_LEAST: Duration = Duration::from_secs(1);
/// Over which early renewals are spread at most.
const EARLY: Duration = Duration::from_secs(30);
/// How often the wall clock is looked at: it may jump, and a machine may sleep.
const LOOK: Duration = Duration::from_secs(10);

/// Joins if there is no identity yet, then renews, until the process ends.
pub(crate) async fn keep_current(mesh: Arc<Mesh>, controls: Controls) {
    let mut changes = mesh.belief.subscribe();
    let mut schedule = Schedule::default();
    loop {
        changes.borrow_and_update();
        let wait = schedule.wait(&mesh);
        if !wait.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(wait.min(LOOK)) => {}
                _ = changes.changed() => {}
            }
            continue;
        }
        let (began, joins) = (mesh.clock.now(), mesh.tls().is_none());
        let obtained = obtain(&mesh, controls.now()).await;
        tell(&mesh, joins, began, controls.now(), &obtained);
        match obtained {
            Ok(identity) => {
                tracing::info!(id = %identity.id, expires = identity.not_after(), root = identity.root_hash(), "certificate issued");
                keep(&mesh, &identity);
                if let Err(e) = install(&mesh, identity) {
                    tracing::error!("the certificate that the control plane issued cannot be used: {e}");
                }
                schedule.renewed();
            }
            Err(e) => {
                schedule.failed(&mesh, controls.now(), &e);
                controls.pass();
            }
        }
    }
}

fn tell(mesh: &Mesh, joins: bool, began: Time, control: &str, obtained: &Result<Identity, EnrolError>) {
    let name = if joins { "fusewire.identity.join" } else { "fusewire.identity.renew" };
    let error = obtained.as_ref().err().map(ToString::to_string);
    work::tell(mesh, name, began, error.as_deref(), |span| span.text("fusewire.control", control));
}

/// When to ask next.
#[derive(Default)]
struct Schedule {
    /// Of the certificate that the times are about.
    serial: String,
    /// Seconds since 1970.
    at: u64,
    /// Because another root signs now.
    early: Option<Instant>,
    /// Certificates in a row that came under another root than the one that is said to sign.
    astray: u32,
    not_before: Option<Instant>,
    backoff: Option<Duration>,
}

impl Schedule {
    fn wait(&mut self, mesh: &Mesh) -> Duration {
        let now = Instant::now();
        let held_back = self.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let Some(tls) = mesh.tls() else { return held_back };
        let identity = &tls.identity;
        let outdated = mesh.belief.is_outdated(identity);
        if self.serial != identity.serial() {
            identity.serial().clone_into(&mut self.serial);
            self.at = renewal_at(identity.not_before(), identity.not_after(), random());
            self.early = None;
            self.astray = if outdated { self.astray.saturating_add(1) } else { 0 };
        }
        if !outdated {
            self.early = None;
        } else if self.early.is_none() {
            let spread = early_spread(life(identity), self.astray);
            self.early = Some(now + spread.mul_f64((random() % 1_000) as f64 / 1_000.0));
        }
        let due = Duration::from_secs(self.at.saturating_sub(clock::unix_seconds()));
        let early = self.early.map_or(due, |at| at.saturating_duration_since(now));
        due.min(early).max(held_back)
    }

    fn renewed(&mut self) {
        self.not_before = Some(Instant::now() + AT_LEAST);
        self.backoff = None;
    }

    fn failed(&mut self, mesh: &Mesh, control: &str, error: &EnrolError) {
        mesh.metrics.identity_renewals_failed.inc();
        let tls = mesh.tls();
        let identity = tls.as_ref().map(|tls| &tls.identity);
        // a life of seconds has no time for long pauses
        let scale = identity.map_or(MAX_RETRY, |identity| life(identity) / 20);
        let wait = self.backoff.unwrap_or(RETRY.min(scale)).clamp(MIN_RETRY, MAX_RETRY);
        self.backoff = Some((wait * 2).min(scale.clamp(MIN_RETRY, MAX_RETRY)));
        self.not_before = Some(Instant::now() + wait.mul_f64(0.5 + (random() % 1_000) as f64 / 2_000.0));
        match identity {
            None => tracing::warn!(control, "no certificate yet, trying again: {error}"),
            Some(identity) => {
                let left = identity.remaining(UnixTime::now());
                if left < life(identity) / 5 {
                    tracing::warn!(
                        control,
                        left_seconds = left.as_secs(),
                        "the certificate is about to end and is not renewed; peers will refuse it then: {error}"
                    );
                } else {
                    tracing::info!(control, "not renewed yet, trying again: {error}");
                }
            }
        }
    }
}

fn life(identity: &Identity) -> Duration {
    Duration::from_secs(identity.not_after().saturating_sub(identity.not_before()))
}

/// A tenth of the life; longer each time that the control plane signs under another root than it says, up to a third.
fn early_spread(life: Duration, astray: u32) -> Duration {
    let first = (life / 10).min(EARLY);
    first.saturating_mul(1 << astray.min(16)).min((life / 3).max(first))
}

/// For spreading, not for secrets.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

async fn obtain(mesh: &Mesh, control: &str) -> Result<Identity, EnrolError> {
    let tls = mesh.tls();
    let current = tls.as_ref().map(|tls| &tls.identity);
    enrol::obtain(control, current, &mesh.settings.workload, || joining(&mesh.settings)).await
}

fn joining(settings: &SidecarSettings) -> Result<Joining, EnrolError> {
    let token = token(settings)?;
    let Some(path) = &settings.trust_file else { return Joining::by(token) };
    let refused =
        |error: &dyn std::fmt::Display| EnrolError::Token(format!("sidecar.trust_file: {}: {error}", path.display()));
    let pem = std::fs::read(path).map_err(|error| refused(&error))?;
    let domain = TrustDomain::parse(settings.workload.trust_domain()).map_err(|error| refused(&error))?;
    let roots = Bundle::from_pem(domain, &pem).map_err(|error| refused(&error))?;
    Ok(Joining { token, roots: roots.root_hashes() })
}

fn token(settings: &SidecarSettings) -> Result<String, EnrolError> {
    let missing = "sidecar.token_file is not set: make a token with `fusewire token create` at the control plane";
    let path = settings.token_file.as_deref().ok_or_else(|| EnrolError::Token(missing.into()))?;
    enrol::read_token(path).map_err(|e| EnrolError::Token(format!("sidecar.token_file: {}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_renewals_are_spread_over_a_tenth_of_the_life_and_at_most_half_a_minute() {
        assert_eq!(early_spread(Duration::from_secs(10), 0), Duration::from_secs(1));
        assert_eq!(early_spread(Duration::from_secs(24 * 3600), 0), Duration::from_secs(30));
    }

    #[test]
    fn a_control_plane_that_signs_under_another_root_than_it_says_is_asked_ever_less() {
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(early_spread(day, 1), Duration::from_secs(60));
        assert_eq!(early_spread(day, 60), day / 3);
    }
}
