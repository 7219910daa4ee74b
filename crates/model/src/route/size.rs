//! How much the rules of one authority may be.
//!
//! It decides what a table may hold of each source (files and applied objects together, Gateway API's routes), so that a sidecar
//! can bear it and one message carries it. Sidecars take [`SOURCES`] times as much: what one source may say is never refused
//! for what another says.

use super::change::HeaderEdits;
use super::matching::{PathMatch, ValueMatch};
use super::pattern::Pattern;
use super::{Backend, Cors, CorsWords, Edits, Filters, Match, Rule};
use std::ops::AddAssign;

pub const MAX_RULES: usize = 10_000;
pub const MAX_PATTERNS: usize = 1_000;
/// Of all patterns once they are compiled: so many of the smallest, 128 of the largest.
const MAX_COMPILED: usize = 8 << 20;
/// Of what is written in all rules, as it goes over the wire, about.
const MAX_TEXT: usize = 2 << 20;
/// What counts as text for each name or value besides itself.
const FRAMING: usize = 4;
/// Whose rules one table may have, at most.
pub const SOURCES: usize = 4;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    rules: usize,
    patterns: usize,
    compiled: usize,
    text: usize,
}

impl Size {
    pub fn of(rule: &Rule) -> Self {
        let Match { path, methods, headers, query } = &rule.matches;
        let mut size = Self { rules: 1, ..Self::default() };
        size.write(&rule.name);
        match path {
            PathMatch::Any => {}
            PathMatch::Exact(path) | PathMatch::Prefix(path) => size.write(path),
            PathMatch::Regex(pattern) => size.pattern(pattern),
        }
        methods.iter().for_each(|method| size.write(method));
        let headers = headers.iter().map(|header| (&header.name, &header.value));
        for (name, value) in headers.chain(query.iter().map(|parameter| (&parameter.name, &parameter.value))) {
            size.write(name);
            match value {
                ValueMatch::Exact(value) => size.write(value),
                ValueMatch::Present | ValueMatch::Absent => {}
                ValueMatch::Regex(pattern) => size.pattern(pattern),
            }
        }
        for Backend { service, edits, .. } in &rule.backends {
            size.write(service.as_ref().map_or("", |service| service.as_str()));
            edits.iter().for_each(|edits| size.edits(edits));
        }
        if let Some(filters) = &rule.filters {
            size.filters(filters);
        }
        size
    }

    /// What is too much for one source, if anything.
    pub fn excess(&self) -> Option<String> {
        self.beyond(1)
    }

    /// The same for all sources together.
    pub fn excess_of_all(&self) -> Option<String> {
        self.beyond(SOURCES)
    }

    fn beyond(&self, times: usize) -> Option<String> {
        let Self { rules, patterns, compiled, text } = *self;
        let too_many = |count: usize, most: usize, what: &str| {
            (count > times * most).then(|| format!("{count} {what}, of which there may be {}", times * most))
        };
        let too_large = |size: usize, most: usize, what: &str| {
            let kib = |size: usize| size.div_ceil(1 << 10);
            (size > times * most)
                .then(|| format!("{what} {} KiB, of which there may be {}", kib(size), kib(times * most)))
        };
        too_many(rules, MAX_RULES, "rules (one for each match)")
            .or_else(|| too_many(patterns, MAX_PATTERNS, "regular expressions"))
            .or_else(|| too_large(compiled, MAX_COMPILED, "regular expressions that compile to"))
            .or_else(|| too_large(text, MAX_TEXT, "rules that together take"))
    }

    fn write(&mut self, text: &str) {
        self.text += text.len() + FRAMING;
    }

    fn pattern(&mut self, pattern: &Pattern) {
        self.write(pattern.as_str());
        self.patterns += 1;
        self.compiled += pattern.size();
    }

    fn edits(&mut self, edits: &Edits) {
        for HeaderEdits { set, add, remove } in [&edits.request, &edits.response] {
            for (name, value) in set.iter().chain(add) {
                self.write(name);
                self.write(value);
            }
            remove.iter().for_each(|name| self.write(name));
        }
    }

    fn filters(&mut self, filters: &Filters) {
        let Filters { edits, host, path, redirect, mirrors, cors } = filters;
        self.edits(edits);
        let (to_host, to_path) = redirect.as_ref().map(|to| (to.host.as_ref(), to.path.as_ref())).unwrap_or_default();
        host.iter().chain(to_host).for_each(|host| self.write(host.as_str()));
        path.iter().chain(to_path).for_each(|path| self.write(path.text()));
        mirrors.iter().for_each(|mirror| self.write(mirror.service.as_str()));
        if let Some(CorsWords { origins, methods, headers, expose }) = cors.as_ref().map(Cors::words) {
            [origins, methods, headers, expose].iter().flatten().for_each(|word| self.write(word));
        }
    }
}

impl AddAssign for Size {
    fn add_assign(&mut self, other: Self) {
        self.rules += other.rules;
        self.patterns += other.patterns;
        self.compiled += other.compiled;
        self.text += other.text;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::ServiceName;

    fn rule(path: PathMatch) -> Rule {
        let backends = vec![Backend::to(ServiceName::parse("shop").expect("a name"), 1)];
        let matches = Match { path, ..Match::default() };
        Rule { name: "r[0]".into(), matches, backends, policy: None, filters: None }
    }

    fn excess(rule: &Rule, times: usize) -> Option<String> {
        let mut all = Size::default();
        (0..times).for_each(|_| all += Size::of(rule));
        all.excess()
    }

    #[test]
    fn a_table_has_its_fill_of_each() {
        let pattern = |text: &str| PathMatch::Regex(Pattern::parse(text).expect(text));
        let value = "x".repeat(4_000);
        let set = vec![("x-a".to_owned(), value); 64];
        let edits = Edits { request: HeaderEdits { set, ..HeaderEdits::default() }, ..Edits::default() };
        let mut large = rule(PathMatch::Any);
        large.filters = Filters { edits, ..Filters::default() }.boxed();
        for (rule, most, wanted) in [
            (rule(PathMatch::Any), 10_000, "10001 rules (one for each match), of which there may be 10000"),
            (rule(pattern("/a.*")), 1_000, "1001 regular expressions, of which there may be 1000"),
            (
                rule(pattern("[a-z]{700}")),
                128,
                "regular expressions that compile to 8256 KiB, of which there may be 8192",
            ),
            (large, 8, "rules that together take 2257 KiB, of which there may be 2048"),
        ] {
            assert_eq!(excess(&rule, most), None, "{wanted}");
            assert_eq!(excess(&rule, most + 1).as_deref(), Some(wanted));
        }
    }
}
