//! A real Prometheus with the configuration and the rules of `deploy/prometheus`.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{free_port, service};

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus");

/// A server on a free port, killed at the end.
pub struct Prometheus {
    child: Child,
    url: String,
}

impl Prometheus {
    /// Starts one that looks every second at these addresses, by the names the configuration has for them.
    pub fn start(folder: &Path, addresses: &[(&str, &str)]) -> Self {
        let text = std::fs::read_to_string(format!("{DEPLOY}/prometheus.yml")).unwrap();
        let place = |line: &str| {
            let Some(of) = line.split("dns_sd_configs: [{ names: [").nth(1) else { return line.to_owned() };
            let name = of.split(']').next().unwrap();
            let (_, address) = addresses.iter().find(|(known, _)| *known == name).unwrap();
            format!("    static_configs: [{{ targets: [\"{address}\"] }}]")
        };
        let text = text.lines().map(place).collect::<Vec<_>>().join("\n");
        let text = text.replace(": 5s", ": 1s").replace("/etc/prometheus", DEPLOY);
        std::fs::write(folder.join("prometheus.yml"), text).unwrap();
        let (port, log) = (free_port(), std::fs::File::create(folder.join("prometheus.log")).unwrap());
        let child = Command::new(Path::new(&service("SYNCLINE_TEST_PROMETHEUS")).join("prometheus"))
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=prometheus"])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, url: format!("http://127.0.0.1:{port}/api/v1") }
    }

    /// How many series a query finds now, or found within the last seconds; `None` while the server does not answer.
    ///
    /// # Panics
    /// When it finds the query wrong.
    pub fn series(&self, query: &str, instant: bool) -> Option<usize> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "10", "--get", "--data-urlencode", &format!("query={query}")]);
        if instant {
            curl.arg(format!("{}/query", self.url));
        } else {
            curl.arg(format!("{}/query_range?start={}&end={now}&step=1", self.url, now - 10));
        }
        let output = curl.output().expect("curl");
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().map(Vec::len)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
