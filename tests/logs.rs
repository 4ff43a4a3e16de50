//! The lines of the log for machines: the names of their fields are a contract, which `docs/operations.md` lists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path as File;

use serde_json::Value;

use crate::kit::config::{Folder, embedded};
use crate::kit::eventually;
use crate::kit::process::Service;
use crate::kit::rabbit::Vhost;
use crate::postgres::Path;

/// What every line has, by the form of the log.
const OF_EVERY_LINE: [&str; 3] = ["timestamp", "level", "message"];

/// The fields of `docs/operations.md` and their types.
fn documented() -> BTreeMap<&'static str, &'static str> {
    let (_, section) = include_str!("../docs/operations.md").split_once("\n### Fields\n").unwrap();
    let section = section.split("\n#").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    rows.map(|(name, rest)| (name, rest.split(" | ").next().unwrap())).collect()
}

/// The fields that are given to the macros of `tracing` in a source.
fn fields(source: &str) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    for level in ["error!(", "warn!(", "info!(", "debug!(", "trace!("] {
        for (at, _) in source.match_indices(level) {
            let is_word = source[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            // Not where the documents of an item speak of it.
            if !is_word && !source[..at].rsplit('\n').next().unwrap().trim_start().starts_with("//") {
                let before_message =
                    arguments(&source[at + level.len()..]).into_iter().map(|one| one.trim().to_owned());
                let before_message = before_message.take_while(|one| !one.starts_with('"'));
                fields.extend(before_message.filter_map(|one| field(&one)));
            }
        }
    }
    fields
}

/// The arguments of a macro, from behind its bracket.
fn arguments(text: &str) -> Vec<String> {
    let (mut arguments, mut depth, mut is_text) = (vec![String::new()], 0, false);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '"' => is_text = !is_text,
            '\\' if is_text => arguments.last_mut().unwrap().extend(characters.next()),
            '(' | '[' | '{' if !is_text => depth += 1,
            ')' | ']' | '}' if !is_text && depth == 0 => break,
            ')' | ']' | '}' if !is_text => depth -= 1,
            ',' if !is_text && depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        arguments.last_mut().unwrap().push(c);
    }
    arguments
}

/// The field of an argument; `None` for what is behind a comma of types.
fn field(argument: &str) -> Option<String> {
    let name = argument.split_once('=').map_or(argument, |(name, _)| name);
    let name = name.trim().trim_start_matches(['%', '?']);
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    is_name.then(|| name.to_owned())
}

fn sources(folder: &File, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.extend(fields(&std::fs::read_to_string(path).unwrap()));
        }
    }
}

#[test]
fn every_field_of_the_log_is_documented_and_nothing_else_is() {
    let mut found = BTreeSet::new();
    for folder in ["shared/src", "producer/src", "consumer/src", "src"] {
        sources(&File::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut found);
    }
    assert!(OF_EVERY_LINE.iter().all(|name| !found.contains(*name)), "a field hides one that every line has");
    found.extend(OF_EVERY_LINE.map(str::to_owned));
    assert_eq!(found, documented().into_keys().map(str::to_owned).collect());
}

#[test]
fn fields_are_found_in_every_form_the_macros_take() {
    let source = r#"
        /// Not of `warn!(this)`.
        tracing::warn!(queue, error = %chain(&error, "a, b"), "a \"text\", said = {}", no.field());
        info!(%until, source = settings.source,
            table = row.get::<_, Option<i64>>(1), at
        );
        my_error!(nothing);"#;
    let found: Vec<_> = fields(source).into_iter().collect();
    assert_eq!(found, ["at", "error", "queue", "source", "table", "until"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_for_machines_is_one_object_of_documented_fields_and_types() {
    let table = "CREATE TABLE item (id int PRIMARY KEY, note text)";
    let share = "[share.items]\nsource = \"desk\"\ntable = \"item\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\n\
                 initial = \"copy\"\n";
    let (folder, vhost) = (Folder::create(), Vhost::create());
    let queue = embedded(&folder);
    let target = "CREATE TABLE item (id int PRIMARY KEY, note text CHECK (note <> 'zqvalue'))";
    let path = Path::create_on(folder, vhost, &queue, table, target, share, "").await;
    let env = [("SYNCLINE_LOG", "trace".to_owned()), ("SYNCLINE_LOG_FORMAT", "json".to_owned())];
    let mut up = Service::start_with(path.folder.path(), "up", &path.config, &env);
    path.streaming().await;
    path.source.run("INSERT INTO item VALUES (1, 'x'), (2, 'zqvalue')").await;
    path.target.run("ALTER TABLE item RENAME TO gone").await;
    path.source.run("INSERT INTO item VALUES (3, 'y')").await;
    eventually("it pauses", true, async || up.log().contains("paused until")).await;
    path.target.run("ALTER TABLE gone RENAME TO item").await;
    eventually("applied", 2, async || path.target.count("SELECT count(*) FROM item").await).await;
    eventually("it goes on", true, async || up.log().contains("works again")).await;
    assert!(up.stop().success());
    let (documented, log) = (documented(), up.log());
    for line in log.lines() {
        let line: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        for (name, value) in &line {
            let is_fit = match documented.get(name.as_str()) {
                Some(&"text") => value.is_string(),
                Some(&"number") => value.is_number(),
                Some(&"boolean") => value.is_boolean(),
                _ => false,
            };
            assert!(is_fit, "{name} of {line:?}");
        }
        assert!(OF_EVERY_LINE.iter().all(|name| line.contains_key(*name)), "{line:?}");
    }
    for expected in ["\"error\":\"", "\"part\":\"", "\"partition\":", "\"reason\":\"target\""] {
        assert!(log.contains(expected), "{expected} is not in {log}");
    }
    assert!(!log.contains("zqvalue"), "no value of a record");
}
