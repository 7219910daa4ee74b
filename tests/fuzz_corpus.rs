//! Every input that the fuzz targets keep, through the same properties: what was found once stays found.

#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub, dead_code, reason = "the fuzz crate's own module")]
#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

use std::path::Path;

/// Files of all corpora together.
const MAX_FILES: usize = 300;
/// Of one; `example.yaml` is the longest that has to be there.
const MAX_BYTES: usize = 16 << 10;

#[test]
fn every_kept_input_of_every_fuzz_target_keeps_what_must_hold() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut files = 0;
    for (name, check) in targets::ALL {
        let mut inputs: Vec<_> = std::fs::read_dir(corpus.join(name)).unwrap().map(|f| f.unwrap().path()).collect();
        inputs.sort();
        assert!(inputs.len() >= 5, "{name} has a corpus of {} files", inputs.len());
        files += inputs.len();
        for input in inputs {
            let bytes = std::fs::read(&input).unwrap();
            assert!(bytes.len() <= MAX_BYTES, "{} is too long to be kept", input.display());
            eprintln!("{}", input.display()); // the last one shown is the one that failed
            check(&bytes);
            check(&bytes[..bytes.len() / 2]);
        }
    }
    assert!(files <= MAX_FILES, "{files} files: minimise the corpora (`cargo xtask fuzz --minimise`)");
    let targets = std::fs::read_dir(corpus.join("../fuzz_targets")).unwrap().count();
    assert_eq!(targets, targets::ALL.len(), "each target has a property, and each property a target");
}
