//! `cargo xtask fuzz`: builds the targets of `fuzz/` with what libFuzzer needs to see, and runs them for a while.
//!
//! It takes the toolchain at hand: counting which code ran needs code generation flags only, and a sanitizer, which would
//! need a nightly compiler, has little to find where no crate of ours has `unsafe`. `cargo fuzz run TARGET` works as well.
//!
//! What a run finds beyond the kept corpus stays in `fuzz/target/corpus`, so that each run begins where the last one
//! stopped; what is worth keeping is copied to `fuzz/corpus` by hand, with a name that says what it is, and `--minimise` takes
//! out of that what reaches nothing that the others do not.

use crate::run;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const FLAGS: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// One target; default all of `fuzz/fuzz_targets`
    pub(crate) target: Option<String>,
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) seconds: u32,
    /// Begin the fuzzer's choices here, the same each time; default somewhere else each time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) seed: Option<u32>,
    /// Then take out of the kept corpus what adds nothing to the rest
    #[arg(long)]
    pub(crate) minimise: bool,
}

impl Default for Args {
    fn default() -> Self {
        Self { target: None, seconds: 5, seed: None, minimise: false }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let home = run::root().join("fuzz");
    let known = targets(&home)?;
    let chosen: Vec<&str> = match &args.target {
        None => known.iter().map(String::as_str).collect(),
        Some(one) if known.contains(one) => vec![one],
        Some(other) => bail!("there is no target {other:?}; there are {}", known.join(", ")),
    };
    let binaries = build(&home)?;
    let mut failed = Vec::new();
    for target in chosen {
        let place = Place::new(&home, target, &binaries)?;
        if let Err(error) = place.fuzz(args) {
            eprintln!("xtask: {error:#}");
            failed.push(target);
        } else if args.minimise {
            place.minimise()?;
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("inputs break {}: they are in fuzz/artifacts; once mended, keep them in fuzz/corpus", failed.join(", "))
}

fn targets(home: &Path) -> Result<Vec<String>> {
    let files = fs::read_dir(home.join("fuzz_targets")).context("cannot list fuzz/fuzz_targets")?;
    let mut names: Vec<String> =
        files.filter_map(|file| Some(file.ok()?.path().file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}

/// Where the targets' binaries are, once built. `--target` keeps the flags away from build scripts and macros.
fn build(home: &Path) -> Result<PathBuf> {
    if run::find("c++").is_none() {
        bail!("libFuzzer is C++ and there is no c++ here: install a compiler (Debian: g++)");
    }
    let begun = Instant::now();
    let host = host()?;
    let into = home.join("target");
    let mut command = run::cargo(&["build", "--release", "--bins", "--target", &host, "--target-dir"]);
    command.arg(&into).current_dir(home).env("RUSTFLAGS", FLAGS.join(" ")).env_remove("CARGO_ENCODED_RUSTFLAGS");
    run::step("building the fuzz targets", &mut command)?;
    eprintln!("xtask: the fuzz targets are built after {} s", begun.elapsed().as_secs());
    Ok(into.join(host).join("release"))
}

fn contents(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let files = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    files
        .map(|file| {
            let path = file?.path();
            Ok((path.clone(), fs::read(path)?))
        })
        .collect()
}

fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot ask rustc for its host")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// One target's files.
struct Place<'a> {
    target: &'a str,
    home: &'a Path,
    binary: PathBuf,
    /// What is in the repository.
    kept: PathBuf,
    /// What was found on this machine.
    found: PathBuf,
    artifacts: PathBuf,
}

impl<'a> Place<'a> {
    fn new(home: &'a Path, target: &'a str, binaries: &Path) -> Result<Self> {
        let place = Self {
            target,
            home,
            binary: binaries.join(target),
            kept: home.join("corpus").join(target),
            found: home.join("target/corpus").join(target),
            artifacts: home.join("artifacts").join(target),
        };
        for folder in [&place.kept, &place.found, &place.artifacts] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(place)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.current_dir(self.home).arg(format!("-artifact_prefix={}/", self.artifacts.display()));
        // an input that takes seconds or hundreds of megabytes is a finding
        command.args(["-timeout=10", "-rss_limit_mb=1024", "-max_len=4096"]);
        let dictionary = self.home.join("dictionaries").join(format!("{}.dict", self.target));
        if dictionary.is_file() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        command
    }

    fn fuzz(&self, args: &Args) -> Result<()> {
        let seconds = args.seconds;
        eprintln!("xtask: fuzzing {} for {seconds} s", self.target);
        let mut command = self.command();
        command.args([&format!("-max_total_time={seconds}"), "-verbosity=0", "-print_final_stats=1"]);
        if let Some(seed) = args.seed {
            command.arg(format!("-seed={seed}"));
        }
        run::step(&format!("fuzzing {}", self.target), command.arg(&self.found).arg(&self.kept))
    }

    fn minimise(&self) -> Result<()> {
        let scratch = self.home.join("target/minimised").join(self.target);
        if scratch.exists() {
            fs::remove_dir_all(&scratch).with_context(|| format!("cannot clear {}", scratch.display()))?;
        }
        fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
        let mut command = self.command();
        command.args(["-set_cover_merge=1", "-verbosity=0"]).arg(&scratch).arg(&self.kept);
        run::step(&format!("minimising the corpus of {}", self.target), &mut command)?;
        let wanted = contents(&scratch)?;
        for (file, bytes) in contents(&self.kept)? {
            // the copies are named by their hash, and a name that says something is worth more
            if !wanted.iter().any(|(_, other)| *other == bytes) {
                fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
            }
        }
        Ok(())
    }
}
