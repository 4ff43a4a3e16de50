//! The other ways to run it, `deploy/systemd` and `deploy/kubernetes`: as far as can be told without either.

use std::path::Path;
use std::process::Command;

use crate::kit::config::Folder;
use crate::kit::service;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy");

/// What is left of 100 points of exposure, by the count of `systemd-analyze security`.
const EXPOSURE_MAX: &str = "20";

fn analyze(folder: &Path, args: &[&str]) {
    let output = Command::new("systemd-analyze").args(args).current_dir(folder).output().expect("systemd-analyze");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{args:?}: {told}{}", String::from_utf8_lossy(&output.stdout));
}

/// What the service says of its configuration, if it finds it wrong.
fn wrong(config: &str, env: &[(&str, &Path)]) -> Option<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncline"));
    // Reads the whole configuration, and asks nobody but this machine.
    command.args(["health", "--config", config]).env("SYNCLINE_REPLICA", "1").env("POD_NAME", "syncline-consumer-x");
    let output = command.envs(env.iter().copied()).output().unwrap();
    (output.status.code() == Some(78)).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn units_of_systemd_are_valid_hardened_and_hand_over_what_their_configurations_name() {
    let folder = Folder::create();
    for (role, instance) in [("producer", ""), ("consumer", "@")] {
        let name = format!("syncline-{role}{instance}.service");
        let unit = std::fs::read_to_string(format!("{DEPLOY}/systemd/{name}")).unwrap();
        assert!(unit.contains(&format!("\nExecStart=/usr/local/bin/syncline {role}\n")), "{name}");
        let here = unit.replace("/usr/local/bin/syncline", env!("CARGO_BIN_EXE_syncline"));
        folder.write(&name, &here);
        let unit_file = format!("./{name}");
        analyze(folder.path(), &["verify", &unit_file]);
        analyze(folder.path(), &["security", "--offline=true", "--threshold", EXPOSURE_MAX, &unit_file]);

        let credentials = folder.file(role);
        std::fs::create_dir(&credentials).unwrap();
        for line in unit.lines().filter_map(|line| line.strip_prefix("LoadCredential=")) {
            let (credential, _) = line.split_once(':').unwrap();
            std::fs::write(credentials.join(credential), "correct horse battery staple").unwrap();
        }
        let config = format!("{DEPLOY}/systemd/{role}.toml");
        assert_eq!(wrong(&config, &[("CREDENTIALS_DIRECTORY", &credentials)]), None);
        std::fs::remove_file(credentials.join("key")).unwrap();
        assert!(wrong(&config, &[("CREDENTIALS_DIRECTORY", &credentials)]).is_some(), "the test sees what is wrong");
    }
}

#[test]
fn manifests_of_kubernetes_are_valid_and_fit_together() {
    let folder = Folder::create();
    let check = Command::new(service("SYNCLINE_TEST_PYTHON"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manifests/kubernetes.py"))
        .arg(format!("{DEPLOY}/kubernetes"))
        .output()
        .unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    for role in ["producer", "consumer"] {
        // The same, with the secrets where they are here.
        let text = std::fs::read_to_string(format!("{DEPLOY}/kubernetes/{role}.toml")).unwrap();
        let text = text.replace(&format!("/run/syncline/{role}"), &folder.path().display().to_string());
        for secret in ["rabbitmq", "servicedesk", "crm", "key"] {
            folder.write(secret, "correct horse battery staple");
        }
        let config = folder.write(&format!("{role}.toml"), &text);
        assert_eq!(wrong(config.to_str().unwrap(), &[]), None);
    }
}
