//! What must not appear in the source, each rule with its reason and its remedy.
//!
//! It deliberately leaves to rustc and clippy what they can see (`unused_must_use`, locks across an await); it holds
//! invariants 7, 8 and 9 of ARCHITECTURE.md, which they cannot.

use super::text::{Line, Source};
use super::{Fault, Weight};

const WARN_ABOVE: usize = 400;
const FAIL_ABOVE: usize = 800;

/// The file that writes the sidecar's own answers, and the endpoints that answer operators.
const VOICE: &str = "crates/sidecar/src/http/reply.rs";
const ADMIN: &str = "crates/sidecar/src/admin";
const REASON_HEADER: &str = "fusewire-reason";

pub(super) fn check(sources: &[Source]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for source in sources {
        let ours = source.crate_name().is_some() || source.path.starts_with("xtask/src/");
        let in_net = source.path.starts_with("crates/net/");
        if in_net {
            proofs(source, &mut faults)
        } else {
            unsafety(source, &mut faults)
        }
        leftovers(source, &mut faults);
        waits(source, &mut faults);
        if ours {
            unwraps(source, &mut faults);
            if source.crate_name().is_some() {
                unbounded(source, &mut faults);
            }
            length(source, &mut faults);
        }
        if source.crate_name() == Some("sidecar") {
            voice(source, &mut faults);
        }
    }
    one_reason_header(sources, &mut faults);
    faults
}

fn unsafety(source: &Source, faults: &mut Vec<Fault>) {
    for (number, _) in source.numbered().filter(|(_, line)| has_word(&line.code, "unsafe")) {
        let said = "`unsafe` outside crates/net; move it there behind a safe function, or do without (invariant 9)";
        faults.push(Fault::new(&source.path, number, "unsafe-only-in-net", said));
    }
}

/// In `net`, each block carries its proof.
fn proofs(source: &Source, faults: &mut Vec<Fault>) {
    for (number, line) in source.numbered() {
        let opens = ["unsafe {", "unsafe impl"].iter().any(|words| line.code.contains(words));
        if opens && !comment_near(source, number, 8, "SAFETY:") {
            let said = "an unsafe block without its proof; say in `// SAFETY:` above it why it is sound (invariant 9)";
            faults.push(Fault::new(&source.path, number, "unsafe-with-proof", said));
        }
    }
}

fn leftovers(source: &Source, faults: &mut Vec<Fault>) {
    for (number, line) in source.numbered() {
        for name in ["todo", "unimplemented", "dbg"] {
            if has_word(&line.code, name) && line.code.contains(&format!("{name}!")) {
                let said = format!(
                    "`{name}!` is unfinished work; finish it, or return an error that says what does not exist"
                );
                faults.push(Fault::new(&source.path, number, "no-leftovers", said));
            }
        }
        if has_word(&line.comment, &["FIX", "ME"].concat()) {
            let said = "a known fault left in place; mend it, or describe the limit in the module's head";
            faults.push(Fault::new(&source.path, number, "no-leftovers", said));
        }
    }
}

/// A sleep that waits for something makes a test slow when it is long and flaky when it is short.
fn waits(source: &Source, faults: &mut Vec<Fault>) {
    for (number, line) in source.numbered().filter(|(_, line)| line.test) {
        let sleeps = has_word(&line.code, "sleep") && line.code.contains("sleep(") && !line.code.contains("fn sleep(");
        let excused = ["bounded wait", "paused clock"].iter().any(|words| comment_near(source, number, 3, words));
        if sleeps && !excused {
            let said = "a test that sleeps; await the condition instead. A poll inside a loop with a deadline says \
                        `// bounded wait: for what`, virtual time says `// paused clock`";
            faults.push(Fault::new(&source.path, number, "bounded-waits", said));
        }
    }
}

fn unwraps(source: &Source, faults: &mut Vec<Fault>) {
    for (number, _) in source.shipped().filter(|(_, line)| line.code.contains(".unwrap()")) {
        let said = "`.unwrap()` outside tests; return an error, or `expect` what makes it impossible";
        faults.push(Fault::new(&source.path, number, "no-unwrap", said));
    }
}

fn unbounded(source: &Source, faults: &mut Vec<Fault>) {
    let names = ["unbounded_channel", "UnboundedSender", "UnboundedReceiver"];
    for (number, line) in source.shipped() {
        let called =
            has_word(&line.code, "unbounded") && ["unbounded(", "unbounded::<"].iter().any(|c| line.code.contains(c));
        if called || names.iter().any(|name| has_word(&line.code, name)) {
            let said = "a channel without a bound; give it one and say what happens when it is full (invariant 8)";
            faults.push(Fault::new(&source.path, number, "no-unbounded", said));
        }
    }
}

fn length(source: &Source, faults: &mut Vec<Fault>) {
    let count = source.shipped().count();
    if count > WARN_ABOVE {
        let said = format!(
            "{count} lines without tests (about 250 is meant, {FAIL_ABOVE} fails); which of its ideas is a file?"
        );
        let weight = if count > FAIL_ABOVE { Weight::Fails } else { Weight::Warns };
        faults.push(Fault { weight, ..Fault::new(&source.path, 1, "file-length", said) });
    }
}

/// Invariant 7: one file writes the responses that we originate, so that none lacks its reason.
fn voice(source: &Source, faults: &mut Vec<Fault>) {
    if source.path == VOICE || source.path.starts_with(ADMIN) {
        return;
    }
    for (number, line) in source.shipped() {
        if ["Response::builder(", "Response::new("].iter().any(|made| line.code.contains(made)) {
            let said = format!("a response made outside {VOICE}; ask it for one, with a reason (invariant 7)");
            faults.push(Fault::new(&source.path, number, "one-voice", said));
        }
    }
}

fn one_reason_header(sources: &[Source], faults: &mut Vec<Fault>) {
    let names_it = |line: &Line| line.string.contains(REASON_HEADER);
    let mut places = Vec::new();
    for source in sources.iter().filter(|source| source.crate_name() == Some("sidecar")) {
        if let Some((number, _)) = source.shipped().find(|(_, line)| names_it(line)) {
            places.push((&source.path, number));
        }
    }
    for (path, number) in places.iter().skip(1) {
        let said = format!("`{REASON_HEADER}` is also spelled out in {}; use that constant (invariant 7)", places[0].0);
        faults.push(Fault::new(path, *number, "one-voice", said));
    }
}

/// Whether a comment on the line, or at most `above` lines over it, holds the words.
fn comment_near(source: &Source, number: usize, above: usize, words: &str) -> bool {
    let first = number.saturating_sub(above + 1);
    source.lines[first..number].iter().any(|line| line.comment.contains(words))
}

/// Whether the word stands alone: `unsafe`, but not `unsafe_code`.
fn has_word(text: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(part_of_word) && !after.is_some_and(part_of_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, content: &str) -> Vec<(usize, &'static str)> {
        check(&[Source::new(path, content)]).into_iter().map(|fault| (fault.line, fault.rule)).collect()
    }

    #[test]
    fn unsafe_is_found_in_code_only_and_allowed_in_net_with_a_proof() {
        let found = rules("crates/api/src/x.rs", "#![allow(unsafe_code)] // unsafe\nfn f() { unsafe { g() } }\n");
        assert_eq!(found, [(2, "unsafe-only-in-net")]);
        assert_eq!(rules("tests/a.rs", "unsafe fn g() {}\n"), [(1, "unsafe-only-in-net")]);
        assert_eq!(rules("crates/net/src/x.rs", "unsafe { g() }\n"), [(1, "unsafe-with-proof")]);
        assert_eq!(rules("crates/net/src/x.rs", "// SAFETY: the descriptor is ours\nunsafe { g() }\n"), []);
    }

    #[test]
    fn unwrap_is_for_tests() {
        let text = "fn f() { a.unwrap(); b.unwrap_or(1); }\n#[cfg(test)]\nmod tests { fn g() { a.unwrap(); } }\n";
        assert_eq!(rules("crates/api/src/x.rs", text), [(1, "no-unwrap")]);
        assert_eq!(rules("tests/a.rs", text), []);
    }

    #[test]
    fn leftovers_are_found_in_code_and_comments() {
        assert_eq!(rules("tests/a.rs", "todo!();\n// nothing to do\nlet dbg = \"dbg!\";\n"), [(1, "no-leftovers")]);
        let comment = ["// FIX", "ME later\n"].concat();
        assert_eq!(rules("crates/api/src/x.rs", &comment), [(1, "no-leftovers")]);
    }

    #[test]
    fn channels_have_bounds() {
        let text = "let (a, b) = mpsc::unbounded_channel();\nlet (a, b) = flume::unbounded();\nlet unbounded = mpsc::channel(8);\n";
        assert_eq!(rules("crates/control/src/x.rs", text), [(1, "no-unbounded"), (2, "no-unbounded")]);
    }

    #[test]
    fn a_sleeping_test_says_what_bounds_it() {
        assert_eq!(rules("tests/a.rs", "thread::sleep(d);\n"), [(1, "bounded-waits")]);
        assert_eq!(rules("tests/a.rs", "// bounded wait: for the port\nthread::sleep(d);\n"), []);
        assert_eq!(rules("crates/api/src/x.rs", "time::sleep(d).await;\n"), []);
    }

    #[test]
    fn only_one_file_answers() {
        let text = "Response::builder();\n#[cfg(test)]\nmod tests { fn f() { Response::new(b) } }\n";
        assert_eq!(rules("crates/sidecar/src/http/proxy.rs", text), [(1, "one-voice")]);
        assert_eq!(rules("crates/sidecar/src/http/reply.rs", text), []);
        assert_eq!(rules("crates/sidecar/src/admin/pages.rs", text), []);
        let header = "const REASON: &str = \"fusewire-reason\";\n";
        let twice = ["crates/sidecar/src/http/reply.rs", "crates/sidecar/src/x.rs", "crates/telemetry/src/x.rs"];
        let found = check(&twice.map(|path| Source::new(path, header)));
        assert_eq!(found.iter().map(|fault| fault.path.as_str()).collect::<Vec<_>>(), ["crates/sidecar/src/x.rs"]);
    }

    #[test]
    fn long_files_warn_and_then_fail_and_tests_do_not_count() {
        let weight = |lines: usize, tests: usize| {
            let text = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", "a();\n".repeat(lines), "b();\n".repeat(tests));
            check(&[Source::new("crates/api/src/x.rs", &text)]).pop().map(|fault| fault.weight)
        };
        assert_eq!(weight(400, 900), None);
        assert_eq!(weight(401, 0), Some(Weight::Warns));
        assert_eq!(weight(801, 0), Some(Weight::Fails));
    }
}
