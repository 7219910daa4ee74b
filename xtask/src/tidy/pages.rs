//! Whether the pages and manifests tell the truth: ARCHITECTURE.md stays short and its code map names what exists, and
//! every crate follows the workspace's lints.
//!
//! The code map stands between `<!-- tidy:map -->` and `<!-- /tidy:map -->`. Inside a fence it is a tree: the first word
//! of a line is a path, relative to the folder above it that is indented less. Outside a fence every `path` in backticks
//! that holds a slash counts; `sidecar/http/proxy` is short for `crates/sidecar/src/http/proxy.rs`.

use super::Fault;
use std::fs;
use std::path::Path;

const PAGE: &str = "ARCHITECTURE.md";
const MAX_LINES: usize = 340;

pub(super) fn check(root: &Path) -> Vec<Fault> {
    let mut faults = Vec::new();
    if let Ok(page) = fs::read_to_string(root.join(PAGE)) {
        faults.extend(architecture(&page, |path| exists(root, path)));
    }
    let crates = fs::read_dir(root.join("crates")).into_iter().flatten().flatten();
    let manifests = crates.map(|entry| format!("crates/{}/Cargo.toml", entry.file_name().to_string_lossy()));
    for manifest in manifests.chain(["xtask/Cargo.toml".to_owned()]) {
        if fs::read_to_string(root.join(&manifest)).is_ok_and(|text| !follows_lints(&text)) {
            let said = "does not follow the workspace's lints; add `[lints]` with `workspace = true`";
            faults.push(Fault::new(&manifest, 1, "workspace-lints", said));
        }
    }
    faults
}

fn follows_lints(manifest: &str) -> bool {
    let mut section = "";
    manifest.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            section = line;
        }
        let key = line.replace(' ', "");
        key.starts_with("lints.workspace=true") || (section == "[lints]" && key.starts_with("workspace=true"))
    })
}

fn architecture(page: &str, exists: impl Fn(&str) -> bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    let count = page.lines().count();
    if count >= MAX_LINES {
        let said = format!("{count} lines, and fewer than {MAX_LINES} are meant; move detail into module heads");
        faults.push(Fault::new(PAGE, MAX_LINES, "short-page", said));
    }
    let map = paths(page);
    if map.is_empty() {
        let said = "no code map between `<!-- tidy:map -->` and `<!-- /tidy:map -->`; add it";
        faults.push(Fault::new(PAGE, 1, "code-map", said));
    }
    for (line, path) in map {
        if !exists(&path) {
            let said = format!("`{path}` does not exist; name the file that took its place");
            faults.push(Fault::new(PAGE, line, "code-map", said));
        }
    }
    faults
}

fn paths(page: &str) -> Vec<(usize, String)> {
    let (mut found, mut inside, mut fenced) = (Vec::new(), false, false);
    let mut folders: Vec<(usize, String)> = Vec::new();
    for (index, line) in page.lines().enumerate() {
        match line.trim() {
            "<!-- tidy:map -->" => inside = true,
            "<!-- /tidy:map -->" => inside = false,
            fence if inside && fence.starts_with("```") => fenced = !fenced,
            text if inside && fenced => {
                let indent = line.len() - line.trim_start().len();
                folders.retain(|(depth, _)| *depth < indent);
                let above = folders.last().map(|(_, path)| path.clone()).unwrap_or_default();
                for word in text.split_whitespace().take_while(|word| looks_like_path(word)) {
                    let path = format!("{above}{word}");
                    if word.ends_with('/') {
                        folders.push((indent, path.clone()));
                    }
                    found.push((index + 1, path));
                }
            }
            text if inside => {
                let words = text.split('`').skip(1).step_by(2).filter(|word| word.contains('/') && looks_plain(word));
                found.extend(words.map(|word| (index + 1, word.to_owned())));
            }
            _ => {}
        }
    }
    found
}

fn looks_plain(word: &str) -> bool {
    !word.starts_with('/') && word.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
}

/// A folder ends in a slash, a file has an extension or is all capitals (LICENSE).
fn looks_like_path(word: &str) -> bool {
    let has_extension =
        word.rsplit_once('.').is_some_and(|(stem, extension)| !stem.is_empty() && !extension.is_empty());
    looks_plain(word) && (word.ends_with('/') || has_extension || word == "LICENSE")
}

fn exists(root: &Path, path: &str) -> bool {
    let plain = path.trim_end_matches('/');
    let short = plain.split_once('/').map(|(name, rest)| format!("crates/{name}/src/{rest}"));
    let homes = [Some(plain.to_owned()), Some(format!("crates/{plain}")), short];
    homes.into_iter().flatten().any(|home| {
        let forms = [home.clone(), format!("{home}.rs"), format!("{home}/mod.rs")];
        forms.iter().any(|form| root.join(form).exists())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE_TEXT: &str = "\
`not/in/the/map`
<!-- tidy:map -->
```text
Cargo.toml  README.md  LICENSE
proto/fusewire/v1/     the wire contract: a.b
crates/
  model/        means and/or decides
    name.rs     names
tests/                 whole systems
```
1. accept (`sidecar/listener`), never `/live` or `a b/c`
<!-- /tidy:map -->
";

    #[test]
    fn the_map_is_read_as_a_tree_and_as_backticks() {
        let found: Vec<String> = paths(PAGE_TEXT).into_iter().map(|(_, path)| path).collect();
        let tree = ["Cargo.toml", "README.md", "LICENSE", "proto/fusewire/v1/", "crates/", "crates/model/"];
        let rest = ["crates/model/name.rs", "tests/", "sidecar/listener"];
        assert_eq!(found, [&tree[..], &rest[..]].concat());
    }

    #[test]
    fn what_does_not_exist_is_named_with_its_line() {
        let found = architecture(PAGE_TEXT, |path| path != "sidecar/listener");
        assert_eq!(found.len(), 1);
        assert!(found[0].to_string().starts_with("ARCHITECTURE.md:11: code-map: `sidecar/listener`"), "{found:?}");
    }

    #[test]
    fn a_page_that_grew_too_long_is_a_fault() {
        let long = format!("{PAGE_TEXT}{}", "x\n".repeat(MAX_LINES));
        assert_eq!(architecture(&long, |_| true)[0].rule, "short-page");
    }

    #[test]
    fn short_paths_find_their_file() {
        let root = crate::run::root();
        assert!(exists(root, "net/lib") && exists(root, "xtask/src/tidy") && exists(root, "crates/net/"));
        assert!(!exists(root, "net/no_such_file"));
    }

    #[test]
    fn lints_are_followed_in_either_spelling() {
        assert!(follows_lints("[lints]\nworkspace = true\n") && follows_lints("lints.workspace = true\n"));
        assert!(!follows_lints("[dependencies]\nworkspace = true\n"));
    }
}
