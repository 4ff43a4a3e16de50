//! Scripts of subscriptions: what they make of records before they are applied, on PostgreSQL and SQLite.

use crate::kit::config::{Folder, common};
use crate::kit::eventually;
use crate::kit::process::{Service, syncline};
use crate::postgres::Path;
use crate::rules::Files;

const SECRET: &str = "4711-secret-note";
const SHARE: &str = "[share.tickets]\nsource = \"desk\"\ntable = \"ticket\"\nqueue = \"crm\"\nkey = \"aes\"\n\
    interactive_only = false\ncolumns = \"updated\"\n";
const SOURCE: &str = "CREATE TABLE ticket (id integer PRIMARY KEY, state text, note text);";
const TARGET: &str = "CREATE TABLE case_of (id integer PRIMARY KEY, state text, note text, seen integer);";
const ROWS: &str = "SELECT id || ' ' || state || ' ' || note || ' ' || seen FROM case_of ORDER BY id";
/// What the script does until somebody mends it.
const BROKEN: &str = "if (current.state == 'broken') throw current.note;\n";

fn subscription() -> String {
    format!(
        "[subscription.crm.table.ticket]\ninto = \"case_of\"\nbefore_subscribe = '''\n{BROKEN}\
         if (current.state == 'secret') ignore = true;\nif (current.state == 'gone') psp_action = \"delete\";\n\
         current.note = current.note + ' by ' + psp_action;\ncurrent.seen = 7;\n'''\nscript_ms_max = 200\n"
    )
}

/// What is done at the source, and what the target then has.
fn story() -> [(&'static str, String, &'static str); 3] {
    [
        (
            "records as the script says",
            format!(
                "INSERT INTO ticket VALUES (1, 'new', 'a'), (2, 'secret', 'b'), (3, 'broken', '{SECRET}'), (4, 'new', 'd')"
            ),
            "1 new a by insert 7|4 new d by insert 7",
        ),
        (
            "one that the script deletes",
            "UPDATE ticket SET state = 'gone' WHERE id = 4".to_owned(),
            "1 new a by insert 7",
        ),
        (
            "a part behind the one set aside, and another",
            "UPDATE ticket SET note = 'z' WHERE id = 3; UPDATE ticket SET note = 'y' WHERE id = 1".to_owned(),
            "1 new y by update 7",
        ),
    ]
}

/// What is there once the script is mended and the letters are replayed.
const REPLAYED: &str = "1 new y by update 7|3 broken z by update 7";

fn dead_letters(folder: &std::path::Path) -> (Vec<String>, String) {
    let list = syncline(folder, &["dead-letter", "list", "--json"]);
    let text = String::from_utf8_lossy(&list.stdout).into_owned();
    let letters: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    (letters.iter().map(|letter| letter["reason"].as_str().unwrap().to_owned()).collect(), text)
}

/// What was set aside, the mended script, and the replay; the consumer that goes on.
async fn mend(folder: &std::path::Path, config: &std::path::Path, mut consumer: Service) -> Service {
    eventually("what is set aside", vec!["script".to_owned(), "waits".to_owned()], async || dead_letters(folder).0)
        .await;
    let (_, list) = dead_letters(folder);
    assert!(list.contains("before_subscribe of table ticket, throws what is no Error"), "{list}");
    let withheld = consumer.metric("syncline_consumer_records_total", "outcome=\"withheld\"");
    assert_eq!(withheld, 1.0);
    assert!(!consumer.log().contains(SECRET) && !list.contains(SECRET));
    assert!(consumer.stop().success());
    let text = std::fs::read_to_string(config).unwrap();
    std::fs::write(config, text.replace(BROKEN, "")).unwrap();
    let replayed = syncline(folder, &["dead-letter", "replay", "--reason", "script"]);
    let told = String::from_utf8_lossy(&replayed.stdout).into_owned();
    assert_eq!(told, "2 dead letters were replayed.\n", "what waits follows");
    Service::start(folder, "consumer", config)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_of_a_subscription_decides_what_a_postgresql_target_gets() {
    let source = format!("{SOURCE} ALTER TABLE ticket REPLICA IDENTITY FULL");
    let path = Path::create(&source, TARGET, SHARE, &subscription()).await;
    let (mut producer, consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    let see = async || {
        let rows = path.target.rows(ROWS).await;
        rows.iter().map(|row| row.trim_matches(['(', ')', '"']).to_owned()).collect::<Vec<_>>().join("|")
    };
    for (what, statement, expected) in story() {
        path.source.run(&statement).await;
        eventually(what, expected.to_owned(), see).await;
    }
    let mut consumer = mend(path.folder.path(), &path.config, consumer).await;
    eventually("replayed", REPLAYED.to_owned(), see).await;
    assert!(dead_letters(path.folder.path()).0.is_empty());
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_of_a_subscription_decides_what_a_sqlite_target_gets() {
    let files = Files::create(SOURCE, TARGET, "", SHARE, &subscription());
    let (mut producer, consumer) = (files.start("producer"), files.start("consumer"));
    files.watched("ticket").await;
    for (what, statement, expected) in story() {
        files.source.execute_batch(&statement).unwrap();
        eventually(what, expected.to_owned(), async || files.rows(ROWS)).await;
    }
    let mut consumer = mend(files.folder.path(), &files.config, consumer).await;
    eventually("replayed", REPLAYED.to_owned(), async || files.rows(ROWS)).await;
    assert!(dead_letters(files.folder.path()).0.is_empty());
    assert!(producer.stop().success() && consumer.stop().success());
}

#[test]
fn what_is_no_script_of_a_subscription_is_told_with_its_place() {
    let folder = Folder::create();
    let queue = "[queue]\ntype = \"embedded\"\npath = \"queue.db\"\n";
    let table = |name: &str, rest: &str| format!("[subscription.crm.table.{name}]\n{rest}\n");
    let tables = [
        table("one", "before_subscribe = '''\nignore = true;\nvar broken = ;\n'''\nscript_ms_max = 0"),
        table("two", "before_subscribe = 'if (current.state.changes()) ignore = true'"),
    ]
    .concat();
    let config = format!(
        "{queue}{}[target.crm]\ntype = \"sqlite\"\npath = \"crm.db\"\n[subscription.crm]\nqueue = \"crm\"\ntarget = \"crm\"\n{tables}",
        common(&folder)
    );
    folder.write("syncline.toml", &config);
    let output = syncline(folder.path(), &["check"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{told}");
    let line = |text: &str| config.lines().position(|line| line.contains(text)).unwrap() + 1;
    for (key, line, text) in [
        ("one.before_subscribe", line("var broken"), "column 14: is no JavaScript: unexpected token"),
        ("one.script_ms_max", line("script_ms_max"), "0 is out of range; 1 to 10000"),
        ("two.before_subscribe", line("changes()"), "asks what changed (changes, changesTo, changesFrom or previous)"),
    ] {
        let expected = format!("syncline.toml:{line}: subscription.crm.table.{key}: {text}");
        assert!(told.lines().any(|told| told.starts_with(&expected)), "{expected}\n{told}");
    }
}
