//! What operators ask of trust and tokens, as the Admin service has it.
//!
//! It decides how questions and answers read. It deliberately checks no role: whoever calls these has, and says who asks.

use super::steps::{Taken, stage_word};
use super::{Trust, TrustError};
use crate::shared::Shared;
use fusewire_api::v1;
use fusewire_identity::{CONTROL_PATH, SpiffeId, TokenRecord, UnixTime};
use jiff::Timestamp;
use std::time::Duration;
use tonic::Status;

const DEFAULT_TTL: u64 = 3_600;
const MAX_TTL: u64 = 30 * 24 * 3_600;

fn status(error: TrustError) -> Status {
    error.status()
}

pub(crate) async fn trust(shared: &Shared, _: &str, _: v1::TrustRequest) -> Result<v1::TrustResponse, Status> {
    let standing = shared.trust.refresh(&shared.alerts).await.map_err(status)?;
    let state = standing.authority.state();
    let next = if state.is_external() {
        "its issuer replaces the root: put new files in place, and the control plane follows".to_owned()
    } else {
        let step = state.next_step();
        let waiting = shared.trust.all_that_waits(state, step, &shared.all_sidecars().await);
        if waiting.is_empty() { step.to_string() } else { format!("{step}, which waits: {}", waiting.join("; ")) }
    };
    let now = UnixTime::now().as_secs();
    let roots = state.roots().into_iter().map(|root| v1::RootInfo {
        hash: root.hash,
        signs: root.signs,
        not_after: calendar(root.not_after),
        remaining_seconds: root.not_after.saturating_sub(now),
    });
    let denied = standing.denials.values().cloned().map(|denial| v1::Denied {
        identity: denial.identity,
        reason: denial.reason,
        by: denial.by,
        at: denial.at,
    });
    Ok(v1::TrustResponse {
        trust_domain: state.trust_domain().to_string(),
        stage: stage_word(state),
        roots: roots.collect(),
        denied: denied.collect(),
        next,
    })
}

pub(crate) async fn rotate(shared: &Shared, who: &str, asked: v1::RotateRequest) -> Result<v1::RotateResponse, Status> {
    let fleet = shared.all_sidecars().await;
    let v1::RotateRequest { step, dry_run, force } = asked;
    let taken = if dry_run {
        shared.trust.rehearse(&step, force, &fleet, &shared.alerts).await
    } else {
        shared.trust.step(&step, force, who, &fleet, &shared.alerts).await
    };
    let Taken { stage, did, waiting_for, done } = taken.map_err(status)?;
    Ok(v1::RotateResponse { stage, did, waiting_for, done })
}

pub(crate) async fn deny(shared: &Shared, who: &str, asked: v1::DenyRequest) -> Result<v1::DenyResponse, Status> {
    let id = identity(&shared.trust, &asked.identity)?;
    let done = if asked.lift {
        shared.trust.allow(&id, who, &shared.alerts).await
    } else {
        shared.trust.deny(&id, &asked.reason, who, &shared.alerts).await
    };
    done.map(|()| v1::DenyResponse {}).map_err(status)
}

pub(crate) async fn create_token(
    shared: &Shared,
    who: &str,
    asked: v1::CreateTokenRequest,
) -> Result<v1::CreateTokenResponse, Status> {
    let id = identity(&shared.trust, &asked.workload)?;
    if id.trust_domain() != shared.trust.domain().as_str() {
        return Err(Status::invalid_argument(format!(
            "{id} is not of trust domain {}, which is all that this control plane signs for",
            shared.trust.domain()
        )));
    }
    if id.path() == CONTROL_PATH {
        return Err(Status::invalid_argument("the control plane's own identity is not given away"));
    }
    let ttl = if asked.ttl_seconds == 0 { DEFAULT_TTL } else { asked.ttl_seconds };
    if ttl > MAX_TTL {
        return Err(Status::invalid_argument(format!("ttl_seconds must be 1..={MAX_TTL}, got {ttl}")));
    }
    let uses = if asked.uses == 0 { 1 } else { asked.uses };
    let (token, record) = shared.trust.make_token(&id, uses, Duration::from_secs(ttl)).await.map_err(status)?;
    tracing::info!(id = token.handle(), workload = %id, uses, who, "join token made");
    let info = info(token.handle(), record, UnixTime::now());
    Ok(v1::CreateTokenResponse { token: token.to_string(), info: Some(info) })
}

pub(crate) async fn list_tokens(
    shared: &Shared,
    _: &str,
    _: v1::ListTokensRequest,
) -> Result<v1::ListTokensResponse, Status> {
    let now = UnixTime::now();
    let tokens = shared.trust.list_tokens().await.map_err(status)?;
    Ok(v1::ListTokensResponse { tokens: tokens.into_iter().map(|(id, record)| info(id, record, now)).collect() })
}

pub(crate) async fn revoke_token(
    shared: &Shared,
    who: &str,
    asked: v1::RevokeTokenRequest,
) -> Result<v1::RevokeTokenResponse, Status> {
    shared.trust.revoke_token(&asked.id).await.map_err(status)?;
    tracing::info!(id = asked.id, who, "join token revoked");
    Ok(v1::RevokeTokenResponse {})
}

fn info(id: String, record: TokenRecord, now: UnixTime) -> v1::TokenInfo {
    let state = match () {
        () if record.is_usable(now) => "usable",
        () if record.uses_left == 0 => "spent",
        () => "expired",
    };
    v1::TokenInfo {
        id,
        workload: record.id,
        uses_left: record.uses_left,
        expires: calendar(record.expires),
        state: state.into(),
        root_hash: record.root,
    }
}

/// A path in the trust domain, or a whole SPIFFE ID.
fn identity(trust: &Trust, text: &str) -> Result<SpiffeId, Status> {
    let id = if text.contains("://") { SpiffeId::parse(text) } else { SpiffeId::of(trust.domain(), text) };
    id.map_err(|e| Status::invalid_argument(e.to_string()))
}

/// RFC 3339.
pub(crate) fn calendar(seconds: u64) -> String {
    let timestamp = i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok());
    timestamp.unwrap_or(Timestamp::MAX).to_string()
}
