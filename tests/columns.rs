//! What a share makes of records on their way out: scripts, masks, other names, constants, and parts of updates, on
//! PostgreSQL and SQLite.

use crate::kit::eventually;
use crate::kit::process::{Service, syncline};
use crate::postgres::Path;
use crate::rules::Files;

/// Every digit of it arrives, whatever a script does beside it.
const COST: &str = "9007199254740993";
const SSN: &str = "123-45-6789";

const TABLES: [&str; 5] = ["scripted", "formed", "delta", "minding", "ignoring"];

fn shares() -> String {
    let share = |name: &str, extra: &str| {
        format!(
            "[share.{name}]\nsource = \"desk\"\ntable = \"{name}\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\n{extra}\n"
        )
    };
    let script = "if(!current.email.isNil()) psp_action = \"update\";\nif (current.state == 'secret') ignore = true;\n\
        if (current.state == 'broken') throw current.ssn;\ncurrent.note = current.note + ' (' + current.state + ')';\n\
        current.seen = 7;";
    [
        share("scripted", &format!("before_share = '''\n{script}\n'''\nscript_ms_max = 200")),
        share(
            "formed",
            "mask = { ssn = \"last4\", email = \"hash\", secret = \"redact\" }\nrename = { note = \"remark\" }\n\
             constants = { origin = \"desk\", level = 3 }\nmask_secret = \"a secret of at least thirty-two bytes\"",
        ),
        share("delta", "columns = \"updated\"\nid = \"cost\""),
        share("minding", "share_on = [\"state\"]"),
        share("ignoring", "ignore = [\"note\"]"),
    ]
    .concat()
}

/// The tables of both ends; where a share renames and adds columns, the target's are others.
fn create(cost: &str, source: bool) -> String {
    let table = |name: &&str| {
        let (note, more) = match *name {
            "formed" if !source => ("remark text", ", origin text, level integer"),
            "scripted" if !source => ("note text", ", seen integer"),
            _ => ("note text", ""),
        };
        format!(
            "CREATE TABLE {name} (id integer PRIMARY KEY, state text, cost {cost}, ssn text, email text, secret text, {note}{more});"
        )
    };
    TABLES.iter().map(table).collect()
}

fn everywhere(statement: &str) -> String {
    TABLES.iter().map(|table| format!("{};", statement.replace("$t", table))).collect()
}

/// What is done at the source, and what every table of the target then has.
fn story() -> Vec<(&'static str, String, [String; 5])> {
    let row = |id: u32, note: &str| format!("{id} new {COST} {SSN} {note}");
    let form = |first: &str, note: &str| {
        let row = |id: &str, note: &str| format!("{id} {COST} ****6789 {note} desk 3 64 -");
        [row(&format!("1 {first}"), note), row("2 secret", "x"), row("3 broken", "x")].join("|")
    };
    let insert = format!(
        "INSERT INTO $t VALUES (1, 'new', {COST}, '{SSN}', 'a@example.com', 's', 'x'), \
         (2, 'secret', {COST}, '{SSN}', 'a@example.com', 's', 'x'), (3, 'broken', {COST}, '{SSN}', 'a@example.com', 's', 'x')"
    );
    let others = format!("2 secret {COST} {SSN} x|3 broken {COST} {SSN} x");
    let all = format!("{}|{others}", row(1, "x"));
    vec![
        (
            "records as the shares say",
            everywhere(&insert),
            [format!("{} 7", row(1, "x (new)")), form("new", "x"), all.clone(), all.clone(), all.clone()],
        ),
        (
            "an update that nobody minds, and a part of it",
            everywhere("UPDATE $t SET note = 'y' WHERE id = 1"),
            [
                format!("{} 7", row(1, "y (new)")),
                form("new", "y"),
                all.replacen(" x|", " y|", 1).replacen(SSN, "kept", 1),
                all.clone(),
                all.clone(),
            ],
        ),
        ("an update that all mind", everywhere("UPDATE $t SET state = 'open', note = 'z' WHERE id = 1"), {
            let open = |note: &str| format!("1 open {COST} {SSN} {note}");
            let after = format!("{}|{others}", open("z"));
            [
                format!("{} 7", open("z (open)")),
                form("open", "z"),
                format!("{}|{others}", open("z").replace(SSN, "kept")),
                after.clone(),
                after,
            ]
        }),
    ]
}

fn rows_of(table: &str) -> String {
    let shown = match table {
        "formed" => "remark || ' ' || origin || ' ' || level || ' ' || length(email) || ' ' || coalesce(secret, '-')",
        "scripted" => "note || ' ' || seen",
        _ => "note",
    };
    format!("SELECT id || ' ' || state || ' ' || cost || ' ' || ssn || ' ' || {shown} FROM {table} ORDER BY id")
}

/// What a part of an update leaves alone at the target, and what goes along with each.
const TOUCH: &str = "UPDATE delta SET ssn = 'kept', cost = 0 WHERE id = 1";

async fn counted(producer: &Service) {
    let withheld = |share: &str, reason: &str| {
        producer.metric("syncline_producer_withheld_total", &format!("reason=\"{reason}\",share=\"{share}\""))
    };
    let told = (withheld("scripted", "script"), withheld("minding", "unchanged"), withheld("ignoring", "unchanged"));
    assert_eq!(told, (1.0, 1.0, 1.0));
    eventually("the dead letter", 1.0, async || {
        producer.metric("syncline_producer_dead_letters_total", "share=\"scripted\"")
    })
    .await;
    let sent = |action: &str| {
        producer.metric("syncline_producer_shared_total", &format!("action=\"{action}\",share=\"scripted\""))
    };
    assert_eq!((sent("insert"), sent("update")), (0.0, 3.0));
    assert!(
        producer.log().contains("the script of its share failed") && !producer.log().contains(SSN),
        "{}",
        producer.log()
    );
}

/// What the producer set aside holds a key alone: neither chosen by itself nor with all others is it replayed.
fn not_replayed(folder: &std::path::Path) {
    let list = syncline(folder, &["dead-letter", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!((list.as_array().unwrap().len(), &list[0]["key_only"]), (1, &true.into()), "{list}");
    let id = list[0]["id"].as_str().unwrap();
    for (args, code) in [(["dead-letter", "replay", "--all"], 0), (["dead-letter", "replay", id], 1)] {
        let replay = syncline(folder, &args);
        let told = String::from_utf8_lossy(&replay.stderr).into_owned();
        assert_eq!(replay.status.code(), Some(code), "{told}");
        let expected = format!("{id} is not replayed: it holds the key of its record and no columns");
        assert!(told.contains(&expected), "{told}");
        assert!(told.contains("`syncline bulk-share scripted --where COLUMN=VALUE`"), "{told}");
    }
    let list = syncline(folder, &["dead-letter", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(list[0]["id"], id);
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_masks_names_and_parts_of_updates_reach_a_postgresql_target() {
    let full: String = TABLES.iter().map(|table| format!("ALTER TABLE {table} REPLICA IDENTITY FULL;")).collect();
    let (source, target) = (create("numeric(38,9)", true), create("numeric(38,9)", false));
    let path = Path::create(&format!("{source}{full}"), &target, &shares(), "").await;
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    let exact = format!("{COST}.123456789");
    for (what, statement, expected) in story() {
        path.source.run(&statement.replace(COST, &exact)).await;
        let see = async || {
            let mut seen = Vec::new();
            for table in TABLES {
                let rows = path.target.rows(&rows_of(table)).await;
                let rows: Vec<_> = rows.iter().map(|row| row.trim_matches(['(', ')', '"']).to_owned()).collect();
                seen.push(rows.join("|"));
            }
            seen
        };
        eventually(what, expected.map(|rows| rows.replace(COST, &exact)).to_vec(), see).await;
        path.target.run(TOUCH).await;
    }
    counted(&producer).await;
    let hashes = path.target.count("SELECT count(DISTINCT email) FROM formed WHERE email ~ '^[0-9a-f]{64}$'").await;
    assert_eq!(hashes, 1);
    let list = syncline(path.folder.path(), &["dead-letter", "list", "--json"]);
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(
        list.contains("\"script\"") && list.contains("before_share of share scripted, throws what is no Error"),
        "{list}"
    );
    assert!(!list.contains(SSN));
    not_replayed(path.folder.path());
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_masks_names_and_parts_of_updates_reach_a_sqlite_target() {
    let files = Files::create(&create("INTEGER", true), &create("INTEGER", false), "", &shares(), "");
    let (mut producer, mut consumer) = (files.start("producer"), files.start("consumer"));
    for table in TABLES {
        files.watched(table).await;
    }
    for (what, statement, expected) in story() {
        files.source.execute_batch(&statement).unwrap();
        eventually(what, expected, async || TABLES.map(|table| files.rows(&rows_of(table)))).await;
        files.target.execute_batch(TOUCH).unwrap();
    }
    counted(&producer).await;
    assert_eq!(files.rows("SELECT count(DISTINCT email) || '' FROM formed"), "1");
    not_replayed(files.folder.path());
    assert!(producer.stop().success() && consumer.stop().success());
}
