//! Those who are told of faults: by mail over a real mail server, and by webhook.

use std::path::{Path as FilePath, PathBuf};

use crate::bad_input::{paused, ready};
use crate::kit::certificates::Authority;
use crate::kit::config::{Folder, common, embedded};
use crate::kit::database::connect;
use crate::kit::eventually;
use crate::kit::listener::{Listener, Request};
use crate::kit::process::{Service, syncline};
use crate::kit::server::PrivateServer;
use crate::postgres::Path;

const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, note text)";
const SHARE: &str =
    "[share.items]\nsource = \"desk\"\ntable = \"item\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\n";

/// A mail server with a certificate of an authority.
struct Mail {
    server: PrivateServer,
    user: String,
    password: String,
    /// By TLS from the first byte, and by STARTTLS.
    urls: [String; 2],
    ca_file: PathBuf,
}

impl Mail {
    fn start(folder: &Folder) -> Self {
        let authority = Authority::create(folder.path(), "mail");
        let certificate = authority.server("127.0.0.1");
        let server = PrivateServer::make("smtp", "");
        for (name, path) in [("cert.pem", certificate.cert_file), ("key.pem", certificate.key_file)] {
            server.file(name, std::fs::read(path).unwrap());
        }
        server.start();
        let (login, _) = server.url.split_once("://").unwrap().1.rsplit_once('@').unwrap();
        let (user, password) = login.split_once(':').unwrap();
        let (user, password) = (user.to_owned(), password.to_owned());
        let urls = [&server.url, &server.api].map(|url| url.replace(&format!("{login}@"), ""));
        Self { server, user, password, urls, ca_file: authority.ca_file }
    }

    /// `[notify.email.NAME]`.
    fn receiver(&self, name: &str, url: &str) -> String {
        let Self { user, password, ca_file, .. } = self;
        format!(
            "[notify.email.{name}]\nurl = \"{url}\"\nuser = \"{user}\"\npassword = \"{password}\"\n\
             from = \"Syncline <syncline@example.com>\"\nto = [\"oncall@example.com\", \"Second Line <second@example.com>\"]\n\
             tls = {{ ca_file = \"{}\" }}\n",
            ca_file.display()
        )
    }

    /// What arrived, one text for each mail and receiver, in no order.
    fn arrived(&self) -> Vec<String> {
        let mails = std::fs::read_dir(self.server.data("mail").join("new")).into_iter().flatten();
        // Long lines and what is not ASCII come in the form mails have.
        let plain = |text: String| text.replace("=\r\n", "").replace("=\n", "");
        mails.map(|mail| plain(std::fs::read_to_string(mail.unwrap().path()).unwrap())).collect()
    }

    /// How many arrived whose subject ends so.
    fn count(&self, subject: &str) -> usize {
        let is_about = |mail: &String| {
            let lines = mail.replace("\r\n", "\n").replace("\n ", " ");
            lines.lines().any(|line| line.starts_with("Subject: ") && line.ends_with(subject))
        };
        self.arrived().iter().filter(|mail| is_about(mail)).count()
    }
}

fn webhook(listener: &Listener) -> String {
    format!(
        "[notify.webhook.chat]\nurl = \"http://{}/zqpath/hook?room=1\"\ntoken = \"zqtoken\"\nsecret = \"zqsecret\"\n",
        listener.address
    )
}

fn events(listener: &Listener) -> Vec<String> {
    listener.heard().iter().map(|heard| heard.json()["event"].as_str().unwrap().to_owned()).collect()
}

fn append(config: &FilePath, text: &str) {
    let whole = std::fs::read_to_string(config).unwrap();
    std::fs::write(config, format!("{whole}{text}")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_away_is_told_once_by_mail_and_webhook_and_once_when_it_is_back() {
    let server = PrivateServer::postgres();
    server.start();
    connect(&server.url).await.batch_execute(ITEM).await.unwrap();
    let path = Path::create(ITEM, ITEM, SHARE, "").await;
    let text = std::fs::read_to_string(&path.config).unwrap();
    std::fs::write(&path.config, text.replace(&format!("\"{}\"", path.target.url), &format!("\"{}\"", server.url)))
        .unwrap();
    let mail = Mail::start(&path.folder);
    // The first message is refused, and comes again.
    let listener = Listener::start(&[503]);
    let receivers = format!("{}{}", mail.receiver("oncall", &mail.urls[0]), webhook(&listener));
    append(&path.config, &format!("\n[notify]\nafter = \"1s\"\ninterval = \"1h\"\n{receivers}"));
    let (_producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source.run("INSERT INTO item VALUES (1, 'before')").await;
    let arrived = async |expected: i64| {
        let count = async || match crate::kit::database::try_connect(&server.url).await {
            Ok(target) => {
                target.query_one("SELECT count(*) FROM item", &[]).await.map_or(-1, |row| row.get::<_, i64>(0))
            }
            Err(_) => -1,
        };
        eventually("arrived", expected, count).await;
    };
    arrived(1).await;

    server.stop();
    path.source.run("INSERT INTO item SELECT n, 'zqvalue' FROM generate_series(2, 100) n").await;
    paused(&consumer, "out of reach").await;
    eventually("told by mail, both", 2, async || mail.count("paused")).await;
    eventually("told by webhook", vec!["paused".to_owned(); 2], async || events(&listener)).await;
    server.start();
    arrived(100).await;
    ready(&consumer).await;
    eventually("the end by mail", 2, async || mail.count("works again")).await;
    let whole = ["paused", "paused", "works_again"].map(str::to_owned).to_vec();
    eventually("the end by webhook", whole, async || events(&listener)).await;
    assert_eq!(mail.arrived().len(), 4, "one message when it fails and one when it is over, for each address");

    let sent = |receiver: &str, outcome: &str| {
        let labels = format!("outcome=\"{outcome}\",receiver=\"{receiver}\"");
        consumer.metric("syncline_notify_messages_total", &labels)
    };
    assert_eq!((sent("email oncall", "sent"), sent("email oncall", "failed")), (2.0, 0.0));
    assert_eq!((sent("webhook chat", "sent"), sent("webhook chat", "failed")), (2.0, 1.0));
    assert!(consumer.log().contains("could not be sent, trying again"), "{}", consumer.log());

    let Request { line, .. } = &listener.heard()[0];
    assert_eq!(line, "POST /zqpath/hook?room=1 HTTP/1.1");
    let told = &listener.heard()[1];
    assert_eq!(told.header("authorization"), Some("bearer zqtoken"));
    assert!(told.header("x-syncline-signature").is_some_and(|value| value.len() == "sha256=".len() + 64), "{told:?}");
    let reason = told.json()["faults"][0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("the target at") && reason.contains("out of reach"), "{reason}");
    let said = mail.arrived().join("\n") + &consumer.log() + &String::from_utf8_lossy(&told.body);
    for secret in ["zqvalue", "zqtoken", "zqsecret", "zqpath", &mail.password] {
        assert!(!said.contains(secret), "{secret}");
    }
    assert!(said.contains("subscription crm partition") && said.contains("goes on by itself"), "{said}");
    assert!(consumer.stop().success());
}

#[test]
fn a_private_mail_server_is_tried_by_a_test_message_and_by_check() {
    let folder = Folder::create();
    let mail = Mail::start(&folder);
    let listener = Listener::start(&[]);
    let database =
        |kind: &str| format!("[{kind}]\ntype = \"sqlite\"\npath = \"{}\"\n", folder.file("items.db").display());
    let rest = "[share.items]\nsource = \"desk\"\ntable = \"item\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\n";
    rusqlite::Connection::open(folder.file("items.db")).unwrap().execute_batch(ITEM).unwrap();
    let base = format!("{}{}{}{rest}[notify]\n", embedded(&folder), common(&folder), database("source.desk"));
    let run = |receivers: &str, command: &[&str]| {
        folder.write("syncline.toml", &format!("{base}{receivers}"));
        let output = syncline(folder.path(), command);
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
        assert!(!said.contains(&mail.password) && !said.contains("zq"), "{said}");
        (output.status.code().unwrap(), said)
    };
    let [wrapped, starttls] = &mail.urls;
    let good = [mail.receiver("a", wrapped), mail.receiver("b", starttls), webhook(&listener)].concat();
    let (code, said) = run(&good, &["notify", "test"]);
    assert_eq!((code, said.matches(": sent, 127.0.0.1:").count()), (0, 3), "{said}");
    assert_eq!(listener.heard()[0].json()["event"], "test");
    let arrived = std::time::Instant::now();
    while mail.count("test") < 4 {
        assert!(arrived.elapsed() < crate::kit::PATIENCE, "{:?}", mail.arrived());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }

    let (code, said) = run(&good, &["check"]);
    let named = ["notify email a: ok", "notify email b: ok", "notify webhook chat: ok"];
    assert!(code == 0 && named.iter().all(|line| said.contains(line)), "{said}");
    assert_eq!((listener.heard().len(), mail.arrived().len()), (1, 4), "check sends nothing");

    let cured = |what: &str, by: &str| good.replacen(what, by, 1);
    let not_trusted = cured(&format!("tls = {{ ca_file = \"{}\" }}\n", mail.ca_file.display()), "");
    let wrong = [
        (cured(&mail.password, "wrong"), "it answers 535; look at user and password_file"),
        (not_trusted, "its authority is not trusted"),
        (cured(starttls, wrapped).replacen(wrapped, starttls, 1).replace("smtp://", "smtps://"), "NOT sent"),
        (
            cured("/zqpath", ":1/zqpath").replace(&listener.address.to_string(), "127.0.0.1"),
            "127.0.0.1:1 is out of reach",
        ),
    ];
    for (receivers, why) in wrong {
        let (code, said) = run(&receivers, &["notify", "test"]);
        assert!(code == 69 && said.contains(why), "{why}: {said}");
    }
    let (code, said) = run(&format!("{good}to = 5\n"), &["check"]);
    assert!(code == 78 && said.contains("notify.webhook.chat.to: unknown field"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_target_that_cannot_be_opened_is_told_and_so_is_its_end() {
    let (folder, listener) = (Folder::create(), Listener::start(&[]));
    let (desk, crm) = (folder.file("desk.db"), folder.file("gone/crm.db"));
    let config = format!(
        "{}{}[source.desk]\ntype = \"sqlite\"\npath = \"{}\"\n{SHARE}[target.crm]\ntype = \"sqlite\"\npath = \"{}\"\n\
         [subscription.crm]\nqueue = \"crm\"\ntarget = \"crm\"\n[notify]\nafter = \"0s\"\n{}",
        embedded(&folder),
        common(&folder),
        desk.display(),
        crm.display(),
        webhook(&listener)
    );
    let config = folder.write("syncline.toml", &config);
    let desk = rusqlite::Connection::open(&desk).unwrap();
    desk.execute_batch(ITEM).unwrap();
    let mut up = Service::start(folder.path(), "up", &config);
    desk.execute_batch("INSERT INTO item VALUES (1, 'a')").unwrap();
    // The triggers are there once the source is read.
    eventually("told", vec!["paused".to_owned()], async || {
        let _ = desk.execute_batch("INSERT INTO item SELECT max(id) + 1, 'b' FROM item");
        events(&listener)
    })
    .await;
    std::fs::create_dir(folder.file("gone")).unwrap();
    rusqlite::Connection::open(&crm).unwrap().execute_batch(ITEM).unwrap();
    let whole = ["paused", "works_again"].map(str::to_owned).to_vec();
    eventually("the end", whole, async || events(&listener)).await;
    assert!(listener.heard()[1].json()["text"].as_str().unwrap().contains("does not exist; mend it with"));
    assert!(up.stop().success());
}
