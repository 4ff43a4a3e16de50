//! The before-subscribe scripts: what they make of the records of a message before it is applied.
//!
//! Pure but for the shutdown, which ends a long work early; CPU-bound. Knows records, neither the queue nor the target. A
//! record its script fails on is set aside as it came (promise P6), and what a script made of one is never stored there.

use std::collections::HashMap;
use std::fmt;

use syncline_shared::record::{Action, Record, Row};
use syncline_shared::script::{Effect, Script, Subject, SyntaxError};
use syncline_shared::tasks::Stop;

use crate::config::SubscriptionConfig;

/// The scripts of one partition, each an engine of its own: partitions do not wait for each other.
pub(crate) struct Scripts {
    by_table: HashMap<String, Script>,
    /// Bytes by which they may make the records of one message larger, all together (promise P9).
    growth_max: usize,
    stop: Stop,
}

/// What a script made of a record.
#[derive(Debug, PartialEq)]
pub(crate) enum Made {
    /// Nothing of it: it is applied as it came.
    Kept,
    /// It is applied like that, and was this.
    Changed {
        /// As what it is applied.
        action: Action,
        /// The record as it came.
        came: Record,
    },
    /// It is not applied.
    Withheld,
    /// It is set aside, for this reason.
    Failed(String),
}

/// The shutdown came before all records were seen.
#[derive(Debug, PartialEq)]
pub(crate) struct Stopped;

impl fmt::Debug for Scripts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripts").field("by_table", &self.by_table).finish_non_exhaustive()
    }
}

impl Scripts {
    /// Compiles the scripts of a subscription; `None` when it has none.
    ///
    /// # Errors
    /// Where one is no JavaScript.
    pub(crate) fn compile(config: &SubscriptionConfig, stop: Stop) -> Result<Option<Self>, SyntaxError> {
        let mut by_table = HashMap::new();
        for (name, table) in &config.table {
            by_table.extend(table.compile_script()?.map(|script| (name.clone(), script)));
        }
        let growth_max = config.plain_bytes_max;
        Ok((!by_table.is_empty()).then_some(Self { by_table, growth_max, stop }))
    }

    /// Runs the script of a table on each record of a message, in order. Records are changed in place; what was made of
    /// each, with the bytes of what was written, or nothing where the table has no script.
    ///
    /// # Errors
    /// [`Stopped`]: the records are not to be applied.
    pub(crate) fn run(
        &self,
        table: &str,
        action: Action,
        records: &mut [Record],
    ) -> Result<(Vec<Made>, usize), Stopped> {
        let Some(script) = self.by_table.get(table) else { return Ok((Vec::new(), 0)) };
        let (mut all, mut written, mut growth) = (Vec::with_capacity(records.len()), 0, 0);
        for record in records {
            // With scripts that run over this may take longer than a shutdown.
            if self.stop.is_set() {
                return Err(Stopped);
            }
            let row = record.data.as_ref().unwrap_or(&record.key);
            let made = match script.run(Subject { table, action, key: &record.key, row, before: None }) {
                Err(error) => Made::Failed(format!("before_subscribe of table {table}, {error}")),
                Ok(effect) => {
                    let bytes = effect.row.as_ref().map_or(0, Row::size);
                    let more = bytes.saturating_sub(row.size());
                    if growth + more > self.growth_max {
                        Made::Failed(self.too_much(table))
                    } else {
                        (written, growth) = (written + bytes, growth + more);
                        change(record, action, effect)
                    }
                }
            };
            all.push(made);
        }
        Ok((all, written))
    }

    fn too_much(&self, table: &str) -> String {
        format!(
            "before_subscribe of table {table} makes the records of one message longer by more than plain_bytes_max of the \
             subscription, {} bytes",
            self.growth_max
        )
    }
}

/// Does to a record what its script says.
fn change(record: &mut Record, action: Action, effect: Effect) -> Made {
    let Effect { action: set, ignore, row, .. } = effect;
    let (data, partial) = match (set, row) {
        _ if ignore => return Made::Withheld,
        // A delete carries its key alone.
        (Action::Delete, _) if action == Action::Delete => return Made::Kept,
        (Action::Delete, _) => (None, false),
        (_, None) if set == action => return Made::Kept,
        (_, None) => (record.data.clone(), record.partial),
        (_, row) => (row, record.partial),
    };
    let made = Record { key: record.key.clone(), data, partial, ..*record };
    Made::Changed { action: set, came: std::mem::replace(record, made) }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use syncline_shared::record::{Columns, Value, Version};
    use syncline_shared::tasks::TaskGroup;

    use super::*;
    use crate::config::TableConfig;

    fn scripts(source: &str, stop: Stop) -> Scripts {
        let table = TableConfig { before_subscribe: Some(source.to_owned()), ..TableConfig::default() };
        let config = serde_json::json!({"queue": "crm", "target": "crm", "plain_bytes_max": 1024});
        let mut config: SubscriptionConfig = serde_json::from_value(config).expect("a subscription");
        config.table.insert("incident".to_owned(), table);
        Scripts::compile(&config, stop).expect("a script").expect("one at least")
    }

    fn record(number: &str, note: &str) -> Record {
        let row = |columns: &[&str], values: &[&str]| {
            let mut row = Row::builder(Columns::new(columns.iter().copied()));
            values.iter().for_each(|value| row.push(Value::Text(value)));
            row.finish()
        };
        let (key, data) = (row(&["number"], &[number]), row(&["number", "note"], &[number, note]));
        Record { key, version: Version::new(1, 1, 1), at: Timestamp::UNIX_EPOCH, data: Some(data), partial: true }
    }

    #[test]
    fn a_script_keeps_changes_withholds_and_fails_record_by_record() {
        let tasks = TaskGroup::default();
        let source = "if (current.note == 'gone') psp_action = 'delete'; if (current.note == 'not') ignore = true;\n\
                      if (current.note == 'bad') current.number = 'INC9'; if (current.note == 'more') current.added = 7;";
        let scripts = scripts(source, tasks.stop());
        let came = ["kept", "gone", "not", "bad", "more"].map(|note| record("INC1", note));
        let mut records = came.clone();
        let (made, written) = scripts.run("incident", Action::Update, &mut records).expect("no shutdown");
        let changed = |place: usize, action| Made::Changed { action, came: came[place].clone() };
        assert_eq!(made[..3], [Made::Kept, changed(1, Action::Delete), Made::Withheld]);
        let Made::Failed(error) = &made[3] else { panic!("{made:?}") };
        assert!(error.starts_with("before_subscribe of table incident, line 2, column "), "{error}");
        assert!(error.ends_with("column number is part of the key, which a script cannot set"), "{error}");
        assert_eq!(made[4], changed(4, Action::Update));
        assert_eq!((&records[0], &records[3]), (&came[0], &came[3]));
        assert_eq!((records[1].data.as_ref(), records[1].partial), (None, false));
        let more = records[4].data.as_ref().expect("data");
        assert_eq!((more.get("added"), records[4].partial), (Some(Value::Number("7")), true));
        assert_eq!(written, more.size());
        let mut others = came.clone();
        assert_eq!(scripts.run("problem", Action::Update, &mut others).expect("no shutdown"), (Vec::new(), 0));
        assert_eq!(others, came);
    }

    #[test]
    fn what_scripts_add_to_one_message_is_bounded_and_the_next_message_has_its_own_bound() {
        let tasks = TaskGroup::default();
        let scripts = scripts("current.note = current.note + 'x'.repeat(500)", tasks.stop());
        for _ in 0..2 {
            let mut records = ["a", "b", "c"].map(|note| record("INC1", note));
            let (made, written) = scripts.run("incident", Action::Update, &mut records).expect("no shutdown");
            assert!(matches!(made[..], [Made::Changed { .. }, Made::Changed { .. }, Made::Failed(_)]), "{made:?}");
            assert!((1000..1400).contains(&written), "{written}");
            assert_eq!(records[2], record("INC1", "c"));
        }
    }

    #[tokio::test]
    async fn a_shutdown_ends_a_long_work() {
        let tasks = TaskGroup::default();
        let scripts = scripts("ignore = true", tasks.stop());
        tasks.run(std::future::ready(()), std::time::Duration::from_secs(1)).await.expect("a clean shutdown");
        assert_eq!(scripts.run("incident", Action::Update, &mut [record("INC1", "a")]), Err(Stopped));
    }
}
