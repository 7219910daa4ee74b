//! The way from one JSON value to another, as an RFC 6902 patch.
//!
//! It decides to descend into mappings only: a list that differs is replaced whole, which is right whatever stands in it, and
//! the lists of a pod are short.

use serde_json::{Value, json};

/// Empty where nothing differs.
pub(crate) fn diff(before: &Value, after: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    descend(before, after, &mut String::new(), &mut operations);
    operations
}

fn descend(before: &Value, after: &Value, path: &mut String, operations: &mut Vec<Value>) {
    if before == after {
        return;
    }
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        operations.push(json!({"op": "replace", "path": path, "value": after}));
        return;
    };
    let here = path.len();
    for (key, value) in new {
        path.push('/');
        path.push_str(&key.replace('~', "~0").replace('/', "~1"));
        match old.get(key) {
            Some(known) => descend(known, value, path, operations),
            None => operations.push(json!({"op": "add", "path": path, "value": value})),
        }
        path.truncate(here);
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        let gone = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
        operations.push(json!({"op": "remove", "path": gone}));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As the API server applies it.
    pub(crate) fn apply(mut value: Value, operations: &[Value]) -> Value {
        for operation in operations {
            let path = operation["path"].as_str().unwrap();
            let new = operation.get("value").cloned();
            let Some((parent, key)) = path.rsplit_once('/') else {
                value = new.unwrap();
                continue;
            };
            let key = key.replace("~1", "/").replace("~0", "~");
            let parent = value.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            assert_eq!(operation["op"] != "add", parent.contains_key(&key), "{operation}");
            match new {
                Some(new) => drop(parent.insert(key, new)),
                None => drop(parent.remove(&key)),
            }
        }
        value
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![any::<bool>().prop_map(Value::Bool), (0..3_u8).prop_map(Value::from)];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
                prop::collection::btree_map("[a/~]{1,2}", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_patch_leads_from_one_value_to_the_other(before in value(), after in value()) {
            prop_assert_eq!(apply(before.clone(), &diff(&before, &after)), after.clone());
            prop_assert!(diff(&after, &after).is_empty());
        }
    }
}
