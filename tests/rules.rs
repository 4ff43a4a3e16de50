//! Rules of a share that look at what a record was: what leaves a filter, a route or a class, on PostgreSQL and SQLite.

use rusqlite::Connection;

use crate::kit::config::{Folder, common, rabbitmq};
use crate::kit::eventually;
use crate::kit::process::Service;
use crate::kit::rabbit::Vhost;
use crate::postgres::Path;

/// A share of the source `desk`, with what is its own.
fn share(name: &str, table: &str, extra: &str) -> String {
    format!(
        "[share.{name}]\nsource = \"desk\"\ntable = \"{table}\"\nqueue = \"crm\"\nkey = \"aes\"\n\
         interactive_only = false\n{extra}\n"
    )
}

/// Where routes lead: a second queue whose records go into tables of the same target.
const URGENT: &str = "[shared_queue.urgent]\npartitions = 2\n";
const INTO_ONE: &str = "[subscription.crm.table.ticket]\n[subscription.crm.table.routed]\n[subscription.crm.table.known]\n\
    [subscription.crm.table.sent]\n[subscription.crm.table.kept]\n\
    [subscription.crm.table.anywhere]\ninto = \"everywhere\"\n\
    [subscription.urgent]\nqueue = \"urgent\"\ntarget = \"crm\"\n[subscription.urgent.table.routed]\ninto = \"urgent\"\n\
    [subscription.urgent.table.anywhere]\ninto = \"everywhere\"\n";

fn leave_and_route_shares() -> String {
    let route =
        "\nroutes = \"first\"\n[[share.NAME.route]]\nwhen = \"priority=1\"\nqueue = \"urgent\"\nkey = \"3des\"\n";
    [
        share("tickets", "ticket", "filter = \"state!=closed\""),
        share("known", "known", "filter = \"state!=closed\""),
        share("sent", "sent", "filter = \"state!=closed\"\non_leave = \"update\""),
        share("kept", "kept", "filter = \"state!=closed\"\non_leave = \"ignore\""),
        share(
            "routed",
            "routed",
            &format!(
                "{}{}columns = [\"state\", \"note\", \"body\"]",
                "columns = [\"state\", \"body\"]",
                route.replace("NAME", "routed")
            ),
        ),
        share("anywhere", "anywhere", &route.replace("NAME", "anywhere")),
        URGENT.to_owned(),
    ]
    .concat()
}

const TABLES: [&str; 6] = ["ticket", "known", "sent", "kept", "routed", "anywhere"];
const IN_TARGET: [&str; 7] = ["ticket", "known", "sent", "kept", "routed", "urgent", "everywhere"];

fn create(tables: &[&str]) -> String {
    let table = |name: &&str| {
        format!("CREATE TABLE {name} (id integer PRIMARY KEY, state text, priority integer, note text, body text);")
    };
    tables.iter().map(table).collect()
}

/// The same statement for every table; $t stands for its name.
fn everywhere(statement: &str) -> String {
    TABLES.iter().map(|table| format!("{};", statement.replace("$t", table))).collect()
}

/// What becomes of the records, whatever the database: what to do, and what every table of the target then has of them.
fn story() -> Vec<(&'static str, String, [&'static str; 7])> {
    vec![
        (
            "three records, one of them outside the filters",
            everywhere(
                "INSERT INTO $t VALUES (1, 'new', 3, 'a', 'large'), (2, 'new', 3, 'a', 'large'), (3, 'closed', 3, 'a', 'large')",
            ),
            {
                let (inside, every) = ("1 new a large|2 new a large", "1 new a large|2 new a large|3 closed a large");
                [inside, inside, inside, inside, "1 new - large|2 new - large|3 closed - large", "", every]
            },
        ),
        (
            "one leaves the filters, and goes by the route",
            everywhere("UPDATE $t SET state = 'closed', priority = 1 WHERE id = 1"),
            [
                "2 new a large",
                "2 new a large",
                "1 closed a large|2 new a large",
                "1 new a large|2 new a large",
                "2 new - large|3 closed - large",
                "1 closed a large",
                "1 closed a large|2 new a large|3 closed a large",
            ],
        ),
        (
            "it changes outside of them; one is deleted",
            everywhere("UPDATE $t SET note = 'b' WHERE id = 1; DELETE FROM $t WHERE id = 2"),
            [
                "",
                "",
                "1 closed a large",
                "1 new a large",
                "3 closed - large",
                "1 closed b large",
                "1 closed b large|3 closed a large",
            ],
        ),
        ("it comes back, whole", everywhere("UPDATE $t SET state = 'open', priority = 2 WHERE id = 1"), {
            let back = "1 open b large";
            [back, back, back, back, "1 open - large|3 closed - large", "", "1 open b large|3 closed a large"]
        }),
        (
            "and moves to and fro",
            (0..40).map(|n| format!("UPDATE anywhere SET priority = {}, note = 'n{n}' WHERE id = 1;", n % 2)).collect(),
            {
                let back = "1 open b large";
                [back, back, back, back, "1 open - large|3 closed - large", "", "1 open n39 large|3 closed a large"]
            },
        ),
    ]
}

/// The rows of a table as the story tells them; a column that does not come is `-`.
fn rows_of(table: &str) -> String {
    format!(
        "SELECT id || ' ' || state || ' ' || coalesce(note, '-') || ' ' || coalesce(body, '-') FROM {table} ORDER BY id"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_a_filter_or_a_route_of_postgresql_leaves_the_target_and_comes_back_whole() {
    let full = TABLES.iter().filter(|table| **table != "ticket");
    let full: String = full.map(|table| format!("ALTER TABLE {table} REPLICA IDENTITY FULL;")).collect();
    let apart = everywhere("ALTER TABLE $t ALTER body SET STORAGE EXTERNAL");
    let source = format!("{}{full}{apart}", create(&TABLES));
    let path = Path::create(&source, &create(&IN_TARGET), &leave_and_route_shares(), INTO_ONE).await;
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    // Stored apart, so that the log leaves it out where an update leaves it alone.
    let (large, shown) = ("'large' || repeat('x', 9000)", "replace(body, repeat('x', 9000), '')");
    for (what, statement, expected) in story() {
        path.source.run(&statement.replace("'large'", large)).await;
        let see = async || {
            let mut seen = Vec::new();
            for table in IN_TARGET {
                let rows = path.target.rows(&rows_of(table).replace("body", shown)).await;
                seen.push(
                    rows.iter().map(|row| row.trim_matches(['(', ')', '"']).to_owned()).collect::<Vec<_>>().join("|"),
                );
            }
            seen
        };
        eventually(what, expected.map(str::to_owned).to_vec(), see).await;
    }
    let deletes = |share: &str| {
        producer.metric("syncline_producer_shared_total", &format!("action=\"delete\",share=\"{share}\""))
    };
    // Left and deleted: of `ticket` nobody knows what it was, so the update outside of the filter is one more.
    assert_eq!((deletes("known"), deletes("tickets")), (2.0, 3.0));
    assert!(producer.stop().success() && consumer.stop().success());
}

/// SQLite at both ends of RabbitMQ.
pub struct Files {
    pub folder: Folder,
    _vhost: Vhost,
    pub source: Connection,
    pub target: Connection,
    pub config: std::path::PathBuf,
}

impl Files {
    pub fn create(source_sql: &str, target_sql: &str, source: &str, shares: &str, subscription: &str) -> Self {
        let (folder, vhost) = (Folder::create(), Vhost::create());
        let open = |name: &str, sql: &str| {
            let file = Connection::open(folder.file(name)).unwrap();
            file.execute_batch(&format!("PRAGMA journal_mode = WAL; {sql}")).unwrap();
            file.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
            file
        };
        let (desk, crm) = (open("desk.db", source_sql), open("crm.db", target_sql));
        let text = format!(
            "{}{}\n[source.desk]\ntype = \"sqlite\"\npath = \"desk.db\"\n{source}\n{shares}\n[target.crm]\ntype = \"sqlite\"\n\
             path = \"crm.db\"\n[subscription.crm]\nqueue = \"crm\"\ntarget = \"crm\"\n{subscription}\n",
            rabbitmq(&vhost.url),
            common(&folder),
        );
        let config = folder.write("syncline.toml", &text);
        Self { folder, _vhost: vhost, source: desk, target: crm, config }
    }

    pub fn start(&self, command: &str) -> Service {
        Service::start(self.folder.path(), command, &self.config)
    }

    /// Waits until the triggers are there.
    pub async fn watched(&self, table: &str) {
        let query = format!("SELECT count(*) FROM sqlite_schema WHERE name = '_syncline_update_{table}'");
        eventually("watched", 1, async || self.source.query_row(&query, [], |row| row.get::<_, i64>(0)).unwrap()).await;
    }

    /// All rows of a query, each one text.
    pub fn rows(&self, query: &str) -> String {
        let mut statement = self.target.prepare(query).unwrap();
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>().join("|")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_a_filter_or_a_route_of_sqlite_leaves_the_target_and_comes_back_whole() {
    let files = Files::create(&create(&TABLES), &create(&IN_TARGET), "", &leave_and_route_shares(), INTO_ONE);
    let (mut producer, mut consumer) = (files.start("producer"), files.start("consumer"));
    files.watched("ticket").await;
    for (what, statement, expected) in story() {
        files.source.execute_batch(&statement).unwrap();
        let see = async || IN_TARGET.map(|table| files.rows(&rows_of(table)));
        eventually(what, expected.map(str::to_owned), see).await;
    }
    let deletes = producer.metric("syncline_producer_shared_total", "action=\"delete\",share=\"tickets\"");
    assert_eq!(deletes, 2.0, "one left, one deleted: what a record was is known");
    assert!(producer.stop().success() && consumer.stop().success());
}
