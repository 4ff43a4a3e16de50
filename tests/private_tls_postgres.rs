//! TLS to PostgreSQL, as source and as target: verified both ways, refused in words, and never given up in silence.

use std::process::Output;

use crate::kit::certificates::{Authority, Certificate};
use crate::kit::config::{Folder, common, embedded};
use crate::kit::database::Database;
use crate::kit::process::{Service, syncline};
use crate::kit::server::PrivateServer;
use crate::kit::{eventually, eventually_some, service};

/// The login of every connection of Syncline's; the administrator's stay without TLS.
const USER: &str = "syncline";

/// A server that takes nothing from Syncline but TLS with a client certificate and a password.
struct Stand {
    folder: Folder,
    authority: Authority,
    server: PrivateServer,
    source: Database,
    target: Database,
}

impl Stand {
    async fn start() -> Self {
        let folder = Folder::create();
        let authority = Authority::create(folder.path(), "ca");
        let server = PrivateServer::postgres().with(&[
            "ssl=on",
            "ssl_cert_file=/data/server.pem",
            "ssl_key_file=/data/server.key",
            "ssl_ca_file=/data/ca.pem",
            "hba_file=/data/hba",
        ]);
        server.file("hba", format!("hostssl all {USER} all scram-sha-256 clientcert=verify-full\nhostnossl all {USER} all reject\nhost all all all scram-sha-256\n"));
        let stand = authority.server("localhost");
        show(&server, &stand, &authority);
        server.start();
        let source = Database::create_on(&server.url, "source").await;
        let target = Database::create_on(&server.url, "target").await;
        source.run(&format!("CREATE ROLE {USER} SUPERUSER LOGIN PASSWORD 'first'")).await;
        for database in [&source, &target] {
            database.run("CREATE TABLE item (id int PRIMARY KEY, name text)").await;
        }
        authority.client(USER);
        Self { folder, authority, server, source, target }
    }

    /// `host` as the certificate has it, or not; `tls` is the table's content.
    fn config(&self, name: &str, host: &str, options: &str, tls: &str) -> std::path::PathBuf {
        let url = |database: &Database| {
            let port = database.url.rsplit_once(':').unwrap().1.split('/').next().unwrap();
            format!("postgres://{USER}@{host}:{port}/{}{options}", database.name)
        };
        let text = format!(
            "{}{}[source.desk]\ntype = \"postgres\"\nurl = \"{}\"\npassword_file = \"password\"\nslot = \"{}\"\ntls = {{ {tls} }}\n\
             [share.item]\nsource = \"desk\"\ntable = \"item\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\ninitial = \"copy\"\n\
             [target.crm]\ntype = \"postgres\"\nurl = \"{}\"\npassword_file = \"password\"\ntls = {{ {tls} }}\n\
             [subscription.crm]\nqueue = \"crm\"\ntarget = \"crm\"\n",
            common(&self.folder),
            embedded(&self.folder),
            url(&self.source),
            self.source.name,
            url(&self.target),
        );
        self.folder.write("password", "first\n");
        self.folder.write(name, &text)
    }

    async fn arrives(&self, id: i32) {
        self.source.run(&format!("INSERT INTO item VALUES ({id}, 'x')")).await;
        let there = format!("SELECT count(*) FROM item WHERE id = {id}");
        eventually("the record arrives", 1, async || self.target.count(&there).await).await;
    }

    /// What `check` says with this configuration, which is to fail.
    fn refused(&self, host: &str, options: &str, tls: &str) -> String {
        let config = self.config("refused.toml", host, options, tls);
        let output = syncline(self.folder.path(), &["check", "--config", config.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(69), "{}", text(&output));
        text(&output)
    }
}

const OWN: &str = "cert_file = \"client-syncline.pem\", key_file = \"client-syncline.key\"";

fn own_and_ca() -> String {
    format!("ca_file = \"ca.pem\", {OWN}")
}

/// Gives the server its certificate and the authority its clients' are held against.
fn show(server: &PrivateServer, certificate: &Certificate, authority: &Authority) {
    for (name, path) in
        [("server.pem", &certificate.cert_file), ("server.key", &certificate.key_file), ("ca.pem", &authority.ca_file)]
    {
        server.file(name, std::fs::read(path).unwrap());
    }
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_travel_over_verified_tls_and_renewed_files_are_used_on_the_next_connection() {
    let stand = Stand::start().await;
    let config = stand.config("syncline.toml", "localhost", "?sslmode=verify-full", &own_and_ca());
    let mut up = Service::start(stand.folder.path(), "up", &config);
    stand.arrives(1).await;
    let encrypted = format!(
        "SELECT count(*) FROM pg_stat_activity LEFT JOIN pg_stat_ssl USING (pid) WHERE usename = '{USER}' AND NOT ssl"
    );
    assert_eq!(stand.source.count(&encrypted).await, 0, "a connection without TLS");

    // Everything changes but the name: the authority, all certificates, the password. Who has the old ones is shut out.
    let renewed = Folder::create();
    let authority = Authority::create(renewed.path(), "renewed");
    show(&stand.server, &authority.server("localhost"), &authority);
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{USER}'");
    stand.source.run(&format!("ALTER ROLE {USER} PASSWORD 'second'; SELECT pg_reload_conf()")).await;
    let paused = async || {
        stand.source.run(&end).await;
        let reason = up.get("/readyz")?.1;
        reason.contains("its authority is not trusted").then_some(reason)
    };
    let reason = eventually_some("the new certificate is refused", paused).await;
    assert!(reason.contains("source desk"), "{reason}");

    authority.client(USER);
    for (new, name) in [
        ("renewed.pem", "ca.pem"),
        ("client-syncline.pem", "client-syncline.pem"),
        ("client-syncline.key", "client-syncline.key"),
    ] {
        std::fs::copy(renewed.file(new), stand.folder.file(name)).unwrap();
    }
    stand.folder.write("password", "second\n");
    stand.arrives(2).await;
    assert_eq!(stand.source.count(&encrypted).await, 0, "a connection without TLS");
    assert!(up.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_systems_authorities_and_an_ip_address_serve_both_kinds_of_connection() {
    let stand = Stand::start().await;
    show(&stand.server, &stand.authority.server("127.0.0.1"), &stand.authority);
    stand.source.run("SELECT pg_reload_conf()").await;
    let config = stand.config("syncline.toml", "127.0.0.1", "?sslmode=require", OWN);
    let system = [("SSL_CERT_FILE", stand.folder.file("ca.pem").display().to_string())];
    let mut up = Service::start_with(stand.folder.path(), "up", &config, &system);
    stand.arrives(1).await;
    assert!(up.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_fit_is_refused_in_words_at_both_ends() {
    let stand = Stand::start().await;
    let tls = own_and_ca();
    Authority::create(stand.folder.path(), "strange");
    let cases = [
        ("localhost", "", tls.replace("ca.pem", "strange.pem"), "its authority is not trusted: set ca_file of tls"),
        ("127.0.0.1", "", tls.clone(), "mend the server's certificate, or the host in the url"),
        ("localhost", "", "ca_file = \"ca.pem\"".to_owned(), "certificate"),
        ("localhost", "?sslmode=disable", tls, "pg_hba.conf"),
    ];
    for (host, options, tls, word) in cases {
        // Without a word, a server on this machine is spoken to in clear: TLS has to be asked for.
        let options = if options.is_empty() { "?sslmode=require" } else { options };
        let said = stand.refused(host, options, &tls);
        for end in ["source", "target"] {
            let lines = said.lines().filter(|line| line.contains(end)).collect::<Vec<_>>().join("\n");
            assert!(lines.contains(word), "{host}{options} {tls}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_gets_nothing_when_tls_is_asked_for() {
    // The shared server has no TLS: not a word of the login may be said to it.
    let folder = Folder::create();
    let url = service("SYNCLINE_TEST_POSTGRES_URL");
    let asked = format!("{url}{}sslmode=require", if url.contains('?') { "&" } else { "?" });
    Authority::create(folder.path(), "ca");
    let end =
        |kind: &str| format!("[{kind}]\ntype = \"postgres\"\nurl = \"{asked}\"\ntls = {{ ca_file = \"ca.pem\" }}\n");
    let text_of = format!(
        "{}{}{}{}[share.item]\nsource = \"desk\"\ntable = \"item\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\n\
         [subscription.crm]\nqueue = \"crm\"\ntarget = \"crm\"\n",
        common(&folder),
        embedded(&folder),
        end("source.desk"),
        end("target.crm"),
    );
    folder.write("syncline.toml", &text_of);
    let said = text(&syncline(folder.path(), &["check", "--config", "syncline.toml"]));
    assert_eq!(said.matches("it offers none").count(), 2, "{said}");
}
