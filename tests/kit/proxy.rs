//! A TCP proxy that can be cut, stalled and half-closed: the network between two parts.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, Weak};

/// Which side of a connection.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    Client,
    Server,
}

/// Forwards connections to a server until something goes wrong.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    gate: Mutex<Gate>,
    moved: Condvar,
}

struct Gate {
    /// Takes connections.
    open: bool,
    /// Holds back what was sent, on connections old and new.
    stalled: bool,
    links: Vec<Weak<Link>>,
}

/// A connection through the proxy; closed when both directions have ended.
struct Link {
    client: TcpStream,
    server: TcpStream,
}

impl Proxy {
    /// Forwards to `server`, which is `host:port`.
    pub fn to(server: &str) -> Self {
        Self::to_any(&[server])
    }

    /// Forwards each connection to the first server that takes it.
    pub fn to_any(servers: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Gate { open: true, stalled: false, links: Vec::new() };
        let shared = Arc::new(Shared { gate: Mutex::new(gate), moved: Condvar::new() });
        let servers: Vec<_> = servers.iter().map(|&server| server.to_owned()).collect();
        let here = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                here.accept(client, &servers);
            }
        });
        Self { address, shared }
    }

    /// Cuts every connection and takes no more.
    pub fn cut(&self) {
        self.shared.gate.lock().unwrap().open = false;
        self.sever();
    }

    /// Takes connections again.
    pub fn mend(&self) {
        self.shared.gate.lock().unwrap().open = true;
    }

    /// Cuts every connection; new ones are taken at once.
    pub fn sever(&self) {
        for link in self.shared.links() {
            let _ = link.client.shutdown(Shutdown::Both);
            let _ = link.server.shutdown(Shutdown::Both);
        }
    }

    /// Holds back what is sent, in both directions; no connection is closed.
    pub fn stall(&self) {
        self.shared.gate.lock().unwrap().stalled = true;
    }

    /// Lets through what was held back.
    pub fn resume(&self) {
        self.shared.gate.lock().unwrap().stalled = false;
        self.shared.moved.notify_all();
    }

    /// Tells one side that the other has finished sending; what this side sends still arrives.
    pub fn half_close(&self, told: Side) {
        for link in self.shared.links() {
            let stream = match told {
                Side::Client => &link.client,
                Side::Server => &link.server,
            };
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, client: TcpStream, servers: &[String]) {
        if !self.gate.lock().unwrap().open {
            return;
        }
        let Some(server) = servers.iter().find_map(|server| TcpStream::connect(server).ok()) else { return };
        let link = Arc::new(Link { client, server });
        let mut gate = self.gate.lock().unwrap();
        gate.links.retain(|link| link.strong_count() > 0);
        gate.links.push(Arc::downgrade(&link));
        for from in [Side::Client, Side::Server] {
            let (shared, link) = (Arc::clone(self), Arc::clone(&link));
            std::thread::spawn(move || shared.pump(&link, from));
        }
    }

    fn links(&self) -> Vec<Arc<Link>> {
        self.gate.lock().unwrap().links.iter().filter_map(Weak::upgrade).collect()
    }

    /// Forwards one direction to its end, and then says so to the other side.
    fn pump(&self, link: &Link, from: Side) {
        let (mut from, mut to) = match from {
            Side::Client => (&link.client, &link.server),
            Side::Server => (&link.server, &link.client),
        };
        let mut bytes = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            drop(self.moved.wait_while(self.gate.lock().unwrap(), |gate| gate.stalled).unwrap());
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Read);
        let _ = to.shutdown(Shutdown::Write);
    }
}
