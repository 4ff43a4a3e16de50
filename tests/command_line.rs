//! The command line: exit codes and what a person reads.

use crate::kit::config::{Folder, common, embedded, rabbitmq};
use crate::kit::database::Database;
use crate::kit::process::{Service, syncline};
use crate::kit::rabbit::Vhost;
use crate::kit::{eventually, eventually_some};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_wrong_command_line_is_64() {
    let folder = Folder::create();
    assert_eq!(syncline(folder.path(), &["produce"]).status.code(), Some(64));
    assert_eq!(syncline(folder.path(), &["dead-letter", "replay"]).status.code(), Some(64));
    assert_eq!(syncline(folder.path(), &["--help"]).status.code(), Some(0));
}

#[test]
fn completions_and_the_manual_know_every_command() {
    let folder = Folder::create();
    let help = text(&syncline(folder.path(), &["--help"]).stdout);
    let commands = help.split_once("Commands:").unwrap().1.split_once("Options:").unwrap().0.trim_end();
    let commands: Vec<&str> = commands.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    let commands: Vec<&str> = commands.into_iter().filter(|command| !["", "help"].contains(command)).collect();
    assert!(commands.len() > 10, "{help}");
    for shell in ["bash", "zsh", "fish"] {
        let output = syncline(folder.path(), &["completions", shell]);
        assert!(output.status.success());
        let script = text(&output.stdout);
        assert!(commands.iter().all(|command| script.contains(command)), "{shell}");
    }
    assert!(syncline(folder.path(), &["man", "."]).status.success());
    for command in commands {
        assert!(folder.path().join(format!("syncline-{command}.1")).exists(), "{command}");
    }
    let nowhere = syncline(folder.path(), &["man", "nowhere"]);
    assert_eq!(nowhere.status.code(), Some(1), "{}", text(&nowhere.stderr));
    assert!(text(&nowhere.stderr).starts_with("syncline: the manual's pages cannot be written into nowhere: "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_configuration_is_written_and_works_as_it_stands() {
    let folder = Folder::create();
    let init = ["config", "init", "--source", "sqlite", "--queue", "embedded", "--target", "sqlite", "--table", "item"];
    let output = syncline(folder.path(), &init);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    assert!(told.starts_with("Wrote syncline.toml and the key syncline.key.\n"), "{told}");
    let again = syncline(folder.path(), &init);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("syncline.toml exists and is never overwritten"), "{}", text(&again.stderr));

    let rows = || -> Result<String, rusqlite::Error> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let database = rusqlite::Connection::open_with_flags(folder.file("target.db"), flags)?;
        database.query_row("SELECT group_concat(id || note) FROM item", [], |row| row.get(0))
    };
    let source = rusqlite::Connection::open(folder.file("source.db")).unwrap();
    source
        .execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY, note TEXT); INSERT INTO item VALUES (1, 'a')")
        .unwrap();
    let check = syncline(folder.path(), &["check"]);
    assert!(check.status.success(), "{}{}", text(&check.stdout), text(&check.stderr));
    let next = "Next: syncline up, or each service by itself: syncline producer, syncline consumer\n";
    assert!(text(&check.stdout).ends_with(next), "{}", text(&check.stdout));
    // Other tests run on this machine at the same time.
    let written = std::fs::read_to_string(folder.file("syncline.toml")).unwrap();
    let ports = "[producer]\nhttp = \"127.0.0.1:0\"\n[consumer]\nhttp = \"127.0.0.1:0\"\n";
    let mut up = Service::start(folder.path(), "up", &folder.write("syncline.toml", &format!("{written}{ports}")));
    eventually("the copy", "1a".to_owned(), async || rows().unwrap_or_default()).await;
    source.execute_batch("UPDATE item SET note = 'b'").unwrap();
    eventually("the change", "1b".to_owned(), async || rows().unwrap_or_default()).await;
    assert!(up.stop().success());
}

#[test]
fn every_mistake_of_a_configuration_is_told_at_once_and_is_78() {
    let folder = Folder::create();
    let config = "[queue]\ntype = \"rabbit\"\n\n[key.short]\ncipher = \"AES256\"\nsecret = \"too short\"\n\n\
        [shared_queue.crm]\npartitions = 0\n\n[source.desk]\ntype = \"postgres\"\nurl = \"postgres://u@127.0.0.1:1/x\"\ncolour = 1\n\n\
        [share.b]\nsource = \"desk\"\ntable = \"x\"\nqueue = \"crm\"\ncipher = \"None\"\n[share.a]\nsource = \"desc\"\ntable = \"incident\"\nqueue = \"crm\"\nkey = \"other\"\nfilter = \"priority~2\"\n\n\
        [target.crm]\ntype = \"sqlite\"\npath = \"${NOT_SET_ANYWHERE}\"\n\n[subscription.crm]\nqueue = \"crn\"\ntarget = \"crm\"\n";
    folder.write("syncline.toml", config);
    let output = syncline(folder.path(), &["check"]);
    let problems = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{problems}");
    for expected in [
        "syncline.toml:2: queue.type: unknown type; accepted: rabbitmq, embedded",
        "key.short: the secret has 9 bytes",
        "syncline.toml:9: shared_queue.crm.partitions: out of range",
        "syncline.toml:14: source.desk.colour: unknown field",
        "share.a.source: there is no [source.desc]",
        "share.a.key: there is no usable [key.\"other\"]",
        "syncline.toml:26: share.a.filter: ",
        "target.crm.path: environment variable \"NOT_SET_ANYWHERE\" is not set",
        "subscription.crm.queue: there is no [shared_queue.crn]; accepted: crm",
    ] {
        assert!(problems.contains(expected), "missing: {expected}\n{problems}");
    }
    assert!(!problems.contains("there is no [source.desk]"), "it is there and reported: {problems}");
    assert!(!problems.contains("the broker is needed"), "said twice: {problems}");
    assert!(!problems.contains("too short"), "a secret is shown: {problems}");
}

#[test]
fn settings_no_system_could_work_with_are_78_before_any_connection() {
    let folder = Folder::create();
    let config = format!(
        "[queue]\ntype = \"rabbitmq\"\nurl = \"http://rabbit\"\nheartbeat_s = 0\nmessage_bytes_max = 1000000\n{}\n\
         [source.desk]\ntype = \"sqlite\"\npath = \"\"\n\
         [source.sales]\ntype = \"postgres\"\nurl = \"x\"\nheartbeat_interval_ms = 1\n\
         [share.one]\nsource = \"desk\"\ntable = \"incident\"\nqueue = \"crm\"\nkey = \"aes\"\n\
         [share.two]\nsource = \"desk\"\ntable = \"incident\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\n\
         [target.crm]\ntype = \"postgres\"\nurl = \"postgres://u@127.0.0.1:1/x\"\npassword = \"horse\"\n\
         password_file = \"nowhere\"\nstatement_timeout_ms = 0\n\
         [subscription.crm]\nqueue = \"crm\"\ntarget = \"crm\"\nprefetch = 0\n\
         [subscription.crm.table.incident]\ncolumns = {{ short_description = \"subject\", title = \"subject\" }}\n",
        common(&folder)
    );
    folder.write("syncline.toml", &config);
    for command in ["check", "producer", "consumer", "up"] {
        let output = syncline(folder.path(), &[command]);
        let problems = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{command}: {problems}");
        let (producer, consumer) = (command != "consumer", command != "producer");
        for (told, expected) in [
            (true, "syncline.toml:3: queue.url: "),
            (true, "syncline.toml:4: queue.heartbeat_s: "),
            (producer, "producer.publish.record_bytes_max: 8388608 bytes may take"),
            (producer, "source.desk.path: "),
            (producer, "source.sales.url: "),
            (producer, "source.sales.heartbeat_interval_ms: "),
            (producer, "share.one.interactive_only: is true (the default), but source desk cannot tell"),
            (producer, "share.two.queue: share one sends table incident to the same shared queue"),
            (consumer, "target.crm.password_file: stands beside password"),
            (consumer, "target.crm.statement_timeout_ms: "),
            (consumer, "target.crm.lock_timeout_ms: "),
            (consumer, "subscription.crm.prefetch: "),
            (consumer, "subscription.crm.table.incident.columns.title: goes into subject, as column short_description"),
        ] {
            assert_eq!(problems.contains(expected), told, "{command}, {expected}:\n{problems}");
        }
        assert!(!problems.contains("horse"), "a password is shown: {problems}");
    }
}

#[test]
fn a_missing_configuration_says_what_to_do() {
    let folder = Folder::create();
    let output = syncline(folder.path(), &["producer"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("--config") && text(&output.stderr).contains("syncline demo"));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reaches_every_system_and_tells_every_problem() {
    let (folder, source) = (Folder::create(), Database::create("source").await);
    source.run("CREATE TABLE incident (number text, note text); CREATE TABLE good (id int PRIMARY KEY)").await;
    let config = format!(
        "{}{}\n[source.desk]\ntype = \"postgres\"\nurl = \"{}\"\n\
         [share.bad]\nsource = \"desk\"\ntable = \"incident\"\nqueue = \"crm\"\nkey = \"aes\"\n\
         [share.good]\nsource = \"desk\"\ntable = \"good\"\nqueue = \"crm\"\nkey = \"aes\"\n\
         columns = [\"id\", \"colour\"]\nfilter = \"colour=red^id>1\"\n\
         [share.later]\nsource = \"desk\"\ntable = \"later\"\nqueue = \"crm\"\nkey = \"aes\"\n\
         [target.away]\ntype = \"postgres\"\nurl = \"postgres://nobody@127.0.0.1:1/nothing\"\n\
         [subscription.crm]\nqueue = \"crm\"\ntarget = \"away\"\n",
        embedded(&folder),
        common(&folder),
        source.url
    );
    folder.write("syncline.toml", &config);
    let output = syncline(folder.path(), &["check"]);
    let found = text(&output.stdout);
    assert_eq!(output.status.code(), Some(69), "{found}\n{}", text(&output.stderr));
    assert!(found.contains("queue: ok"), "{found}");
    assert!(text(&output.stderr).contains("problems found. Mend them, then check again."), "{}", text(&output.stderr));
    assert!(!found.contains("Next:"), "{found}");
    assert!(found.contains("share good names column colour, which table good does not have; it has id"), "{found}");
    assert!(found.contains("note: table later does not exist; its shares wait for it"), "{found}");
    assert!(found.contains("incident") && found.contains("ALTER TABLE"), "{found}");
    assert!(found.contains("target away: NOT OK") && found.contains("127.0.0.1:1"), "{found}");
    // Nothing was made by looking.
    assert_eq!(source.count("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()").await, 0);
    assert_eq!(source.count("SELECT count(*) FROM pg_publication").await, 0);
    assert!(!folder.file("queue.db").exists());
}

/// What a command prints, on a terminal (that of `script`, one of Debian's essential tools) or into a pipe.
fn printed(folder: &Folder, terminal: bool, env: &[(&str, &str)]) -> String {
    let program = format!("{} check", env!("CARGO_BIN_EXE_syncline"));
    let args = if terminal { ["script", "-qec", &program, "/dev/null"] } else { ["sh", "-c", &program, "sh"] };
    let mut command = std::process::Command::new(args[0]);
    command.args(&args[1..]).current_dir(folder.path());
    command.env_remove("NO_COLOR").env_remove("CLICOLOR").env_remove("CLICOLOR_FORCE").env("TERM", "xterm");
    let output = command.envs(env.iter().copied()).output().unwrap();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn a_check_has_colours_on_a_terminal_alone_and_not_where_they_are_not_wanted() {
    let folder = Folder::create();
    let init =
        syncline(folder.path(), &["config", "init", "--source", "sqlite", "--queue", "embedded", "--target", "sqlite"]);
    assert!(init.status.success(), "{}", text(&init.stderr));
    let (green, red) = ("\u{1b}[32mok", "\u{1b}[1m\u{1b}[31mNOT OK");
    let seen = printed(&folder, true, &[]);
    assert!(seen.contains(green) && seen.contains(red), "{seen:?}");
    assert!(printed(&folder, false, &[("CLICOLOR_FORCE", "1")]).contains(red));
    for (terminal, env) in [(false, [].as_slice()), (true, &[("NO_COLOR", "1")]), (true, &[("CLICOLOR", "0")])] {
        let seen = printed(&folder, terminal, env);
        assert!(seen.contains("NOT OK") && !seen.contains('\u{1b}'), "{terminal} {env:?}: {seen:?}");
    }
}

#[test]
fn logs_are_of_the_form_and_the_parts_that_the_environment_says() {
    let folder = Folder::create();
    folder.write("syncline.toml", &format!("{}{}", embedded(&folder), common(&folder)));
    let logged = |env: [(&str, &str); 2]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_syncline"));
        let output = command.args(["queue", "status"]).current_dir(folder.path()).envs(env).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    // The key's file is readable by everybody, which is warned of.
    let (code, lines) = logged([("SYNCLINE_LOG", "warn"), ("SYNCLINE_LOG_FORMAT", "json")]);
    let line: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap_or_default()).unwrap();
    assert_eq!((code, &line["level"]), (Some(0), &"WARN".into()), "{line}");
    assert!(line["message"].as_str().unwrap().contains("can read this secret"), "{line}");
    let (_, lines) = logged([("SYNCLINE_LOG", "warn"), ("SYNCLINE_LOG_FORMAT", "text")]);
    assert!(lines.contains(" WARN every user") && !lines.contains('{'), "{lines}");
    let (_, lines) = logged([("SYNCLINE_LOG", "syncline_producer=debug"), ("SYNCLINE_LOG_FORMAT", "text")]);
    assert_eq!(lines, "");
    let refused = logged([("SYNCLINE_LOG", "warn"), ("SYNCLINE_LOG_FORMAT", "yaml")]);
    assert_eq!(refused, (Some(64), "syncline: SYNCLINE_LOG_FORMAT is \"yaml\"; accepted: text, json\n".to_owned()));
    let (code, lines) = logged([("SYNCLINE_LOG", "syncline=loud"), ("SYNCLINE_LOG_FORMAT", "text")]);
    assert!(code == Some(64) && lines.starts_with("syncline: SYNCLINE_LOG is no filter: "), "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_may_come_later_is_a_note_of_a_check_that_succeeds() {
    let (folder, source) = (Folder::create(), Database::create("source").await);
    let share = |table: &str| {
        format!("share.{table} = {{ source = \"desk\", table = \"{table}\", queue = \"crm\", key = \"aes\" }}\n")
    };
    // However its tables are written, a file without a consumer's is the producer's.
    let config = format!(
        "{}source.desk = {{ type = \"postgres\", url = \"{}\" }}\n{}{}",
        share("later"),
        source.url,
        embedded(&folder),
        common(&folder)
    );
    folder.write("syncline.toml", &config);
    let output = syncline(folder.path(), &["check"]);
    let found = text(&output.stdout);
    assert!(output.status.success(), "{found}\n{}", text(&output.stderr));
    assert!(found.contains("source desk: ok\n  note: table later does not exist"), "{found}");
    let output = syncline(folder.path(), &["--json", "check"]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found[1]["notes"].as_array().map(Vec::len), Some(1), "{found}");
    assert_eq!(found[1]["problems"].as_array().map(Vec::len), Some(0), "{found}");
    assert!(found[0]["notes"][0].as_str().unwrap().starts_with("shared queue crm does not exist"), "{found}");
    assert!(!folder.file("queue.db").exists());
}

#[test]
fn a_shared_queue_nobody_created_yet_is_told_as_such() {
    let (folder, vhost) = (Folder::create(), Vhost::create());
    for queue in [embedded(&folder), rabbitmq(&vhost.url)] {
        folder.write("syncline.toml", &format!("{queue}{}", common(&folder)));
        let output = syncline(folder.path(), &["queue", "status"]);
        let found = text(&output.stdout);
        assert!(output.status.success(), "{found}\n{}", text(&output.stderr));
        assert!(found.contains("crm    not created yet"), "{found}");
        let output = syncline(folder.path(), &["--json", "queue", "status"]);
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found, serde_json::json!([{ "queue": "crm", "created": false }]));
    }
    assert!(!folder.file("queue.db").exists());
}

#[test]
fn a_generated_key_is_used_as_it_is() {
    let folder = Folder::create();
    let output = syncline(folder.path(), &["keys", "generate", "--out", "secret"]);
    assert!(output.status.success());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(folder.file("secret").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(syncline(folder.path(), &["keys", "generate", "--out", "secret"]).status.code(), Some(1), "overwritten");
    let one = text(&syncline(folder.path(), &["keys", "generate"]).stdout);
    let two = text(&syncline(folder.path(), &["keys", "generate"]).stdout);
    assert!(one.trim().len() == 64 && one != two);
}

#[test]
fn shares_are_listed() {
    let folder = Folder::create();
    let config = format!(
        "{}{}\n[source.desk]\ntype = \"sqlite\"\npath = \"desk.db\"\n\
         [share.incidents]\nsource = \"desk\"\ntable = \"incident\"\nqueue = \"crm\"\nkey = \"3des\"\ninteractive_only = false\nfilter = \"priority<=2\"\n",
        embedded(&folder),
        common(&folder)
    );
    folder.write("syncline.toml", &config);
    let output = syncline(folder.path(), &["share", "list"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let list = text(&output.stdout);
    assert!(list.contains("incidents") && list.contains("TripleDES") && list.contains("priority<=2"), "{list}");
    let json: serde_json::Value =
        serde_json::from_slice(&syncline(folder.path(), &["share", "list", "--json"]).stdout).unwrap();
    assert_eq!(json[0]["cipher"], "TripleDES");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_0_when_every_service_here_is_ready_and_69_with_the_reason_when_one_is_not() {
    let folder = Folder::create();
    let config = format!(
        "{}{}[source.desk]\ntype = \"sqlite\"\npath = \"desk.db\"\n\
         [share.items]\nsource = \"desk\"\ntable = \"item\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\n\
         [target.crm]\ntype = \"sqlite\"\npath = \"crm.db\"\n[subscription.crm]\nqueue = \"crm\"\ntarget = \"crm\"\n",
        common(&folder),
        embedded(&folder),
    );
    let desk = rusqlite::Connection::open(folder.file("desk.db")).unwrap();
    desk.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY)").unwrap();
    let crm = rusqlite::Connection::open(folder.file("crm.db")).unwrap();
    crm.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY)").unwrap();
    let mut up = Service::start(folder.path(), "up", &folder.write("syncline.toml", &config));
    let address = eventually_some("listening", async || up.address()).await;
    // The one that asks has to know the port.
    folder.write("health.toml", &config.replacen("127.0.0.1:0", &address, 1));
    let health = || {
        let output = syncline(folder.path(), &["health", "--config", "health.toml"]);
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    eventually("ready", (Some(0), "ready\n".to_owned()), async || health()).await;

    crm.execute_batch("DROP TABLE item").unwrap();
    desk.execute_batch("INSERT INTO item VALUES (1)").unwrap();
    eventually_some("paused, with the reason", async || {
        let (code, said) = health();
        (code == Some(69) && said.contains("subscription crm") && said.contains("item")).then_some(())
    })
    .await;
    assert!(up.stop().success());
    let (code, said) = health();
    assert!(code == Some(69) && said.contains("No service answers at"), "{said}");
}
