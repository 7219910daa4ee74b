//! `Forwarded` (RFC 7239) and `X-Forwarded-*`: who may say for whom a request was made.
//!
//! A caller on this machine is the application beside us, or the proxy that it stands behind: its word is kept. Whoever
//! calls from elsewhere could claim any address; what it says is replaced by what is seen. To what an intercepted caller
//! without a sidecar says is added what is seen: the application got its word before, too. `sidecar.forwarded` decides
//! otherwise. `X-Forwarded-Host` and `-Proto` are single values by custom: appending leaves those that are there.

use super::headers::FORWARDED_PREFIX;
use fusewire_model::node::Forwarded;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::net::IpAddr;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// Applications speak in clear to their sidecar.
const SCHEME: &str = "http";

/// `host`: what the request was for.
pub(crate) fn apply(fields: &mut HeaderMap, policy: Option<Forwarded>, caller: IpAddr, host: &str) {
    let caller = caller.to_canonical();
    let default = if caller.is_loopback() { Forwarded::Keep } else { Forwarded::Replace };
    match policy.unwrap_or(default) {
        Forwarded::Keep => {}
        Forwarded::Remove => remove(fields),
        Forwarded::Replace => {
            remove(fields);
            add(fields, caller, host);
        }
        Forwarded::Append => add(fields, caller, host),
    }
}

fn remove(fields: &mut HeaderMap) {
    let named = |name: &HeaderName| name.as_str().starts_with(FORWARDED_PREFIX) || *name == REAL_IP;
    let all: Vec<HeaderName> = fields.keys().filter(|name| named(name)).cloned().collect();
    for name in all {
        fields.remove(name);
    }
    fields.remove(header::FORWARDED);
}

fn add(fields: &mut HeaderMap, caller: IpAddr, host: &str) {
    let element = format!("for={};host={};proto={SCHEME}", node(caller), value(host));
    append(fields, header::FORWARDED, &element);
    append(fields, FOR, &caller.to_string());
    for (name, text) in [(HOST, host), (PROTO, SCHEME)] {
        if let Ok(text) = HeaderValue::from_str(text) {
            fields.entry(name).or_insert(text);
        }
    }
}

/// To the end of a list: one field, since not every reader takes several for one list.
fn append(fields: &mut HeaderMap, name: HeaderName, element: &str) {
    let mut all: Vec<&[u8]> =
        fields.get_all(&name).iter().map(HeaderValue::as_bytes).filter(|v| !v.is_empty()).collect();
    all.push(element.as_bytes());
    if let Ok(list) = HeaderValue::from_bytes(&all.join(&b", "[..])) {
        fields.insert(name, list);
    }
}

/// RFC 7239, section 6: an IPv6 address in brackets, and thus quoted.
fn node(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("\"[{v6}]\""),
    }
}

/// A token as it is, anything else quoted; hosts have no quotes of their own.
fn value(host: &str) -> String {
    match host.contains([':', '[']) {
        true => format!("\"{host}\""),
        false => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(policy: Option<Forwarded>, caller: &str, host: &str, came: &[(&str, &str)]) -> Vec<String> {
        let mut fields = HeaderMap::new();
        for (name, text) in came {
            fields.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(text).unwrap());
        }
        apply(&mut fields, policy, caller.parse().unwrap(), host);
        let mut all: Vec<String> = fields.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        all.sort();
        all
    }

    const CAME: [(&str, &str); 5] = [
        ("forwarded", "for=8.8.8.8"),
        ("x-forwarded-for", "8.8.8.8"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-client-cert", "By=me"),
        ("x-real-ip", "8.8.8.8"),
    ];

    #[test]
    fn what_a_caller_on_this_machine_says_is_kept_by_default_and_what_others_claim_is_not() {
        for here in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(after(None, here, "shop", &CAME).len(), CAME.len(), "{here}");
        }
        let replaced = [
            "forwarded: for=192.0.2.7;host=shop;proto=http",
            "x-forwarded-for: 192.0.2.7",
            "x-forwarded-host: shop",
            "x-forwarded-proto: http",
        ];
        assert_eq!(after(None, "192.0.2.7", "shop", &CAME), replaced);
        assert_eq!(after(Some(Forwarded::Replace), "::ffff:192.0.2.7", "shop", &CAME), replaced);
    }

    #[test]
    fn addresses_and_ports_are_quoted_as_rfc_7239_wants() {
        let got = after(Some(Forwarded::Replace), "2001:db8::1", "[2001:db8::2]:80", &[]);
        assert_eq!(got[0], "forwarded: for=\"[2001:db8::1]\";host=\"[2001:db8::2]:80\";proto=http");
        assert_eq!(got[1], "x-forwarded-for: 2001:db8::1");
    }

    #[test]
    fn appending_makes_one_list_and_leaves_single_values() {
        let came = [("x-forwarded-for", "8.8.8.8"), ("x-forwarded-for", "9.9.9.9"), ("x-forwarded-proto", "https")];
        let got = after(Some(Forwarded::Append), "192.0.2.7", "shop:81", &came);
        let wanted = [
            "forwarded: for=192.0.2.7;host=\"shop:81\";proto=http",
            "x-forwarded-for: 8.8.8.8, 9.9.9.9, 192.0.2.7",
            "x-forwarded-host: shop:81",
            "x-forwarded-proto: https",
        ];
        assert_eq!(got, wanted);
    }

    #[test]
    fn removed_means_that_nothing_is_left() {
        assert!(after(Some(Forwarded::Remove), "127.0.0.1", "shop", &CAME).is_empty());
        assert_eq!(after(Some(Forwarded::Keep), "192.0.2.7", "shop", &CAME).len(), CAME.len());
    }
}
