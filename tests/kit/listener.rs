//! A small HTTP listener that keeps what it is told, as the receiver of a webhook does.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::certificates::Certificate;

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method and path.
    pub line: String,
    /// The rest of the head, in lower case.
    pub head: String,
    pub body: Vec<u8>,
}

impl Request {
    /// The body, as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The value of a header, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Listens on a free port until the process ends.
pub struct Listener {
    pub address: SocketAddr,
    heard: Arc<Mutex<Vec<Request>>>,
}

impl Listener {
    /// Answers with these statuses, then with 200.
    pub fn start(statuses: &[u16]) -> Self {
        Self::start_over(statuses, Some)
    }

    /// The same over TLS.
    pub fn start_tls(certificate: &Certificate) -> Self {
        let chain = CertificateDer::pem_file_iter(&certificate.cert_file).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&certificate.key_file).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let config = Arc::new(config);
        Self::start_over(&[], move |stream| {
            Some(StreamOwned::new(ServerConnection::new(Arc::clone(&config)).ok()?, stream))
        })
    }

    fn start_over<S: Read + Write>(statuses: &[u16], over: impl Fn(TcpStream) -> Option<S> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, heard) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<Request>>>::default());
        let (into, mut statuses) = (Arc::clone(&heard), VecDeque::from(statuses.to_vec()));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // Who connects and says nothing only looks whether somebody is there.
                let Some((request, mut stream)) = over(stream.unwrap()).and_then(read) else { continue };
                let status = statuses.pop_front().unwrap_or(200);
                into.lock().unwrap().push(request);
                let _ = write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
        });
        Self { address, heard }
    }

    /// All requests so far.
    pub fn heard(&self) -> Vec<Request> {
        self.heard.lock().unwrap().clone()
    }
}

fn read<S: Read>(stream: S) -> Option<(Request, S)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && head != "\r\n" {
        (reader.read_line(&mut head).ok()? > 0).then_some(())?;
    }
    let request = Request { line: line.trim_end().to_owned(), head: head.to_lowercase(), body: Vec::new() };
    let length = request.header("content-length")?.trim().parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((Request { body, ..request }, reader.into_inner()))
}
