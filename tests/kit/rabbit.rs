//! RabbitMQ virtual hosts of one test each, through the management API.

use std::process::Command;

use super::{service, unique};

/// A virtual host of its own, deleted at the end with everything in it.
pub struct Vhost {
    pub name: String,
    pub url: String,
    api: String,
}

impl Vhost {
    /// Creates a virtual host.
    pub fn create() -> Self {
        Self::create_on(&service("SYNCLINE_TEST_RABBITMQ_URL"), &service("SYNCLINE_TEST_RABBITMQ_API"))
    }

    /// The same on a server of the test's own.
    pub fn create_on(root: &str, api: &str) -> Self {
        let name = unique("vhost");
        call(api, "PUT", &format!("vhosts/{name}"), Some("{}"));
        let start = root.find("://").unwrap() + 3;
        let end = root[start..].find('/').map_or(root.len(), |at| start + at);
        let url = format!("{}/{name}", &root[..end]);
        Self { name, url, api: api.to_owned() }
    }

    /// Calls the management API; the answer.
    pub fn api(&self, method: &str, path: &str, body: Option<&str>) -> String {
        call(&self.api, method, path, body)
    }

    /// Messages ready in a queue, 0 when there is no such queue.
    pub fn ready(&self, queue: &str) -> u64 {
        let answer = self.api("GET", &format!("queues/{}/{queue}", self.name), None);
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
        answer["messages"].as_u64().unwrap_or_default()
    }

    /// Makes a queue that gets a copy of everything published to a shared queue from now on.
    pub fn spy(&self, shared_queue: &str, queue: &str) {
        self.api("PUT", &format!("queues/{}/{queue}", self.name), Some("{}"));
        let binding = r##"{"routing_key":"#"}"##;
        self.api("POST", &format!("bindings/{}/e/syncline.{shared_queue}/q/{queue}", self.name), Some(binding));
    }

    /// Publishes a message with a body and headers as given, routed by the default exchange.
    pub fn publish(&self, queue: &str, properties: &serde_json::Value, body_base64: &str) {
        let message = serde_json::json!({
            "properties": properties, "routing_key": queue, "payload": body_base64, "payload_encoding": "base64",
        });
        let answer =
            self.api("POST", &format!("exchanges/{}/amq.default/publish", self.name), Some(&message.to_string()));
        assert!(answer.contains("\"routed\":true"), "{answer}");
    }

    /// Takes a copy of a queue's first messages: properties and base64 bodies.
    pub fn peek(&self, queue: &str, count: u32) -> Vec<serde_json::Value> {
        let how = serde_json::json!({ "count": count, "ackmode": "ack_requeue_true", "encoding": "base64" });
        let answer = self.api("POST", &format!("queues/{}/{queue}/get", self.name), Some(&how.to_string()));
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{answer}"))
    }

    /// Takes every message off a queue, a portion at a time; how many records they held.
    pub fn drain_records(&self, queue: &str) -> u64 {
        let how =
            serde_json::json!({ "count": 500, "ackmode": "ack_requeue_false", "encoding": "auto", "truncate": 1 });
        let mut records = 0;
        loop {
            let answer = self.api("POST", &format!("queues/{}/{queue}/get", self.name), Some(&how.to_string()));
            let messages: Vec<serde_json::Value> = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{answer}"));
            if messages.is_empty() {
                return records;
            }
            let of = |message: &serde_json::Value| message["properties"]["headers"]["records"].as_u64().unwrap();
            records += messages.iter().map(of).sum::<u64>();
        }
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        // A server of the test's own may be gone already, and the virtual host with it.
        let _ = management(&self.api, "DELETE", &format!("vhosts/{}", self.name), None);
    }
}

fn call(api: &str, method: &str, path: &str, body: Option<&str>) -> String {
    management(api, method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

/// Calls the management API of a server that may be away.
pub fn management(api: &str, method: &str, path: &str, body: Option<&str>) -> Result<String, String> {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "10", "-X", method, "-H", "content-type: application/json"]);
    if let Some(body) = body {
        curl.args(["-d", body]);
    }
    let output = curl.arg(format!("{api}/api/{path}")).output().expect("curl");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A user of its own, deleted at the end.
pub struct User {
    pub name: String,
    /// The virtual host's, with this user and no password.
    pub url: String,
    api: String,
}

impl User {
    /// Creates a user that may configure, write and read what fits these patterns in a virtual host.
    pub fn create(vhost: &Vhost, password: &str, permissions: [&str; 3]) -> Self {
        let name = unique("user");
        let at = vhost.url.rfind('@').unwrap();
        let user = Self { url: format!("amqp://{name}{}", &vhost.url[at..]), name, api: vhost.api.clone() };
        user.set_password(vhost, password);
        user.permit(vhost, permissions);
        user
    }

    /// Sets its password; connections that are open stay so.
    pub fn set_password(&self, vhost: &Vhost, password: &str) {
        let body = serde_json::json!({ "password": password, "tags": "" });
        vhost.api("PUT", &format!("users/{}", self.name), Some(&body.to_string()));
    }

    /// Lets it configure, write and read what fits these patterns.
    pub fn permit(&self, vhost: &Vhost, [configure, write, read]: [&str; 3]) {
        let body = serde_json::json!({ "configure": configure, "write": write, "read": read });
        vhost.api("PUT", &format!("permissions/{}/{}", vhost.name, self.name), Some(&body.to_string()));
    }

    /// Takes away all its permissions.
    pub fn revoke(&self, vhost: &Vhost) {
        vhost.api("DELETE", &format!("permissions/{}/{}", vhost.name, self.name), None);
    }

    /// Closes all its connections.
    pub fn disconnect(&self, vhost: &Vhost) {
        vhost.api("DELETE", &format!("connections/username/{}", self.name), None);
    }
}

impl Drop for User {
    fn drop(&mut self) {
        call(&self.api, "DELETE", &format!("users/{}", self.name), None);
    }
}
