use fusewire_api::v1::{self, resource::Body};
use fusewire_api::{resource_from_wire, target_from_wire};

fn refused(name: &str, body: Body) -> String {
    let wire = v1::Resource { name: name.into(), hash: "h".into(), body: Some(body) };
    let error = resource_from_wire(wire).unwrap_err();
    assert_eq!(error.nack("h").path, error.path);
    error.to_string()
}

fn instance() -> v1::Instance {
    v1::Instance { id: "a".into(), address: "10.0.0.1:80".into(), weight: 1, ..v1::Instance::default() }
}

fn endpoints(instances: Vec<v1::Instance>) -> String {
    refused("shop", Body::Endpoints(v1::Endpoints { instances }))
}

fn rule(backends: Vec<v1::Backend>) -> String {
    let rule = v1::Rule { name: "r[0]".into(), backends, ..v1::Rule::default() };
    refused("shop:80", Body::Route(v1::Route { rules: vec![rule], service: String::new() }))
}

#[test]
fn a_fault_says_which_resource_where_in_it_and_why() {
    let wrong = v1::Instance { address: "shop:80".into(), ..instance() };
    assert_eq!(
        endpoints(vec![instance(), wrong]),
        r#"endpoints "shop": instances[1].address: "shop:80" is not IP:port (IPv6 in brackets); names are not resolved here"#
    );
    let wrong = v1::Instance { weight: 1001, ..instance() };
    assert_eq!(endpoints(vec![wrong]), r#"endpoints "shop": instances[0].weight: must be 1..=1000, got 1001"#);
    assert_eq!(
        endpoints(vec![instance(), instance()]),
        r#"endpoints "shop": instances: two instances have the id "a""#
    );
    let half = v1::Instance { identity: "spiffe://a.b/c".into(), ..instance() };
    assert!(endpoints(vec![half]).contains("instances[0].inbound: is missing"));
    let evil = v1::Instance { inbound: "10.0.0.1:1".into(), identity: "spiffe://a.b/../c".into(), ..instance() };
    assert!(endpoints(vec![evil]).contains("instances[0].identity: "));
}

#[test]
fn routes_without_a_usable_backend_are_refused() {
    let backend = |service: &str, weight| v1::Backend { service: service.into(), weight, ..v1::Backend::default() };
    assert_eq!(rule(vec![]), r#"route "shop:80": rules[0].backends: at least one backend is needed"#);
    assert_eq!(
        rule(vec![backend("a", 0), backend("b", 0)]),
        r#"route "shop:80": rules[0].backends: at least one weight must be above 0"#
    );
    assert_eq!(
        rule(vec![backend("a", 1_000_001)]),
        r#"route "shop:80": rules[0].backends[0].weight: must be 0..=1000000, got 1000001"#
    );
    assert!(rule(vec![backend("UPPER", 1)]).contains("rules[0].backends[0].service: "));
}

#[test]
fn what_a_rule_may_not_change_is_refused_here_too() {
    let backends = vec![v1::Backend { service: "a".into(), weight: 1, ..v1::Backend::default() }];
    let filtered = |filters: v1::Filters, backends: &[v1::Backend], matches: v1::Match| {
        let (backends, filters) = (backends.to_vec(), Some(filters));
        let rule = v1::Rule { name: "r[0]".into(), backends, filters, r#match: Some(matches), ..v1::Rule::default() };
        refused("shop:80", Body::Route(v1::Route { rules: vec![rule], service: String::new() }))
    };
    let any = v1::Match::default;
    let label = |name: &str, value: &str| v1::Label { name: name.into(), value: value.into() };
    for (name, value) in [("host", "x"), ("fusewire-reason", "x"), ("te", "x"), ("X-A", "x"), ("x-a", "\r\nx: y")] {
        let edits = v1::HeaderEdits { set: vec![label(name, value)], ..v1::HeaderEdits::default() };
        let filters = v1::Filters { request_headers: Some(edits), ..v1::Filters::default() };
        let said = filtered(filters, &backends, any());
        assert!(said.contains("rules[0].filters.request_headers.set[0]."), "{name}: {said}");
    }
    let path = |edit| v1::Filters { path: Some(v1::PathEdit { edit }), ..v1::Filters::default() };
    let exact = v1::Match { path: Some(v1::r#match::Path::Exact("/a".into())), ..any() };
    use v1::path_edit::Edit;
    for (edit, matches, wanted) in [
        (None, any(), "path: is of no kind"),
        (Some(Edit::Whole("x".into())), any(), "path.whole: must begin"),
        (Some(Edit::Whole("/x y".into())), any(), "path.whole: must be percent-encoded"),
        (Some(Edit::Prefix("/x".into())), exact, "path.prefix: replaces a prefix"),
    ] {
        let said = filtered(path(edit), &backends, matches);
        assert!(said.contains(wanted), "{said}");
    }
    let to = |redirect| v1::Filters { redirect: Some(redirect), ..v1::Filters::default() };
    let found = || v1::Redirect { status: 302, ..v1::Redirect::default() };
    for (redirect, backends, wanted) in [
        (found(), &backends[..], "backends: none may stand beside a redirect"),
        (v1::Redirect { status: 304, ..found() }, &[], "redirect.status: must be one of"),
        (v1::Redirect { scheme: "ftp".into(), ..found() }, &[], "redirect.scheme: must be http or https"),
        (v1::Redirect { host: "a:80".into(), ..found() }, &[], "redirect.host: must be without a port"),
        (v1::Redirect { port: 70_000, ..found() }, &[], "redirect.port: must be 0..=65535"),
    ] {
        let said = filtered(to(redirect), backends, any());
        assert!(said.contains(wanted), "{said}");
    }
    let both = v1::Filters { host: "x".into(), ..to(found()) };
    assert!(filtered(both, &[], any()).contains("redirect: nothing may stand beside a redirect"));
    let cors = |cors| v1::Filters { cors: Some(cors), ..v1::Filters::default() };
    let good = || v1::Cors { origins: vec!["*".into()], max_age_s: 5, ..v1::Cors::default() };
    for (bad, wanted) in [
        (v1::Cors { max_age_s: 0, ..good() }, "filters.cors.max_age_s: must be 1"),
        (v1::Cors { origins: vec!["https://a".into(), "a".into()], ..good() }, "filters.cors.origins[1]: is no origin"),
        (v1::Cors { expose: vec!["\r\nx: y".into()], ..good() }, "filters.cors.expose[0]: is no header's name"),
    ] {
        let said = filtered(cors(bad), &backends, any());
        assert!(said.contains(wanted), "{said}");
    }
    let regex = |text: &str| v1::Match { path: Some(v1::r#match::Path::Regex(text.into())), ..any() };
    assert!(filtered(v1::Filters::default(), &backends, regex("(")).contains("rules[0].match.regex: "));
}

#[test]
fn a_table_holds_so_many_patterns_and_no_more() {
    let matches = v1::Match { path: Some(v1::r#match::Path::Regex("/a".into())), ..v1::Match::default() };
    let rule = v1::Rule { r#match: Some(matches), ..v1::Rule::default() };
    let said = refused("shop:80", Body::Route(v1::Route { rules: vec![rule; 4_001], service: String::new() }));
    assert!(said.contains("regular expressions"), "{said}");
}

#[test]
fn breaker_bounds_are_the_resilience_crates_own() {
    let mut wire = fusewire_api::resource_to_wire(&fusewire_model::resource::Resource::Policy(
        fusewire_model::policy::Policy::built_in(fusewire_model::PolicyName::parse("default").unwrap()).into(),
    ));
    let Some(Body::Policy(policy)) = &mut wire.body else { panic!("not a policy") };
    policy.breaker.as_mut().unwrap().failure_rate = 101;
    let error = resource_from_wire(wire.clone()).unwrap_err();
    assert_eq!((error.kind, error.path.as_str()), (v1::Kind::Policy, "breaker.failure_rate"));
    let Some(Body::Policy(policy)) = &mut wire.body else { panic!("not a policy") };
    policy.breaker.as_mut().unwrap().failure_rate = 300;
    assert!(resource_from_wire(wire.clone()).unwrap_err().message.contains("out of range"));
    let Some(Body::Policy(policy)) = &mut wire.body else { panic!("not a policy") };
    policy.breaker.as_mut().unwrap().failure_rate = 50;
    policy.connect_timeout_ms = u64::MAX;
    assert_eq!(resource_from_wire(wire).unwrap_err().path, "connect_timeout_ms");
}

#[test]
fn a_share_of_traces_is_at_most_the_whole_and_the_default_where_nothing_is_said() {
    let built_in = fusewire_model::policy::Policy::built_in(fusewire_model::PolicyName::parse("default").unwrap());
    let mut wire = fusewire_api::resource_to_wire(&fusewire_model::resource::Resource::Policy(built_in.clone().into()));
    let Some(Body::Policy(policy)) = &mut wire.body else { panic!("not a policy") };
    policy.trace_sample_millionths = Some(1_000_001);
    assert_eq!(resource_from_wire(wire.clone()).unwrap_err().path, "trace_sample_millionths");
    let Some(Body::Policy(policy)) = &mut wire.body else { panic!("not a policy") };
    policy.trace_sample_millionths = None;
    let read = resource_from_wire(wire).unwrap();
    assert_eq!(read, fusewire_model::resource::Resource::Policy(built_in.into()));
}

#[test]
fn what_this_build_does_not_know_is_refused_not_guessed() {
    let empty = v1::Resource { name: "x".into(), hash: String::new(), body: None };
    assert!(resource_from_wire(empty).unwrap_err().to_string().contains("no body that this build knows"));
    let service = v1::Service { protocol: 99, ..v1::Service::default() };
    assert!(refused("shop", Body::Service(service)).contains("99 is no protocol"));
    let hold = v1::Overrides { overrides: vec![v1::Override { hold: 7, ..v1::Override::default() }] };
    assert!(refused("shop", Body::Overrides(hold)).contains("overrides[0].hold: 7"));
    let port = v1::InboundPort { port: 70_000, service: "a".into(), protocol: 1, ..v1::InboundPort::default() };
    let inbound = Body::Inbound(v1::Inbound { ports: vec![port] });
    assert!(refused("spiffe://a.b/c", inbound).contains("ports[0].port: must be 1..=65535"));
    assert!(target_from_wire(v1::Target { target: None }).is_err());
}

#[test]
fn a_long_name_is_not_shown_at_length() {
    let target = v1::target::Target::Authority("x".repeat(1 << 20));
    let message = target_from_wire(v1::Target { target: Some(target) }).unwrap_err().to_string();
    assert!(message.len() < 400, "{}", message.len());
    let body = Body::Service(v1::Service::default());
    let wire = v1::Resource { name: "x".repeat(1 << 20), hash: String::new(), body: Some(body) };
    assert!(resource_from_wire(wire).unwrap_err().to_string().len() < 1_000);
}
