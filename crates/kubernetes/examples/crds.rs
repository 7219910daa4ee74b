//! Writes the custom resource definitions into a folder: `cargo xtask crds`.

use fusewire_kubernetes::crd::manifests;
use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).unwrap_or_default();
    for (name, text) in manifests() {
        std::fs::write(folder.join(name), text)?;
    }
    Ok(())
}
