//! Arbitrary route tables.

use super::{authority, policy_name, service_name, text};
use fusewire_model::policy::Ratio;
use fusewire_model::resource::Resource;
use fusewire_model::route::{
    Authority, Backend, Cors, CorsWords, Edits, Filters, HeaderEdits, HeaderMatch, Match, Mirror, PathEdit, PathMatch,
    Pattern, QueryMatch, REDIRECTS, Redirect, RouteTable, Rule, Scheme, ValueMatch,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

fn path() -> impl Strategy<Value = String> {
    "/[a-z/%~]{0,9}"
}

fn pattern() -> impl Strategy<Value = Pattern> {
    "[a-z]{1,5}(\\[0-9\\]|\\(x\\|y\\))[+*?]?".prop_map(|text| Pattern::parse(&text).unwrap())
}

fn value() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        text().prop_map(ValueMatch::Exact),
        Just(ValueMatch::Present),
        Just(ValueMatch::Absent),
        pattern().prop_map(ValueMatch::Regex)
    ]
}

fn matches() -> impl Strategy<Value = Match> {
    let path = prop_oneof![
        Just(PathMatch::Any),
        path().prop_map(PathMatch::Exact),
        path().prop_map(PathMatch::Prefix),
        pattern().prop_map(PathMatch::Regex)
    ];
    let header = ("[a-z][a-z0-9-]{0,9}", value()).prop_map(|(name, value)| HeaderMatch { name, value });
    let parameter = ("[!-~]{1,9}", value()).prop_map(|(name, value)| QueryMatch { name, value });
    (path, vec("[A-Z]{1,9}", 0..3), vec(header, 0..3), vec(parameter, 0..3))
        .prop_map(|(path, methods, headers, query)| Match { path, methods, headers, query })
}

fn header_edits() -> impl Strategy<Value = HeaderEdits> {
    let name = || "x-[a-z0-9]{1,5}";
    let fields = || vec((name(), "[!-~]{0,9}"), 0..3);
    (fields(), fields(), vec(name(), 0..3)).prop_map(|(set, add, remove)| HeaderEdits { set, add, remove })
}

fn edits() -> impl Strategy<Value = Edits> {
    (header_edits(), header_edits()).prop_map(|(request, response)| Edits { request, response })
}

fn path_edit() -> impl Strategy<Value = PathEdit> {
    prop_oneof![path().prop_map(PathEdit::Whole), path().prop_map(PathEdit::Prefix)]
}

fn redirect() -> impl Strategy<Value = Filters> {
    let scheme = option::of(select(vec![Scheme::Http, Scheme::Https]));
    let host = option::of(authority().prop_map(|host| host.without_port()));
    let port = option::of(1..=u16::MAX);
    (scheme, host, port, option::of(path_edit()), select(REDIRECTS.to_vec())).prop_map(
        |(scheme, host, port, path, status)| {
            let redirect = Redirect { scheme, host, port, path, status };
            Filters { redirect: Some(redirect), ..Filters::default() }
        },
    )
}

fn cors() -> impl Strategy<Value = Cors> {
    let origin = "https?://(\\*\\.)?[a-z]{1,9}(:[1-9][0-9]{0,3})?";
    let names = || prop_oneof![vec("x-[a-z]{1,5}", 0..3), Just(vec!["*".to_owned()])];
    let methods = prop_oneof![vec("[A-Z]{1,9}", 0..3), Just(vec!["*".to_owned()])];
    let origins = prop_oneof![vec(origin, 0..3), Just(vec!["*".to_owned()])];
    (origins, methods, names(), names(), any::<bool>(), 1..9_000_u32).prop_map(
        |(origins, methods, headers, expose, credentials, age)| {
            Cors::new(CorsWords { origins, methods, headers, expose }, credentials, age).unwrap()
        },
    )
}

fn filters() -> impl Strategy<Value = Filters> {
    let share = (0..=Ratio::WHOLE).prop_map(|millionths| Ratio::from_millionths(millionths).unwrap());
    let mirror = (service_name(), share).prop_map(|(service, share)| Mirror { service, share });
    let host: BoxedStrategy<Option<Authority>> = option::of(authority()).boxed();
    (edits(), host, option::of(path_edit()), vec(mirror, 0..3), option::of(cors()))
        .prop_map(|(edits, host, path, mirrors, cors)| Filters { edits, host, path, mirrors, redirect: None, cors })
}

fn backends() -> impl Strategy<Value = Vec<Backend>> {
    let backend =
        |min: u32| {
            (option::weighted(0.9, service_name()), min..=1_000_000, edits())
                .prop_map(|(service, weight, edits)| Backend { service, weight, edits: edits.boxed() })
        };
    (backend(1), vec(backend(0), 0..3)).prop_map(|(first, mut rest)| {
        rest.insert(0, first);
        rest
    })
}

/// A prefix is only replaced where one matched.
fn fits(filters: &mut Filters, matches: &Match) {
    let of_redirect = filters.redirect.as_mut().map(|redirect| &mut redirect.path);
    for path in of_redirect.into_iter().chain([&mut filters.path]) {
        if matches!(path, Some(PathEdit::Prefix(_))) && !matches.path.has_prefix() {
            *path = None;
        }
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    let way = prop_oneof![
        4 => (filters(), backends()).boxed(),
        1 => redirect().prop_map(|filters| (filters, Vec::new())).boxed(),
    ];
    ("[a-z]{1,9}\\[[0-9]\\]", matches(), way, option::of(policy_name())).prop_map(
        |(name, matches, (mut filters, backends), policy)| {
            fits(&mut filters, &matches);
            Rule { name, matches, backends, policy, filters: filters.boxed() }
        },
    )
}

pub(super) fn route() -> impl Strategy<Value = Resource> {
    (authority(), option::of(service_name()), vec(rule(), 0..4))
        .prop_map(|(authority, service, rules)| Resource::Route(RouteTable { authority, service, rules }.into()))
}
