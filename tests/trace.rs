//! `syncline trace`: where a record is, on PostgreSQL and SQLite, through the real queue.

use std::path::PathBuf;
use std::process::Output;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::bulk::world::End;
use crate::kit::config::{Folder, common, embedded, rabbitmq};
use crate::kit::database::Database;
use crate::kit::process::{Service, syncline};
use crate::kit::rabbit::Vhost;
use crate::kit::{eventually, free_port};

const MARKER: &str = "4711-secret-value";

/// A target that refuses what is too long.
const TABLES: &str = "
    CREATE TABLE ticket (id INTEGER PRIMARY KEY, number VARCHAR(20) UNIQUE, state VARCHAR(20), note TEXT CHECK (length(note) < 40));
    CREATE TABLE line (ticket INTEGER, pos INTEGER, note TEXT, PRIMARY KEY (ticket, pos));";

const SHARES: &str = "[share.tickets]\nsource = \"desk\"\ntable = \"ticket\"\nqueue = \"crm\"\nkey = \"aes\"\n\
    interactive_only = false\nfilter = \"state!=hidden\"\n\
    [share.lines]\nsource = \"desk\"\ntable = \"line\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\n";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether a source notes what changes in its file.
fn has_triggers(file: &Connection) -> bool {
    let triggers = "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'";
    file.query_row(triggers, [], |row| row.get::<_, i64>(0)) == Ok(6)
}

/// A desk, a CRM and both services between them.
struct Scene {
    folder: Folder,
    source: End,
    target: End,
    config: PathBuf,
    _vhost: Vhost,
}

impl Scene {
    async fn create(folder: Folder, source: End, target: End) -> Self {
        let vhost = Vhost::create();
        source.run(&TABLES.replace(" CHECK (length(note) < 40)", "")).await;
        target.run(TABLES).await;
        // Everyone on ports of their own, with journals.
        let service = |part: &str| {
            let (own, port) = (format!("[{part}]\nhttp = \"127.0.0.1:0\""), free_port());
            (own, format!("[{part}]\njournal = 1000\nhttp = \"127.0.0.1:{port}\""))
        };
        let ((producer, own_producer), (consumer, own_consumer)) = (service("producer"), service("consumer"));
        let common = common(&folder).replace(&producer, &own_producer).replace(&consumer, &own_consumer);
        let ends = [source.table("source", "desk"), target.table("target", "crm")].concat();
        let subscription = "[subscription.crm]\nqueue = \"crm\"\ntarget = \"crm\"\n";
        let config = format!("{}{common}\n{ends}{SHARES}{subscription}", rabbitmq(&vhost.url));
        let config = folder.write("syncline.toml", &config);
        Self { folder, source, target, config, _vhost: vhost }
    }

    fn start(&self, service: &str) -> Service {
        Service::start(self.folder.path(), service, &self.config)
    }

    fn run(&self, args: &[&str]) -> Output {
        syncline(self.folder.path(), args)
    }

    fn trace(&self, record: &[&str]) -> Value {
        let output = self.run(&[&["--json", "trace"], record].concat());
        assert!(output.status.success(), "{record:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn told(&self, record: &[&str]) -> String {
        let output = self.run(&[&["trace"], record].concat());
        text(&output.stdout) + &text(&output.stderr)
    }

    /// Waits until what changes at the source is noticed.
    async fn is_read(&self) {
        eventually("the source is read", true, async || match &self.source {
            End::Postgres(database) => {
                let slot = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() \
                    AND active AND confirmed_flush_lsn IS NOT NULL";
                database.count(slot).await == 1
            }
            End::Sqlite(path) => has_triggers(&Connection::open(path).unwrap()),
        })
        .await;
    }

    /// Waits until a record is where it should be.
    async fn comes_to(&self, record: &[&str], state: &str) -> Value {
        eventually(&format!("{record:?}"), json!(state), async || self.trace(record)["state"].clone()).await;
        self.trace(record)
    }

    /// The whole story, whatever the databases are.
    async fn story(self) {
        let (mut producer, mut consumer) = (self.start("producer"), self.start("consumer"));
        for service in [&producer, &consumer] {
            eventually("ready", true, async || service.get("/readyz").is_some_and(|(_, body)| body == "ready\n")).await;
        }
        self.is_read().await;
        self.source.run(&format!("INSERT INTO ticket VALUES (1, 'INC1', 'new', '{MARKER}')")).await;
        let applied = self.comes_to(&["ticket", "INC1"], "in_step").await;
        let (decided, came) = (&applied["decided"][0], &applied["applied"][0]);
        assert_eq!((&decided["share"], &decided["sent_as"]), (&json!("tickets"), &json!("insert")), "{applied}");
        assert!(decided["message"].is_string() && decided["confirmed_at"].is_string(), "{applied}");
        assert_eq!((&decided["message"], &came["outcome"]), (&came["message"], &json!("applied")), "{applied}");
        assert_eq!((&decided["partition"], &decided["sent_version"]), (&came["partition"], &came["version"]));
        assert_eq!(applied["targets"][0]["version"], came["version"], "{applied}");
        let told = self.told(&["ticket", "INC1"]);
        for expected in [
            "ticket id = 1\n",
            "insert of ticket, version ",
            "share tickets",
            "sends it as insert of ticket to crm, partition ",
            " is confirmed",
            ": applied insert, version ",
            "has the record",
            "would send it as update of ticket to crm, partition ",
            "ticket has it with version ",
            "In step: target crm has the version last sent.\n",
        ] {
            assert!(told.contains(expected), "missing: {expected}\n{told}");
        }
        // What the services tell has neither the key nor a value.
        let page = format!("/trace/{}", applied["records"][0].as_str().unwrap());
        for service in [&producer, &consumer] {
            let (status, body) = service.get(&page).unwrap();
            assert!(status.contains("200") && body.contains("\"version\""), "{body}");
            assert!(!body.contains(MARKER) && !body.contains("INC1"), "{body}");
        }

        self.source.run("INSERT INTO ticket VALUES (2, 'INC2', 'hidden', 'a')").await;
        let hidden = self.comes_to(&["ticket", "number=INC2"], "not_shared").await;
        eventually("noted", json!("filter"), async || self.trace(&["ticket", "2"])["decided"][0]["reason"].clone())
            .await;
        assert_eq!(
            (&hidden["shares"][0]["now"]["reason"], &hidden["targets"][0]["row"]),
            (&json!("filter"), &json!(false))
        );
        let told = self.told(&["ticket", "2"]);
        assert!(told.contains("✗ state!=hidden  state is \"hidden\""), "{told}");
        let expected = "Not shared: share tickets withheld it (filter: the record does not fit the filter).\n";
        assert!(told.contains(expected), "{told}");

        self.source
            .run(&format!("INSERT INTO ticket VALUES (3, 'INC3', 'new', 'far too long, and more than that: {MARKER}')"))
            .await;
        let refused = self.comes_to(&["ticket", "INC3"], "set_aside").await;
        let letter = refused["dead_letters"][0]["id"].as_str().unwrap().to_owned();
        assert_eq!(refused["applied"][0]["letter"], json!(letter), "{refused}");
        assert_eq!(refused["targets"][0]["parked"][0]["letter"], json!(letter), "{refused}");
        let told = self.told(&["ticket", "INC3"]);
        let expected = format!("Set aside: dead letter {letter} (target); see `syncline dead-letter show {letter}`.\n");
        assert!(told.ends_with(&expected) && !told.contains(MARKER), "{told}");
        // A newer one makes up for it, and the old one replayed is stale.
        self.source.run("UPDATE ticket SET note = 'short' WHERE id = 3").await;
        self.comes_to(&["ticket", "INC3"], "in_step").await;
        if let End::Postgres(target) = &self.target {
            // It looks at constraints before it looks at versions.
            target.run("ALTER TABLE ticket DROP CONSTRAINT ticket_note_check").await;
        }
        assert!(self.run(&["dead-letter", "replay", &letter]).status.success());
        eventually("stale", json!("stale"), async || self.trace(&["ticket", "3"])["applied"][2]["outcome"].clone())
            .await;
        assert_eq!(self.comes_to(&["ticket", "3"], "in_step").await["dead_letters"], json!([]));

        self.source.run("DELETE FROM ticket WHERE id = 1").await;
        eventually("deleted", json!("in step: target crm has the delete last sent"), async || {
            self.trace(&["ticket", "1"])["conclusion"].clone()
        })
        .await;
        let deleted = self.trace(&["ticket", "1"]);
        assert_eq!((&deleted["targets"][0]["row"], &deleted["sources"][0]["here"]), (&json!(false), &json!(false)));
        assert_eq!(deleted["targets"][0]["deleted"], deleted["decided"][1]["version"], "{deleted}");
        let told = self.told(&["ticket", "INC1"]);
        assert!(
            told.contains("note: no record was found by id, number; from here on it is taken for the key id"),
            "{told}"
        );
        assert!(told.contains("Nowhere: neither the source nor the target has such a record"), "{told}");

        self.source.run("INSERT INTO line VALUES (7, 11, 'a')").await;
        let line = self.comes_to(&["line", "7", "11"], "in_step").await;
        assert_eq!(line["key"], json!([{"column": "ticket", "value": "7"}, {"column": "pos", "value": "11"}]));
        assert_eq!(self.trace(&["line", "pos=11", "ticket=7"])["records"], line["records"]);
        assert_eq!(self.trace(&["line", "71", "1"])["state"], "nowhere");

        // The consumer is away, and what it does not take up waits.
        assert!(consumer.stop().success());
        self.source.run("UPDATE ticket SET note = 'again' WHERE id = 3").await;
        let behind = self.comes_to(&["ticket", "3"], "behind").await;
        let last = behind["decided"].as_array().unwrap().last().unwrap();
        let (message, partition) = (last["message"].as_str().unwrap(), &last["partition"]);
        let expected = format!("behind: message {message} waits in partition {partition} of crm, one of 1");
        assert_eq!(behind["conclusion"], json!(expected));
        let told = self.told(&["ticket", "3"]);
        assert!(told.contains("does not answer: ") && told.contains("ticket has it with version "), "{told}");

        self.without_journals(&mut producer).await;
    }

    /// What is told of the record that waits, once nobody remembers and the source is out of reach.
    async fn without_journals(&self, producer: &mut Service) {
        assert!(producer.stop().success());
        let with = std::fs::read_to_string(&self.config).unwrap();
        std::fs::write(&self.config, with.replace("journal = 1000\n", "")).unwrap();
        let (mut producer, mut consumer) = (self.start("producer"), self.start("consumer"));
        let off = json!(["off", "off"]);
        eventually("both answer", off, async || {
            let services = &self.trace(&["ticket", "3"])["services"];
            json!([services[0]["journal"], services[1]["journal"]])
        })
        .await;
        eventually("nothing waits", json!(0), async || self.trace(&["ticket", "3"])["waiting"][0]["messages"].clone())
            .await;
        let told = self.told(&["ticket", "3"]);
        for expected in [
            "keeps no journal; switch it on with journal = 10000 in [producer] and start it again",
            "keeps no journal; switch it on with journal = 10000 in [consumer] and start it again",
            "ticket has it with version ",
            "Nothing waits for it, and target crm has it with version ",
        ] {
            assert!(told.contains(expected), "missing: {expected}\n{told}");
        }
        assert_eq!(self.trace(&["ticket", "1"])["state"], "in_step");
        assert!(producer.stop().success() && consumer.stop().success());

        let away = match &self.source {
            End::Postgres(database) => (database.url.clone(), "postgres://nobody@127.0.0.1:1/none".to_owned()),
            End::Sqlite(path) => (path.display().to_string(), "nowhere.db".to_owned()),
        };
        let config = std::fs::read_to_string(&self.config).unwrap();
        std::fs::write(&self.config, config.replace(&away.0, &away.1)).unwrap();
        let output = self.run(&["trace", "ticket", "id=3"]);
        let (told, error) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(69), "{told}{error}");
        assert!(error.starts_with("1 system could not be asked: source desk: "), "{error}");
        assert!(told.contains("cannot be asked: ") && told.contains("ticket has it with version "), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_postgresql_is_found_wherever_it_is() {
    let (source, target) = (Database::create("desk").await, Database::create("crm").await);
    Scene::create(Folder::create(), End::Postgres(Box::new(source)), End::Postgres(Box::new(target)))
        .await
        .story()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_sqlite_is_found_wherever_it_is() {
    let folder = Folder::create();
    let (source, target) = (folder.file("desk.db"), folder.file("crm.db"));
    for path in [&source, &target] {
        Connection::open(path).unwrap().execute_batch("PRAGMA journal_mode = WAL").unwrap();
    }
    Scene::create(folder, End::Sqlite(source), End::Sqlite(target)).await.story().await;
}

/// A configuration of SQLite at both ends on the embedded queue, under one address.
fn one_process(folder: &Folder, journal: &str) -> PathBuf {
    let port = free_port();
    let http = format!("{journal}\nhttp = \"127.0.0.1:{port}\"");
    let common = common(folder).replacen("http = \"127.0.0.1:0\"", &http, 1).replace("http = \"127.0.0.1:0\"", journal);
    let ends =
        "[source.desk]\ntype = \"sqlite\"\npath = \"desk.db\"\n[target.crm]\ntype = \"sqlite\"\npath = \"crm.db\"\n";
    let subscription = "[subscription.crm]\nqueue = \"crm\"\ntarget = \"crm\"\n";
    folder.write("syncline.toml", &format!("{}{common}\n{ends}{SHARES}{subscription}", embedded(folder)))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_answers_for_both_ends_and_old_entries_make_room() {
    let folder = Folder::create();
    let config = one_process(&folder, "journal = 2");
    let [desk, crm] = ["desk.db", "crm.db"].map(|name| Connection::open(folder.file(name)).unwrap());
    for database in [&desk, &crm] {
        database.execute_batch(&format!("PRAGMA journal_mode = WAL; {TABLES}")).unwrap();
    }
    let mut up = Service::start(folder.path(), "up", &config);
    let trace = |record: &str| {
        let output = syncline(folder.path(), &["trace", "ticket", record, "--json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    eventually("the source is read", true, async || up.get("/readyz").is_some() && has_triggers(&desk)).await;
    for id in 1..=3 {
        desk.execute_batch(&format!("INSERT INTO ticket VALUES ({id}, 'INC{id}', 'new', 'a')")).unwrap();
        let known = async || {
            let told = trace(&id.to_string());
            (told["decided"].as_array().unwrap().len(), told["applied"].as_array().unwrap().len())
        };
        eventually("noted", (1, 1), known).await;
    }
    let (first, last) = (trace("1"), trace("3"));
    assert_eq!((&first["decided"], &first["applied"], &first["state"]), (&json!([]), &json!([]), &json!("unknown")));
    assert_eq!(last["state"], "in_step", "{last}");
    let parts = |told: &Value| [0, 1].map(|place| told["services"][place]["part"].clone());
    assert_eq!(parts(&last), [json!("producer"), json!("consumer")], "{last}");
    // Each says from when on it knows everything: from what made room last.
    let since = last["services"][0]["since"].as_str().unwrap();
    assert!(since < last["decided"][0]["at"].as_str().unwrap() && last["services"].as_array().unwrap().len() == 2);

    // With the consumer's half of the configuration, and the address by hand.
    let whole = std::fs::read_to_string(&config).unwrap();
    let half = whole.replace("[source.desk]\ntype = \"sqlite\"\npath = \"desk.db\"\n", "").replace(SHARES, "");
    folder.write("consumer.toml", &half.replace("[consumer]\njournal = 2\n", ""));
    let url = format!("--consumer=http://{}", up.address().unwrap());
    let half = |record: &str| {
        let output = syncline(folder.path(), &["--config=consumer.toml", "--json", "trace", "ticket", record, &url]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let told = half("3");
    assert_eq!((&told["applied"][0]["outcome"], &told["services"][0]["part"]), (&json!("applied"), &json!("producer")));
    assert!(told["conclusion"].as_str().unwrap().contains("write column=value"), "{told}");
    let told = half("id=3");
    assert_eq!(told["applied"][0]["version"], told["targets"][0]["version"], "{told}");
    assert!(told["conclusion"].as_str().unwrap().contains("has the version last sent"), "{told}");
    assert!(up.stop().success());
}

#[test]
fn what_cannot_be_asked_for_is_said_and_so_is_a_journal_out_of_range() {
    let folder = Folder::create();
    one_process(&folder, "journal = 1000001");
    let output = syncline(folder.path(), &["check"]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{told}");
    for part in ["producer", "consumer"] {
        let config = std::fs::read_to_string(folder.file("syncline.toml")).unwrap();
        let line = config.lines().position(|line| line == format!("[{part}]")).unwrap() + 2;
        let expected =
            format!("syncline.toml:{line}: {part}.journal: 1000001 is out of range; 0 to 1000000 entries, 0 for none");
        assert!(told.contains(&expected), "{expected}\n{told}");
    }
    one_process(&folder, "journal = 0");
    Connection::open(folder.file("desk.db")).unwrap().execute_batch(TABLES).unwrap();
    for (args, code, expected) in [
        (["ticket", "1", "--producer=ftp://x"].as_slice(), 64, "an address such as http://127.0.0.1:9188"),
        (&["ticket"], 64, "required arguments"),
        (&["tickets", "1"], 1, "no share or subscription is about table tickets; accepted: line, ticket"),
        (&["line", "1"], 1, "table line has the key ticket, pos: name a value for each"),
        (&["line", "1", "2", "3"], 1, "table line has the key ticket, pos: name a value for each"),
        (&["ticket", "number=INC9"], 1, "one that is gone is traced by its key, id"),
    ] {
        let output = syncline(folder.path(), &[&["trace"], args].concat());
        let told = text(&output.stderr);
        assert!(output.status.code() == Some(code) && told.contains(expected), "{args:?}: {told}");
    }
}
