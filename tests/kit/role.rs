//! Roles of PostgreSQL with no more rights than the documentation gives them: by the statements that stand there.

use super::database::{Database, connect};
use super::{service, unique};

/// A role of its own, dropped at the end; the databases it has rights in have to go first.
pub struct Role {
    pub name: String,
    pub password: String,
}

impl Role {
    /// Makes the role of a source and what it needs in this database, by the page's section.
    pub async fn source(database: &Database, password: &str) -> Self {
        Self::make("PostgreSQL source", "syncline_source", "servicedesk", database, password).await
    }

    /// Makes the role of a target and what it needs in this database, by the page's section.
    pub async fn target(database: &Database, password: &str) -> Self {
        Self::make("PostgreSQL target", "syncline_target", "DATABASE crm", database, password).await
    }

    async fn make(section: &str, role: &str, place: &str, database: &Database, password: &str) -> Self {
        let here = place.replace("servicedesk", &database.name).replace("crm", &database.name);
        let name = unique("role");
        // What every role may do by default would hide what ours was not granted.
        let default =
            format!("REVOKE ALL ON DATABASE {} FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC", database.name);
        database.run(&default).await;
        for statements in documented(section) {
            let statements = statements.replace("'..'", &format!("'{password}'"));
            database.run(&statements.replace(role, &name).replace(place, &here)).await;
        }
        Self { name, password: password.to_owned() }
    }

    /// The database's address for this role; the password is not in it.
    pub fn url(&self, database: &Database) -> String {
        let (scheme, rest) = database.url.split_once("://").unwrap();
        format!("{scheme}://{}@{}", self.name, rest.split_once('@').unwrap().1)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let drop = format!("DROP ROLE IF EXISTS {}", self.name);
        let clean = async move {
            let admin = connect(&service("SYNCLINE_TEST_POSTGRES_URL")).await;
            if let Err(error) = admin.batch_execute(&drop).await {
                eprintln!("{drop}: {error}");
            }
        };
        let run = move || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(clean);
        let _ = std::thread::spawn(run).join();
    }
}

/// The SQL blocks of a section of the page.
fn documented(section: &str) -> Vec<String> {
    let page = include_str!("../../docs/configuration.md");
    let section =
        page.split(&format!("\n### {section}\n")).nth(1).expect("the section").split("\n### ").next().unwrap();
    let blocks = section.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect();
    assert_ne!(blocks, Vec::<String>::new());
    blocks
}
