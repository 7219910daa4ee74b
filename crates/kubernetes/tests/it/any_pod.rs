//! Pods that nobody thought of.

use crate::golden::settings;
use fusewire_kubernetes::inject::uninject;
use fusewire_kubernetes::{Injected, Namespace, inject};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn object(entries: impl Strategy<Value = Vec<(&'static str, Option<Value>)>>) -> impl Strategy<Value = Value> {
    entries.prop_map(|entries| {
        let there = entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Value::Object(there.collect::<Map<String, Value>>())
    })
}

fn probe() -> impl Strategy<Value = Value> {
    let port = prop_oneof![Just(json!(8080)), Just(json!("web")), Just(json!("9090")), Just(json!("missing"))];
    let text = "[ -~]{0,10}";
    prop_oneof![
        (port.clone(), text, any::<bool>(), text).prop_map(|(port, path, tls, value)| {
            let scheme = if tls { "HTTPS" } else { "HTTP" };
            json!({"httpGet": {
                "path": path, "port": port, "scheme": scheme, "httpHeaders": [{"name": "X-Key", "value": value}]
            }})
        }),
        port.prop_map(|port| json!({"tcpSocket": {"port": port}, "periodSeconds": 3})),
        text.prop_map(|service| json!({"grpc": {"port": 9000, "service": service}, "timeoutSeconds": 7})),
        Just(json!({"exec": {"command": ["true"]}})),
        Just(json!({"httpGet": {"host": "10.0.0.1", "port": 80}})),
        Just(json!("nonsense")),
    ]
}

fn container(name: &'static str) -> impl Strategy<Value = Value> {
    let env =
        prop_oneof![Just(json!([])), Just(json!([{"name": "HTTP_PROXY", "value": "http://other"}])), Just(json!(1))];
    let entries = (
        prop::option::of(probe()),
        prop::option::of(probe()),
        prop::option::of(env),
        prop::option::of(prop_oneof![Just(json!({"runAsUser": 15008})), Just(json!({"runAsUser": 1}))]),
    );
    object(entries.prop_map(move |(liveness, startup, env, security)| {
        vec![
            ("name", Some(name.into())),
            ("image", Some("a:1".into())),
            ("ports", Some(json!([{"name": "web", "containerPort": 80}]))),
            ("livenessProbe", liveness),
            ("startupProbe", startup),
            ("env", env),
            ("securityContext", security),
        ]
    }))
}

fn annotations() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec![
        "inject",
        "skip-inbound-ports",
        "proxy-cpu-limit",
        "proxy-memory-request",
        "access-log",
        "native-sidecar",
        "drain-deadline",
        "trace-sample",
        "redirect",
        "unheard-of",
    ]);
    let values = prop::sample::select(vec!["enabled", "disabled", "80", "1Gi", "json", "20s", "5%", "", "nonsense"]);
    prop::collection::btree_map(names, values, 0..3).prop_map(|all| {
        all.into_iter().map(|(name, value)| (format!("fusewire.io/{name}"), Value::from(value))).collect()
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let spec = (
        prop::collection::vec(prop_oneof![4 => container("app"), 1 => container("fusewire")], 0..3),
        prop::option::of(prop::collection::vec(container("init"), 0..2)),
        prop::option::of(prop_oneof![Just(json!([{"name": "data"}])), Just(json!([{"name": "fusewire-data"}]))]),
        prop::option::of(prop::sample::select(vec!["Always", "Never"])),
        prop::option::of(prop_oneof![Just(json!(0)), Just(json!(90_000)), Just(json!("x"))]),
        prop::option::of(prop_oneof![Just(json!({"limits": {"cpu": "1"}})), Just(json!({"requests": {"memory": 1}}))]),
    );
    let spec = object(spec.prop_map(|(mut containers, init, volumes, restart, grace, resources)| {
        let apps = containers.iter_mut().enumerate().skip(1).filter(|(_, container)| container["name"] == "app");
        apps.for_each(|(n, container)| container["name"] = format!("app-{n}").into());
        vec![
            ("containers", Some(containers.into())),
            ("initContainers", init.map(Value::from)),
            ("volumes", volumes),
            ("restartPolicy", restart.map(Value::from)),
            ("terminationGracePeriodSeconds", grace),
            ("resources", resources),
            ("fieldOfANewerKubernetes", Some(json!({"kept": true}))),
        ]
    }));
    (spec, prop::option::of(annotations())).prop_map(|(spec, annotations)| match annotations {
        Some(annotations) => json!({"metadata": {"annotations": annotations}, "spec": spec}),
        None => json!({"spec": spec}),
    })
}

fn namespace() -> impl Strategy<Value = Namespace> {
    let labels = prop::sample::select(vec!["privileged", "baseline", "restricted"]).prop_map(|standard| {
        let texts = [("fusewire.io/inject", "enabled"), ("pod-security.kubernetes.io/enforce", standard)];
        texts.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    });
    labels.prop_map(|labels| Namespace { name: "shop".into(), labels, ..Namespace::default() })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn to_inject_what_is_injected_changes_nothing(pod in pod(), first in namespace(), second in namespace()) {
        if let Injected::Pod { pod: once, .. } = inject(&pod, &first, &settings()) {
            match inject(&once, &first, &settings()) {
                Injected::Pod { pod: twice, .. } => prop_assert_eq!(&twice, &once),
                other => prop_assert!(false, "{:?}", other),
            }
            // and one that was injected elsewhere becomes what it would have become here
            if let Injected::Pod { pod: here, .. } = inject(&uninject(&once), &second, &settings()) {
                match inject(&once, &second, &settings()) {
                    Injected::Pod { pod: moved, .. } => prop_assert_eq!(moved, here),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }

    #[test]
    fn what_is_not_ours_stays(pod in pod(), namespace in namespace()) {
        if let Injected::Pod { pod: injected, .. } = inject(&pod, &namespace, &settings()) {
            prop_assert_eq!(&injected["spec"]["fieldOfANewerKubernetes"], &json!({"kept": true}));
            let apps = |of: &Value| -> Vec<Value> {
                let all = of["spec"]["containers"].as_array().unwrap();
                all.iter().filter(|c| c["name"] != "fusewire").map(|c| c["image"].clone()).collect()
            };
            prop_assert_eq!(apps(&injected), apps(&pod));
        }
    }
}
