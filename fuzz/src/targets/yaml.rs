//! Any text is a mesh, or faults that say where; and what objects are kept as means what was written.

use fusewire_model::node::Node;
use fusewire_model::resource::{Answer, Subscription};
use fusewire_model::yaml::{self, Fault, MAX_FAULTS, Objects, Source};
use fusewire_model::{World, compile};

fn source(name: &str, text: impl Into<String>) -> Source {
    Source { name: name.into(), text: text.into() }
}

pub(super) fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let files = [source("a.yaml", text)];
    match yaml::parse(&files) {
        Err(faults) => placed(&files[0].text, &faults),
        Ok(parsed) => {
            let world = World::new(parsed.mesh);
            compiles(&world);
            kept(&files, &world);
        }
    }
}

fn placed(text: &str, faults: &[Fault]) {
    assert!((1..=MAX_FAULTS + 1).contains(&faults.len()), "{} faults", faults.len());
    // a carriage return alone breaks a line too (YAML 1.2, section 5.4)
    let lines = text.matches(['\n', '\r']).count() + 2;
    for fault in faults {
        assert!(fault.file == "a.yaml" && fault.column >= 1 && !fault.message.is_empty(), "{fault:?}");
        assert!((1..=lines).contains(&fault.line), "{fault:?}");
    }
}

/// Whatever is read can be told to a sidecar, and everything that it names is there.
fn compiles(world: &World) {
    let mesh = world.mesh();
    let authorities = mesh.routes.iter().flat_map(|route| route.authorities.iter().cloned());
    let wanted: Vec<Subscription> = authorities
        .map(Subscription::Authority)
        .chain(mesh.services.keys().cloned().map(Subscription::Service))
        .take(20)
        .collect();
    for service in mesh.services.values().take(5) {
        let node = Node { workload: service.identity.clone(), instance: None };
        let compiled = compile::compile(world, &node, &wanted);
        assert!(compiled.answers.iter().all(|(_, answer)| *answer != Answer::NotFound));
    }
}

/// Taken apart into objects and put together again it is the same mesh, and an object's text is its own canonical form.
fn kept(files: &[Source], world: &World) {
    let domain = source("domain.yaml", format!("trust_domain: {}\n", world.trust_domain()));
    let mut objects = Objects::new();
    for (name, definition) in yaml::definitions(files) {
        let again = yaml::definitions(&[source("again.yaml", definition.yaml.clone())]);
        let again: Vec<_> = again.iter().map(|(name, definition)| (name, &definition.yaml)).collect();
        assert_eq!(again, [(&name, &definition.yaml)]);
        objects.insert(name, definition.yaml.into());
    }
    let merged = yaml::merge(&[domain], &objects);
    let merged = merged.unwrap_or_else(|faults| panic!("{objects:#?}\nhas faults: {faults:#?}"));
    assert_eq!(World::new(merged.mesh).version(), world.version(), "{objects:#?}");
}
