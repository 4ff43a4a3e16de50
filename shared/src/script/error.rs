//! What is wrong with a script, and where.
//!
//! A script's own error texts may hold record values, and so may those of the engine (`JSON.parse`, a property of `null`).
//! Of an error on a record, [`ScriptError`] therefore shows the kind and the place, both from closed lists, and words of
//! our own; the text is apart, for a person who asked to see a record.

use std::fmt;

use rquickjs::{Ctx, Exception, Value};
use thiserror::Error;

/// The name scripts have in the engine.
pub(super) const FILE: &str = "script";

/// The kinds of errors the language has.
const KINDS: [&str; 7] =
    ["Error", "TypeError", "ReferenceError", "RangeError", "SyntaxError", "InternalError", "URIError"];

/// A text that is no script.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("is no JavaScript at line {line}, column {column} of the script: {problem}")]
pub struct SyntaxError {
    /// Line of the script, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// What the engine says; about the script alone.
    pub problem: String,
}

/// A script that failed on a record. Permanent: the record is set aside.
#[derive(Clone, PartialEq, Eq)]
pub struct ScriptError {
    place: Option<(u32, u32)>,
    problem: Problem,
    text: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Problem {
    /// Words of our own.
    Ours(String),
    /// An error of the language.
    Kind(&'static str),
    /// Something was thrown that is no error.
    Thrown,
}

impl ScriptError {
    pub(super) fn refused(words: impl Into<String>) -> Self {
        Self { place: None, problem: Problem::Ours(words.into()), text: None }
    }

    pub(super) fn no_engine() -> Self {
        Self::refused("did not come to its end")
    }

    /// Takes the engine's pending exception; `ours` are the words of our own that were thrown last.
    pub(super) fn take(ctx: &Ctx<'_>, source: &str, ours: Option<String>) -> Self {
        let thrown = ctx.catch();
        let Some(error) = thrown.as_object().cloned().and_then(Exception::from_object) else {
            return Self { place: None, problem: Problem::Thrown, text: text(&thrown) };
        };
        let (place, text) = (place(&error, source), error.message());
        let problem = match ours.filter(|ours| Some(ours) == text.as_ref()) {
            Some(ours) => Problem::Ours(ours),
            None if text.as_deref() == Some("out of memory") => {
                Problem::Ours(format!("takes more than {} bytes", super::SCRIPT_BYTES_MAX))
            }
            None => {
                let name = error.get::<_, String>("name").unwrap_or_default();
                Problem::Kind(KINDS.into_iter().find(|kind| *kind == name).unwrap_or("Error"))
            }
        };
        Self { place, problem, text }
    }

    /// The same where it was our own bound that ended the script.
    pub(super) fn because(self, words: String) -> Self {
        Self { problem: Problem::Ours(words), text: None, ..self }
    }

    /// What the error says of itself, which may hold record values: for a person who asked to see the record.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.place {
            write!(f, "line {line}, column {column}: ")?;
        }
        match &self.problem {
            Problem::Ours(words) => f.write_str(words),
            Problem::Kind(kind) => write!(f, "{kind}, whose text may hold record values and is not shown"),
            Problem::Thrown => f.write_str("throws what is no Error and may be a record value"),
        }
    }
}

impl fmt::Debug for ScriptError {
    /// Like `Display`: the text may hold record values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScriptError({self})")
    }
}

impl std::error::Error for ScriptError {}

impl SyntaxError {
    pub(super) fn take(ctx: &Ctx<'_>, source: &str) -> Self {
        let thrown = ctx.catch();
        let error = thrown.as_object().cloned().and_then(Exception::from_object);
        let (line, column) = error.as_ref().and_then(|error| place(error, source)).unwrap_or((1, 1));
        let problem = error.and_then(|error| error.message()).unwrap_or_else(|| "no JavaScript".to_owned());
        Self { line, column, problem }
    }
}

/// The innermost place within the script: line and column, from 1. Kept within the script, for a script can make up its
/// error's places and put a value there.
fn place(error: &Exception<'_>, source: &str) -> Option<(u32, u32)> {
    let stack = error.stack()?;
    let (line, column) = stack.lines().find_map(|frame| {
        let (_, place) = frame.split_once(&format!("{FILE}:"))?;
        let (line, column) = place.trim_end_matches(')').split_once(':')?;
        // The line before the first is our own; columns are bytes.
        Some((line.parse::<usize>().ok()?.saturating_sub(1).max(1), column.parse::<usize>().ok()?))
    })?;
    // What is missing at the end is missed behind it.
    let (last, lines) = (source.lines().next_back().unwrap_or_default(), source.lines().count().max(1));
    let (line, before) = match source.lines().nth(line - 1) {
        Some(text) => (line, text.get(..text.floor_char_boundary(column.checked_sub(1)?)).unwrap_or_default()),
        None => (lines, last),
    };
    Some((u32::try_from(line).ok()?, u32::try_from(before.chars().count() + 1).ok()?))
}

fn text(thrown: &Value<'_>) -> Option<String> {
    thrown.as_string().and_then(|text| text.to_string().ok())
}
