//! The last good answers to GETs, for policies with a `stale` fallback.
//!
//! It decides what may be kept: what a shared cache may store (RFC 9111, section 3) and may give out when it has grown old
//! (4.2.4), and beyond that nothing that was asked for with credentials or cookies, unless the answer says `public`. It
//! deliberately never answers instead of a service that is there.
//!
//! Invariants: at most [`MAX`] bytes, each answer at most [`MAX_EACH`], and as much again on its way in; the answer that was
//! used longest ago goes first. One lock, held for moments, and only where a policy asks for it.

use super::outgoing::Outgoing;
use bytes::{Bytes, BytesMut};
use fusewire_model::policy::{Fallback, Policy};
use fusewire_resilience::Time;
use fusewire_resilience::retry::{Replay, ReplayPool};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode, request};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Of all answers together, with their fields.
const MAX: usize = 64 << 20;
const MAX_EACH: usize = 1 << 20;
/// Answers to one target that differ by what `Vary` names.
const MAX_VARIANTS: usize = 8;
/// What an answer costs beside its bytes.
const OVERHEAD: usize = 512;

/// An answer as it was given.
pub(crate) struct Stored {
    pub(crate) status: StatusCode,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Bytes,
    at: Time,
    /// As old as it was when it came.
    age: Duration,
}

impl Stored {
    pub(crate) fn age(&self, now: Time) -> Duration {
        self.age.saturating_add(now.since(self.at))
    }
}

/// What the request's fields were that the answer depends on.
type Varies = Vec<(HeaderName, Vec<HeaderValue>)>;

struct Variant {
    varies: Varies,
    answer: Arc<Stored>,
    size: usize,
    /// When it was stored or used last; unique.
    used: u64,
}

#[derive(Default)]
struct Kept {
    answers: HashMap<Arc<str>, Vec<Variant>>,
    by_use: BTreeMap<u64, Arc<str>>,
    uses: u64,
    bytes: usize,
}

pub(crate) struct Cache {
    kept: Mutex<Kept>,
    on_the_way: Arc<ReplayPool>,
    max: usize,
}

impl Default for Cache {
    fn default() -> Self {
        Self::of(MAX)
    }
}

/// An answer on its way to the caller, and from there into the cache.
pub(crate) struct Copy {
    key: Arc<str>,
    varies: Varies,
    head: (StatusCode, HeaderMap),
    body: BytesMut,
    room: Replay,
}

impl Copy {
    /// False: it is too large, and the copy of no use any more.
    pub(crate) fn add(&mut self, data: &[u8]) -> bool {
        let fits = self.room.keep(data.len());
        if fits {
            self.body.extend_from_slice(data);
        }
        fits
    }
}

impl Cache {
    fn of(max: usize) -> Self {
        Self { kept: Mutex::default(), on_the_way: Arc::new(ReplayPool::new(max, MAX_EACH)), max }
    }

    /// A copy to fill, where the policy wants it and the answer may be kept.
    pub(crate) fn begin(
        &self,
        service: &str,
        policy: &Policy,
        outgoing: &Outgoing,
        (status, fields): (StatusCode, &HeaderMap),
    ) -> Option<Box<Copy>> {
        policy.fallback.iter().find(|fallback| matches!(fallback, Fallback::Stale { .. }))?;
        let request = outgoing.head();
        if !may_be_kept(request, status, fields) {
            return None;
        }
        let varies = varies(fields, &request.headers)?;
        let head = (status, fields.clone());
        let key = key(service, outgoing).into();
        Some(Box::new(Copy { key, varies, head, body: BytesMut::new(), room: self.on_the_way.begin() }))
    }

    /// The answer arrived whole.
    pub(crate) fn store(&self, copy: Copy, now: Time) {
        let Copy { key, varies, head: (status, fields), body, .. } = copy;
        let fields_size: usize = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        let size = body.len() + fields_size + 2 * key.len() + OVERHEAD;
        let seconds = fields.get(header::AGE).and_then(|v| v.to_str().ok()?.trim().parse().ok()).unwrap_or(0);
        let age = Duration::from_secs(seconds);
        let answer = Arc::new(Stored { status, fields, body: body.freeze(), at: now, age });
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).put(&key, varies, answer, size, self.max);
    }

    /// What was answered to the same request, if that is not longer ago than `max_age`.
    pub(crate) fn find(&self, service: &str, outgoing: &Outgoing, max_age: Duration, now: Time) -> Option<Arc<Stored>> {
        let request = outgoing.head();
        if request.method != Method::GET || is_private(&request.headers) || says(&request.headers, "no-store") {
            return None;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.take(&key(service, outgoing), &request.headers).filter(|found| now.since(found.at) <= max_age)
    }
}

impl Kept {
    fn put(&mut self, key: &Arc<str>, varies: Varies, answer: Arc<Stored>, size: usize, max: usize) {
        self.uses += 1;
        let used = self.uses;
        let variants = self.answers.entry(key.clone()).or_default();
        let same = variants.iter().position(|v| v.varies == varies);
        let goes = same.or_else(|| (variants.len() >= MAX_VARIANTS).then_some(0));
        if let Some(goes) = goes {
            let gone = variants.remove(goes);
            self.bytes -= gone.size;
            self.by_use.remove(&gone.used);
        }
        variants.push(Variant { varies, answer, size, used });
        self.by_use.insert(used, key.clone());
        self.bytes += size;
        while self.bytes > max {
            let Some((used, key)) = self.by_use.pop_first() else { return };
            let Some(variants) = self.answers.get_mut(&key) else { continue };
            if let Some(at) = variants.iter().position(|v| v.used == used) {
                self.bytes -= variants.remove(at).size;
            }
            if variants.is_empty() {
                self.answers.remove(&key);
            }
        }
    }

    fn take(&mut self, key: &str, asked: &HeaderMap) -> Option<Arc<Stored>> {
        let (key, _) = self.answers.get_key_value(key)?;
        let key = key.clone();
        let variants = self.answers.get_mut(&key)?;
        let fits = |v: &&mut Variant| v.varies.iter().all(|(name, values)| asked.get_all(name).iter().eq(values));
        let found = variants.iter_mut().rev().find(fits)?;
        self.by_use.remove(&found.used);
        self.uses += 1;
        found.used = self.uses;
        self.by_use.insert(found.used, key);
        Some(found.answer.clone())
    }
}

fn key(service: &str, outgoing: &Outgoing) -> String {
    let path = outgoing.head().uri.path_and_query().map_or("/", |path| path.as_str());
    format!("{service} {} {path}", outgoing.authority().as_str().to_ascii_lowercase())
}

/// `None`: it is another for every request.
fn varies(answer: &HeaderMap, asked: &HeaderMap) -> Option<Varies> {
    let mut all = Varies::new();
    for name in answer.get_all(header::VARY).iter().flat_map(|v| v.as_bytes().split(|b| *b == b',')) {
        let name = HeaderName::from_bytes(name.trim_ascii()).ok()?;
        if name.as_str() == "*" {
            return None;
        }
        all.push((name.clone(), asked.get_all(&name).iter().cloned().collect()));
    }
    Some(all)
}

fn may_be_kept(request: &request::Parts, status: StatusCode, fields: &HeaderMap) -> bool {
    let whole =
        status.is_success() && status != StatusCode::PARTIAL_CONTENT && !request.headers.contains_key(header::RANGE);
    let forbidden = ["no-store", "private", "no-cache", "must-revalidate", "proxy-revalidate", "s-maxage"];
    request.method == Method::GET
        && whole
        && !fields.contains_key(header::SET_COOKIE)
        && !forbidden.into_iter().any(|word| says(fields, word))
        && !says(&request.headers, "no-store")
        && !request.headers.contains_key(header::AUTHORIZATION)
        && (!request.headers.contains_key(header::COOKIE) || says(fields, "public"))
}

/// What was asked for by somebody in particular is not answered from what others got.
fn is_private(asked: &HeaderMap) -> bool {
    asked.contains_key(header::AUTHORIZATION) || asked.contains_key(header::RANGE)
}

/// Whether `Cache-Control` has this directive, with or without an argument.
fn says(fields: &HeaderMap, directive: &str) -> bool {
    let all = fields.get_all(header::CACHE_CONTROL).iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|v| v.split(',')).any(|d| {
        let name = d.split('=').next().unwrap_or_default();
        name.trim().eq_ignore_ascii_case(directive)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::response;
    use http::{Request, Response};

    fn asked(fields: &[(&str, &str)]) -> request::Parts {
        let request = fields.iter().fold(Request::get("/items"), |r, (name, value)| r.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    fn may(request: &request::Parts, answer: &response::Parts) -> bool {
        may_be_kept(request, answer.status, &answer.headers)
    }

    fn answered(status: u16, fields: &[(&str, &str)]) -> response::Parts {
        let response = fields.iter().fold(Response::builder().status(status), |r, (n, v)| r.header(*n, *v));
        response.body(()).unwrap().into_parts().0
    }

    #[test]
    fn what_a_shared_cache_may_not_keep_or_give_out_old_is_not_kept() {
        let ok = answered(200, &[]);
        assert!(may(&asked(&[]), &ok) && may(&asked(&[]), &answered(204, &[])));
        for directive in
            ["no-store", "private", "No-Cache", "max-age=5, must-revalidate", "s-maxage=5", "proxy-revalidate"]
        {
            assert!(!may(&asked(&[]), &answered(200, &[("cache-control", directive)])), "{directive}");
        }
        assert!(may(&asked(&[]), &answered(200, &[("cache-control", "max-age=60")])));
        for fields in [("authorization", "Basic x"), ("range", "bytes=0-1"), ("cache-control", "no-store")] {
            assert!(!may(&asked(&[fields]), &ok), "{fields:?}");
        }
        assert!(!may(&asked(&[("cookie", "a=b")]), &ok));
        assert!(may(&asked(&[("cookie", "a=b")]), &answered(200, &[("cache-control", "public")])));
        assert!(!may(&asked(&[]), &answered(200, &[("set-cookie", "a=b")])));
        for status in [206, 301, 404, 500] {
            assert!(!may(&asked(&[]), &answered(status, &[])), "{status}");
        }
        let post = Request::post("/items").body(()).unwrap().into_parts().0;
        assert!(!may(&post, &ok));
    }

    fn put(kept: &mut Kept, key: &str, language: Option<&str>, body: &'static str, max: usize) {
        let answer = match language {
            Some(_) => answered(200, &[("vary", "Accept-Language")]),
            None => answered(200, &[]),
        };
        let asked = asked(&language.map(|l| ("accept-language", l)).into_iter().collect::<Vec<_>>());
        let varies = varies(&answer.headers, &asked.headers).unwrap();
        let stored = Stored {
            status: answer.status,
            fields: answer.headers,
            body: Bytes::from_static(body.as_bytes()),
            at: Time(0),
            age: Duration::ZERO,
        };
        kept.put(&key.into(), varies, Arc::new(stored), body.len(), max);
    }

    fn found(kept: &mut Kept, key: &str, language: &str) -> Option<Bytes> {
        kept.take(key, &asked(&[("accept-language", language)]).headers).map(|stored| stored.body.clone())
    }

    #[test]
    fn an_answer_is_for_those_who_ask_as_the_first_did() {
        let mut kept = Kept::default();
        put(&mut kept, "a", Some("de"), "Tag", 100);
        put(&mut kept, "a", Some("en"), "day", 100);
        put(&mut kept, "b", None, "any", 100);
        assert_eq!(found(&mut kept, "a", "de").as_deref(), Some(&b"Tag"[..]));
        assert_eq!(found(&mut kept, "a", "en").as_deref(), Some(&b"day"[..]));
        assert_eq!(found(&mut kept, "a", "fr"), None);
        assert_eq!(found(&mut kept, "b", "fr").as_deref(), Some(&b"any"[..]));
        put(&mut kept, "a", Some("de"), "Tage", 100);
        assert_eq!(found(&mut kept, "a", "de").as_deref(), Some(&b"Tage"[..]), "the last one counts");
        assert_eq!((kept.bytes, kept.by_use.len()), (10, 3));
        assert!(varies(&answered(200, &[("vary", "*")]).headers, &HeaderMap::new()).is_none());
    }

    #[test]
    fn memory_is_bounded_and_what_was_used_longest_ago_goes_first() {
        let mut kept = Kept::default();
        for key in ["a", "b", "c"] {
            put(&mut kept, key, None, "12345", 15);
        }
        assert!(found(&mut kept, "a", "").is_some());
        put(&mut kept, "d", None, "12345", 15);
        let left: Vec<_> = ["a", "b", "c", "d"].into_iter().filter(|key| found(&mut kept, key, "").is_some()).collect();
        assert_eq!((left, kept.bytes), (vec!["a", "c", "d"], 15));
        for language in 0..20 {
            put(&mut kept, "a", Some(&language.to_string()), "1", 1000);
        }
        assert_eq!((kept.answers["a"].len(), kept.by_use.len()), (MAX_VARIANTS, MAX_VARIANTS + 2));
    }

    #[test]
    fn an_answer_that_is_too_large_is_not_copied_to_its_end() {
        let cache = Cache::of(MAX);
        let begin = || Copy {
            key: "a".into(),
            varies: Vec::new(),
            head: (StatusCode::OK, HeaderMap::new()),
            body: BytesMut::new(),
            room: cache.on_the_way.begin(),
        };
        let mut fits = begin();
        assert!(fits.add(&vec![0; MAX_EACH]) && !begin().add(&vec![0; MAX_EACH + 1]));
        assert_eq!(cache.on_the_way.used(), MAX_EACH);
        cache.store(fits, Time(5));
        assert_eq!(cache.on_the_way.used(), 0);
        let found = cache.kept.lock().unwrap().take("a", &HeaderMap::new()).unwrap();
        assert_eq!((found.body.len(), found.age(Time(2_000_000_005))), (MAX_EACH, Duration::from_secs(2)));
    }
}
