//! No input panics, and whatever is read can be folded and compiled.

use crate::{compiled::assert_closed, example::EXAMPLE, source};
use fusewire_model::node::Node;
use fusewire_model::resource::{Answer, Subscription};
use fusewire_model::{World, compile, yaml};
use proptest::collection::vec;
use proptest::prelude::*;

fn read(text: &str) {
    // twice the same text: every name is defined twice
    let _ = yaml::parse(&[source("a.yaml", text), source("b.yaml", text)]);
    let Ok(parsed) = yaml::parse(&[source("a.yaml", text)]) else { return };
    let world = World::new(parsed.mesh);
    let mesh = world.mesh();
    let authorities = mesh.routes.iter().flat_map(|route| route.authorities.iter().cloned());
    let wanted: Vec<_> = authorities
        .map(Subscription::Authority)
        .chain(mesh.services.keys().cloned().map(Subscription::Service))
        .chain(mesh.services.values().flat_map(|s| &s.instances).map(|i| Subscription::Address(i.address)))
        .collect();
    for service in mesh.services.values() {
        let node = Node { workload: service.identity.clone(), instance: None };
        let compiled = compile::compile(&world, &node, &wanted);
        assert_closed(&compiled);
        assert!(compiled.answers.iter().all(|(_, answer)| *answer != Answer::NotFound));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,200}") {
        read(&text);
    }

    #[test]
    fn any_yaml_like_text_is_read_or_refused(
        parts in vec(prop::sample::select(vec![
            "a", "services", "routes", "to", ":", ": ", "- ", "\n", "\n  ", "\n    ", "[", "]", "{", "}", ",", "\"", "'", "|",
            ">", "&a ", "*a", "!x ", "!!str ", "? ", "#", "---\n", "...\n", "%YAML 1.2\n", "\t", "\r", "\u{feff}", "é", "0", "\\",
        ]), 0..60),
    ) {
        read(&parts.concat());
    }

    #[test]
    fn any_change_to_an_example_is_read_or_refused(
        cuts in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), "[ -~\n]{0,6}"), 1..6),
    ) {
        let mut text: Vec<char> = EXAMPLE.chars().collect();
        for (at, length, put) in cuts {
            let at = at.index(text.len());
            let end = (at + length.index(12)).min(text.len());
            text.splice(at..end, put.chars());
        }
        read(&text.into_iter().collect::<String>());
    }

    #[test]
    fn any_value_is_read_or_refused_in_any_place(
        line in any::<prop::sample::Index>(),
        value in prop::sample::select(vec![
            "", "~", "-1", "0", "1", "99999999999999999999", "1e9", "0x10", "[]", "{}", "[[]]", "[~]", "{a: ~}", "\"\"", "x", "/", ":",
            "5s", "999999999999h", "50%", "-", "é", "true", "off", "\"\\u0000\"", "{service: catalog}", "[10.0.0.1:1]",
        ]),
    ) {
        let lines: Vec<&str> = EXAMPLE.lines().collect();
        let at = line.index(lines.len());
        let key = lines[at].split(": ").next().unwrap_or_default();
        let changed = format!("{}: {value}", key.trim_end_matches(':'));
        let text: Vec<&str> = lines.iter().enumerate().map(|(n, l)| if n == at { changed.as_str() } else { l }).collect();
        read(&text.join("\n"));
    }
}
