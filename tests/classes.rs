//! Tables that extend each other, and the work of persons told by a column, on PostgreSQL and SQLite.

use crate::kit::eventually;
use crate::kit::process::Service;
use crate::postgres::Path;
use crate::rules::Files;

/// Of one table with a class column, every record goes under its class to one queue, and as `bulk` under all its tables to
/// another.
const SHARES: &str = r#"
[source.desk.table.asset]
class_column = "sys_class_name"
[source.desk.table.server]
extends = "asset"
columns = ["cores"]
[source.desk.table.printer]
extends = "asset"
columns = ["tray"]
[share.assets]
source = "desk"
table = "asset"
queue = "crm"
key = "aes"
columns = ["name", "cores", "tray"]
[shared_queue.levels]
partitions = 2
[share.levels]
source = "desk"
table = "asset"
queue = "levels"
key = "aes"
columns = ["name", "cores", "tray"]
hierarchy = "all"
update_or_insert = true
"#;

const SESSION: &str = "session = { user_column = \"sys_updated_by\", background = [\"*.job\"] }\n";

const SUBSCRIPTIONS: &str = r#"
[subscription.levels]
queue = "levels"
target = "crm"
[subscription.levels.table.asset]
into = "all_asset"
[subscription.levels.table.server]
into = "all_server"
[subscription.levels.table.printer]
into = "all_printer"
"#;

const SOURCE: &str = "CREATE TABLE asset (id integer PRIMARY KEY, sys_class_name text, name text, cores integer, \
    tray text, sys_updated_by text);";

const IN_TARGET: [&str; 6] = ["asset", "server", "printer", "all_asset", "all_server", "all_printer"];

/// No table has the columns of another class.
fn target() -> String {
    let columns = |table: &str| match table.rsplit('_').next() {
        Some("server") => ", cores integer",
        Some("printer") => ", tray text",
        Some(_) | None => "",
    };
    let table = |name: &&str| format!("CREATE TABLE {name} (id integer PRIMARY KEY, name text{});", columns(name));
    IN_TARGET.iter().map(table).collect()
}

fn rows_of(table: &str) -> String {
    let more = match table.rsplit('_').next() {
        Some("server") => " || ' ' || coalesce(cores, 0)",
        Some("printer") => " || ' ' || coalesce(tray, '-')",
        Some(_) | None => "",
    };
    format!("SELECT id || ' ' || name{more} FROM {table} ORDER BY id")
}

/// What to do, and what every table of the target then has.
const STORY: [(&str, &str, [&str; 6]); 4] = [
    (
        "every record is under its class, but for a job's",
        "INSERT INTO asset VALUES (1, 'server', 's1', 8, NULL, 'abel'), (2, 'printer', 'p2', NULL, 'A4', 'abel'),
         (3, 'asset', 'a3', NULL, NULL, 'abel'), (4, 'server', 's4', 1, NULL, 'nightly.job')",
        ["3 a3", "1 s1 8", "2 p2 A4", "1 s1|2 p2|3 a3", "1 s1 8", "2 p2 A4"],
    ),
    (
        "a server becomes a printer",
        "UPDATE asset SET sys_class_name = 'printer', cores = NULL, tray = 'A3', sys_updated_by = 'beth' WHERE id = 1",
        ["3 a3", "", "1 s1 A3|2 p2 A4", "1 s1|2 p2|3 a3", "", "1 s1 A3|2 p2 A4"],
    ),
    (
        "and a server again",
        "UPDATE asset SET sys_class_name = 'server', cores = 4, sys_updated_by = 'abel' WHERE id = 1",
        ["3 a3", "1 s1 4", "2 p2 A4", "1 s1|2 p2|3 a3", "1 s1 4", "2 p2 A4"],
    ),
    (
        "a job's update stays at home, a person's delete does not",
        "UPDATE asset SET name = 'by a job', sys_updated_by = 'nightly.job' WHERE id = 3; DELETE FROM asset WHERE id = 2",
        ["3 a3", "1 s1 4", "", "1 s1|3 a3", "1 s1 4", ""],
    ),
];

fn counted(producer: &Service) -> [f64; 3] {
    let withheld = producer.metric("syncline_producer_withheld_total", "reason=\"background\",share=\"assets\"");
    let sent = |share: &str, action: &str| {
        let labels = format!("action=\"{action}\",share=\"{share}\"");
        producer.metric("syncline_producer_shared_total", &labels)
    };
    [withheld, sent("assets", "bulk"), sent("levels", "insert") + sent("levels", "update")]
}

/// A job's insert and its update; an upsert for each change of class; nothing but upserts of "update or insert".
const COUNTED: [f64; 3] = [2.0, 2.0, 0.0];

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_class_column_of_sqlite_follow_their_class() {
    let files = Files::create(SOURCE, &target(), SESSION, SHARES, SUBSCRIPTIONS);
    let (mut producer, mut consumer) = (files.start("producer"), files.start("consumer"));
    files.watched("asset").await;
    for (what, statement, expected) in STORY {
        files.source.execute_batch(statement).unwrap();
        let see = async || IN_TARGET.map(|table| files.rows(&rows_of(table)));
        eventually(what, expected.map(str::to_owned), see).await;
    }
    assert_eq!(counted(&producer), COUNTED);
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_class_column_of_postgresql_follow_their_class() {
    let shares = format!("{SESSION}{SHARES}");
    let path = Path::create(SOURCE, &target(), &shares, SUBSCRIPTIONS).await;
    let producer = path.producer();
    // Of which class a deleted record was, only the values before tell.
    eventually("the statement that mends it", true, async || {
        producer.log().contains("ALTER TABLE public.asset REPLICA IDENTITY FULL")
    })
    .await;
    path.source.run("ALTER TABLE asset REPLICA IDENTITY FULL").await;
    let (mut producer, mut consumer) = (producer, path.consumer());
    path.streaming().await;
    for (what, statement, expected) in STORY {
        path.source.run(statement).await;
        eventually(what, expected.map(str::to_owned).to_vec(), async || seen(&path, &IN_TARGET, rows_of).await).await;
    }
    assert_eq!(counted(&producer), COUNTED);
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_postgresql_that_inherit_are_shared_under_all_their_names() {
    let source = "CREATE TABLE task (id int PRIMARY KEY, name text);
        CREATE TABLE incident (severity int, PRIMARY KEY (id)) INHERITS (task);
        CREATE TABLE major (bridge text, PRIMARY KEY (id)) INHERITS (incident);
        INSERT INTO task VALUES (1, 'before'); INSERT INTO incident VALUES (2, 'before', 3)";
    let target = "CREATE TABLE task (id int PRIMARY KEY, name text);
        CREATE TABLE incident (id int PRIMARY KEY, name text, severity int);
        CREATE TABLE major (id int PRIMARY KEY, name text, severity int, bridge text)";
    let shares = "[source.desk.table.incident]\nextends = \"task\"\ncolumns = [\"severity\"]\n\
        [source.desk.table.major]\nextends = \"incident\"\ncolumns = [\"bridge\"]\n\
        [share.tasks]\nsource = \"desk\"\ntable = \"task\"\nqueue = \"crm\"\nkey = \"aes\"\nhierarchy = \"all\"\n\
        interactive_only = false\ninitial = \"copy\"\n";
    let path = Path::create(source, target, shares, "").await;
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    let columns = |table: &str| match table {
        "task" => "SELECT id || ' ' || name FROM task ORDER BY id".to_owned(),
        "incident" => "SELECT id || ' ' || name || ' ' || severity FROM incident ORDER BY id".to_owned(),
        _ => "SELECT id || ' ' || name || ' ' || severity || ' ' || bridge FROM major ORDER BY id".to_owned(),
    };
    let tables = ["task", "incident", "major"];
    for (what, statement, expected) in [
        ("the copy", "", ["1 before|2 before", "2 before 3", ""]),
        (
            "a new one",
            "INSERT INTO major VALUES (3, 'new', 1, 'b')",
            ["1 before|2 before|3 new", "2 before 3|3 new 1", "3 new 1 b"],
        ),
        (
            "changes through the base",
            "UPDATE task SET name = 'changed'; DELETE FROM task WHERE id = 2",
            ["1 changed|3 changed", "3 changed 1", "3 changed 1 b"],
        ),
    ] {
        path.source.run(statement).await;
        eventually(what, expected.map(str::to_owned).to_vec(), async || seen(&path, &tables, columns).await).await;
        path.streaming().await;
    }
    assert!(producer.stop().success() && consumer.stop().success());
}

/// What the target's tables have.
async fn seen(path: &Path, tables: &[&str], query: impl Fn(&str) -> String) -> Vec<String> {
    let mut seen = Vec::new();
    for table in tables {
        let rows = path.target.rows(&query(table)).await;
        seen.push(rows.iter().map(|row| row.trim_matches(['(', ')', '"']).to_owned()).collect::<Vec<_>>().join("|"));
    }
    seen
}
