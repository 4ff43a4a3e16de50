//! What a person reads of a comparison, and what a machine does. Shows keys and names of columns, never other values.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};
use syncline_shared::record::{Row, Value};

use super::places::Places;
use super::repair::Repair;
use super::scan::{Count, Found, LISTED_MAX, Outcome, What};
use crate::style::counted;

/// A comparison that is done.
pub(super) struct Report<'a> {
    pub(super) share: &'a str,
    pub(super) target: &'a str,
    pub(super) places: &'a Places,
    pub(super) outcome: Outcome,
    /// What may be meant so, and is to be known.
    pub(super) notes: Vec<String>,
    pub(super) repair: Option<Repair>,
}

impl Report<'_> {
    pub(super) fn is_same(&self) -> bool {
        self.outcome.counts.iter().all(|count| count.differences() == 0)
    }

    fn tables(&self) -> impl Iterator<Item = (&str, Option<&str>, &Count)> {
        let tables = self.places.tables.iter().zip(&self.outcome.counts);
        tables.map(|(table, count)| (table.name.as_str(), table.keeps_others.as_deref(), count))
    }

    pub(super) fn to_json(&self) -> Json {
        let table = |(name, keeps, count): (&str, Option<&str>, &Count)| {
            json!({
                "table": name, "records": count.records, "ranges": count.ranges,
                "ranges_different": count.ranges_different, "missing": count.missing, "different": count.different,
                "refused": count.refused, "extra": keeps.is_none().then_some(count.extra), "extra_unknown": keeps,
            })
        };
        let difference = |found: &Found| {
            let into = self.places.tables.get(found.into).map(|table| table.name.as_str());
            json!({ "table": into, "key": key_json(&found.key), "what": found.what.word(), "columns": found.what.columns() })
        };
        json!({
            "share": self.share, "target": self.target, "same": self.is_same(),
            "version": self.outcome.version.to_string(), "newer": self.outcome.newer, "settled": self.outcome.settled,
            "tables": self.tables().map(table).collect::<Vec<_>>(),
            "differences": self.outcome.found.iter().map(difference).collect::<Vec<_>>(),
            "notes": self.notes,
            "repair": self.repair.as_ref().map(|repair| json!({ "id": repair.id, "records": repair.records })),
        })
    }

    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a text does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        for (name, keeps, count) in self.tables() {
            writeln!(
                text,
                "{} -> {}, table {name}: {} in {}, {} not the same",
                self.share,
                self.target,
                counted(count.records, "record"),
                counted(count.ranges, "range"),
                count.ranges_different
            )?;
            if let Some(why) = keeps {
                writeln!(text, "  rows without a record are not looked for: {why}")?;
            }
        }
        if self.outcome.newer > 0 {
            writeln!(text, "  {} had become newer at the target", counted(self.outcome.newer, "record"))?;
        }
        if self.outcome.settled > 0 {
            writeln!(text, "  {} had been on the way and arrived", counted(self.outcome.settled, "record"))?;
        }
        self.notes.iter().try_for_each(|note| writeln!(text, "  note: {note}"))?;
        for found in &self.outcome.found {
            let columns = found.what.columns().map(|columns| format!(": {}", columns.join(", "))).unwrap_or_default();
            writeln!(text, "  {:9} {}{columns}", found.what.word(), key_text(&found.key))?;
        }
        let all: u64 = self.outcome.counts.iter().map(Count::differences).sum();
        if all > u64::try_from(self.outcome.found.len()).unwrap_or(u64::MAX) {
            writeln!(text, "  and more: {LISTED_MAX} are listed")?;
        }
        if self.is_same() {
            return writeln!(text, "IN STEP: no difference.");
        }
        let sum = |of: fn(&Count) -> u64| self.outcome.counts.iter().map(of).sum::<u64>();
        let kinds = [
            (sum(|count| count.missing), "missing"),
            (sum(|count| count.extra), "extra"),
            (sum(|count| count.different), "different"),
            (sum(|count| count.refused), "refused by the target"),
        ];
        let kinds: Vec<_> =
            kinds.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        writeln!(text, "NOT IN STEP: {}.", kinds.join(", "))?;
        match &self.repair {
            Some(repair) => writeln!(text, "{repair}"),
            None => writeln!(text, "Add --repair to have these records sent again."),
        }
    }
}

impl Count {
    fn differences(&self) -> u64 {
        self.missing + self.different + self.refused + self.extra
    }
}

impl What {
    const fn word(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Columns(_) => "different",
            Self::Refused => "refused",
            Self::Extra => "extra",
        }
    }

    fn columns(&self) -> Option<&[String]> {
        match self {
            Self::Columns(columns) => Some(columns),
            Self::Missing | Self::Refused | Self::Extra => None,
        }
    }
}

/// A key as `share test --record` takes it.
fn key_text(key: &Row) -> String {
    let text = |value: Value<'_>| value.as_text().unwrap_or("null").to_owned();
    match (key.columns().len(), key.value(0)) {
        (1, Some(value)) => text(value),
        _ => key.iter().map(|(name, value)| format!("{name}={}", text(value))).collect::<Vec<_>>().join(","),
    }
}

/// A key with its values as texts: no number loses a digit.
fn key_json(key: &Row) -> Json {
    let value = |value: Value<'_>| value.as_text().map_or(Json::Null, Json::from);
    Json::Object(key.iter().map(|(name, one)| (name.to_owned(), value(one))).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use syncline_shared::record::Columns;

    use super::*;

    #[test]
    fn keys_are_shown_as_other_commands_take_them() {
        let mut key = Row::builder(Columns::new(["number"]));
        key.push(Value::Text("INC0000060"));
        assert_eq!(key_text(&key.finish()), "INC0000060");
        let mut key = Row::builder(Columns::new(["number", "line"]));
        key.push(Value::Text("T1"));
        key.push(Value::Number("90071992547409931234"));
        let key = key.finish();
        assert_eq!(key_text(&key), "number=T1,line=90071992547409931234");
        assert_eq!(key_json(&key), json!({ "number": "T1", "line": "90071992547409931234" }));
    }
}
