//! `syncline share`: what the shares are.

use std::path::Path;

use serde_json::json;

use crate::config::{Config, Env, Role, compile};
use crate::failure::Failure;

/// Lists every share of the configuration; reaches nothing.
pub(crate) fn list(path: &Path, env: &Env, json: bool) -> Result<(), Failure> {
    let config = Config::load(path, env, Role::Producer)?;
    let mut rows =
        vec![["SHARE", "SOURCE", "TABLE", "ON", "INTERACTIVE ONLY", "QUEUE", "CIPHER", "FILTER"].map(str::to_owned)];
    let mut list = Vec::new();
    for (name, share) in &config.shares {
        compile(name, share)?;
        let seal = config.seal(share);
        let on: Vec<_> = share.on.iter().map(|on| on.action().as_str()).collect();
        let filter = share.filter.as_deref().unwrap_or_default();
        list.push(json!({
            "share": name, "source": share.source, "table": share.table, "on": on,
            "interactive_only": share.interactive_only, "queue": share.queue, "cipher": seal.cipher().as_str(),
            "key": share.key, "filter": share.filter, "columns": share.columns,
        }));
        rows.push([
            name.clone(),
            share.source.clone(),
            share.table.clone(),
            on.join(","),
            if share.interactive_only { "yes" } else { "no" }.to_owned(),
            share.queue.clone(),
            seal.cipher().to_string(),
            filter.to_owned(),
        ]);
    }
    if json {
        println!("{}", serde_json::Value::Array(list));
    } else {
        print!("{}", crate::queue::table(&rows));
    }
    Ok(())
}
