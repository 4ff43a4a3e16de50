//! `syncline bulk-share --status`: what is planned, running, and has ended.

use serde_json::{Value, json};
use syncline_producer::bulk::{Entry, Ledger, Stock};
use uuid::Uuid;

use super::{OnStock, on_stock, sources, told};
use crate::config::Config;
use crate::failure::Failure;

/// Prints the bulk shares of some shares, or of all.
pub(super) async fn print(config: &Config, shares: &[String], json: bool) -> Result<(), Failure> {
    struct Read;
    impl OnStock for Read {
        type Output = Ledger;

        async fn run<K: Stock>(self, stock: K) -> Result<Ledger, Failure> {
            told(Ledger::read(&stock).await)
        }
    }
    let mut entries = Vec::new();
    for source in sources(config, shares) {
        let ledger = on_stock(Read, config, &source).await?;
        entries.extend(ledger.entries);
    }
    entries.retain(|(_, entry)| shares.is_empty() || shares.contains(&entry.order.share));
    entries.sort_by_key(|(id, _)| *id);
    if json {
        println!("{}", Value::Array(entries.iter().map(|(id, entry)| describe(*id, entry)).collect()));
    } else if entries.is_empty() {
        println!("No bulk share was asked for yet.");
    } else {
        print!("{}", crate::queue::table(&rows(&entries)));
    }
    Ok(())
}

fn rows(entries: &[(Uuid, Entry)]) -> Vec<[String; 8]> {
    let mut rows = vec![["SHARE", "STATE", "ROWS", "OF ABOUT", "ROWS/S", "PLANNED", "ENDED", "WHY"].map(str::to_owned)];
    let time = |at: jiff::Timestamp| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    for (_, Entry { order, run }) in entries {
        let entry = Entry { order: order.clone(), run: run.clone() };
        let by = match (&order.schedule, &order.member) {
            (Some(schedule), _) => format!("schedule {schedule}"),
            (None, Some(member)) => format!("group {}", member.group),
            (None, None) => String::new(),
        };
        let of_run = |cell: &dyn Fn(&syncline_producer::bulk::Run) -> String| run.as_ref().map_or("-".to_owned(), cell);
        let reason = run.as_ref().and_then(|run| run.reason.clone()).unwrap_or(by);
        rows.push([
            order.share.clone(),
            entry.state().to_owned(),
            of_run(&|run| run.rows.to_string()),
            of_run(&|run| run.rows_total.map_or("-".to_owned(), |total| total.to_string())),
            of_run(&|run| run.rows_per_second().to_string()),
            time(order.planned_at),
            of_run(&|run| run.ended_at.map_or("-".to_owned(), time)),
            reason,
        ]);
    }
    rows
}

/// A bulk share for machines; keys of records are left out.
pub(super) fn describe(id: Uuid, entry: &Entry) -> Value {
    let Entry { order, run } = entry;
    let run = run.as_ref();
    json!({
        "id": id, "share": order.share, "state": entry.state(), "where": order.query,
        "changed_since": order.changed_since, "group": order.member.as_ref().map(|member| &member.group),
        "schedule": order.schedule, "planned_at": order.planned_at,
        "started_at": run.map(|run| run.started_at), "ended_at": run.and_then(|run| run.ended_at),
        "rows": run.map(|run| run.rows), "rows_total": run.and_then(|run| run.rows_total),
        "rows_per_second": run.map(syncline_producer::bulk::Run::rows_per_second),
        "reason": run.and_then(|run| run.reason.as_ref()),
    })
}
