//! The rights the documentation asks for are enough, and each of them is missed by name.

use crate::kit::config::{Folder, common, embedded};
use crate::kit::database::Database;
use crate::kit::process::Service;
use crate::kit::role::Role;
use crate::kit::{eventually, eventually_some};

const SOURCE: &str = "
    CREATE TABLE incident (number text PRIMARY KEY, short_description text, notes text);
    ALTER TABLE incident ALTER notes SET STORAGE EXTERNAL;
    CREATE TABLE sys_user (name text PRIMARY KEY);
    INSERT INTO incident SELECT 'INC' || n, 'first', repeat('x', 10000) FROM generate_series(1, 3) n";
const TARGET: &str = "
    CREATE TABLE support_case (number text PRIMARY KEY, short_description text, notes text);
    CREATE TABLE contact (name text PRIMARY KEY)";

struct Stand {
    folder: Folder,
    // Roles go after the databases.
    source: Database,
    target: Database,
    source_role: Role,
    target_role: Role,
}

impl Stand {
    async fn start() -> (Self, Service) {
        let (source, target) = (Database::create("source").await, Database::create("target").await);
        source.run(SOURCE).await;
        target.run(TARGET).await;
        let source_role = Role::source(&source, "of the source").await;
        let target_role = Role::target(&target, "of the target").await;
        let folder = Folder::create();
        let text = format!(
            "{}{}[source.desk]\ntype = \"postgres\"\nurl = \"{}\"\npassword = \"{}\"\nslot = \"{name}\"\npublication = \"syncline_{name}\"\n\
             [share.incidents]\nsource = \"desk\"\ntable = \"incident\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\ninitial = \"copy\"\n\
             [share.users]\nsource = \"desk\"\ntable = \"sys_user\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\n\
             [target.crm]\ntype = \"postgres\"\nurl = \"{}\"\npassword = \"{}\"\n[subscription.crm]\nqueue = \"crm\"\ntarget = \"crm\"\n\
             table.incident.into = \"support_case\"\ntable.sys_user.into = \"contact\"\n",
            common(&folder),
            embedded(&folder),
            source_role.url(&source),
            source_role.password,
            target_role.url(&target),
            target_role.password,
            name = source.name,
        );
        let config = folder.write("syncline.toml", &text);
        let up = Service::start(folder.path(), "up", &config);
        (Self { folder, source, target, source_role, target_role }, up)
    }

    async fn in_step(&self, what: &str) {
        let expected = self.source.rows("SELECT number, short_description, notes FROM incident").await;
        let there = "SELECT number, short_description, notes FROM support_case";
        eventually(what, expected, async || self.target.rows(there).await).await;
    }

    /// Runs statements of an administrator, with the roles' names filled in, and ends the roles' connections.
    async fn change(&self, database: &Database, sql: &str) {
        let (source, target) = (&self.source_role.name, &self.target_role.name);
        database.run(&sql.replace("SOURCE", source).replace("TARGET", target).replace("HERE", &database.name)).await;
        let end =
            format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ('{source}', '{target}')");
        database.run(&end).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_are_enough_and_a_missing_one_is_named_until_it_is_granted() {
    let (stand, mut up) = Stand::start().await;
    stand.in_step("the copy").await;
    stand
        .source
        .run("INSERT INTO incident VALUES ('INC9', 'new', 'y'); DELETE FROM incident WHERE number = 'INC2'")
        .await;
    stand.in_step("changes").await;

    let (source, target) = (&stand.source, &stand.target);
    let cases = [
        (
            source,
            "REVOKE SELECT ON incident FROM SOURCE",
            "GRANT SELECT ON incident TO SOURCE",
            "permission denied for table incident",
        ),
        (source, "ALTER ROLE SOURCE NOREPLICATION", "ALTER ROLE SOURCE REPLICATION", "replicat"),
        (
            source,
            "REVOKE SELECT ON syncline.state FROM SOURCE",
            "GRANT SELECT ON syncline.state TO SOURCE",
            "permission denied for table state",
        ),
        (
            source,
            "REVOKE USAGE ON SCHEMA syncline FROM PUBLIC",
            "GRANT USAGE ON SCHEMA syncline TO PUBLIC",
            "permission denied for schema syncline",
        ),
        (
            source,
            "REVOKE CONNECT ON DATABASE HERE FROM SOURCE",
            "GRANT CONNECT ON DATABASE HERE TO SOURCE",
            "permission denied for database",
        ),
        (
            target,
            "REVOKE UPDATE ON support_case FROM TARGET",
            "GRANT UPDATE ON support_case TO TARGET",
            "GRANT SELECT, INSERT, UPDATE, DELETE",
        ),
        (
            target,
            "REVOKE SELECT ON _syncline_tombstone FROM TARGET",
            "GRANT SELECT ON _syncline_tombstone TO TARGET",
            "_syncline_tombstone",
        ),
        (
            target,
            "REVOKE USAGE ON SCHEMA public FROM TARGET",
            "GRANT USAGE ON SCHEMA public TO TARGET",
            "may not use its schema (GRANT USAGE)",
        ),
        (target, "REVOKE CONNECT ON DATABASE HERE FROM TARGET", "GRANT CONNECT ON DATABASE HERE TO TARGET", "CONNECT"),
    ];
    for (database, revoke, grant, words) in cases {
        stand.change(database, revoke).await;
        // The large column is not in the log: it has to be read.
        source.run(&format!("UPDATE incident SET short_description = '{revoke}'")).await;
        let reason = async || up.get("/readyz").filter(|(_, body)| body.contains(words)).map(drop);
        eventually_some(&format!("{revoke}: {words}"), reason).await;
        stand.change(database, grant).await;
        stand.in_step(grant).await;
    }
    assert!(up.stop().success());
    drop(stand.folder);
}
