//! The schemas against the parser, field by field: neither knows a key, a word or a bound that the other does not.

use super::schema::{Field, Presence, Schema, Shape};
use super::{Kind, external, policy};
use crate::yaml;
use fusewire_model::yaml::{Fault, Source, duration_text, parse};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// Puts a value where it belongs in a document.
type Wrap<'a> = &'a dyn Fn(Value) -> Value;

fn faults(document: Value) -> Vec<Fault> {
    let source = Source { name: "t".into(), text: yaml::write(&[document]) };
    parse(&[source]).err().unwrap_or_default()
}

/// What the parser says is known where `wrap` puts things.
fn known(wrap: Wrap<'_>, beside: &[(&'static str, Value)]) -> BTreeSet<String> {
    let mut map: Map<String, Value> = beside.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    map.insert("?".into(), Value::Null);
    let told = faults(wrap(Value::Object(map)));
    let unknown = told.iter().find(|fault| fault.message == "unknown key" && fault.path.ends_with("[\"?\"]"));
    let remedy = unknown.unwrap_or_else(|| panic!("{told:?}")).remedy.clone().unwrap_or_default();
    let list = remedy.strip_prefix("known here: ").unwrap_or_else(|| panic!("{remedy}"));
    list.split(", ").map(str::to_owned).collect()
}

/// The field by whose word an object has other fields, and its words.
fn variants(fields: &[Field]) -> Vec<Vec<(&'static str, Value)>> {
    let by = fields.iter().find(|field| ["type", "algorithm"].contains(&field.name));
    match by.map(|field| (field.name, &field.schema.shape)) {
        Some((name, Shape::Word(words))) => words.iter().map(|word| vec![(name, json!(word))]).collect(),
        _ => vec![Vec::new()],
    }
}

/// What must stand beside a field, so that a bound between two fields is not in the way of its own.
const BESIDE: [(&str, &str, i64, &str); 4] = [
    ("concurrency", "permits", 200, ""),
    ("max", "base", 0, "100ms"),
    ("max", "initial", 0, "1ms"),
    ("start", "cap", 10_000, ""),
];

/// Keys of the parser that objects say in another way.
fn elsewhere(path: &str) -> &'static [&'static str] {
    match path {
        "policies.p" => &["target"],
        "services.s" => &["policy", "allow", "authorities", "addresses"],
        _ => &[],
    }
}

fn walk(schema: &Schema, path: &str, wrap: Wrap<'_>) {
    match &schema.shape {
        Shape::Object(fields) => object(fields, path, wrap),
        Shape::Map { values, .. } => walk(values, &format!("{path}.a"), &|value| wrap(json!({"a": value}))),
        Shape::List { items, .. } => walk(items, &format!("{path}[0]"), &|value| wrap(json!([value]))),
        shape => leaf(shape, path, &[wrap]),
    }
}

fn object(fields: &[Field], path: &str, wrap: Wrap<'_>) {
    if fields.is_empty() {
        return; // `tcp: {}`
    }
    let variants = variants(fields);
    let mut keys: BTreeSet<String> = variants.iter().flat_map(|beside| known(wrap, beside)).collect();
    elsewhere(path).iter().for_each(|key| assert!(keys.remove(*key), "{path}.{key} is not known to the parser"));
    let ours: BTreeSet<String> = fields.iter().map(|field| field.name.to_owned()).collect();
    assert_eq!(ours, keys, "{path}: ours are on the left, the parser's on the right");
    for field in fields {
        let below = format!("{path}.{}", field.name);
        let has = |name: &str| fields.iter().any(|field| field.name == name);
        let companions = BESIDE.iter().filter(|(of, beside, ..)| *of == field.name && has(beside));
        let companions = companions.map(|(_, beside, n, text)| match *text {
            "" => (*beside, json!(n)),
            text => (*beside, json!(text)),
        });
        let companions: Vec<(&str, Value)> = companions.collect();
        let in_variant = |beside: &[(&'static str, Value)], value: Value| {
            let all = beside.iter().cloned().chain(companions.iter().cloned());
            let mut map: Map<String, Value> = all.map(|(key, value)| (key.to_owned(), value)).collect();
            map.insert(field.name.to_owned(), value);
            wrap(Value::Object(map))
        };
        let wraps: Vec<Box<dyn Fn(Value) -> Value + '_>> = variants
            .iter()
            .filter(|beside| known(wrap, beside).contains(field.name))
            .map(|beside| Box::new(move |value| in_variant(beside, value)) as Box<dyn Fn(Value) -> Value>)
            .collect();
        let wraps: Vec<Wrap<'_>> = wraps.iter().map(|wrap| &**wrap as Wrap<'_>).collect();
        match &field.schema.shape {
            Shape::Object(_) | Shape::Map { .. } | Shape::List { .. } => walk(&field.schema, &below, wraps[0]),
            shape => leaf(shape, &below, &wraps),
        }
        if field.presence == Presence::Required {
            let lacks = |beside: &Vec<(&'static str, Value)>| {
                let beside: Vec<_> = beside.iter().filter(|(key, _)| *key != field.name).cloned().collect();
                let map: Map<String, Value> = beside.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
                let told = faults(wrap(Value::Object(map)));
                told.iter().any(|fault| fault.path == below && fault.message.starts_with("must be given"))
            };
            assert!(variants.iter().all(lacks), "{below} is required here, and not by the parser");
        }
    }
}

/// Values that the schema takes, and some just beyond it.
fn samples(shape: &Shape) -> (Vec<Value>, Vec<Value>) {
    let millisecond = Duration::from_millis(1);
    match shape {
        Shape::Word(words) => (words.iter().map(|word| json!(word)).collect(), vec![json!("zz")]),
        Shape::Flag => (vec![json!(true), json!(false)], vec![json!("zz")]),
        Shape::Time => (vec![json!("2026-11-22T18:00:00Z")], vec![json!("tomorrow")]),
        Shape::Integer { least, most } | Shape::IntegerOrText { least, most, .. } => {
            (vec![json!(least), json!(most)], vec![json!(least - 1), json!(most + 1)])
        }
        Shape::Number { least, most } => {
            (vec![json!(least), json!(most)], vec![json!(least - 0.5), json!(most + 1.0), json!("x")])
        }
        Shape::Duration { least, most } => {
            let below = least.checked_sub(millisecond).map(|less| json!(duration_text(less)));
            let beyond = [json!(duration_text(*most + millisecond)), json!("5"), json!("1.5s")];
            (vec![json!(duration_text(*least)), json!(duration_text(*most))], beyond.into_iter().chain(below).collect())
        }
        _ => (Vec::new(), vec![json!([[]])]),
    }
}

fn leaf(shape: &Shape, path: &str, wraps: &[Wrap<'_>]) {
    let (good, bad) = samples(shape);
    let told = |wrap: Wrap<'_>, value: &Value| {
        let all = faults(wrap(value.clone()));
        all.into_iter().filter(|fault| fault.path.starts_with(path)).collect::<Vec<_>>()
    };
    for value in good {
        let taken = wraps.iter().any(|wrap| told(wrap, &value).is_empty());
        assert!(taken, "{path}: {value} is refused by the parser: {:?}", told(wraps[0], &value));
    }
    for value in bad {
        let refused = wraps.iter().all(|wrap| !told(wrap, &value).is_empty());
        assert!(refused, "{path}: {value} is taken by the parser");
    }
}

#[test]
fn the_schema_of_a_policy_knows_what_the_parser_knows() {
    object(&policy::settings(), "policies.p", &|value| json!({"policies": {"p": value}}));
}

#[test]
fn the_schema_of_an_external_service_knows_what_the_parser_knows() {
    object(&external::settings(), "services.s", &|value| json!({"services": {"s": value}}));
}

#[test]
fn the_schema_of_an_override_knows_what_the_parser_knows() {
    let Shape::Object(fields) = Kind::BreakerOverride.spec().shape else { panic!("an object") };
    let wrap = |value| json!({"services": {"s": null}, "overrides": [value]});
    let ours = fields.iter().map(|field| if field.name == "targetRef" { "service" } else { field.name });
    assert_eq!(ours.map(str::to_owned).collect::<BTreeSet<_>>(), known(&wrap, &[]));
    for field in fields.iter().filter(|field| field.name != "targetRef") {
        leaf(
            &field.schema.shape,
            &format!("overrides[0].{}", field.name),
            &[&|value| wrap(json!({(field.name): value}))],
        );
    }
}

/// Structural, bounded, and said in words: what API servers demand, and what people see in `kubectl explain`.
#[test]
fn every_field_is_bounded_and_described() {
    fn all(schema: &Schema, path: &str) {
        match &schema.shape {
            Shape::Object(fields) => {
                for field in fields {
                    let below = format!("{path}.{}", field.name);
                    assert!(field.schema.description.ends_with('.') || below.ends_with("conditions"), "{below}");
                    all(&field.schema, &below);
                }
            }
            Shape::Map { values, most } => {
                assert!(*most > 0);
                all(values, path);
            }
            Shape::List { items, most, .. } => {
                assert!(*most > 0);
                all(items, path);
            }
            Shape::Text { least, most, .. } => assert!(least <= most, "{path}"),
            _ => {}
        }
    }
    Kind::ALL.iter().for_each(|kind| all(&kind.spec(), kind.as_str()));
}
