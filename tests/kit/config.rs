//! Configurations of one test each, in a folder of their own.

use std::path::{Path, PathBuf};

/// A folder with configuration files; removed at the end.
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// Makes a folder with a key file `key` in it.
    pub fn create() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), "correct horse battery staple, twice\n").unwrap();
        Self(folder)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a configuration file.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// Keys, services on free ports, and a shared queue `crm` of 8 partitions; the queue itself is added by the caller.
pub fn common(folder: &Folder) -> String {
    let key = folder.file("key").display().to_string();
    format!(
        r#"
[producer]
http = "127.0.0.1:0"
[consumer]
http = "127.0.0.1:0"
[key."aes"]
cipher = "AES256"
secret_file = "{key}"
created = "2024-02-29"
[key."3des"]
cipher = "TripleDES"
secret_file = "{key}"
[shared_queue.crm]
partitions = 8
"#
    )
}

/// `[queue]` on RabbitMQ.
pub fn rabbitmq(url: &str) -> String {
    format!("[queue]\ntype = \"rabbitmq\"\nurl = \"{url}\"\n")
}

/// `[queue]` in a file.
pub fn embedded(folder: &Folder) -> String {
    format!("[queue]\ntype = \"embedded\"\npath = \"{}\"\n", folder.file("queue.db").display())
}
