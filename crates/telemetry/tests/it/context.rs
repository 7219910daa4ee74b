//! What comes in with a request: the specifications' own examples, and anything at all.

use fusewire_resilience::retry::{Carried, Origin};
use fusewire_telemetry::trace::context::{Context, Forms, SpanId, TraceId, extract, parse_b3, parse_traceparent};
use fusewire_telemetry::trace::state::{self, MAX_LENGTH, MAX_MEMBERS, Member};
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::collection::vec;
use proptest::prelude::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn fields(all: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in all {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    map
}

fn told(all: &[(&str, &str)]) -> String {
    let found = extract(&fields(all));
    let ids = found.ids.map(|(trace, span)| format!("{trace} {span}")).unwrap_or("none".into());
    let sampled = found.sampled.map_or("undecided", |s| if s { "sampled" } else { "not sampled" });
    format!("{ids} {sampled}{}", if found.forms.debug { " debug" } else { "" })
}

#[test]
fn the_examples_of_the_w3c_specification_are_read() {
    let id = format!("{TRACE} {SPAN}");
    let read = |value: &str| told(&[("traceparent", value)]);
    assert_eq!(read(&format!("00-{TRACE}-{SPAN}-01")), format!("{id} sampled"));
    assert_eq!(read(&format!("00-{TRACE}-{SPAN}-00")), format!("{id} not sampled"));
    // flags that are not known are passed over; a later version may say more
    assert_eq!(read(&format!("00-{TRACE}-{SPAN}-ff")), format!("{id} sampled"));
    assert_eq!(read(&format!("00-{TRACE}-{SPAN}-02")), format!("{id} not sampled"));
    assert_eq!(read(&format!("cc-{TRACE}-{SPAN}-01")), format!("{id} sampled"));
    assert_eq!(read(&format!("cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like")), format!("{id} sampled"));
}

#[test]
fn what_breaks_the_w3c_specification_is_as_if_it_had_not_come() {
    for value in [
        String::new(),
        "00".into(),
        format!("00-{TRACE}-{SPAN}"),
        format!("00-{TRACE}-{SPAN}-1"),
        format!("00-{TRACE}-{SPAN}-01-"),
        format!("00-{TRACE}-{SPAN}-01.what"),
        format!("cc-{TRACE}-{SPAN}-01.what"),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("0-{TRACE}-{SPAN}-01"),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        format!("00-{}-{SPAN}-01", "0".repeat(32)),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("00-{TRACE}g{SPAN}-01"),
        format!("00 {TRACE} {SPAN} 01"),
        format!("00-{}g-{SPAN}-01", &TRACE[1..]),
        format!("{TRACE}-{SPAN}-01"),
    ] {
        assert_eq!(parse_traceparent(value.as_bytes()), None, "{value}");
    }
    let good = format!("00-{TRACE}-{SPAN}-01");
    assert_eq!(told(&[("traceparent", &good), ("traceparent", &good)]), "none undecided", "two of them are none");
}

#[test]
fn b3_is_read_in_both_forms() {
    let id = format!("{TRACE} {SPAN}");
    let single = |value: &str| told(&[("b3", value)]);
    assert_eq!(single(&format!("{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90")), format!("{id} sampled"));
    assert_eq!(single(&format!("{TRACE}-{SPAN}-0")), format!("{id} not sampled"));
    assert_eq!(single(&format!("{TRACE}-{SPAN}-d")), format!("{id} sampled debug"));
    assert_eq!(single(&format!("{TRACE}-{SPAN}")), format!("{id} undecided"));
    assert_eq!(single("0"), "none not sampled");
    assert_eq!(single("d"), "none sampled debug");
    assert_eq!(single(&format!("{SPAN}-{SPAN}-1")), format!("0000000000000000{SPAN} {SPAN} sampled"));
    for bad in ["", "x", "2", &format!("{TRACE}-{SPAN}-true"), &format!("{TRACE}-{SPAN}-1-x"), &format!("{TRACE}-1")] {
        assert_eq!(parse_b3(bad.as_bytes()), None, "{bad}");
    }
    let ids = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)];
    let multi = |more: &[(&str, &str)]| told(&[&ids[..], more].concat());
    assert_eq!(multi(&[("x-b3-sampled", "1")]), format!("{id} sampled"));
    assert_eq!(multi(&[("x-b3-sampled", "false")]), format!("{id} not sampled"));
    assert_eq!(multi(&[("x-b3-flags", "1"), ("x-b3-sampled", "0")]), format!("{id} sampled debug"));
    assert_eq!(multi(&[]), format!("{id} undecided"));
    assert_eq!(told(&[("x-b3-sampled", "0")]), "none not sampled");
    assert_eq!(told(&ids[..1]), "none undecided");
}

#[test]
fn w3c_wins_over_b3_and_both_are_written() {
    let w3c = format!("00-{TRACE}-{SPAN}-00");
    let b3 = "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-d";
    let mut map = fields(&[("traceparent", &w3c), ("b3", b3), ("x-b3-traceid", SPAN), ("x-b3-spanid", SPAN)]);
    let found = extract(&map);
    assert_eq!((found.ids.unwrap().0.to_string(), found.sampled, found.w3c), (TRACE.into(), Some(false), true));
    assert_eq!(found.forms, Forms { b3: true, b3_multi: true, debug: false });
    let (trace, parent) = found.ids.unwrap();
    let span = SpanId::new(0x0123_4567_89ab_cdef).unwrap();
    Context { trace, span, parent: Some(parent), sampled: true, forms: found.forms }.inject(&mut map);
    let get = |name: &str| map.get(name).map(|v| v.to_str().unwrap());
    assert_eq!(get("traceparent"), Some(format!("00-{TRACE}-0123456789abcdef-01").as_str()));
    assert_eq!(get("b3"), Some(format!("{TRACE}-0123456789abcdef-1-{SPAN}").as_str()));
    assert_eq!((get("x-b3-traceid"), get("x-b3-spanid")), (Some(TRACE), Some("0123456789abcdef")));
    assert_eq!((get("x-b3-parentspanid"), get("x-b3-sampled")), (Some(SPAN), Some("1")));
}

#[test]
fn our_member_leads_and_those_of_others_stay_within_the_limits() {
    let with = |all: &[&str]| state::with_ours(all.iter().map(|f| f.as_bytes()), "f0;o:t/web");
    assert_eq!(with(&[]), "fusewire=f0;o:t/web");
    assert_eq!(
        with(&["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"]),
        "fusewire=f0;o:t/web,rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
    );
    assert_eq!(with(&["a=1, fusewire=r9 ", "", " ,b=2"]), "fusewire=f0;o:t/web,a=1,b=2");
    assert_eq!(with(&["a=1,B=2"]), "fusewire=f0;o:t/web", "a broken field is dropped whole");
    let many: Vec<String> = (0..MAX_MEMBERS).map(|n| format!("k{n}=v")).collect();
    let out = with(&[&many.join(",")]);
    assert_eq!(out.split(',').count(), MAX_MEMBERS);
    assert!(out.ends_with("k30=v"), "the last one went: {out}");
    assert_eq!(with(&[&format!("{},one=more", many.join(","))]), "fusewire=f0;o:t/web");
    let long = format!("x={},y={},z=1", "v".repeat(256), "w".repeat(230));
    assert_eq!(with(&[&long]), format!("fusewire=f0;o:t/web,x={},z=1", "v".repeat(256)));
    let shorts = (0..30).map(|n| format!("key-{n}={}", "v".repeat(20))).collect::<Vec<_>>().join(",");
    let out = with(&[&shorts]);
    assert!(out.len() <= MAX_LENGTH && out.len() > MAX_LENGTH - 30 && out.contains("key-0="), "{out}");
}

#[test]
fn our_member_is_read_strictly_and_a_later_releases_additions_are_passed_over() {
    let read = Member::parse("r3;o:shop.local/web;x:what:ever").unwrap();
    assert_eq!((read.origin.as_ref(), read.carried), ("shop.local/web", Carried { origin: Origin::Retry, left: 3 }));
    for bad in ["", "f", "x1", "f10", "o:t/web", "f-1", "f0;o", "f0;"] {
        assert_eq!(Member::parse(bad), None, "{bad}");
    }
    let long = Member { origin: "x".repeat(200).into(), carried: Carried { origin: Origin::First, left: 0 } };
    assert_eq!(long.value(), "f0", "an origin that is too long is not said");
    assert_eq!(state::ours([&b"a=1,fusewire=f0"[..]]), Some("f0"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..700), more in vec(any::<u8>(), 0..64)) {
        let _ = (parse_traceparent(&bytes), parse_b3(&bytes));
        let _ = state::ours([&bytes[..], &more[..]]);
        prop_assert!(state::with_ours([&bytes[..], &more[..]], "f0").len() <= MAX_LENGTH);
        let _ = Member::parse(&String::from_utf8_lossy(&bytes));
        let _ = fusewire_telemetry::otlp::metrics::from_text(&String::from_utf8_lossy(&bytes), 0, 1);
    }

    #[test]
    fn what_is_nearly_right_does_not_panic_either(
        text in "[0-9a-f]{0,34}[-]?[0-9a-f]{0,18}[-]?[01d]{0,2}[-]?[0-9a-fé]{0,18}",
        state in "([a-z@*_/0-9-]{0,8}[= ,;\t]?[ -~]{0,40},?){0,40}",
        metrics in "(# (TYPE|HELP|UNIT) a(_total)? (counter|histogram|gauge)?\n|a(_total|_bucket|_sum)?[{]?(le)?=?\"?[\\\\é\"]?\"?[}]? [0-9+.eInf-]{0,5}( # [{]a=\"b\"[}] 1)?\n){0,8}",
    ) {
        for name in ["traceparent", "b3", "x-b3-traceid", "x-b3-flags"] {
            if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
                let mut map = HeaderMap::new();
                map.append(name, value);
                let _ = extract(&map);
            }
        }
        let out = state::with_ours([state.as_bytes()], "f0");
        prop_assert!(out.len() <= MAX_LENGTH);
        prop_assert_eq!(state::members([out.as_bytes()]).unwrap()[0], ("fusewire", "f0"));
        let _ = fusewire_telemetry::otlp::metrics::from_text(&metrics, 0, 1);
    }

    #[test]
    fn a_context_comes_back_as_it_was_written_in_every_form(
        trace in 1..=u128::MAX, span in 1..=u64::MAX, parent in any::<u64>(), sampled: bool, debug: bool, b3: bool, b3_multi: bool,
    ) {
        let (trace, span) = (TraceId::new(trace).unwrap(), SpanId::new(span).unwrap());
        let forms = Forms { b3, b3_multi, debug: debug && sampled && (b3 || b3_multi) };
        let written = Context { trace, span, parent: SpanId::new(parent), sampled, forms };
        let mut map = HeaderMap::new();
        written.inject(&mut map);
        let read = extract(&map);
        prop_assert_eq!((read.ids, read.sampled, read.forms), (Some((trace, span)), Some(sampled), forms));
        map.remove("traceparent");
        let read = extract(&map);
        if b3 || b3_multi {
            prop_assert_eq!((read.ids, read.sampled, read.forms), (Some((trace, span)), Some(sampled), forms));
        } else {
            prop_assert_eq!(read.ids, None);
        }
    }

    #[test]
    fn our_member_comes_back_as_it_was_written(retry: bool, left in 0u8..=9, origin in "[a-z0-9./_-]{0,160}") {
        let first = if retry { Origin::Retry } else { Origin::First };
        let member = Member { origin: origin.into(), carried: Carried { origin: first, left } };
        let value = member.value();
        let field = state::with_ours([], &value);
        prop_assert_eq!(Member::parse(state::ours([field.as_bytes()]).unwrap()), Some(member));
    }
}
