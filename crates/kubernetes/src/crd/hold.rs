//! `BreakerOverride`: an operator's hold on the circuits of a service, with an owner, a reason and an end.

use super::schema::{Schema, object, optional, required, text, time, word};
use super::target;

/// Words on one line.
const WORDS: &str = r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$";

pub(crate) fn spec() -> Schema {
    let instance = "The name of a pod, or an instance's id. Default every instance.";
    let fields = vec![
        required("targetRef", target::one(&target::SERVICES, "Whose circuits, in its own namespace.")),
        optional("instance", text((1, 253), "^[!-~]+$", instance)),
        required("breaker", word(&["open", "closed"], "What the circuits are held at.")),
        required("reason", text((1, 200), WORDS, "Why the breaker may not decide.")),
        required("owner", text((1, 200), WORDS, "Who answers for it.")),
        optional("until", time("When it ends, such as 2026-11-22T18:00:00Z. Default when the object is deleted.")),
    ];
    object("Holds circuits open or closed, whatever the breaker thinks.", fields)
}
