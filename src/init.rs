//! `syncline config init`: a first configuration for the chosen systems, commented, ready for `syncline check`.
//!
//! Passwords and addresses stay outside the file, in environment variables; the key's secret is a file of its own. Nothing
//! that exists is overwritten.

use std::fs::OpenOptions;
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::path::Path;

use clap::ValueEnum;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::cli::{DEFAULT_FILE, Database, InitArgs, InitQueue};
use crate::config::schema;
use crate::failure::Failure;
use crate::keys;

/// The schema, beside the configuration, which names it for editors.
const SCHEMA: &str = "syncline.schema.json";

/// Asks for what the command line leaves open, then writes the configuration and a key.
pub(crate) fn run(path: &Path, args: InitArgs) -> Result<(), Failure> {
    let source = chosen("Source", args.source)?;
    let queue = chosen("Queue", args.queue)?;
    let target = chosen("Target", args.target)?;
    let table = match args.table {
        Some(table) => table,
        None => ask("Table to keep in step", "incident")?,
    };
    let key = path.with_file_name("syncline.key");
    write_new(path, &configuration(source, queue, target, &table, &key))?;
    let made_key = !key.exists();
    if made_key {
        keys::write_secret(&key)?;
    }
    let schema = path.with_file_name(SCHEMA);
    if !schema.exists() {
        write_new(&schema, &schema::text())?;
    }
    println!(
        "Wrote {}{}.",
        path.display(),
        if made_key { format!(" and the key {}", key.display()) } else { String::new() }
    );
    println!("An editor that knows TOML completes and checks it by {}.", schema.display());
    let variables = variables(source, queue, target);
    if !variables.is_empty() {
        println!("\nIt reads addresses and passwords from the environment:\n");
        for (variable, example) in variables {
            println!("  export {variable}='{example}'");
        }
    }
    let config = if path == Path::new(DEFAULT_FILE) { String::new() } else { format!(" --config {}", path.display()) };
    println!("\nThen:\n\n  syncline check{config}     # what is wrong, and what the systems lack");
    println!("  syncline up{config}        # both services; or each by itself: syncline producer, syncline consumer");
    Ok(())
}

/// Prints the schema.
pub(crate) fn schema() -> Result<(), Failure> {
    Ok(std::io::stdout().write_all(schema::text().as_bytes())?)
}

/// What the command line says, or what a person at the terminal answers, or the first choice.
fn chosen<T: ValueEnum + Clone + Send + Sync + 'static>(what: &str, said: Option<T>) -> Result<T, Failure> {
    if let Some(said) = said {
        return Ok(said);
    }
    let names: Vec<String> =
        T::value_variants().iter().filter_map(|value| Some(value.to_possible_value()?.get_name().to_owned())).collect();
    let first = names.first().cloned().unwrap_or_default();
    let answer = ask(&format!("{what}: {}", names.join(" or ")), &first)?;
    T::from_str(&answer, true)
        .map_err(|_| Failure::Other(format!("{answer} is none of them; accepted: {}", names.join(", "))))
}

/// Without a person at the terminal, the usual answer.
fn ask(question: &str, usual: &str) -> Result<String, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(usual.to_owned());
    }
    print!("{question} [{usual}]: ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    let answer = answer.trim();
    Ok(if answer.is_empty() { usual } else { answer }.to_owned())
}

fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        let path = path.display();
        Failure::Other(if error.kind() == ErrorKind::AlreadyExists {
            format!("{path} exists and is never overwritten; name another file with --config")
        } else {
            format!("{path} cannot be written: {error}")
        })
    })
}

/// The environment variables the file names, each with an example.
fn variables(source: Database, queue: InitQueue, target: Database) -> Vec<(&'static str, &'static str)> {
    let mut list = Vec::new();
    if source == Database::Postgres {
        list.push(("SYNCLINE_SOURCE_URL", "postgres://user:password@host:5432/database"));
    }
    if queue == InitQueue::Rabbitmq {
        list.push(("SYNCLINE_RABBITMQ_URL", "amqps://user:password@host/vhost"));
    }
    if target == Database::Postgres {
        list.push(("SYNCLINE_TARGET_URL", "postgres://user:password@host:5432/database"));
    }
    list
}

/// The file's text.
fn configuration(source: Database, queue: InitQueue, target: Database, table: &str, key: &Path) -> String {
    // A JSON string is a TOML string too.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let key = quoted(&key.display().to_string());
    let share: String = table.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    let table = quoted(table);
    let created = TimeZone::UTC.to_datetime(Timestamp::now()).date();
    let queue = match queue {
        InitQueue::Rabbitmq => {
            "type = \"rabbitmq\"                          # RabbitMQ 4\n\
             url = \"${SYNCLINE_RABBITMQ_URL}\"           # the password may stand in a file of its own: password_file\n"
        }
        InitQueue::Embedded => {
            "type = \"embedded\"                          # one SQLite file, for one machine\n\
             path = \"queue.db\"\n"
        }
    };
    let source = match source {
        Database::Postgres => {
            "type = \"postgres\"                          # its server needs wal_level = logical\n\
             url = \"${SYNCLINE_SOURCE_URL}\"             # verified TLS, unless the server is on this machine\n"
        }
        Database::Sqlite => {
            "type = \"sqlite\"\n\
             path = \"source.db\"                         # must exist\n"
        }
    };
    let target = match target {
        Database::Postgres => {
            "type = \"postgres\"\n\
             url = \"${SYNCLINE_TARGET_URL}\"\n"
        }
        Database::Sqlite => {
            "type = \"sqlite\"\n\
             path = \"target.db\"\n"
        }
    };
    format!(
        r#"#:schema ./{SCHEMA}
# What is kept in step, from where to where. Every key: docs/configuration.md.

[queue]
{queue}
[key."1"]                                  # both ends know it by this id
cipher = "AES256"                          # or TripleDES, AES128
secret_file = {key}
created = "{created}"                     # for the alert that it is old

[shared_queue.records]
partitions = 8                             # consumers that can work at once; fixed for the life of the queue

# ---- producer: what leaves the source -------------------------------------------------------------------------------

[source.origin]
{source}
[share.{share}]
source = "origin"
table = {table}
queue = "records"
key = "1"
initial = "copy"                           # the rows that are there come first
interactive_only = false                   # true: only what people did, no jobs
# filter = "active=true^priority<=3"       # an encoded query
# columns = ["number", "state"]            # only these

# ---- consumer: where it goes ----------------------------------------------------------------------------------------

[target.destination]
{target}schema = "evolve"                          # missing tables and columns are created; "strict": they are told

[subscription.records]
queue = "records"
target = "destination"

[subscription.records.table.{table}]
# into = "another_name"
# columns = {{ number = "case_number" }}     # only these, under these names
"#
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use clap::ValueEnum as _;

    use super::{configuration, variables};
    use crate::cli::{Database, InitQueue};
    use crate::config::Config;

    #[test]
    fn whatever_is_chosen_is_a_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("syncline.key");
        std::fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
        let [rabbitmq, postgres] = ["amqp://u:p@127.0.0.1/v", "postgres://u:p@127.0.0.1/d"];
        for source in Database::value_variants() {
            for queue in InitQueue::value_variants() {
                for target in Database::value_variants() {
                    let text = configuration(*source, *queue, *target, "public.odd \"name\"", &key);
                    let path = folder.path().join("syncline.toml");
                    std::fs::write(&path, text).unwrap();
                    let said = variables(*source, *queue, *target).into_iter().map(|(name, _)| {
                        (name.to_owned(), if name.contains("RABBIT") { rabbitmq } else { postgres }.to_owned())
                    });
                    let config = Config::load_all(Path::new(&path), &Arc::new(said.collect()));
                    let config =
                        config.unwrap_or_else(|failure| panic!("{source:?} {queue:?} {target:?}: {failure:?}"));
                    assert_eq!(config.shares.len() + config.subscriptions.len(), 2);
                }
            }
        }
    }
}
