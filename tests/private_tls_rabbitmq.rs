//! TLS to RabbitMQ: verified both ways, refused with a word that says why.

use crate::bad_input::{ALL, ITEM, SHARE, paused, ready};
use crate::kit::certificates::{Authority, Certificate};
use crate::kit::config::{Folder, rabbitmq};
use crate::kit::free_port;
use crate::kit::process::syncline;
use crate::kit::rabbit::Vhost;
use crate::kit::server::PrivateServer;
use crate::postgres::Path;

/// Starts a broker that shows `certificate` and asks its clients for one of `clients`.
fn start(server: &mut PrivateServer, port: u16, certificate: &Certificate, clients: &Authority) {
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    let settings = [
        format!("listeners.ssl.1 = 127.0.0.1:{port}"),
        format!("ssl_options.cacertfile = {}", server.file("clients.pem", read(&clients.ca_file))),
        format!("ssl_options.certfile = {}", server.file("server.pem", read(&certificate.cert_file))),
        format!("ssl_options.keyfile = {}", server.file("server.key", read(&certificate.key_file))),
        "ssl_options.verify = verify_peer".to_owned(),
        "ssl_options.fail_if_no_peer_cert = true".to_owned(),
    ];
    server.set(&settings.each_ref().map(String::as_str));
    server.start();
}

/// `[queue]` over TLS, to this host and port.
fn queue(vhost: &Vhost, host: &str, port: u16, tls: &str) -> String {
    let (login, name) = (vhost.url.rsplit_once('@').unwrap().0.replace("amqp:", "amqps:"), &vhost.name);
    format!("{}tls = {{ {tls} }}\n", rabbitmq(&format!("{login}@{host}:{port}/{name}")))
}

fn trust(authority: &Authority) -> String {
    format!("ca_file = \"{}\"", authority.ca_file.display())
}

fn show(certificate: &Certificate) -> String {
    format!("cert_file = \"{}\", key_file = \"{}\"", certificate.cert_file.display(), certificate.key_file.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_to_rabbitmq_is_verified_both_ways_and_certificates_are_read_anew() {
    let mut server = PrivateServer::rabbitmq();
    let folder = Folder::create();
    let (ours, other) = (Authority::create(folder.path(), "ours"), Authority::create(folder.path(), "other"));
    let (shown, client, stranger) = (ours.server("localhost"), ours.client("syncline"), other.client("stranger"));
    let port = free_port();
    start(&mut server, port, &shown, &ours);
    let vhost = Vhost::create_on(&server.url, &server.api);
    let good = queue(&vhost, "localhost", port, &format!("{}, {}", trust(&ours), show(&client)));

    let path = Path::create_on(folder, vhost, &good, ITEM, ITEM, SHARE, "").await;
    let config = std::fs::read_to_string(&path.config).unwrap();
    let check = |queue: &str| {
        let file = path.folder.write("check.toml", &config.replace(&good, queue));
        let output = syncline(path.folder.path(), &["--config", file.to_str().unwrap(), "check"]);
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(check(&good).contains("queue: ok"), "{}", check(&good));
    let refused = [
        ("another authority", "localhost", format!("{}, {}", trust(&other), show(&client)), "UnknownIssuer"),
        ("the system's authorities", "localhost", show(&client), "UnknownIssuer"),
        ("another name", "127.0.0.1", format!("{}, {}", trust(&ours), show(&client)), "not valid for name"),
        ("no client certificate", "localhost", trust(&ours), "CertificateRequired"),
        ("a stranger's certificate", "localhost", format!("{}, {}", trust(&ours), show(&stranger)), "UnknownCA"),
    ];
    for (what, host, tls, why) in refused {
        let told = check(&queue(&path.vhost, host, port, &tls));
        assert!(told.contains("queue: NOT OK") && told.contains(why), "{what}: {told}");
        assert!(!told.contains("out of reach"), "{what}: {told}");
    }

    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    path.source.run("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 200) n").await;
    path.in_step("over TLS", ALL, ALL).await;
    for file in ["ca_file", "cert_file"] {
        let labels = format!("file=\"{file}\",part=\"queue\"");
        assert!(consumer.metric("syncline_certificate_expires_timestamp_seconds", &labels) > 1e9, "{file}");
    }
    // The broker gets certificates of a new authority, and later the services do, in the files they had.
    server.stop();
    let (next, next_client) = (other.server("localhost"), &stranger);
    start(&mut server, port, &next, &other);
    path.source.run("UPDATE item SET note = 'b'; DELETE FROM item WHERE id % 9 = 0").await;
    paused(&producer, "UnknownIssuer").await;
    paused(&consumer, "UnknownIssuer").await;
    for (new, old) in [
        (&other.ca_file, &ours.ca_file),
        (&next_client.key_file, &client.key_file),
        (&next_client.cert_file, &client.cert_file),
    ] {
        std::fs::copy(new, old).unwrap();
    }
    path.in_step("with new certificates", ALL, ALL).await;
    ready(&producer).await;
    ready(&consumer).await;
    assert!(producer.stop().success() && consumer.stop().success());
}
