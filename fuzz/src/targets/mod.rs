//! The properties, by name of their target. Each panics where its property does not hold.

mod csr;
mod detect;
mod trace_context;
mod wire_to_model;
mod yaml;

/// Feeds one input.
pub type Check = fn(&[u8]);

/// Every target. The parsers of headers and of the metadata between sidecars are private to the sidecar, and so are their
/// properties. There is no parser of the PROXY protocol in the code.
pub const ALL: [(&str, Check); 7] = [
    ("csr", csr::check),
    ("detect", detect::check),
    ("headers", fusewire_sidecar::fuzzing::headers),
    ("metadata", fusewire_sidecar::fuzzing::metadata),
    ("trace_context", trace_context::check),
    ("wire_to_model", wire_to_model::check),
    ("yaml", yaml::check),
];

/// The property of the target `name`.
pub fn of(name: &str) -> Check {
    let found = ALL.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no target is called {name}")).1
}
