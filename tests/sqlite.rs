//! SQLite at both ends, over RabbitMQ.

use rusqlite::Connection;

use crate::kit::config::{Folder, common, rabbitmq};
use crate::kit::eventually;
use crate::kit::process::Service;
use crate::kit::rabbit::Vhost;

const DESK: &str = "PRAGMA journal_mode = WAL;
    CREATE TABLE incident (number TEXT PRIMARY KEY, subject TEXT, cost NUMERIC, photo BLOB, big INTEGER, sys_updated_by TEXT);";

fn rows(path: &std::path::Path) -> Vec<String> {
    let database = Connection::open(path).unwrap();
    let mut statement = database
        .prepare("SELECT number || '|' || quote(subject) || '|' || quote(cost) || '|' || quote(photo) || '|' || quote(big) FROM incident ORDER BY 1")
        .unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_to_sqlite_over_rabbitmq() {
    let (folder, vhost) = (Folder::create(), Vhost::create());
    let (desk, crm) = (folder.file("desk.db"), folder.file("crm.db"));
    let config = format!(
        "{}{}\n[source.desk]\ntype = \"sqlite\"\npath = \"{}\"\nsession = {{ user_column = \"sys_updated_by\", background = [\"*.job\"] }}\n\
         [share.incidents]\nsource = \"desk\"\ntable = \"incident\"\nqueue = \"crm\"\nkey = \"3des\"\ninitial = \"copy\"\n\
         [target.crm]\ntype = \"sqlite\"\npath = \"{}\"\n[subscription.crm]\nqueue = \"crm\"\ntarget = \"crm\"\n",
        rabbitmq(&vhost.url),
        common(&folder),
        desk.display(),
        crm.display()
    );
    let config = folder.write("syncline.toml", &config);
    let database = Connection::open(&desk).unwrap();
    database.execute_batch(DESK).unwrap();
    Connection::open(&crm).unwrap().execute_batch(DESK).unwrap();
    database
        .execute_batch(
            "INSERT INTO incident VALUES ('INC1', 'quote '' \" ü 画', 12.25, x'00ff', 9223372036854775807, 'abel'),
             ('INC2', NULL, 0.1, NULL, -1, 'nightly.job')",
        )
        .unwrap();
    let mut producer = Service::start(folder.path(), "producer", &config);
    let mut consumer = Service::start(folder.path(), "consumer", &config);
    eventually("the copy", rows(&desk), async || rows(&crm)).await;
    database
        .execute_batch(
            "INSERT INTO incident VALUES ('INC3', 'live', NULL, NULL, 1, 'abel');
             UPDATE incident SET subject = 'changed', sys_updated_by = 'beth' WHERE number = 'INC1';
             DELETE FROM incident WHERE number = 'INC3';
             UPDATE incident SET number = 'INC9', sys_updated_by = 'beth' WHERE number = 'INC2'",
        )
        .unwrap();
    eventually("the stream", rows(&desk), async || rows(&crm)).await;
    database
        .execute_batch("UPDATE incident SET subject = 'by a job', sys_updated_by = 'nightly.job' WHERE number = 'INC1'")
        .unwrap();
    eventually("withheld", 1.0, async || producer.metric("syncline_producer_withheld_total", "reason=\"background\""))
        .await;
    assert!(rows(&crm).iter().all(|row| !row.contains("by a job")));
    assert!(producer.stop().success() && consumer.stop().success());
}
