//! What the crate promises to those who use it: texts in, faults or resources out.

mod any_input;
mod called;
mod compiled;
mod example;
mod faults;
mod found;
mod objects;
mod versions;

use fusewire_model::yaml::{self, Parsed, Source};

fn source(name: &str, text: &str) -> Source {
    Source { name: name.into(), text: text.into() }
}

/// The mesh of one file that has no fault.
fn parsed(text: &str) -> Parsed {
    match yaml::parse(&[source("mesh.yaml", text)]) {
        Ok(parsed) => parsed,
        Err(faults) => panic!("{}", lines(&faults)),
    }
}

fn lines<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(|item| format!("{item}\n")).collect()
}
