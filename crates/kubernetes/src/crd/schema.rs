//! Structural schemas: a small tree that can only hold what API servers take, and how it is written.
//!
//! It decides how each kind of value is bounded, so that no rule can become expensive: every text, list and mapping has an end.
//! Words that stand for a whole mapping elsewhere (`breaker: off`) cannot be had here, since a structural schema gives each
//! field one type; each has a mapping that says the same.
//!
//! Invariant: what is built here is structural (`NonStructuralSchema` is never set), and a tree can be walked, so that tests
//! hold it against the parser field by field.

use fusewire_model::yaml::duration_text;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// A value: what it means, its shape, and what the shape cannot say.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    pub(crate) description: String,
    pub(crate) shape: Shape,
    pub(crate) rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
pub(crate) enum Shape {
    Object(Vec<Field>),
    /// Names that people choose.
    Map {
        values: Box<Schema>,
        most: u64,
    },
    List {
        items: Box<Schema>,
        least: u64,
        most: u64,
    },
    /// Characters, and what they must match; empty: anything.
    Text {
        least: u64,
        most: u64,
        pattern: String,
    },
    /// RFC 3339.
    Time,
    Word(Vec<&'static str>),
    Flag,
    Integer {
        least: i64,
        most: i64,
    },
    Number {
        least: f64,
        most: f64,
    },
    /// A whole number, or a text that matches.
    IntegerOrText {
        least: i64,
        most: i64,
        pattern: String,
    },
    Duration {
        least: Duration,
        most: Duration,
    },
}

/// A rule in CEL, and what is said where it does not hold.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) rule: String,
    pub(crate) message: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) presence: Presence,
    pub(crate) schema: Schema,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Required,
    Optional,
}

pub(crate) fn required(name: &'static str, schema: Schema) -> Field {
    Field { name, presence: Presence::Required, schema }
}

pub(crate) fn optional(name: &'static str, schema: Schema) -> Field {
    Field { name, presence: Presence::Optional, schema }
}

fn of(shape: Shape, description: &str) -> Schema {
    Schema { description: description.to_owned(), shape, rules: Vec::new() }
}

pub(crate) fn object(description: &str, fields: Vec<Field>) -> Schema {
    of(Shape::Object(fields), description)
}

pub(crate) fn map(values: Schema, most: u64, description: &str) -> Schema {
    of(Shape::Map { values: Box::new(values), most }, description)
}

pub(crate) fn list(items: Schema, (least, most): (u64, u64), description: &str) -> Schema {
    of(Shape::List { items: Box::new(items), least, most }, description)
}

pub(crate) fn text((least, most): (u64, u64), pattern: &str, description: &str) -> Schema {
    of(Shape::Text { least, most, pattern: pattern.to_owned() }, description)
}

pub(crate) fn time(description: &str) -> Schema {
    of(Shape::Time, description)
}

pub(crate) fn word(words: &[&'static str], description: &str) -> Schema {
    of(Shape::Word(words.to_vec()), description)
}

pub(crate) fn flag(description: &str) -> Schema {
    of(Shape::Flag, description)
}

pub(crate) fn integer(least: i64, most: i64, description: &str) -> Schema {
    of(Shape::Integer { least, most }, description)
}

pub(crate) fn number(least: f64, most: f64, description: &str) -> Schema {
    of(Shape::Number { least, most }, description)
}

/// `50` or `50%`.
pub(crate) fn percent(least: i64, most: i64, description: &str) -> Schema {
    of(Shape::IntegerOrText { least, most, pattern: "^(100|[1-9]?[0-9])%?$".into() }, description)
}

/// `1%` or `"0.01"`. A fraction needs quotes, or API servers take it for a number that is not whole.
pub(crate) fn share(description: &str) -> Schema {
    let pattern = r"^(0(\.[0-9]{1,9})?|1(\.0{1,9})?|(100(\.0{1,9})?|[1-9]?[0-9](\.[0-9]{1,9})?)%)$";
    of(Shape::IntegerOrText { least: 0, most: 1, pattern: pattern.into() }, description)
}

pub(crate) fn integer_or_text(least: i64, most: i64, pattern: &str, description: &str) -> Schema {
    of(Shape::IntegerOrText { least, most, pattern: pattern.to_owned() }, description)
}

pub(crate) fn duration(least: Duration, most: Duration, description: &str) -> Schema {
    of(Shape::Duration { least, most }, description)
}

impl Schema {
    /// With a rule over the value.
    pub(crate) fn rule(mut self, rule: &str, message: &str) -> Self {
        self.rules.push(Rule { rule: rule.to_owned(), message: message.to_owned() });
        self
    }

    /// As `openAPIV3Schema` has it.
    pub(crate) fn json(&self) -> Value {
        let mut out = Map::new();
        if !self.description.is_empty() {
            out.insert("description".into(), self.description.clone().into());
        }
        let mut rules = self.rules.clone();
        self.shape.write(&mut out, &mut rules);
        if !rules.is_empty() {
            let rules = rules.into_iter().map(|Rule { rule, message }| json!({"rule": rule, "message": message}));
            out.insert("x-kubernetes-validations".into(), rules.collect());
        }
        Value::Object(out)
    }
}

/// As [`fusewire_model::yaml::parse_duration`] reads it.
const DURATION: &str = "^([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?([0-9]{1,9}ms)?$";

impl Shape {
    fn write(&self, out: &mut Map<String, Value>, rules: &mut Vec<Rule>) {
        let mut put = |pairs: Value| {
            if let Value::Object(pairs) = pairs {
                out.extend(pairs);
            }
        };
        match self {
            Self::Object(fields) => {
                let required = fields.iter().filter(|field| field.presence == Presence::Required);
                let required: Vec<&str> = required.map(|field| field.name).collect();
                put(json!({"type": "object"}));
                if !required.is_empty() {
                    put(json!({"required": required}));
                }
                let properties = fields.iter().map(|field| (field.name.to_owned(), field.schema.json()));
                let properties: Map<String, Value> = properties.collect();
                if !properties.is_empty() {
                    put(json!({"properties": properties}));
                }
            }
            Self::Map { values, most } => {
                put(json!({"type": "object", "maxProperties": most, "additionalProperties": values.json()}));
            }
            Self::List { items, least, most } => put(json!({
                "type": "array", "minItems": least, "maxItems": most, "x-kubernetes-list-type": "atomic",
                "items": items.json(),
            })),
            Self::Text { least, most, pattern } => {
                put(json!({"type": "string", "minLength": least, "maxLength": most}));
                if !pattern.is_empty() {
                    put(json!({"pattern": pattern}));
                }
            }
            Self::Time => put(json!({"type": "string", "format": "date-time", "maxLength": 40})),
            Self::Word(words) => put(json!({"type": "string", "enum": words})),
            Self::Flag => put(json!({"type": "boolean"})),
            Self::Integer { least, most } => {
                put(json!({"type": "integer", "format": "int32", "minimum": least, "maximum": most}));
            }
            Self::Number { least, most } => put(json!({"type": "number", "minimum": least, "maximum": most})),
            Self::IntegerOrText { least, most, pattern } => put(json!({
                "x-kubernetes-int-or-string": true, "minimum": least, "maximum": most, "maxLength": 20,
                "pattern": pattern,
            })),
            Self::Duration { least, most } => {
                put(json!({"type": "string", "minLength": 2, "maxLength": 20, "pattern": DURATION}));
                rules.push(within(*least, *most));
            }
        }
    }
}

fn within(least: Duration, most: Duration) -> Rule {
    let (least_text, most_text) = (duration_text(least), duration_text(most));
    let above = (!least.is_zero()).then(|| format!("duration(self) >= duration('{least_text}') && "));
    let message = format!("must be a duration {least_text}..{most_text}, such as 250ms, 5s or 1m30s");
    Rule { rule: format!("{}duration(self) <= duration('{most_text}')", above.unwrap_or_default()), message }
}
