//! Scripts: JavaScript that looks at one record before it leaves, or before it is applied.
//!
//! A script gets a copy of one record and says what becomes of it ([`Effect`]). It has no clock, network or file, keeps
//! nothing from one record to the next, and is bounded in processor time and memory. Knows records, neither shares nor
//! targets. Fails with [`ScriptError`], which shows no record value; the record is to be set aside then, and the script
//! goes on with the next one. Compiled once, CPU-bound when run.

mod engine;
mod error;
mod record;

pub use error::{ScriptError, SyntaxError};
pub use record::{Effect, Subject};

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use engine::Engine;

/// Milliseconds of processor time one record may take.
pub const DEFAULT_SCRIPT_MS_MAX: u64 = 50;
/// The most it may be set to.
pub const SCRIPT_MS_MAX: u64 = 10_000;
/// Bytes a script may hold at once, its compiled self included. A constant: scripts of the field hold a few columns.
pub const SCRIPT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A compiled script.
#[derive(Debug)]
pub struct Script {
    source: Box<str>,
    time_max: Duration,
    /// `None` after a failure: what a script left half done goes with its engine.
    engine: Mutex<Option<Engine>>,
}

impl Script {
    /// Compiles a script.
    ///
    /// # Errors
    /// [`SyntaxError`]: where it is no JavaScript.
    pub fn compile(source: &str, time_max: Duration) -> Result<Self, SyntaxError> {
        let engine = Engine::start(source, time_max)?;
        Ok(Self { source: source.into(), time_max, engine: Mutex::new(Some(engine)) })
    }

    /// Whether the script asks what changed, by its words.
    #[must_use]
    pub fn asks_for_changes(&self) -> bool {
        let words = [".changes(", ".changesTo(", ".changesFrom(", "previous.", "previous["];
        words.iter().any(|word| self.source.contains(word))
    }

    /// Runs the script on a record. CPU-bound, up to the bound on time.
    ///
    /// # Errors
    /// [`ScriptError`]: permanent, for this record.
    pub fn run(&self, subject: Subject<'_>) -> Result<Effect, ScriptError> {
        let mut held = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let engine = match held.take() {
            Some(engine) => engine,
            None => Engine::start(&self.source, self.time_max).map_err(|_| ScriptError::no_engine())?,
        };
        let (effect, is_clean) = engine.run(subject)?;
        *held = is_clean.then_some(engine);
        Ok(effect)
    }
}

#[cfg(test)]
mod tests;
