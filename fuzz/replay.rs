//! Runs the committed seeds of a fuzz target through its function, in the ordinary tests: so the seeds keep their worth
//! while formats change, and a finding that became a seed stays mended. Included by path, for it is for tests alone.

use std::path::Path;

/// Replays `fuzz/seeds/<target>`. Each seed must be understood, which is what `run` returns, unless it is called `bad-*`.
pub(super) fn replay(target: &str, run: fn(&[u8]) -> bool) {
    // Cargo sets this for the crate whose tests these are; the crates stand at most one folder deep.
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = ["fuzz/seeds", "../fuzz/seeds"].map(|seeds| crate_folder.join(seeds).join(target));
    let folder = folder.iter().find(|folder| folder.is_dir()).expect("the target has seeds");
    let mut count = 0;
    for seed in std::fs::read_dir(folder).expect("readable") {
        let path = seed.expect("readable").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let understood = run(&std::fs::read(&path).expect("readable"));
        assert_eq!(understood, !name.starts_with("bad-"), "{target}/{name}");
        count += 1;
    }
    assert!(count > 0, "{target} has no seeds");
}
