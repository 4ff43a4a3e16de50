//! What is wrong with a configuration, in the words of whoever has to mend it.

use std::fmt;

/// One setting that cannot be used: its key below its own table, and what is wrong; what is accepted.
///
/// What the `validate` of every configuration struct returns, all of them at once. Opens no connection, but reads the
/// files that are named for passwords and certificates.
pub type FieldProblem = (&'static str, String);

/// One problem: where, what, and what is accepted instead.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Line in the file, counted from 1, where known.
    pub line: Option<usize>,
    /// The key, as a dotted path such as `share.incidents.queue`; empty for the file as a whole.
    pub path: String,
    /// What is wrong; what is accepted.
    pub text: String,
}

/// Everything that is wrong with one configuration file, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// The file's name as it was given.
    pub file: String,
    /// The problems; never empty.
    pub list: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Problem { line, path, text }) in self.list.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", self.file)?;
            if let Some(line) = line {
                write!(f, ":{line}")?;
            }
            if path.is_empty() {
                write!(f, ": {text}")?;
            } else {
                write!(f, ": {path}: {text}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
