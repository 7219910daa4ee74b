//! `limit.rate` and `limit.inbound.rate`: so many requests in a time, all together or for each value of a key.
//!
//! The state of all limits of one service is one bounded table. What it is looked up by is the hash of the policy's name
//! and the key's value, under a secret of this process: callers cannot choose values that share another's limit.

use super::Asker;
use crate::fault::Fault;
use fusewire_identity::SpiffeId;
use fusewire_model::PolicyName;
use fusewire_model::policy::{RateLimit, RequestKey};
use fusewire_resilience::Time;
use fusewire_resilience::rate::{KeyedLimits, Rate, RateLimit as Field, RateLimitPolicy, Standing};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::OnceLock;
use std::time::Duration;

/// What the caller of a request over its limit is told.
#[derive(Clone, Debug)]
pub(crate) struct Over {
    pub(crate) retry_after: Duration,
    /// `RateLimit-Policy` and `RateLimit`.
    pub(crate) fields: [String; 2],
    pub(crate) detail: String,
}

pub(super) struct Rates {
    secret: RandomState,
    /// 260 KiB, made with the first request that a limit is written for.
    limits: OnceLock<KeyedLimits>,
}

impl Rates {
    pub(super) fn new(secret: RandomState) -> Self {
        Self { secret, limits: OnceLock::new() }
    }

    pub(super) fn ask(
        &self,
        policy: &PolicyName,
        limit: &RateLimit,
        peer: Option<&SpiffeId>,
        asker: Asker<'_>,
        now: Time,
    ) -> Result<(), Fault> {
        let mut hasher = self.secret.build_hasher();
        policy.as_str().hash(&mut hasher);
        match &limit.key {
            None => {}
            Some(RequestKey::Header(name)) => {
                asker.fields.get_all(name).iter().for_each(|value| value.as_bytes().hash(&mut hasher));
            }
            Some(RequestKey::Path) => asker.path.hash(&mut hasher),
            Some(RequestKey::Peer) => {
                peer.map(SpiffeId::as_str).hash(&mut hasher);
                asker.address.hash(&mut hasher);
            }
        }
        let rate = Rate::of(&limit.rate);
        let standing = self.limits.get_or_init(KeyedLimits::default).ask(hasher.finish(), rate, now);
        let Standing::Over { retry_after, .. } = standing else { return Ok(()) };
        let each = match &limit.key {
            None => String::new(),
            Some(RequestKey::Header(name)) => format!(" for each {name}"),
            Some(RequestKey::Path) => " for each path".into(),
            Some(RequestKey::Peer) => " for each peer".into(),
        };
        let (most, per) = (limit.rate.requests, limit.rate.per);
        Err(Fault::RateLimited(Box::new(Over {
            retry_after,
            fields: [
                RateLimitPolicy::new(policy.as_str(), rate).to_string(),
                Field::new(policy.as_str(), standing).to_string(),
            ],
            detail: format!("policy {policy} allows {most} requests in {per:?}{each}"),
        })))
    }

    /// Values that are counted.
    pub(super) fn len(&self) -> usize {
        self.limits.get().map_or(0, KeyedLimits::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusewire_resilience::rate::RateConfig;
    use http::HeaderMap;

    fn limit(key: Option<RequestKey>) -> RateLimit {
        RateLimit { rate: RateConfig { requests: 60, per: Duration::from_secs(60), burst: 2 }, key }
    }

    /// How many of three requests pass, each of which `fields`, `path` and `peer` describe.
    fn passed(rates: &Rates, limit: &RateLimit, tenant: Option<&str>, path: &str, peer: Option<&str>) -> usize {
        let policy = PolicyName::parse("p").unwrap();
        let mut fields = HeaderMap::new();
        if let Some(tenant) = tenant {
            fields.insert("x-tenant", tenant.parse().unwrap());
        }
        let peer = peer.map(|p| SpiffeId::parse(p).unwrap());
        let asker = Asker { fields: &fields, path, address: None };
        (0..3).filter(|_| rates.ask(&policy, limit, peer.as_ref(), asker, Time(1)).is_ok()).count()
    }

    #[test]
    fn each_value_of_the_key_has_its_own_limit_and_those_without_share_one() {
        let rates = Rates::new(RandomState::new());
        let by_tenant = limit(Some(RequestKey::Header("x-tenant".into())));
        for tenant in [Some("a"), Some("b"), None] {
            assert_eq!(passed(&rates, &by_tenant, tenant, "/", None), 2, "{tenant:?}");
        }
        assert_eq!(passed(&rates, &by_tenant, Some("a"), "/other", None), 0);
        assert_eq!(rates.len(), 3);
        let (by_path, by_peer) = (limit(Some(RequestKey::Path)), limit(Some(RequestKey::Peer)));
        assert_eq!((passed(&rates, &by_path, None, "/1", None), passed(&rates, &by_path, None, "/2", None)), (2, 2));
        let (web, cron) = ("spiffe://t/web", "spiffe://t/cron");
        assert_eq!(passed(&rates, &by_peer, None, "/", Some(web)), 2);
        assert_eq!(
            (passed(&rates, &by_peer, None, "/", Some(web)), passed(&rates, &by_peer, None, "/", Some(cron))),
            (0, 2)
        );
    }

    #[test]
    fn who_is_over_is_told_when_to_come_back() {
        let rates = Rates::new(RandomState::new());
        assert_eq!(passed(&rates, &limit(None), None, "/", None), 2);
        let policy = PolicyName::parse("p").unwrap();
        let asker = Asker { fields: &HeaderMap::new(), path: "/", address: None };
        let Err(Fault::RateLimited(over)) = rates.ask(&policy, &limit(None), None, asker, Time(1)) else { panic!() };
        assert_eq!(over.fields, [r#""p";q=2;w=2"#, r#""p";r=0;t=2"#]);
        assert_eq!(over.retry_after, Duration::from_secs(1));
        assert_eq!(over.detail, "policy p allows 60 requests in 60s");
    }
}
