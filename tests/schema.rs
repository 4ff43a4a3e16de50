//! The JSON schema editors complete and check configurations by.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::process::syncline;
use crate::kit::{config::Folder, service};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn configurations(folder: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(Path::new(ROOT).join(folder)).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect()
}

#[test]
fn the_schema_in_the_documents_is_that_of_the_program() {
    let printed = syncline(Path::new(ROOT), &["config", "schema"]);
    let printed = String::from_utf8(printed.stdout).unwrap();
    let ours = "write it anew: cargo run -- config schema > docs/syncline.schema.json";
    assert!(printed == include_str!("../docs/syncline.schema.json"), "{ours}");
}

#[test]
fn every_configuration_fits_the_schema_and_none_with_a_misspelt_key_does() {
    let folder = Folder::create();
    let init = syncline(folder.path(), &["config", "init"]);
    assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
    let written = std::fs::read_to_string(folder.file("syncline.toml")).unwrap();
    assert!(written.starts_with("#:schema ./syncline.schema.json\n"), "{written}");
    let examples = configurations("config");
    assert!(examples.len() > 5);
    for example in &examples {
        let text = std::fs::read_to_string(example).unwrap();
        assert!(text.starts_with("#:schema ../docs/syncline.schema.json\n"), "{}", example.display());
    }
    let fits = Command::new(service("SYNCLINE_TEST_PYTHON"))
        .arg(format!("{ROOT}/tests/schema/fits.py"))
        .arg(folder.file("syncline.schema.json"))
        .arg(folder.file("syncline.toml"))
        .arg(format!("{ROOT}/src/demo/syncline.toml"))
        .args(examples)
        .args(["deploy", "deploy/systemd", "deploy/kubernetes"].into_iter().flat_map(configurations))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&fits.stderr);
    assert!(fits.status.success(), "{}", told.lines().last().unwrap_or_default());
}
