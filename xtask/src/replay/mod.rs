//! `cargo xtask replay FILE`: test sequences of another circuit breaker, played against ours.
//!
//! The file holds sequences of calls and clock steps with what Resilience4j showed after each (section
//! `resilience4j.vectors`, or `vectors` alone). A sequence is *exact* when ours shows the same after every step. It is
//! *divergent* when the first difference is explained by the one rule that we keep on purpose, that leftovers of an
//! earlier period change nothing, and proven to be: played again with leftovers counted as the original counts them, the
//! sequence is exact. Everything else has *failed*. What a file says of a sequence's outcome is not believed.

mod file;
mod play;

use anyhow::{Context as _, Result, bail};
use play::{Difference, Leftovers};
use std::fmt;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A JSON file of sequences
    file: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let text = std::fs::read_to_string(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let tally = tally(&text).with_context(|| args.file.display().to_string())?;
    println!("{tally}");
    match tally.failed.len() {
        0 => Ok(()),
        n => bail!("{n} of {} sequences failed", tally.exact + tally.divergent.len() + n),
    }
}

/// What became of a file's sequences.
#[derive(Debug, Default)]
struct Tally {
    exact: usize,
    divergent: Vec<String>,
    failed: Vec<(String, Difference)>,
}

fn tally(text: &str) -> Result<Tally> {
    let mut tally = Tally::default();
    for (name, sequence) in file::sequences(text)? {
        let sequence = match sequence {
            Ok(sequence) => sequence,
            Err(error) => {
                tally.failed.push((name, Difference::unplayable(format!("{error:#}"))));
                continue;
            }
        };
        match play::play(&sequence, Leftovers::Ignored) {
            Ok(()) => tally.exact += 1,
            Err(difference) => {
                let explained = difference.after_leftovers && play::play(&sequence, Leftovers::Counted).is_ok();
                match explained {
                    true => tally.divergent.push(name),
                    false => tally.failed.push((name, difference)),
                }
            }
        }
    }
    Ok(tally)
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exact {}, divergent {}", self.exact, self.divergent.len())?;
        if !self.divergent.is_empty() {
            write!(f, " ({})", self.divergent.join(", "))?;
        }
        write!(f, ", failed {}", self.failed.len())?;
        let failed: Vec<String> =
            self.failed.iter().map(|(name, difference)| format!("{name}, {difference}")).collect();
        if failed.is_empty() { Ok(()) } else { write!(f, " ({})", failed.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed() -> String {
        let path = crate::run::root().join("crates/resilience/tests/vectors/breaker.json");
        std::fs::read_to_string(path).expect("the sequences are part of the repository")
    }

    #[test]
    fn every_sequence_is_exact_but_the_three_that_diverge_on_purpose() {
        let tally = tally(&committed()).expect("readable");
        println!("{tally}");
        assert_eq!(tally.failed.len(), 0);
        let expected = [
            "stale_success_counts_in_half_open",
            "stale_release_inflates_permits",
            "half_open_min_calls_lower_than_permits",
        ];
        assert_eq!(tally.divergent, expected);
        assert_eq!(tally.exact, 180);
    }

    #[test]
    fn a_wrong_expectation_fails_with_its_name_step_and_both_values() {
        let text = committed().replacen(r#"["acquire",null,0,"OPEN","false""#, r#"["acquire",null,0,"OPEN","true""#, 1);
        let tally = tally(&text).expect("readable");
        assert_eq!(tally.failed.len(), 1);
        let line = tally.to_string();
        assert!(
            line.ends_with("failed 1 (open_rejects, step 2 acquire, expected result=true, got result=false)"),
            "{line}"
        );
    }

    #[test]
    fn leftovers_excuse_nothing_but_themselves() {
        let sequence = r#"{"vectors":[{"name":"wrong","config":{"window":"count","window_size":2,"min_calls":2},"steps":[
            ["acquire",null,0,"CLOSED","true",0,0,0,0,0,null,null,null],
            ["to_open",null,0,"OPEN",null,0,0,0,0,0,null,null,["CLOSED>OPEN"]],
            ["success",0,0,"CLOSED",null,1,0,0,1,0,null,null,null]]}]}"#;
        let tally = tally(sequence).expect("readable");
        assert_eq!((tally.exact, tally.divergent.len(), tally.failed.len()), (0, 0, 1), "{tally}");
    }

    #[test]
    fn what_this_build_does_not_know_has_failed_and_hides_nothing_else() {
        let good =
            r#"{"name":"good","config":{},"steps":[["acquire",null,0,"CLOSED","true",0,0,0,0,0,null,null,null]]}"#;
        for (bad, said) in [
            (r#"{"name":"bad","config":{"window":"moon"},"steps":[]}"#, "moon"),
            (r#"{"name":"bad","config":{"weather":"fine"},"steps":[]}"#, "weather"),
            (r#"{"name":"bad","config":{"half_open_permits":0},"steps":[]}"#, "permittedNumberOfCallsInHalfOpenState"),
            (r#"{"name":"bad","config":{},"steps":[["dance",null,0,"CLOSED"]]}"#, "dance"),
            (r#"{"name":"bad","config":{},"steps":[["acquire",null,0]]}"#, "3 columns"),
        ] {
            let tally = tally(&format!(r#"{{"vectors":[{bad},{good}]}}"#)).expect("readable");
            assert_eq!((tally.exact, tally.failed.len()), (1, 1));
            assert!(tally.to_string().contains("bad, step 0 config") && tally.to_string().contains(said), "{tally}");
        }
    }

    #[test]
    fn a_file_without_sequences_is_an_error_and_not_a_pass() {
        for (text, said) in [("{}", "no `vectors`"), (r#"{"vectors":[]}"#, "no sequence"), ("vectors", "not JSON")] {
            let error = tally(text).map(|tally| tally.to_string()).expect_err(text);
            assert!(format!("{error:#}").contains(said), "{error:#}");
        }
    }
}
