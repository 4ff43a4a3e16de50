//! Nothing secret and nothing of a record in anything Syncline says: logs at every level, pages, commands, spans.

use std::path::PathBuf;

use serde_json::json;

use crate::kit::collector::Collector;
use crate::kit::config::{Folder, common, rabbitmq};
use crate::kit::database::Database;
use crate::kit::process::{Service, syncline};
use crate::kit::rabbit::Vhost;
use crate::kit::role::Role;
use crate::kit::{eventually, eventually_some, service};

/// What stands in every value, key, password and secret of this test, and its forms in other types and encodings.
const MARKS: [&str; 7] =
    ["zqleak", "7a716c65616b", "enFsZWFr", "739182645", "1987-06-05", "03:04:05.678", "c0ffee00-1234"];

const SOURCE: &str = "
    CREATE TABLE incident (number text PRIMARY KEY, amount bigint, price numeric(20, 3), note text, photo bytea, born date,
        seen timestamp, ref uuid, tags text[], doc jsonb, ok boolean, fault text);
    CREATE TABLE sys_user (name text PRIMARY KEY, mail text);
    CREATE TABLE zoo (id int PRIMARY KEY)";
/// Each way in which a database refuses a record; some quote it in their messages.
const TARGET: &str = "
    CREATE TABLE support_case (number text PRIMARY KEY, amount int, price numeric CHECK (price >= 0), note varchar(40) UNIQUE,
        photo bytea, born date NOT NULL, seen timestamp, ref uuid, tags text[], doc jsonb, ok boolean, fault text);
    CREATE TABLE contact (name text PRIMARY KEY, mail text);
    CREATE FUNCTION object() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.fault = 'trigger' THEN RAISE EXCEPTION 'no % here', NEW.number USING DETAIL = NEW.note, HINT = NEW.note; END IF;
        RETURN NEW; END $$;
    CREATE TRIGGER object BEFORE INSERT OR UPDATE ON support_case FOR EACH ROW EXECUTE FUNCTION object()";

const FAULTS: [(&str, &str); 7] = [
    ("range", "amount = 739182645000"),
    ("check", "price = -739182645.001"),
    ("long", "note = repeat('zqleak', 20)"),
    ("unique", "note = 'zqleak twice'"),
    ("null", "born = NULL"),
    ("trigger", "ok = false"),
    ("zero", "doc = '{\"zqleak\": 739182645}'"),
];

/// All that was said so far.
struct Ear {
    marks: Vec<String>,
    heard: Vec<(String, String)>,
}

impl Ear {
    fn hear(&mut self, what: &str, said: String) {
        self.heard.push((what.to_owned(), said));
    }

    fn pages(&mut self, when: &str, services: &[&Service]) {
        for service in services {
            for page in ["/metrics", "/healthz", "/readyz", "/zqnothing"] {
                let (status, body) = service.get(page).unwrap_or_default();
                self.hear(&format!("{page} {when}"), format!("{status}\n{body}"));
            }
        }
    }

    fn command(&mut self, folder: &Folder, args: &[&str]) -> String {
        let output = syncline(folder.path(), args);
        let said = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).into_owned()).concat();
        self.hear(&args.join(" "), said.clone());
        said
    }

    fn judge(&self) {
        let mut leaks = Vec::new();
        for (what, said) in &self.heard {
            for line in said.lines() {
                if let Some(mark) = self.marks.iter().find(|mark| line.contains(&***mark)) {
                    leaks.push(format!("{what}: {mark} in: {}", line.chars().take(300).collect::<String>()));
                }
            }
        }
        leaks.dedup();
        assert!(
            leaks.is_empty(),
            "{} leaks:\n{}",
            leaks.len(),
            leaks.into_iter().take(20).collect::<Vec<_>>().join("\n")
        );
    }
}

struct Stand {
    folder: Folder,
    vhost: Vhost,
    source: Database,
    target: Database,
    roles: [Role; 2],
    collector: Collector,
    config: PathBuf,
}

impl Stand {
    async fn create() -> Self {
        let (source, target) = (Database::create("source").await, Database::create("target").await);
        source.run(SOURCE).await;
        target.run(TARGET).await;
        let roles = [Role::source(&source, "zqleak source").await, Role::target(&target, "zqleak target").await];
        let (folder, vhost, collector) = (Folder::create(), Vhost::create(), Collector::start());
        folder.write("key", "zqleak is the secret of this key\n");
        for role in &roles {
            folder.write(&role.name, &role.password);
        }
        let text = format!(
            "{}{}[source.desk]\ntype = \"postgres\"\nurl = \"{}\"\npassword_file = \"{}\"\nslot = \"{name}\"\npublication = \"syncline_{name}\"\n\
             session = {{ user_column = \"fault\" }}\n\
             [share.incidents]\nsource = \"desk\"\ntable = \"incident\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\ninitial = \"copy\"\nfilter = \"fault!=none^amountISNOTEMPTY\"\n\
             [share.users]\nsource = \"desk\"\ntable = \"sys_user\"\nqueue = \"crm\"\nkey = \"3des\"\ninteractive_only = false\n\
             [target.crm]\ntype = \"postgres\"\nurl = \"{}\"\npassword_file = \"{}\"\n[subscription.crm]\nqueue = \"crm\"\ntarget = \"crm\"\n\
             table.incident.into = \"support_case\"\ntable.sys_user.into = \"contact\"\n{}",
            rabbitmq(&vhost.url),
            common(&folder),
            roles[0].url(&source),
            roles[0].name,
            roles[1].url(&target),
            roles[1].name,
            collector.config(),
            name = source.name,
        );
        let config = folder.write("syncline.toml", &text);
        Self { folder, vhost, source, target, roles, collector, config }
    }

    /// Everything at its loudest.
    fn service(&self, command: &str) -> Service {
        Service::start_with(self.folder.path(), command, &self.config, &[("SYNCLINE_LOG", "trace".to_owned())])
    }

    async fn insert(&self, name: &str, fault: &str) {
        self.source
            .run(&format!(
                "INSERT INTO incident VALUES ('zqleak {name}', 739182645, 739182645.001, 'zqleak note {name}', 'zqleak photo', '1987-06-05',
                     '1987-06-05 03:04:05.678', 'c0ffee00-1234-4ef8-bb6d-6bb9bd380a11', '{{zqleak}}', '{{\"a\": \"zqleak\"}}', true, '{name}');
                 UPDATE incident SET {fault} WHERE number = 'zqleak {name}'",
            ))
            .await;
    }

    async fn arrives(&self, name: &str) {
        let there = format!("SELECT count(*) FROM support_case WHERE number = 'zqleak {name}'");
        eventually(&format!("{name} arrives"), 1, async || self.target.count(&there).await).await;
    }

    async fn paused(&self, ear: &mut Ear, services: &[&Service], words: &str) {
        let paused = async || {
            services
                .iter()
                .any(|service| service.get("/readyz").is_some_and(|(_, body)| body.contains(words)))
                .then_some(())
        };
        eventually_some(words, paused).await;
        ear.pages(words, services);
        ear.command(&self.folder, &["check"]);
        ear.command(&self.folder, &["check", "--json"]);
    }

    async fn end_connections(&self) {
        let [source, target] = &self.roles;
        let (source, target) = (&source.name, &target.name);
        let end =
            format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ('{source}', '{target}')");
        self.source.run(&end).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_and_nothing_of_a_record_is_ever_said() {
    let stand = Stand::create().await;
    let broker = service("SYNCLINE_TEST_RABBITMQ_URL");
    let password = broker.split(['/', '@']).nth(2).unwrap().split(':').nth(1).unwrap().to_owned();
    let mut ear = Ear { marks: MARKS.map(str::to_owned).to_vec(), heard: Vec::new() };
    ear.marks.push(password);

    // A copy, all kinds of changes, and every way for a target to refuse a record.
    stand.insert("copied", "ok = true").await;
    let (mut producer, mut consumer) = (stand.service("producer"), stand.service("consumer"));
    stand.arrives("copied").await;
    stand
        .target
        .run("INSERT INTO support_case (number, note, born) VALUES ('zqleak own', 'zqleak twice', '1987-06-05')")
        .await;
    for (name, fault) in FAULTS {
        stand.insert(name, fault).await;
    }
    stand.source.run("INSERT INTO sys_user VALUES ('zqleak', 'zqleak@example'); DELETE FROM incident WHERE number = 'zqleak zero'").await;
    // What is in no message: noise beside the pipeline, and messages that are none, or not sealed, or broken.
    stand.source.run("SELECT pg_logical_emit_message(true, 'syncline', 'zqleak'), pg_logical_emit_message(true, 'syncline', '{\"user\": \"zqleak\"}')").await;
    let properties = json!({ "content_type": "application/x-ndjson", "content_encoding": "none", "message_id": "01a1fd2c-c0b8-7001-8a2f-3e5d6c7b8a01",
        "headers": { "v": 1, "source": "desk", "share": "users", "table": "sys_user", "action": "insert", "partition": 0, "records": 1, "cipher": "AES256", "key": "aes" } });
    stand.vhost.publish("crm.0", &json!({}), "enFsZWFrIGlzIG5vdCBzZWFsZWQ=");
    stand.vhost.publish(
        "crm.0",
        &properties,
        "enFsZWFrIGlzIG5vdCBzZWFsZWQgYnV0IGxvbmcgZW5vdWdoIGZvciBhIG1hYyBvZiAzMiBieXRlcw==",
    );
    eventually("the dead letters", true, async || stand.vhost.ready("crm.dead") >= 8).await;
    ear.pages("with dead letters", &[&producer, &consumer]);
    for args in [
        vec!["share", "list"],
        vec!["queue", "status"],
        vec!["dead-letter", "list"],
        vec!["dead-letter", "replay", "--all"],
        vec!["dead-letter", "discard", "01a1fd2c-c0b8-7001-8a2f-3e5d6c7b8a99"],
    ] {
        ear.command(&stand.folder, &args);
        ear.command(&stand.folder, &[&args[..], &["--json"]].concat());
    }

    // Faults of everything at once.
    let faults = [
        ("ALTER TABLE support_case RENAME ok TO okay", "ALTER TABLE support_case RENAME okay TO ok", "lacks"),
        (
            "REVOKE ALL ON support_case FROM TARGET",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON support_case TO TARGET",
            "GRANT SELECT, INSERT, UPDATE, DELETE",
        ),
        (
            "ALTER ROLE TARGET PASSWORD 'zqleak other'",
            "ALTER ROLE TARGET PASSWORD 'zqleak target'",
            "refuses the login",
        ),
        ("ALTER ROLE SOURCE PASSWORD 'zqleak other'", "ALTER ROLE SOURCE PASSWORD 'zqleak source'", "refuses access"),
    ];
    for (number, (fault, mend, words)) in faults.into_iter().enumerate() {
        let named = |sql: &str| sql.replace("TARGET", &stand.roles[1].name).replace("SOURCE", &stand.roles[0].name);
        stand.target.run(&named(fault)).await;
        stand.end_connections().await;
        let name = format!("systemic{number}");
        stand.insert(&name, "ok = true").await;
        stand.paused(&mut ear, &[&producer, &consumer], words).await;
        stand.target.run(&named(mend)).await;
        stand.arrives(&name).await;
    }

    // Another secret under the same id, and then none: what was sealed with the first one does not open.
    assert!(consumer.stop().success());
    ear.hear("the consumer", consumer.log());
    stand.folder.write("key", "zqleak is another secret, of the same id\n");
    let mut consumer = stand.service("consumer");
    stand.insert("wrong", "ok = true").await;
    stand.paused(&mut ear, &[&producer, &consumer], "subscription crm").await;
    ear.command(&stand.folder, &["dead-letter", "list", "--json"]);
    stand.folder.write("key", "zqleak short\n");
    ear.command(&stand.folder, &["check"]);
    ear.command(&stand.folder, &["share", "list"]);
    assert!(producer.stop().success() && consumer.stop().success());
    ear.hear("the producer", producer.log());
    ear.hear("the consumer", consumer.log());
    assert!(stand.collector.spans().len() > FAULTS.len(), "spans of both ends");
    ear.hear("the spans", stand.collector.said());
    let traced = ear.heard.iter().any(|(_, said)| said.contains("DEBUG") || said.contains("TRACE"));
    assert!(traced, "nothing was said at the loudest levels");
    ear.judge();
}
