//! `cargo xtask tidy`: the shape of the project, held by a machine.
//!
//! It decides what clippy cannot see: which crate may know which ([`house`]), what must not appear in the source
//! ([`words`]), and whether the pages tell the truth ([`pages`]). Every fault says where, which rule, and what to do. It
//! deliberately does not parse Rust: it needs to know code from comments, strings and tests ([`text`]), and no more.

mod house;
mod pages;
mod text;
mod words;

use crate::run;
use anyhow::{Context as _, Result, bail};
use std::fmt;
use std::fs;
use std::path::Path;
use text::Source;

/// One breach of one rule.
#[derive(Debug, PartialEq)]
pub(crate) struct Fault {
    path: String,
    line: usize,
    rule: &'static str,
    /// What is wrong, and what to do about it.
    said: String,
    weight: Weight,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Weight {
    Fails,
    Warns,
}

impl Fault {
    fn new(path: &str, line: usize, rule: &'static str, said: impl Into<String>) -> Self {
        Fault { path: path.to_owned(), line, rule, said: said.into(), weight: Weight::Fails }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weight = if self.weight == Weight::Warns { "warning: " } else { "" };
        write!(f, "{}:{}: {weight}{}: {}", self.path, self.line, self.rule, self.said)
    }
}

pub(crate) fn run() -> Result<()> {
    let (faults, files) = check(run::root())?;
    for fault in &faults {
        println!("{fault}");
    }
    let failing = faults.iter().filter(|fault| fault.weight == Weight::Fails).count();
    println!("tidy: {files} source files, {failing} faults, {} warnings", faults.len() - failing);
    if failing == 0 { Ok(()) } else { bail!("tidy: {failing} faults; each line above says what to do") }
}

/// All faults of the workspace at `root`, and how many source files were read.
fn check(root: &Path) -> Result<(Vec<Fault>, usize)> {
    let sources = read_sources(root)?;
    let mut faults = words::check(&sources);
    faults.extend(house::check(root)?);
    faults.extend(pages::check(root));
    faults.sort_by(|a, b| (&a.path, a.line, a.rule).cmp(&(&b.path, b.line, b.rule)));
    Ok((faults, sources.len()))
}

/// Every Rust file of ours, wherever it hides: what is not yet known to git counts too.
fn read_sources(root: &Path) -> Result<Vec<Source>> {
    let mut files = Vec::new();
    for top in ["crates", "tests", "xtask"] {
        collect(&root.join(top), &mut files)?;
    }
    let mut sources = Vec::new();
    for file in files {
        let content = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let path = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().replace('\\', "/");
        sources.push(Source::new(&path, &content));
    }
    text::mark_test_modules(&mut sources);
    Ok(sources)
}

fn collect(dir: &Path, files: &mut Vec<std::path::PathBuf>) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("cannot list {}", dir.display()))?,
    };
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", dir.display()))?.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_workspace_is_tidy() {
        let (faults, files) = check(run::root()).expect("the workspace can be read");
        let failing: Vec<String> =
            faults.iter().filter(|fault| fault.weight == Weight::Fails).map(Fault::to_string).collect();
        assert!(failing.is_empty(), "{} faults:\n{}", failing.len(), failing.join("\n"));
        assert!(files > 20, "only {files} files were found: is tidy looking in the right place?");
    }

    #[test]
    fn a_fault_says_where_which_rule_and_what_to_do() {
        let fault = Fault::new("crates/net/src/lib.rs", 7, "no-unwrap", "use `?`");
        assert_eq!(fault.to_string(), "crates/net/src/lib.rs:7: no-unwrap: use `?`");
    }
}
