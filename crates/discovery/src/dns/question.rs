//! One round of questions for one name: A and AAAA, or SRV and then A and AAAA of its targets.
//!
//! It decides which answer is good. Each family of a name is asked for by itself; where one fails that has had addresses
//! before, those count as answered, and the round says what it lacks. A family that never had any may fail unmissed: there
//! are servers that answer AAAA with SERVFAIL for ever.
//!
//! SRV (RFC 2782): only the lowest priority is offered of which a target has an address; whether one can be reached is for
//! breakers and health checks to find out, not for us here. Weights count, scaled to what instances have (1..=1000).
//!
//! It deliberately keeps no cache: when to ask again is decided elsewhere, and a cache would answer with yesterday.

use super::MAX_INSTANCES;
use fusewire_model::service::{Dns, DnsRecords};
use futures_util::future::{BoxFuture, join, join_all};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Of one question at one server, and how often it is repeated: a datagram may be lost.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// Of a whole round.
const ROUND: Duration = Duration::from_secs(15);
/// Targets of an SRV answer that are looked up.
const MAX_TARGETS: usize = 64;
/// The greatest weight of an instance.
const MAX_WEIGHT: u32 = 1_000;

/// A good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// Addresses with their weights; never empty.
    pub found: BTreeMap<SocketAddr, u32>,
    /// The shortest of all records.
    pub ttl: Duration,
    /// What of it failed and was taken from the last good answer, in words.
    pub lacking: Option<String>,
}

/// Asks for one name, again and again.
pub trait Asks: Send {
    /// One round; `Err` says in words why it has no good answer.
    fn round(&mut self) -> BoxFuture<'_, Result<Round, String>>;
}

/// The questions of `dns`, put to its server or the system's.
pub fn question(dns: Dns) -> Box<dyn Asks> {
    Box::new(Question { dns, resolver: None, last: Last::default() })
}

struct Question {
    dns: Dns,
    /// Made anew after a failure: the system's configuration may have changed.
    resolver: Option<TokioResolver>,
    last: Last,
}

/// What one question came to.
enum Answered {
    Records(Vec<Record>),
    /// The name, or such records of it, do not exist; in words.
    None(&'static str),
    Failed(String),
}

/// The addresses of one name.
struct Addresses {
    all: Vec<IpAddr>,
    ttl: Duration,
    lacking: Option<String>,
}

impl Asks for Question {
    fn round(&mut self) -> BoxFuture<'_, Result<Round, String>> {
        Box::pin(async {
            let asked = tokio::time::timeout(ROUND, self.ask()).await;
            let round = asked.unwrap_or_else(|_| Err(format!("{}: no answer within {ROUND:?}", self.dns.name)));
            if !matches!(&round, Ok(Round { lacking: None, .. })) {
                self.resolver = None;
            }
            round
        })
    }
}

impl Question {
    async fn ask(&mut self) -> Result<Round, String> {
        let resolver = match self.resolver.take() {
            Some(resolver) => resolver,
            None => resolver(self.dns.server).map_err(|e| format!("no resolver: {e}"))?,
        };
        let round = match self.dns.records {
            DnsRecords::Address { port } => self.addressed(&resolver, port).await,
            DnsRecords::Srv => self.served(&resolver).await,
        };
        self.resolver = Some(resolver);
        round
    }

    async fn addressed(&mut self, resolver: &TokioResolver, port: u16) -> Result<Round, String> {
        let name = self.dns.name.clone();
        let (v4, v6) = both(resolver, &name).await;
        let Addresses { all, ttl, lacking } = self.last.settle(&name, v4, v6)?;
        let found = all.into_iter().map(|ip| (SocketAddr::new(ip, port), 1)).collect();
        Ok(Round { found, ttl, lacking })
    }

    async fn served(&mut self, resolver: &TokioResolver) -> Result<Round, String> {
        let name = self.dns.name.clone();
        let records = match lookup(resolver, &name, RecordType::SRV).await {
            Answered::Records(records) => records,
            Answered::None(what) => return Err(format!("{name} SRV: {what}")),
            Answered::Failed(why) => return Err(format!("{name} SRV: {why}")),
        };
        let services = offered(&records);
        if services.is_empty() {
            return Err(format!("{name} SRV: offers no target"));
        }
        let targets: BTreeSet<String> = services.iter().take(MAX_TARGETS).map(|s| s.target.clone()).collect();
        let looked_up = join_all(targets.iter().map(|target| both(resolver, target))).await;
        let mut found = BTreeMap::new();
        for (target, (v4, v6)) in targets.iter().zip(looked_up) {
            found.insert(
                target.as_str(),
                self.last.settle(target, v4, v6).or_else(|why| self.last.stand_in(target, why)),
            );
        }
        self.last.keep_only(&targets);
        let mut round = lowest(&services, &found).map_err(|why| format!("{name} SRV: {why}"))?;
        round.ttl = round.ttl.min(ttl(&records));
        Ok(round)
    }
}

fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio()?,
        Some(server) => {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            let server = NameServerConfig::new(server.ip(), true, connections.into());
            let config = ResolverConfig::from_name_servers(vec![server]);
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            // whoever names a server wants its word, not this machine's
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            builder
        }
    };
    let options = builder.options_mut();
    (options.timeout, options.attempts, options.cache_size) = (TIMEOUT, ATTEMPTS, 0);
    builder.build()
}

async fn both(resolver: &TokioResolver, name: &str) -> (Answered, Answered) {
    join(lookup(resolver, name, RecordType::A), lookup(resolver, name, RecordType::AAAA)).await
}

async fn lookup(resolver: &TokioResolver, name: &str, kind: RecordType) -> Answered {
    // from the root: no search list applies
    match resolver.lookup(format!("{name}."), kind).await {
        Ok(found) => Answered::Records(found.answers().to_vec()),
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
            ResponseCode::NXDomain => Answered::None("no such name"),
            ResponseCode::NoError => Answered::None("no such records"),
            code => Answered::Failed(code.to_string()),
        },
        Err(NetError::Dns(DnsError::ResponseCode(code))) => Answered::Failed(code.to_string()),
        Err(NetError::Timeout) => Answered::Failed("no answer in time".into()),
        Err(error) => Answered::Failed(error.to_string()),
    }
}

fn ttl(records: &[Record]) -> Duration {
    Duration::from_secs(records.iter().map(|record| record.ttl).min().unwrap_or(0).into())
}

/// An address that can be connected to.
fn usable(data: &RData) -> Option<IpAddr> {
    let ip = match data {
        RData::A(a) => IpAddr::V4(a.0),
        RData::AAAA(aaaa) => IpAddr::V6(aaaa.0),
        _ => return None,
    };
    (!ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)).then_some(ip)
}

/// An SRV record.
struct Offer {
    priority: u16,
    weight: u16,
    port: u16,
    target: String,
}

/// What the records offer, the lowest priority first. A target of `.` means that the service is not to be had there.
fn offered(records: &[Record]) -> Vec<Offer> {
    let offer = |record: &Record| match &record.data {
        RData::SRV(srv) if !srv.target.is_root() && srv.port != 0 => Some(Offer {
            priority: srv.priority,
            weight: srv.weight,
            port: srv.port,
            target: srv.target.to_ascii().trim_end_matches('.').to_ascii_lowercase(),
        }),
        _ => None,
    };
    let mut offers: Vec<Offer> = records.iter().filter_map(offer).collect();
    offers.sort_by(|a, b| (a.priority, &a.target, a.port).cmp(&(b.priority, &b.target, b.port)));
    offers
}

/// The instances of the lowest priority that has any.
fn lowest(offers: &[Offer], found: &BTreeMap<&str, Result<Addresses, String>>) -> Result<Round, String> {
    let mut why = None;
    for group in offers.chunk_by(|a, b| a.priority == b.priority) {
        let most = group.iter().map(|offer| u32::from(offer.weight)).max().unwrap_or(0).max(MAX_WEIGHT);
        let mut round = Round { found: BTreeMap::new(), ttl: Duration::MAX, lacking: None };
        for offer in group {
            match found.get(offer.target.as_str()) {
                Some(Ok(addresses)) => {
                    // 0 is "rarely", not "never"
                    let weight = (u32::from(offer.weight) * MAX_WEIGHT / most).max(1);
                    for ip in addresses.all.iter().take(MAX_INSTANCES - round.found.len().min(MAX_INSTANCES)) {
                        let sum = round.found.entry(SocketAddr::new(*ip, offer.port)).or_insert(0);
                        *sum = (*sum + weight).min(MAX_WEIGHT);
                    }
                    round.ttl = round.ttl.min(addresses.ttl);
                    round.lacking = round.lacking.or_else(|| addresses.lacking.clone());
                }
                Some(Err(error)) => round.lacking = Some(error.clone()),
                None => {}
            }
        }
        if !round.found.is_empty() {
            return Ok(round);
        }
        why = why.or(round.lacking);
    }
    Err(why.unwrap_or_else(|| "no target has an address".into()))
}

/// The last good answers, by name: A and AAAA.
#[derive(Default)]
struct Last(BTreeMap<String, [Vec<IpAddr>; 2]>);

impl Last {
    /// Both families of a name, and what is remembered of it.
    fn settle(&mut self, name: &str, v4: Answered, v6: Answered) -> Result<Addresses, String> {
        let before = self.0.get(name).cloned().unwrap_or_default();
        let (mut ttls, mut good, mut lacking, mut why) = (Duration::MAX, false, None, None);
        let mut family = |word: &str, answered, last: &Vec<IpAddr>| match answered {
            Answered::Records(records) => {
                good = true;
                ttls = ttls.min(ttl(&records));
                records.iter().filter_map(|r| usable(&r.data)).take(MAX_INSTANCES).collect()
            }
            Answered::None(what) => {
                why.get_or_insert(format!("{name}: {what}"));
                Vec::new()
            }
            Answered::Failed(error) => {
                why = Some(format!("{name} {word}: {error}"));
                if !last.is_empty() {
                    lacking.clone_from(&why);
                }
                last.clone()
            }
        };
        let now = [family("A", v4, &before[0]), family("AAAA", v6, &before[1])];
        if !good {
            return Err(why.unwrap_or_default());
        }
        if now.iter().all(Vec::is_empty) {
            return Err(format!("{name}: no address that can be connected to"));
        }
        let all = now.concat();
        self.0.insert(name.to_owned(), now);
        Ok(Addresses { all, ttl: ttls, lacking })
    }

    /// What was last known of a target that now has no good answer.
    fn stand_in(&self, name: &str, why: String) -> Result<Addresses, String> {
        match self.0.get(name) {
            Some(last) => Ok(Addresses { all: last.concat(), ttl: Duration::MAX, lacking: Some(why) }),
            None => Err(why),
        }
    }

    /// Forgets names that are no longer targets.
    fn keep_only(&mut self, names: &BTreeSet<String>) {
        self.0.retain(|name, _| names.contains(name));
    }
}
