//! Patches: JSON merge patch (RFC 7386), of JSON patch (RFC 6902) add, replace, remove and test, and of server-side apply what one
//! manager after another does to fields and to lists whose entries have a `type`, such as conditions.

use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Server-side apply, by force. `before`: the entries that the same manager applied last; those that it leaves out go. What it applies now.
pub(super) fn apply(target: &mut Value, patch: &Value, before: &BTreeSet<String>) -> BTreeSet<String> {
    let mut applied = BTreeSet::new();
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return applied;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in fields {
        let types: Option<BTreeSet<String>> = value.as_array().and_then(|items| items.iter().map(of_type).collect());
        match (types, &mut target[key]) {
            (Some(types), there) => {
                let mut items = there.as_array().cloned().unwrap_or_default();
                items.retain(|item| of_type(item).is_none_or(|of| !types.contains(&of) && !before.contains(&of)));
                items.extend(value.as_array().into_iter().flatten().cloned());
                *there = items.into();
                applied.extend(types);
            }
            (None, there) => applied.extend(apply(there, value, before)),
        }
    }
    applied
}

fn of_type(item: &Value) -> Option<String> {
    item["type"].as_str().map(str::to_owned)
}

/// RFC 7386, section 2.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(into) = target else { return };
    for (key, value) in fields {
        if value.is_null() {
            into.remove(key);
        } else {
            merge(into.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// RFC 6902, as far as it is used.
///
/// # Errors
/// Which operation is not possible.
pub fn json(target: &mut Value, operations: &Value) -> Result<(), String> {
    for operation in operations.as_array().into_iter().flatten() {
        let path = operation["path"].as_str().unwrap_or_default();
        one(target, operation, path).ok_or_else(|| format!("the server rejected our request: {operation}"))?;
    }
    Ok(())
}

fn one(target: &mut Value, operation: &Value, path: &str) -> Option<()> {
    let value = operation["value"].clone();
    let word = operation["op"].as_str()?;
    if word == "test" {
        return (target.pointer(path) == Some(&value)).then_some(());
    }
    let (parent, last) = path.rsplit_once('/')?;
    let last = last.replace("~1", "/").replace("~0", "~");
    match (target.pointer_mut(parent)?, word) {
        (Value::Object(fields), "add") => drop(fields.insert(last, value)),
        (Value::Object(fields), "replace") => *fields.get_mut(&last)? = value,
        (Value::Object(fields), "remove") => drop(fields.remove(&last)?),
        (Value::Array(items), "add") if last == "-" => items.push(value),
        (Value::Array(items), "add") => {
            let at = last.parse().ok().filter(|at| *at <= items.len())?;
            items.insert(at, value);
        }
        (Value::Array(items), "replace") => *items.get_mut(last.parse::<usize>().ok()?)? = value,
        (Value::Array(items), "remove") => {
            let at = last.parse().ok().filter(|at| *at < items.len())?;
            items.remove(at);
        }
        _ => return None,
    }
    Some(())
}
