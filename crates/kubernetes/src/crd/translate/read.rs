//! A spec as text, read by the parser of YAML files, and its faults with the paths that people know.

use crate::yaml;
use fusewire_model::TrustDomain;
use fusewire_model::world::Mesh;
use fusewire_model::yaml::{Fault, Source, parse};
use serde_json::{Map, Value, json};

/// Told of one object; the rest is a number.
const MAX_TOLD: usize = 8;
/// Of a condition's message, in characters.
const MAX_MESSAGE: usize = 8_000;

/// Where the parser finds what stands elsewhere in an object: its path's beginning, and what is said in its place.
pub(super) type Places<'a> = &'a [(&'a str, &'a str)];

/// # Errors
/// Every fault, as one text.
pub(super) fn mesh(mut document: Value, domain: &TrustDomain, places: Places<'_>) -> Result<Mesh, String> {
    document["trust_domain"] = domain.as_str().into();
    whole_numbers(&mut document);
    let source = Source { name: "spec".into(), text: yaml::write(&[document]) };
    parse(&[source]).map(|parsed| parsed.mesh).map_err(|faults| told(&faults, places))
}

/// The fields of a spec but for `taken`, which are said in another way than in a file.
///
/// # Errors
/// It is no mapping, or has one of `foreign`, which only a file has.
pub(super) fn settings(spec: &Value, taken: &[&str], foreign: &[&str]) -> Result<Map<String, Value>, String> {
    let Some(spec) = spec.as_object() else { return Err("spec: must be a mapping".into()) };
    if let Some(key) = foreign.iter().find(|key| spec.contains_key(**key)) {
        return Err(format!("spec.{key}: is for files only, leave it out"));
    }
    Ok(spec.iter().filter(|(key, _)| !taken.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect())
}

/// JSON has one kind of number: 5.0 is 5.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let whole = number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 1e15 && !number.is_i64());
            if let Some(whole) = whole {
                *value = json!(whole as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(entries) => entries.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

fn told(faults: &[Fault], places: Places<'_>) -> String {
    let one = |fault: &Fault| {
        let known = places.iter().find_map(|(from, to)| Some(format!("{to}{}", fault.path.strip_prefix(from)?)));
        let remedy = fault.remedy.as_ref().map(|remedy| format!(" ({remedy})")).unwrap_or_default();
        format!("{}: {}{remedy}", known.as_deref().unwrap_or(&fault.path), fault.message)
    };
    together(faults.iter().map(one))
}

/// As one text, of bounded length.
pub(super) fn together(all: impl ExactSizeIterator<Item = String>) -> String {
    let more = all.len().saturating_sub(MAX_TOLD);
    let mut text = all.take(MAX_TOLD).collect::<Vec<_>>().join("; ");
    if let Some((end, _)) = text.char_indices().nth(MAX_MESSAGE) {
        text.truncate(end);
    }
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    text
}
