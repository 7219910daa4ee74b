//! Which crate may know which: `cargo metadata` held against the table in ARCHITECTURE.md.
//!
//! The table stands between `<!-- tidy:crates -->` and `<!-- /tidy:crates -->`, a row per crate, named by its folder:
//!
//! - *may depend on*: `none`, workspace crates, or `all but` some. It holds for normal, build and development
//!   dependencies alike; only `testkit` may be anyone's development dependency.
//! - *may not contain*: what must not be reachable by normal dependencies, `*` at the end for any ending; and
//!   `any outside crate`, perhaps `except` some, for what it may not depend on directly without features: what a crate
//!   that is published alone offers on request is not what it is.
//!
//! It deliberately takes features as the whole workspace unifies them, which can only find more.

use super::Fault;
use anyhow::{Context as _, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId, TargetKind};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

const PAGE: &str = "ARCHITECTURE.md";
const TESTKIT: &str = "testkit";
/// One platform for all, so that the outcome does not depend on who looks.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

pub(super) fn check(root: &Path) -> Result<Vec<Fault>> {
    let Ok(page) = fs::read_to_string(root.join(PAGE)) else {
        return Ok(vec![Fault::new(
            PAGE,
            1,
            "house",
            "the page is missing; write it, with the table that `tidy` reads",
        )]);
    };
    let (rows, mut faults) = parse(&page);
    faults.extend(compare(&rows, &house(root)?));
    Ok(faults)
}

#[derive(Debug, Default, PartialEq)]
struct Row {
    line: usize,
    name: String,
    /// `all but`: the names are exceptions.
    all_but: bool,
    may: BTreeSet<String>,
    not: Vec<String>,
    /// `any outside crate except`: the only outside crates it may name.
    outside: Option<BTreeSet<String>>,
}

fn parse(page: &str) -> (Vec<Row>, Vec<Fault>) {
    let (mut rows, mut faults, mut inside) = (Vec::new(), Vec::new(), false);
    for (index, text) in page.lines().enumerate() {
        let line = index + 1;
        match text.trim() {
            "<!-- tidy:crates -->" => inside = true,
            "<!-- /tidy:crates -->" => inside = false,
            row if inside && row.starts_with("| `") => match parse_row(line, row) {
                Some(row) => rows.push(row),
                None => faults.push(Fault::new(
                    PAGE,
                    line,
                    "house",
                    "a row needs three cells: crate, may depend on, may not contain",
                )),
            },
            _ => {}
        }
    }
    if rows.is_empty() {
        faults.push(Fault::new(
            PAGE,
            1,
            "house",
            "no table between `<!-- tidy:crates -->` and `<!-- /tidy:crates -->`; add it",
        ));
    }
    (rows, faults)
}

fn parse_row(line: usize, row: &str) -> Option<Row> {
    let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
    let [name, may, not] = cells[..] else { return None };
    let mut row = Row { line, name: quoted(name).pop()?, ..Row::default() };
    row.all_but = may.starts_with("all");
    row.may = quoted(may).into_iter().collect();
    for part in not.split(';').map(str::trim) {
        if part.starts_with("any outside crate") {
            row.outside = Some(quoted(part).into_iter().collect());
        } else {
            row.not.extend(quoted(part));
        }
    }
    Some(row)
}

fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// A workspace crate, by the name of its folder.
#[derive(Default)]
struct Member {
    manifest: String,
    manifest_text: String,
    /// Workspace crates that it names, and whether only for development.
    inside: BTreeMap<String, bool>,
    /// Outside crates that it names as normal dependencies.
    outside: BTreeSet<String>,
    /// What is reachable by normal dependencies, each with the way there.
    closure: BTreeMap<String, Vec<String>>,
}

impl Member {
    fn fault(&self, names: &str, said: String) -> Fault {
        let line = self.manifest_text.lines().position(|line| line.contains(names)).map_or(1, |index| index + 1);
        Fault::new(&self.manifest, line, "house", said)
    }
}

fn compare(rows: &[Row], house: &BTreeMap<String, Member>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (name, member) in house {
        match rows.iter().find(|row| row.name == *name) {
            Some(row) => compare_one(row, member, &mut faults),
            None => {
                faults.push(member.fault("name", format!("`{name}` has no row in {PAGE}; say there what it may know")))
            }
        }
    }
    for row in rows.iter().filter(|row| !house.contains_key(&row.name)) {
        let said = format!("there is no crate `{}`; remove its row until it exists", row.name);
        faults.push(Fault::new(PAGE, row.line, "house", said));
    }
    faults
}

fn compare_one(row: &Row, member: &Member, faults: &mut Vec<Fault>) {
    let name = &row.name;
    for (other, for_development) in &member.inside {
        let allowed = row.all_but != row.may.contains(other) || (*for_development && other == TESTKIT);
        if !allowed {
            let said =
                format!("`{name}` may not know `{other}`: arrows point down only; move what it needs, or pass it in");
            faults.push(member.fault(&format!("fusewire-{other}"), said));
        }
    }
    for other in member.outside.iter().filter(|other| row.outside.as_ref().is_some_and(|only| !only.contains(*other))) {
        let said = format!("`{name}` may not depend on `{other}`; do without, or argue for it in {PAGE}:{}", row.line);
        faults.push(member.fault(other, said));
    }
    for (other, way) in member.closure.iter().filter(|(other, _)| row.not.iter().any(|rule| matches(rule, other))) {
        let said = format!("`{name}` contains `{other}` by way of {}; cut that dependency", way.join(" -> "));
        faults.push(member.fault(way.first().unwrap_or(other), said));
    }
}

fn matches(rule: &str, name: &str) -> bool {
    rule.strip_suffix('*').map_or(rule == name, |start| name.starts_with(start))
}

fn house(root: &Path) -> Result<BTreeMap<String, Member>> {
    let platform = ["--filter-platform".to_owned(), PLATFORM.to_owned()];
    let metadata = MetadataCommand::new().current_dir(root).other_options(platform).exec();
    let metadata = metadata.context("cargo metadata failed; the workspace does not resolve")?;
    let members = metadata.workspace_packages();
    let folders: BTreeMap<&str, String> =
        members.iter().map(|package| (package.name.as_str(), folder(package))).collect();
    members.iter().map(|package| Ok((folder(package), member(root, &metadata, package, &folders)?))).collect()
}

fn folder(package: &Package) -> String {
    package.manifest_path.parent().and_then(|parent| parent.file_name()).unwrap_or(&package.name).to_owned()
}

fn member(root: &Path, metadata: &Metadata, package: &Package, folders: &BTreeMap<&str, String>) -> Result<Member> {
    let file = package.manifest_path.as_std_path();
    let manifest_text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let manifest = file.strip_prefix(root).unwrap_or(file).to_string_lossy().into_owned();
    let mut member = Member { manifest, manifest_text, closure: closure(metadata, package), ..Member::default() };
    for dependency in &package.dependencies {
        let for_development = dependency.kind == DependencyKind::Development;
        match folders.get(dependency.name.as_str()) {
            Some(folder) => *member.inside.entry(folder.clone()).or_insert(true) &= for_development,
            None if dependency.kind == DependencyKind::Normal && !dependency.optional => {
                member.outside.insert(dependency.name.clone());
            }
            None => {}
        }
    }
    Ok(member)
}

/// Breadth first, so that the way shown is a shortest one. What a procedural macro needs stays in the compiler.
fn closure(metadata: &Metadata, package: &Package) -> BTreeMap<String, Vec<String>> {
    let mut ways: BTreeMap<PackageId, Vec<String>> = BTreeMap::from([(package.id.clone(), Vec::new())]);
    let mut queue = VecDeque::from([package.id.clone()]);
    let nodes = metadata.resolve.iter().flat_map(|resolve| &resolve.nodes).map(|node| (&node.id, node));
    let nodes: BTreeMap<_, _> = nodes.collect();
    while let Some(id) = queue.pop_front() {
        let Some(node) = nodes.get(&id) else { continue };
        let normal =
            node.deps.iter().filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
        for dep in normal {
            let target = &metadata[&dep.pkg];
            let is_macro = target.targets.iter().any(|target| target.kind.contains(&TargetKind::ProcMacro));
            if is_macro || ways.contains_key(&dep.pkg) {
                continue;
            }
            let way = ways[&id].iter().cloned().chain([target.name.to_string()]).collect();
            ways.insert(dep.pkg.clone(), way);
            queue.push_back(dep.pkg.clone());
        }
    }
    ways.remove(&package.id);
    ways.into_iter().map(|(id, way)| (metadata[&id].name.to_string(), way)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
<!-- tidy:crates -->
| crate | may depend on | may not contain |
|---|---|---|
| `low` | none | any outside crate except `tower-layer`; `tokio`, `kube*` |
| `mid` | `low` | |
| `top` | all but `mid` | |
<!-- /tidy:crates -->
";

    fn member(inside: &[(&str, bool)], outside: &[&str], closure: &[&str]) -> Member {
        Member {
            manifest: "crates/x/Cargo.toml".into(),
            manifest_text: "[dependencies]\nfusewire-mid.workspace = true\n".into(),
            inside: inside.iter().map(|(name, dev)| (name.to_string(), *dev)).collect(),
            outside: outside.iter().map(|name| name.to_string()).collect(),
            closure: closure
                .iter()
                .map(|name| (name.to_string(), vec!["between".to_owned(), name.to_string()]))
                .collect(),
        }
    }

    fn faults(name: &str, one: Member) -> Vec<String> {
        let (rows, problems) = parse(TABLE);
        assert!(problems.is_empty(), "{problems:?}");
        let mut house: BTreeMap<String, Member> =
            ["low", "mid", "top"].map(|name| (name.to_owned(), Member::default())).into();
        house.insert(name.to_owned(), one);
        compare(&rows, &house).iter().map(Fault::to_string).collect()
    }

    #[test]
    fn an_arrow_that_points_up_is_named_with_its_line() {
        let found = faults("low", member(&[("mid", false)], &[], &[]));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("crates/x/Cargo.toml:2: house: `low` may not know `mid`"), "{found:?}");
        assert!(faults("mid", member(&[("low", false)], &[], &[])).is_empty());
    }

    #[test]
    fn all_but_means_the_others() {
        assert!(faults("top", member(&[("low", false)], &[], &[])).is_empty());
        assert_eq!(faults("top", member(&[("mid", true)], &[], &[])).len(), 1);
    }

    #[test]
    fn testkit_is_for_anyones_tests_and_nobodys_product() {
        let (rows, _) = parse(TABLE);
        let found = |for_development| {
            let mut list = Vec::new();
            compare_one(&rows[0], &member(&[("testkit", for_development)], &[], &[]), &mut list);
            list.len()
        };
        assert_eq!((found(true), found(false)), (0, 1));
    }

    #[test]
    fn what_is_reached_indirectly_is_found_with_the_way_there() {
        let found = faults("low", member(&[], &["tower-layer"], &["kube-client", "tokio-stream"]));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("contains `kube-client` by way of between -> kube-client"), "{found:?}");
        assert_eq!(faults("low", member(&[], &["serde"], &[])).len(), 1);
        assert!(faults("mid", member(&[], &["serde"], &["tokio"])).is_empty());
    }

    #[test]
    fn every_crate_has_a_row_and_every_row_a_crate() {
        let (rows, _) = parse(TABLE);
        let house = BTreeMap::from([("other".to_owned(), Member::default())]);
        assert_eq!(compare(&rows, &house).len(), 4);
        assert_eq!(parse("nothing\n").1.len(), 1);
    }
}
