//! What `check` says of a share's rules: bad values with their lines, and tables that do not give what a rule needs.

use rusqlite::Connection;

use crate::kit::config::{Folder, common, embedded};
use crate::kit::database::Database;
use crate::kit::process::syncline;

fn shares(list: &[(&str, &str, &str, &str)]) -> String {
    let share = |(name, source, table, extra): &(&str, &str, &str, &str)| {
        format!("[share.{name}]\nsource = \"{source}\"\ntable = \"{table}\"\nqueue = \"crm\"\nkey = \"aes\"\n{extra}\n")
    };
    list.iter().map(share).collect()
}

#[test]
fn rules_that_cannot_be_meant_are_told_with_their_lines() {
    let folder = Folder::create();
    let tables = "[source.desk]\ntype = \"sqlite\"\npath = \"desk.db\"\nsession = { user_column = \"who\" }\n\
        [source.desk.table.a]\nextends = \"b\"\n[source.desk.table.b]\nextends = \"a\"\n";
    let rules = shares(&[
        ("timing", "desk", "t1", "when = \"before\"\norder = 50\nasync = true"),
        ("leave", "desk", "t2", "on_leave = \"never\""),
        ("nothing", "desk", "t3", "on_leave = \"delete\""),
        ("classes", "desk", "t4", "hierarchy = \"all\"\ndelete_on_class_change = true"),
        (
            "routes",
            "desk",
            "t5",
            "[[share.routes.route]]\nwhen = \"a=1\"\nqueue = \"nowhere\"\n[[share.routes.route]]\nwhen = \"a=1^\"\nkey = \"lost\"",
        ),
        ("odd", "desk", "t6", "routes = \"some\""),
        ("script", "desk", "t7", "before_share = '''\nignore = true;\nvar broken = ;\n'''\nscript_ms_max = 0"),
        ("part", "desk", "t9", "columns = \"changed\""),
        ("masks", "desk", "t8", "mask = { a = \"hash\" }\nshare_on = [\"a\"]\nignore = [\"b\"]"),
    ]);
    let config = format!("{}{}{tables}{rules}", embedded(&folder), common(&folder));
    let line = |text: &str| config.lines().position(|line| line == text).unwrap() + 1;
    folder.write("syncline.toml", &config);
    let output = syncline(folder.path(), &["check"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{told}");
    let before_commit = "has no meaning here: it is the timing of a business rule";
    for (key, line, text) in [
        ("source.desk.table.a.extends", line("extends = \"b\""), "leads back to the table itself"),
        ("source.desk.table.b.extends", line("extends = \"a\""), "leads back to the table itself"),
        ("share.timing.when", line("when = \"before\""), before_commit),
        ("share.timing.order", line("order = 50"), before_commit),
        ("share.timing.async", line("async = true"), before_commit),
        ("share.leave.on_leave", line("on_leave = \"never\""), "unknown variant `never`, expected one of `delete`"),
        ("share.nothing.on_leave", line("on_leave = \"delete\""), "and the share has neither"),
        ("share.classes.hierarchy", line("hierarchy = \"all\""), "declare them with extends"),
        ("share.classes.delete_on_class_change", line("delete_on_class_change = true"), "only a class column tells"),
        ("share.routes.routes", line("[share.routes]"), "\"first\" or \"all\""),
        (
            "share.routes.route.1.queue",
            line("queue = \"nowhere\""),
            "there is no [shared_queue.nowhere]; accepted: crm",
        ),
        ("share.routes.route.2.when", line("when = \"a=1^\""), "at character 5"),
        ("share.routes.route.2.key", line("key = \"lost\""), "there is no usable [key.\"lost\"]"),
        ("share.odd.routes", line("routes = \"some\""), "unknown variant `some`, expected `first` or `all`"),
        ("share.script.before_share", line("var broken = ;"), "column 14: is no JavaScript: unexpected token"),
        ("share.script.script_ms_max", line("script_ms_max = 0"), "0 is out of range; 1 to 10000"),
        ("share.part.columns", line("columns = \"changed\""), "expected a list of columns, or \"updated\""),
        ("share.masks.mask", line("mask = { a = \"hash\" }"), "hash needs a secret"),
        ("share.masks.ignore", line("ignore = [\"b\"]"), "stands beside share_on"),
    ] {
        let start = format!("syncline.toml:{line}: {key}: ");
        let found = told.lines().find(|told| told.starts_with(&start)).unwrap_or_else(|| panic!("{start}\n{told}"));
        assert!(found.contains(text), "{found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_do_not_give_what_a_rule_needs_are_told_with_what_mends_them() {
    let (folder, desk) = (Folder::create(), Database::create("source").await);
    let table = |name: &str| format!("CREATE TABLE {name} (id int PRIMARY KEY, state text, who text);");
    let tables: String = ["plain", "sent", "whole", "kept", "nobody", "people", "asks"].map(table).concat();
    desk.run(&format!("{tables} ALTER TABLE whole REPLICA IDENTITY FULL; ALTER TABLE nobody DROP who")).await;
    Connection::open(folder.file("file.db"))
        .unwrap()
        .execute_batch(&format!("{}{}", table("plain"), table("sent").replace(", who text", "")))
        .unwrap();
    let all = "interactive_only = false\nfilter = \"state=open\"";
    let rules = shares(&[
        ("plain", "desk", "plain", all),
        ("sent", "desk", "sent", &format!("{all}\non_leave = \"update\"")),
        ("whole", "desk", "whole", &format!("{all}\non_leave = \"update\"")),
        ("kept", "desk", "kept", &format!("{all}\non_leave = \"ignore\"")),
        ("nobody", "desk", "nobody", "on = [\"insert\"]"),
        ("asks", "desk", "asks", "interactive_only = false\nfilter = \"stateCHANGESTOopen\""),
        ("people", "desk", "people", "on = [\"delete\"]"),
        ("file", "file", "plain", all),
        ("lost", "file", "sent", ""),
    ]);
    let config = format!(
        "{}{}[source.desk]\ntype = \"postgres\"\nurl = \"{}\"\nsession = {{ user_column = \"who\" }}\n\
         [source.file]\ntype = \"sqlite\"\npath = \"file.db\"\nsession = {{ user_column = \"who\" }}\n{rules}",
        embedded(&folder),
        common(&folder),
        desk.url
    );
    folder.write("syncline.toml", &config);
    let output = syncline(folder.path(), &["check"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(69), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    for expected in [
        "note: changes of table plain do not carry the values before them, so share plain sends a delete",
        "ALTER TABLE public.plain REPLICA IDENTITY FULL; to send none: on_leave = \"ignore\"",
        "- share sent needs the values before each change of table sent",
        "mend it with: ALTER TABLE public.sent REPLICA IDENTITY FULL",
        "- share asks needs the values before each change of table asks",
        "note: share nobody is interactive only, and table nobody has no column who, by which source desk tells",
        "note: share people is interactive only, and deletes of table people carry the key alone",
        "- share lost is interactive only, and table sent has no column who, by which source file tells persons",
        "name a column the table has in session, or say interactive_only = false",
    ] {
        assert!(told.contains(expected), "{expected}\n{told}");
    }
    let quiet = ["share whole", "share kept", "share file"];
    assert!(quiet.iter().all(|share| !told.contains(share)), "{told}");
}
