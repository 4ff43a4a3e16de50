//! Display values beside references, and what `check` says of columns, on PostgreSQL and SQLite.

use rusqlite::Connection;

use crate::kit::config::{Folder, common};
use crate::kit::database::Database;
use crate::kit::eventually;
use crate::kit::process::{Service, syncline};
use crate::postgres::Path;
use crate::rules::Files;

const SHARE: &str = "[share.tickets]\nsource = \"desk\"\ntable = \"ticket\"\nqueue = \"crm\"\nkey = \"aes\"\n\
    interactive_only = false\ncolumns = \"updated\"\n[share.tickets.display]\n\
    assigned_to = { table = \"sys_user\", key = \"sys_id\", value = \"name\" }\n\
    team = { table = \"team\", key = \"id\", value = \"title\" }\n";
const SOURCE: &str = "CREATE TABLE sys_user (sys_id text PRIMARY KEY, name text);
    CREATE TABLE team (id integer PRIMARY KEY, title text);
    CREATE TABLE ticket (id integer PRIMARY KEY, assigned_to text, team integer, note text);
    INSERT INTO sys_user VALUES ('u1', 'Abel'), ('u2', 'Beth'), ('u3', 'Cleo');
    INSERT INTO team VALUES (10, 'Desk'), (11, 'Network');";
const TARGET: &str = "CREATE TABLE ticket (id integer PRIMARY KEY, assigned_to text, dv_assigned_to text, team integer, \
    dv_team text, note text);";
const ROWS: &str = "SELECT id || ' ' || coalesce(assigned_to, '-') || ' ' || coalesce(dv_assigned_to, '-') || ' ' || \
    coalesce(team || '', '-') || ' ' || coalesce(dv_team, '-') || ' ' || note FROM ticket ORDER BY id";
const OTHERS: &str = "2 - - 11 Network b|3 lost - - - c";

/// What is done at the source and at the target, and what the target then has of the first ticket.
const STORY: [(&str, &str, &str, &str); 3] = [
    (
        "references, none, and one to nothing",
        "INSERT INTO ticket VALUES (1, 'u1', 10, 'a'), (2, NULL, 11, 'b'), (3, 'lost', NULL, 'c')",
        "UPDATE ticket SET dv_assigned_to = 'kept' WHERE id = 1",
        "1 u1 Abel 10 Desk a",
    ),
    ("an update of something else", "UPDATE ticket SET note = 'x' WHERE id = 1", "", "1 u1 kept 10 Desk x"),
    (
        "an update of a reference",
        "UPDATE ticket SET assigned_to = 'u2' WHERE id = 1",
        "UPDATE ticket SET dv_assigned_to = '?', dv_team = '?'",
        "1 u2 Beth 10 Desk x",
    ),
];
const FIRST_AT_LAST: &str = "1 u2 Beth 10 Desk x";
const AWAY: &str = "ALTER TABLE sys_user RENAME TO sys_user_away; UPDATE ticket SET assigned_to = 'u3' WHERE id = 1";
const BACK: &str = "ALTER TABLE sys_user_away RENAME TO sys_user";

fn bulk_share(folder: &std::path::Path) {
    let bulk = syncline(folder, &["bulk-share", "--wait", "tickets"]);
    assert!(bulk.status.success(), "{}", String::from_utf8_lossy(&bulk.stderr));
    let test = syncline(folder, &["share", "test", "tickets", "--record", "1"]);
    let told = String::from_utf8_lossy(&test.stdout).into_owned();
    assert!(
        told.contains("dv_assigned_to") && told.contains("Beth"),
        "{told}{}",
        String::from_utf8_lossy(&test.stderr)
    );
}

async fn paused(producer: &Service, why: &str) {
    let says = async || producer.get("/readyz").is_some_and(|(_, body)| body.contains(why));
    eventually("paused", true, says).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn display_values_of_a_postgresql_source_come_beside_their_references() {
    let source = format!("{SOURCE} ALTER TABLE ticket REPLICA IDENTITY FULL");
    let path = Path::create(&source, TARGET, SHARE, "").await;
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    let see = async || {
        let rows = path.target.rows(ROWS).await;
        rows.iter().map(|row| row.trim_matches(['(', ')', '"']).to_owned()).collect::<Vec<_>>().join("|")
    };
    for (what, at_source, at_target, expected) in STORY {
        path.source.run(at_source).await;
        eventually(what, format!("{expected}|{OTHERS}"), see).await;
        path.target.run(at_target).await;
    }
    bulk_share(path.folder.path());
    eventually("the bulk share", format!("{FIRST_AT_LAST}|{OTHERS}"), see).await;
    path.source.run(AWAY).await;
    paused(&producer, "the lookup table sys_user does not exist").await;
    assert_eq!(see().await, format!("{FIRST_AT_LAST}|{OTHERS}"), "nothing is sent without its display value");
    path.source.run(BACK).await;
    eventually("it is back", format!("1 u3 Cleo 10 Desk x|{OTHERS}"), see).await;
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn display_values_of_a_sqlite_source_come_beside_their_references() {
    let files = Files::create(SOURCE, TARGET, "", SHARE, "");
    let (mut producer, mut consumer) = (files.start("producer"), files.start("consumer"));
    files.watched("ticket").await;
    let see = async || files.rows(ROWS);
    for (what, at_source, at_target, expected) in STORY {
        files.source.execute_batch(at_source).unwrap();
        eventually(what, format!("{expected}|{OTHERS}"), see).await;
        files.target.execute_batch(at_target).unwrap();
    }
    bulk_share(files.folder.path());
    eventually("the bulk share", format!("{FIRST_AT_LAST}|{OTHERS}"), see).await;
    files.source.execute_batch(AWAY).unwrap();
    paused(&producer, "no such table: main.sys_user").await;
    assert_eq!(see().await, format!("{FIRST_AT_LAST}|{OTHERS}"), "nothing is sent without its display value");
    files.source.execute_batch(BACK).unwrap();
    eventually("it is back", format!("1 u3 Cleo 10 Desk x|{OTHERS}"), see).await;
    assert!(producer.stop().success() && consumer.stop().success());
}

/// Shares whose columns do not fit what their tables have.
fn unfit(source: &str) -> String {
    let share = |name: &str, rest: &str| {
        format!(
            "[share.{source}_{name}]\nsource = \"{source}\"\ntable = \"{name}\"\nqueue = \"crm\"\nkey = \"aes\"\n\
             interactive_only = false\n{rest}\n"
        )
    };
    [
        share("masked", &format!("[share.{source}_masked.mask]\nid = \"redact\" # {source}")),
        share("renamed", &format!("[share.{source}_renamed.rename]\nid = \"number\"\nnote = \"state\" # {source}")),
        share("constant", &format!("[share.{source}_constant.constants]\nstate = \"x\" # {source}")),
        share(
            "shown",
            &format!(
                "[share.{source}_shown.display]\nstate = {{ table = \"nowhere\", key = \"a\", value = \"b\" }} # {source}\n\
                 note = {{ table = \"masked\", key = \"id\", value = \"state\" }}"
            ),
        ),
    ]
    .concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_do_not_fit_their_table_are_told_with_file_line_and_what_is_accepted() {
    let (folder, desk) = (Folder::create(), Database::create("source").await);
    let table = |name: &str| format!("CREATE TABLE {name} (id integer PRIMARY KEY, state text, note text);");
    let tables = ["masked", "renamed", "constant"].map(table).concat();
    let tables = format!("{tables} CREATE TABLE shown (id integer PRIMARY KEY, state text, note text, dv_note text);");
    desk.run(&tables).await;
    Connection::open(folder.file("file.db")).unwrap().execute_batch(&tables).unwrap();
    let config = format!(
        "[queue]\ntype = \"embedded\"\npath = \"queue.db\"\n{}[source.desk]\ntype = \"postgres\"\nurl = \"{}\"\n\
         [source.file]\ntype = \"sqlite\"\npath = \"file.db\"\n{}{}",
        common(&folder),
        desk.url,
        unfit("desk"),
        unfit("file")
    );
    folder.write("syncline.toml", &config);
    let output = syncline(folder.path(), &["check"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(69), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    for source in ["desk", "file"] {
        let line = |text: &str| {
            let whole = format!("{text} # {source}");
            config.lines().position(|line| line == whole).unwrap_or_else(|| panic!("{whole}")) + 1
        };
        let shown = line("state = { table = \"nowhere\", key = \"a\", value = \"b\" }");
        for (key, line, text) in [
            (
                "masked.mask.id",
                line("id = \"redact\""),
                "is part of the key of table masked and leaves as it is; accepted: state, note",
            ),
            ("renamed.rename.id", line("note = \"state\"") - 1, "is part of the key of table renamed"),
            (
                "renamed.rename.note",
                line("note = \"state\""),
                "state is the name of another column of table renamed that leaves; any name but id, state, note",
            ),
            ("constant.constants.state", line("state = \"x\""), "is the name of another column of table constant"),
            ("shown.display.state", shown, "the"),
            ("shown.display.note", shown + 1, "its dv_note is the name of another column of table shown"),
        ] {
            let expected = format!("syncline.toml:{line}: share.{source}_{key}: {text}");
            assert!(told.contains(&expected), "{expected}\n{told}");
        }
    }
    assert!(told.contains("the lookup table nowhere does not exist") && told.contains("no such table: main.nowhere"));
}
