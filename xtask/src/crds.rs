//! `cargo xtask crds`: writes `deploy/kubernetes/base/crds` from the code that knows the kinds.
//!
//! It is a program of the crate that has the schemas, so that this one stays light; a test there fails while the files differ.

use crate::run;
use anyhow::Result;

pub(crate) fn run() -> Result<()> {
    let folder = run::root().join("deploy/kubernetes/base/crds");
    let mut command = run::cargo(&["run", "--quiet", "--package", "fusewire-kubernetes", "--example", "crds", "--"]);
    run::step("the custom resource definitions", command.arg(folder))
}
