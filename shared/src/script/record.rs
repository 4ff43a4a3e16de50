//! The record a script works on: its own copy, with what the script wrote.

use crate::record::{Action, Columns, Row, Value};

use super::error::ScriptError;

/// Lines a script may log for one record, and bytes of each; what is beyond is cut.
const LOG_LINES_MAX: usize = 64;
const LOG_BYTES_MAX: usize = 1024;

/// What a script is run on.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The table, as the script is told.
    pub table: &'a str,
    /// What happened; what `psp_action` says at first.
    pub action: Action,
    /// The key columns, which a script cannot set.
    pub key: &'a Row,
    /// The columns; of a delete those before it.
    pub row: &'a Row,
    /// The columns before the change, as far as they are known.
    pub before: Option<&'a Row>,
}

/// What a script did.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    /// What the record is sent as: `psp_action`.
    pub action: Action,
    /// The record is withheld: `ignore = true`.
    pub ignore: bool,
    /// The record with what the script set; `None` when it set nothing. Untouched values are as they were.
    pub row: Option<Row>,
    /// What it logged. May hold record values: not for logs.
    pub log: Vec<String>,
}

/// A value a script set.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Written {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    Bytes(String),
}

impl Written {
    fn value(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(flag) => Value::Bool(*flag),
            Self::Number(text) => Value::Number(text),
            Self::Text(text) => Value::Text(text),
            Self::Bytes(base64) => Value::Bytes(base64),
        }
    }

    fn copy(value: Value<'_>) -> Option<Self> {
        Some(match value {
            Value::Null => Self::Null,
            Value::Unchanged => return None,
            Value::Bool(flag) => Self::Bool(flag),
            Value::Number(text) => Self::Number(text.to_owned()),
            Value::Text(text) => Self::Text(text.to_owned()),
            Value::Bytes(base64) => Self::Bytes(base64.to_owned()),
        })
    }
}

/// Which state of the record is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Current,
    Previous,
}

/// A refusal, in words that hold no record value.
pub(super) type Refusal = String;

/// The record at work.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) table: Box<str>,
    pub(super) action: Action,
    key: Columns,
    row: Row,
    before: Option<Row>,
    /// What was set, the newest last.
    written: Vec<(Box<str>, Written)>,
    log: Vec<String>,
    /// What `psp_action` and `ignore` were at the end.
    done: Option<(Option<Action>, bool)>,
    /// The refusal thrown last.
    pub(super) refused: Option<Refusal>,
}

impl Work {
    pub(super) fn new(subject: Subject<'_>) -> Self {
        Self {
            table: subject.table.into(),
            action: subject.action,
            key: subject.key.columns().clone(),
            row: subject.row.clone(),
            before: subject.before.cloned(),
            written: Vec::new(),
            log: Vec::new(),
            done: None,
            refused: None,
        }
    }

    /// Whether there is a state before: not for what is new, nor for rows of a copy.
    pub(super) fn has_previous(&self) -> bool {
        matches!(self.action, Action::Update | Action::Delete)
    }

    pub(super) fn has(&self, side: Side, column: &str) -> bool {
        let is_set = side == Side::Current && self.set(column).is_some();
        is_set || self.row.columns().position(column).is_some()
    }

    pub(super) fn columns(&self, side: Side) -> Vec<String> {
        let written = self.written.iter().filter(|_| side == Side::Current).map(|(name, _)| &**name);
        let added = written.filter(|name| self.row.columns().position(name).is_none());
        self.row.columns().iter().chain(added).map(str::to_owned).collect()
    }

    /// The value of a column; `None` when there is no such column.
    pub(super) fn read(&self, side: Side, column: &str) -> Result<Option<Value<'_>>, Refusal> {
        match side {
            Side::Current => match self.set(column) {
                Some(written) => Ok(Some(written.value())),
                None => match self.row.get(column) {
                    Some(Value::Unchanged) => self.value_before(column).map(Some),
                    value => Ok(value),
                },
            },
            Side::Previous if self.row.columns().position(column).is_none() => Ok(None),
            Side::Previous => self.value_before(column).map(Some),
        }
    }

    /// Whether a column differs from what it was. Everything of a new record that is not empty does.
    pub(super) fn changes(&self, column: &str) -> Result<bool, Refusal> {
        let text = |value: Option<Value<'_>>| value.and_then(Value::as_text).unwrap_or_default().to_owned();
        match self.action {
            Action::Insert => Ok(!text(self.read(Side::Current, column)?).is_empty()),
            Action::Update => Ok(text(self.read(Side::Current, column)?) != text(self.read(Side::Previous, column)?)),
            Action::Delete | Action::Bulk => Ok(false),
        }
    }

    pub(super) fn write(&mut self, column: &str, value: Written) -> Result<(), Refusal> {
        if self.key.position(column).is_some() {
            return Err(format!("column {column} is part of the key, which a script cannot set"));
        }
        self.written.retain(|(name, _)| **name != *column);
        self.written.push((column.into(), value));
        Ok(())
    }

    /// Sets a column to what another one holds, to the last digit.
    pub(super) fn copy(&mut self, column: &str, side: Side, from: &str) -> Result<(), Refusal> {
        let value = self.read(side, from)?.and_then(Written::copy).unwrap_or(Written::Null);
        self.write(column, value)
    }

    pub(super) fn log(&mut self, line: &str) -> Result<(), Refusal> {
        if self.log.len() < LOG_LINES_MAX {
            self.log.push(line.get(..line.floor_char_boundary(LOG_BYTES_MAX)).unwrap_or_default().to_owned());
        }
        Ok(())
    }

    pub(super) fn done(&mut self, action: &str, ignore: bool) -> Result<(), Refusal> {
        self.done = Some((action.parse().ok(), ignore));
        Ok(())
    }

    /// What the script did, once it came to its end.
    pub(super) fn finish(self) -> Result<Effect, ScriptError> {
        let Some((action, ignore)) = self.done else { return Err(ScriptError::no_engine()) };
        let action = match (action, self.action) {
            _ if ignore => self.action,
            (None, _) => return Err(ScriptError::refused("psp_action is none of insert, update, delete, bulk")),
            (Some(Action::Insert | Action::Update | Action::Bulk), Action::Delete) => {
                return Err(ScriptError::refused(
                    "psp_action makes something else of a delete, which has no columns to send",
                ));
            }
            (Some(action), _) => action,
        };
        let row = (!self.written.is_empty()).then(|| self.row_written());
        Ok(Effect { action, ignore, row, log: self.log })
    }

    fn row_written(&self) -> Row {
        let columns = Columns::new(self.columns(Side::Current));
        let mut row = Row::builder(columns.clone());
        for column in columns.iter() {
            let value = self.set(column).map(Written::value).or_else(|| self.row.get(column));
            row.push(value.unwrap_or(Value::Null));
        }
        row.finish()
    }

    fn set(&self, column: &str) -> Option<&Written> {
        self.written.iter().find(|(name, _)| **name == *column).map(|(_, value)| value)
    }

    fn value_before(&self, column: &str) -> Result<Value<'_>, Refusal> {
        match self.before.as_ref().and_then(|before| before.get(column)) {
            Some(value) if value != Value::Unchanged => Ok(value),
            Some(_) | None if self.has_previous() => {
                let how = "`syncline check` says how a source would, and no message ever does";
                Err(format!("nobody said what column {column} was; {how}"))
            }
            Some(_) | None => Ok(Value::Null),
        }
    }
}
