//! `cargo xtask simulate`: the mesh in trouble, in virtual time, held against bands.
//!
//! Built optimised and run as a program of its own: a minute of it is hours of simulated traffic.

use crate::run;
use anyhow::Result;
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only these, such as `S16` or `"O2 20 A"`; all of them otherwise
    scenarios: Vec<String>,
    /// Draw each scenario into this folder, as SVG
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut command = run::cargo(&["run", "--quiet", "--release", "--package", "fusewire-sim", "--"]);
    command.args(&args.scenarios);
    if let Some(folder) = &args.plot {
        // The program runs at the workspace's root; the folder is meant from here.
        let folder = std::env::current_dir().map_or_else(|_| folder.clone(), |here| here.join(folder));
        command.args([OsString::from("--plot"), folder.into()]);
    }
    run::step("the simulations", &mut command)
}
