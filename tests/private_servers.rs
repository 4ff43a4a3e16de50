//! The test kit's own servers: what the tests that kill and misuse servers rely on.

use std::time::Duration;

use crate::kit::database::{connect, try_connect};
use crate::kit::rabbit::Vhost;
use crate::kit::server::PrivateServer;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_postgresql_comes_back_where_it_was_with_what_was_committed() {
    let server = PrivateServer::postgres().with(&["max_connections=20"]);
    server.start();
    let client = connect(&server.url).await;
    client.batch_execute("CREATE TABLE kept AS SELECT 1 AS n").await.unwrap();
    server.stop();
    server.start();
    server.kill();
    assert!(try_connect(&server.url).await.is_err());
    server.start();
    let client = connect(&server.url).await;
    let row = client.query_one("SELECT n, current_setting('max_connections') FROM kept", &[]).await.unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (1, "20"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_rabbitmq_comes_back_where_it_was_with_its_virtual_hosts() {
    let server = PrivateServer::rabbitmq().with(&["heartbeat = 7"]);
    server.start();
    let vhost = Vhost::create_on(&server.url, &server.api);
    server.kill();
    server.start();
    assert!(server.run(&["rabbitmqctl", "-q", "list_vhosts"]).contains(&vhost.name));
    assert!(server.run(&["rabbitmqctl", "eval", "application:get_env(rabbit, heartbeat)."]).contains('7'));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_postgresql_takes_files_freezes_and_fills_up() {
    let server = PrivateServer::make("postgres", "16m").with(&["hba_file=/data/hba"]);
    server.file("hba", "host all all 127.0.0.1/32 scram-sha-256");
    server.start();
    let client = connect(&server.url).await;
    server.freeze();
    let ask = async || client.simple_query("SELECT 1").await;
    assert!(tokio::time::timeout(Duration::from_millis(300), ask()).await.is_err());
    server.thaw();
    ask().await.unwrap();
    client.batch_execute("CREATE TABLESPACE small LOCATION '/data/small'").await.unwrap();
    let full = client
        .batch_execute("CREATE TABLE large TABLESPACE small AS SELECT repeat(md5(n::text), 100) FROM generate_series(1, 1000000) n")
        .await;
    assert_eq!(full.unwrap_err().code().map(|code| code.code()), Some("53100"));
}
