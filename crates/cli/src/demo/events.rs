//! What the watched sidecar says happened to its circuits, in words.

use crate::admin_client::ask;
use http::Method;
use serde_json::Value;
use std::path::PathBuf;

pub(crate) struct Events {
    socket: PathBuf,
    after: u64,
    /// Of circuits, seen so far.
    pub(crate) transitions: u64,
    pub(crate) openings: u64,
}

impl Events {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, after: 0, transitions: 0, openings: 0 }
    }

    /// A line for each new event. A question without answer is asked again with the next poll: events are kept there.
    pub(crate) async fn poll(&mut self) -> Vec<String> {
        let path = format!("/breakers/events?after={}", self.after);
        let Ok(Value::Array(events)) = ask(&self.socket, Method::GET, &path, None).await else { return Vec::new() };
        for event in &events {
            self.after = event["seq"].as_u64().unwrap_or(self.after).max(self.after);
            self.transitions += 1;
            self.openings += u64::from(event["to"] == "open");
        }
        events.iter().map(words).collect()
    }
}

fn words(event: &Value) -> String {
    let text = |field: &str| event[field].as_str().unwrap_or("-");
    let number = |field: &str| event[field].as_u64().unwrap_or(0);
    let instance = text("instance");
    match text("to") {
        "open" => {
            let (total, hard, soft) = (number("total"), number("hard"), number("soft"));
            let why = match text("reason") {
                "rate" => format!("rate: {hard} of {total} failed"),
                "consecutive" => format!("consecutive: {hard} of {total} failed"),
                "unresponsive" => format!("unresponsive: {soft} of {total} unanswered"),
                "probe_failed" => "the probe failed".to_owned(),
                "probe_lost" => "the probe got no answer".to_owned(),
                other => other.to_owned(),
            };
            format!("circuit open: {instance} ({why}), next probe in {:.1}s", number("open_ms") as f64 / 1e3)
        }
        "half-open" => {
            format!("probe: {instance} gets single requests; {} good ones close its circuit", number("probes_needed"))
        }
        "closed" => format!("circuit closed: {instance} ({}), its share grows again", text("reason")),
        other => format!("circuit {other}: {instance}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_opening_says_why_and_until_when() {
        let mut event = json!({"to": "open", "instance": "inventory-2", "reason": "rate", "open_ms": 2100});
        (event["hard"], event["total"]) = (11.into(), 50.into());
        assert_eq!(words(&event), "circuit open: inventory-2 (rate: 11 of 50 failed), next probe in 2.1s");
    }
}
