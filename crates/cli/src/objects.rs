//! How objects are named and their changes shown, the same for each command.

use anyhow::{Context, Result, bail};
use fusewire_api::v1;
use fusewire_model::yaml::{ObjectKind, ObjectName};
use similar::TextDiff;

/// `service/shop`.
pub(crate) fn named(object: Option<&v1::ObjectName>) -> String {
    object.map(|v1::ObjectName { kind, name }| format!("{kind}/{name}")).unwrap_or_default()
}

/// `service/shop`, with nothing left out.
pub(crate) fn whole(text: &str) -> Result<v1::ObjectName> {
    let name = ObjectName::parse(text);
    let ObjectName { kind, name } = name.with_context(|| format!("{text:?} is no KIND/NAME; kinds are {}", kinds()))?;
    Ok(v1::ObjectName { kind: kind.word().into(), name })
}

/// `service/shop`, or `service` for all services.
pub(crate) fn wanted(text: &str) -> Result<v1::ObjectName> {
    if text.contains('/') {
        return whole(text);
    }
    match ObjectKind::parse(text) {
        Some(kind) => Ok(v1::ObjectName { kind: kind.word().into(), name: String::new() }),
        None => bail!("{text:?} is no kind; there are {}", kinds()),
    }
}

fn kinds() -> String {
    ObjectKind::ALL.map(ObjectKind::word).join(", ")
}

/// `created`, `changed` or `deleted`.
pub(crate) fn verb(change: &v1::ObjectChange) -> &'static str {
    match (change.before.is_empty(), change.after.is_empty()) {
        (true, _) => "created",
        (false, true) => "deleted",
        (false, false) => "changed",
    }
}

/// A line for each change, and what came out of it.
pub(crate) fn told(answer: &v1::ApplyResponse, dry_run: bool) -> String {
    let would = if dry_run { "would be " } else { "" };
    let lines = answer.changes.iter().map(|c| format!("{} {would}{}\n", named(c.object.as_ref()), verb(c)));
    let lines: String = lines.collect();
    let after = match (answer.changes.is_empty(), dry_run) {
        (true, _) => format!("nothing to change at revision {}\n", answer.revision),
        (false, true) => format!("nothing was changed at revision {}\n", answer.revision),
        (false, false) => format!("revision {}, version {}\n", answer.revision, answer.version),
    };
    lines + &after
}

/// A unified diff of each object.
pub(crate) fn diff(changes: &[v1::ObjectChange]) -> String {
    let one = |change: &v1::ObjectChange| {
        let name = named(change.object.as_ref());
        let of = |text: &str, side: &str| if text.is_empty() { "/dev/null".into() } else { format!("{side}/{name}") };
        let (old, new) = (of(&change.before, "a"), of(&change.after, "b"));
        TextDiff::from_lines(&change.before, &change.after).unified_diff().header(&old, &new).to_string()
    };
    changes.iter().map(one).collect()
}
