//! What the dead letters' commands have targets remember and forget.

use std::path::Path;

use syncline_consumer::config::TargetConfig;
use syncline_consumer::target::postgres::PostgresTarget;
use syncline_consumer::target::sqlite::SqliteTarget;
use syncline_consumer::target::{ApplyError, TRIES_PARKED, Target};
use syncline_shared::tasks::chain;

use crate::config::{Config, Env, Role};
use crate::failure::Failure;

/// Names this command among those that write to a target.
const WRITER: &str = "dead-letter";

/// Has the consumer set a message aside at which it waits. The mark goes to where it keeps its state, so that whichever
/// replica has the partition finds it.
pub(super) async fn park(path: &Path, env: &Env, id: &str) -> Result<(), Failure> {
    let config = Config::load(path, env, Role::Consumer)?;
    for subscription in config.subscriptions.values() {
        let Some(target) = config.targets.get(&subscription.target) else { unreachable!("checked on loading") };
        let beside = subscription.any_table();
        let marked = match target {
            TargetConfig::Postgres(postgres) => {
                PostgresTarget::new(postgres.clone(), WRITER).set_tries(&beside, id, TRIES_PARKED).await
            }
            TargetConfig::Sqlite(sqlite) => {
                SqliteTarget::new(sqlite.clone()).set_tries(&beside, id, TRIES_PARKED).await
            }
        };
        marked.map_err(unavailable)?;
    }
    println!("The consumer that waits at {id} sets it aside within some ten seconds; see `syncline dead-letter list`.");
    Ok(())
}

/// Has the targets forget what is parked as these letters. Without targets in the configuration a warning is all that can
/// be done.
pub(super) async fn forget(path: &Path, env: &Env, letters: &[String]) -> Result<(), Failure> {
    let Ok(config) = Config::load(path, env, Role::Consumer) else {
        eprintln!(
            "This configuration has no usable targets: parts of these records go on waiting until a whole one comes.\n\
             Discard with the consumer's configuration to release them."
        );
        return Ok(());
    };
    for target in config.targets.values() {
        let forgotten = match target {
            TargetConfig::Postgres(postgres) => PostgresTarget::new(postgres.clone(), WRITER).unpark(letters).await,
            TargetConfig::Sqlite(sqlite) => SqliteTarget::new(sqlite.clone()).unpark(letters).await,
        };
        forgotten.map_err(unavailable)?;
    }
    Ok(())
}

fn unavailable(error: ApplyError) -> Failure {
    Failure::Unavailable(format!("{}.\nNothing was changed in the queue; try again.", chain(&error)))
}
