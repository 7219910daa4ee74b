//! `/breakers/events`: what happened after a number, at once or as a stream.

use super::{Refusal, refused};
use crate::events::{Form, MAX_FOLLOWERS};
use crate::mesh::Mesh;
use fusewire_telemetry::admin::{Answer, Asked, json};
use http::{StatusCode, header};

pub(super) fn answer(mesh: &Mesh, asked: &Asked) -> Answer {
    let (mut after, mut follow) = (None, false);
    for part in asked.query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("after", n)) => match n.parse() {
                Ok(n) => after = Some(n),
                Err(_) => return bad("after", n, "write the number of the last event that is known, or leave it out"),
            },
            Some(("follow", "0")) => follow = false,
            Some(("follow", "1")) => follow = true,
            Some(("follow", other)) => return bad("follow", other, "write follow=1 for a stream, or leave it out"),
            _ => return bad("query", part, "there are after=SEQ and follow=1"),
        }
    }
    // what a browser says when it comes back to a stream
    let again = asked.headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let after = after.or(again).unwrap_or(0);
    if !follow {
        return json(StatusCode::OK, &mesh.events.after(after));
    }
    let accepted = asked.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let form = if accepted.contains("text/event-stream") { Form::ServerSent } else { Form::Lines };
    mesh.events.follow(after, form).unwrap_or_else(|| {
        refused(&Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            path: "follow",
            error: format!("{MAX_FOLLOWERS} follow already, as many as may"),
            remedy: "end one of them, or ask again and again with after=SEQ",
        })
    })
}

fn bad(path: &str, got: &str, remedy: &str) -> Answer {
    let got: String = got.chars().take(80).collect();
    let error = format!("{got:?} is not understood");
    refused(&Refusal { status: StatusCode::BAD_REQUEST, path, error, remedy })
}
