//! Rust source, told apart into code, comments and strings, with the lines that only tests see.
//!
//! It deliberately knows no grammar beyond that. Invariant: the three views have the same lines as the file, so a line
//! number means the same in all of them.

/// One file.
pub(super) struct Source {
    pub(super) path: String,
    pub(super) lines: Vec<Line>,
    /// Modules declared as `#[cfg(test)] mod name;`, whose files are tests from end to end.
    test_modules: Vec<String>,
}

#[derive(Default)]
pub(super) struct Line {
    /// The code, comments and the insides of strings blanked.
    pub(super) code: String,
    pub(super) comment: String,
    pub(super) string: String,
    /// Only compiled for tests.
    pub(super) test: bool,
}

impl Source {
    pub(super) fn new(path: &str, content: &str) -> Self {
        let kinds = classify(content);
        let mut lines = vec![Line::default()];
        for (c, kind) in content.chars().zip(&kinds) {
            if c == '\n' {
                lines.push(Line::default());
                continue;
            }
            let Some(line) = lines.last_mut() else { continue };
            let views =
                [(&mut line.code, Kind::Code), (&mut line.comment, Kind::Comment), (&mut line.string, Kind::Text)];
            for (view, shown) in views {
                view.push(if *kind == shown { c } else { ' ' });
            }
        }
        if content.ends_with('\n') {
            lines.pop();
        }
        let mut source = Source { path: path.to_owned(), lines, test_modules: Vec::new() };
        source.mark_tests();
        source
    }

    /// The crate whose `src` holds the file.
    pub(super) fn crate_name(&self) -> Option<&str> {
        let (name, rest) = self.path.strip_prefix("crates/")?.split_once('/')?;
        rest.starts_with("src/").then_some(name)
    }

    /// Lines that are shipped.
    pub(super) fn shipped(&self) -> impl Iterator<Item = (usize, &Line)> {
        self.lines.iter().enumerate().filter(|(_, line)| !line.test).map(|(index, line)| (index + 1, line))
    }

    pub(super) fn numbered(&self) -> impl Iterator<Item = (usize, &Line)> {
        self.lines.iter().enumerate().map(|(index, line)| (index + 1, line))
    }

    fn mark_tests(&mut self) {
        let shipped = self.crate_name().is_some_and(|name| name != "testkit");
        if !shipped && !self.path.starts_with("xtask/src/") && !self.path.ends_with("/build.rs") {
            self.lines.iter_mut().for_each(|line| line.test = true);
            return;
        }
        let mut at = 0;
        while at < self.lines.len() {
            let code = &self.lines[at].code;
            let Some(column) = code.find("#[cfg(test)]").or_else(|| code.find("#[cfg(all(test")) else {
                at += 1;
                continue;
            };
            let (end, item) = self.item_after(at, column);
            let name = item.trim_end_matches(';').rsplit(' ').next().unwrap_or_default();
            if item.ends_with(';') && item.split(' ').any(|word| word == "mod") {
                self.test_modules.push(name.to_owned());
            }
            self.lines[at..=end].iter_mut().for_each(|line| line.test = true);
            at = end + 1;
        }
    }

    /// The last line of the item whose attribute begins here, and the item's text up to its first `{` or its `;`.
    fn item_after(&self, first: usize, column: usize) -> (usize, String) {
        let (mut nested, mut braces, mut item) = (0usize, 0usize, String::new());
        for (index, line) in self.lines.iter().enumerate().skip(first) {
            item.push(' ');
            for c in line.code.chars().skip(if index == first { column } else { 0 }) {
                match c {
                    '{' => braces += 1,
                    '}' => braces = braces.saturating_sub(1),
                    '(' | '[' => nested += 1,
                    ')' | ']' => nested = nested.saturating_sub(1),
                    _ => {}
                }
                if braces == 0 && nested == 0 && matches!(c, '}' | ';') {
                    item.push(c);
                    return (index, item);
                }
                if braces == 0 {
                    item.push(c);
                }
            }
        }
        (self.lines.len() - 1, item)
    }
}

/// Marks the files of modules that are declared for tests only.
pub(super) fn mark_test_modules(sources: &mut [Source]) {
    let mut stems = Vec::new();
    for source in sources.iter() {
        let stem = source.path.trim_end_matches(".rs");
        let home = ["/mod", "/lib", "/main"].iter().find_map(|end| stem.strip_suffix(end)).unwrap_or(stem);
        stems.extend(source.test_modules.iter().map(|name| format!("{home}/{name}")));
    }
    for source in sources.iter_mut() {
        if stems.iter().any(|stem| source.path == format!("{stem}.rs") || source.path.starts_with(&format!("{stem}/")))
        {
            source.lines.iter_mut().for_each(|line| line.test = true);
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    Text,
}

/// What each character is. Quotes belong to the code, what is between them does not.
fn classify(content: &str) -> Vec<Kind> {
    let chars: Vec<char> = content.chars().collect();
    let mut kinds = vec![Kind::Code; chars.len()];
    let mut at = 0;
    while at < chars.len() {
        let (end, kind) = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => (end_of_line(&chars, at), Kind::Comment),
            '/' if chars.get(at + 1) == Some(&'*') => (end_of_block(&chars, at), Kind::Comment),
            '"' => (end_of_string(&chars, at), Kind::Text),
            'r' if !follows_word(&chars, at) => match raw_string(&chars, at) {
                Some(end) => (end, Kind::Text),
                None => (at + 1, Kind::Code),
            },
            '\'' => (end_of_char(&chars, at), Kind::Text),
            _ => (at + 1, Kind::Code),
        };
        let end = end.min(chars.len());
        match kind {
            Kind::Text => kinds[at..end].iter_mut().skip(1).take((end - at).saturating_sub(2)).for_each(|k| *k = kind),
            _ => kinds[at..end].fill(kind),
        }
        at = end;
    }
    kinds
}

fn end_of_line(chars: &[char], from: usize) -> usize {
    chars[from..].iter().position(|c| *c == '\n').map_or(chars.len(), |length| from + length)
}

/// Block comments nest.
fn end_of_block(chars: &[char], from: usize) -> usize {
    let (mut depth, mut at) = (0, from);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) if depth == 1 => return at + 2,
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

fn end_of_string(chars: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// `r` may begin an identifier, or follow the `b` or `c` of a raw string; only a word before it rules a string out.
fn follows_word(chars: &[char], at: usize) -> bool {
    let is_word = |index: usize| chars.get(index).is_some_and(|c| c.is_alphanumeric() || *c == '_');
    let prefixed = at > 0 && matches!(chars[at - 1], 'b' | 'c') && !(at > 1 && is_word(at - 2));
    at > 0 && is_word(at - 1) && !prefixed
}

/// The end of the raw string that begins here, if one does.
fn raw_string(chars: &[char], from: usize) -> Option<usize> {
    let hashes = chars[from + 1..].iter().take_while(|c| **c == '#').count();
    let open = from + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes =
        |at: usize| chars[at] == '"' && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
    let close = (open + 1..chars.len()).find(|at| closes(*at));
    Some(close.map_or(chars.len(), |at| at + 1 + hashes))
}

/// A character literal; a lifetime is code, and ends at its own quote.
fn end_of_char(chars: &[char], from: usize) -> usize {
    match chars.get(from + 1) {
        Some('\\') => {
            chars[from + 3..].iter().position(|c| *c == '\'').map_or(chars.len(), |length| from + 3 + length + 1)
        }
        Some(_) if chars.get(from + 2) == Some(&'\'') => from + 3,
        _ => from + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(content: &str) -> String {
        let source = Source::new("crates/net/src/x.rs", content);
        source.lines.iter().map(|line| line.code.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        assert_eq!(code("a(); // unsafe\nb();\n"), "a();\nb();");
        assert_eq!(code("a(/* x /* unsafe */ y */ 1);").replace(' ', ""), "a(1);");
        assert_eq!(code(r#"f("un\"safe", b);"#).replace(' ', ""), r#"f("",b);"#);
        assert_eq!(code("f(r#\"a \" unsafe\"#, br\"x\", b);").replace(' ', ""), "f(r#,br\",b);");
    }

    #[test]
    fn a_lifetime_does_not_open_a_string() {
        assert_eq!(code("fn f<'a>(x: &'a str) { g('\"', '\\'', 'x'); h() }").split("h()").count(), 2);
    }

    #[test]
    fn views_keep_the_lines() {
        let source = Source::new("crates/net/src/x.rs", "let a = \"one\ntwo\"; // three\nb();\n");
        assert_eq!(source.lines.len(), 3);
        assert_eq!(source.lines[0].string.trim(), "one");
        assert_eq!(source.lines[1].string.trim(), "two");
        assert_eq!(source.lines[1].comment.trim(), "// three");
        assert_eq!(source.lines[2].code, "b();");
    }

    #[test]
    fn a_test_module_ends_where_its_brace_closes() {
        let source =
            Source::new("crates/net/src/x.rs", "a();\n#[cfg(test)]\nmod tests {\n  fn b() { c(\"}\") }\n}\nd();\n");
        let tests: Vec<bool> = source.lines.iter().map(|line| line.test).collect();
        assert_eq!(tests, [false, true, true, true, true, false]);
    }

    #[test]
    fn a_test_module_in_its_own_file_is_known_by_its_declaration() {
        let declared = "#[cfg(test)]\npub(crate) mod tests;\n#[cfg(test)]\nuse a::{b};\nfn c() {}\n";
        let mut sources = vec![
            Source::new("crates/net/src/x.rs", declared),
            Source::new("crates/net/src/x/tests.rs", "fn d() {}\n"),
            Source::new("crates/net/src/y/tests.rs", "fn e() {}\n"),
        ];
        mark_test_modules(&mut sources);
        assert_eq!(sources[0].shipped().count(), 1);
        assert_eq!(sources[1].shipped().count(), 0);
        assert_eq!(sources[2].shipped().count(), 1);
    }

    #[test]
    fn files_outside_src_and_the_testkit_are_tests() {
        assert_eq!(Source::new("crates/testkit/src/lib.rs", "a();\n").shipped().count(), 0);
        assert_eq!(Source::new("tests/a.rs", "a();\n").shipped().count(), 0);
        assert_eq!(Source::new("crates/net/tests/it/main.rs", "a();\n").shipped().count(), 0);
        assert_eq!(Source::new("crates/api/build.rs", "a();\n").shipped().count(), 1);
    }
}
