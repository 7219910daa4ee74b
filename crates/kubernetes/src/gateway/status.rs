//! What the status of an object says of each of its parents that is a Service.

use super::object::{Metadata, ParentRef};
use super::{Attached, Dropped, Full, Input, Translated, parents};
use crate::known::RouteKind;

/// Told of one condition; the rest is a number.
const MAX_TOLD: usize = 8;
/// Of a condition's message.
const MAX_MESSAGE: usize = 32_768;

#[derive(Clone, Debug, PartialEq)]
pub struct RouteStatus {
    pub kind: RouteKind,
    pub namespace: String,
    pub name: String,
    /// That the conditions are about: their `observedGeneration`.
    pub generation: i64,
    /// In the order of its `parentRefs`; those that are no Services are left out.
    pub parents: Vec<ParentStatus>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ParentStatus {
    pub parent: ParentRef,
    /// `Accepted`, `ResolvedRefs`, and where only some rules are in force `PartiallyInvalid`.
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub kind: &'static str,
    pub is_true: bool,
    pub reason: &'static str,
    /// Empty where there is nothing to say.
    pub message: String,
}

/// `None`: no parent is a Service.
pub(super) fn of(
    input: &Input<'_>,
    (index, one): (usize, &Translated<'_>),
    used: (&Attached, &Full),
) -> Option<RouteStatus> {
    let parents = one.parents.iter().filter(|parent| parent.is_service()).map(|parent| {
        let accepted = accepted(input, (index, one), parent, used);
        let partly = partly(one).filter(|_| accepted.is_true);
        let conditions = [accepted, resolved(one)].into_iter().chain(partly).collect();
        ParentStatus { parent: parent.clone(), conditions }
    });
    let parents: Vec<ParentStatus> = parents.collect();
    let Metadata { name, namespace, generation, .. } = one.metadata.clone();
    (!parents.is_empty()).then_some(RouteStatus { kind: one.kind, namespace, name, generation, parents })
}

fn accepted(
    input: &Input<'_>,
    (index, one): (usize, &Translated<'_>),
    parent: &ParentRef,
    (attached, full): (&Attached, &Full),
) -> Condition {
    let said = |is_true, reason, message| Condition { kind: "Accepted", is_true, reason, message };
    if !one.is_usable() {
        let of_rules = one.told.dropped.values().flat_map(|(_, why)| why);
        let all: Vec<&String> = one.told.unsupported.iter().chain(of_rules).collect();
        return said(false, "UnsupportedValue", together(all.into_iter()));
    }
    let (id, ports) = match parents::ports(input, one, parent) {
        Ok(found) => found,
        Err((reason, message)) => return said(false, reason, message),
    };
    if let Some(message) = full.get(&index) {
        return said(false, "LimitExceeded", message.clone());
    }
    let has = |port: &u16| attached.get(&(id.clone(), *port)).is_some_and(|objects| objects.contains(&index));
    let lost: Vec<String> = ports.iter().filter(|port| !has(port)).map(u16::to_string).collect();
    if lost.is_empty() {
        return said(true, "Accepted", String::new());
    }
    let elsewhere = ports.iter().any(|port| parents::is_routed(input, &id, *port));
    let other = if elsewhere { "a route of the control plane's own files" } else { "a GRPCRoute" };
    let message = format!("{other} has port {} of Service {}/{}", lost.join(", "), id.0, id.1);
    match lost.len() == ports.len() {
        true => said(false, "Conflicted", message),
        false => said(true, "Accepted", message),
    }
}

/// Its message begins as Gateway API wants it.
fn partly(one: &Translated<'_>) -> Option<Condition> {
    let dropped = one.told.dropped.iter().map(|(index, (answer, why))| {
        let answer = match answer {
            Dropped::Answered => "its requests are answered with an error",
            Dropped::Unmatched => "it matches nothing",
        };
        format!("Dropped Rule {index}, {answer}: {}", together(why.iter()))
    });
    let dropped: Vec<String> = dropped.collect();
    let message = together(dropped.iter());
    let condition = Condition { kind: "PartiallyInvalid", is_true: true, reason: "UnsupportedValue", message };
    (!dropped.is_empty()).then_some(condition)
}

fn resolved(one: &Translated<'_>) -> Condition {
    let said = |is_true, reason, message| Condition { kind: "ResolvedRefs", is_true, reason, message };
    match one.told.unresolved.first() {
        None => said(true, "ResolvedRefs", String::new()),
        Some((reason, _)) => said(false, reason, together(one.told.unresolved.iter().map(|(_, message)| message))),
    }
}

fn together<'a>(all: impl ExactSizeIterator<Item = &'a String>) -> String {
    let more = all.len().saturating_sub(MAX_TOLD);
    let mut text = all.take(MAX_TOLD).map(String::as_str).collect::<Vec<_>>().join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    if text.len() > MAX_MESSAGE {
        text = text.chars().take(MAX_MESSAGE / 4).collect();
    }
    text
}
