//! Where the keys of a file stand, for problems that show only once it was read.

use std::collections::BTreeMap;

/// The line of every key, by its dotted path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The file's name as it was given.
    pub(super) file: String,
    pub(super) lines: BTreeMap<String, usize>,
}

impl Places {
    /// The line of a path, or of the nearest key around it.
    #[must_use]
    pub fn line(&self, path: &str) -> Option<usize> {
        let mut around = path;
        loop {
            match (self.lines.get(around), around.rsplit_once('.')) {
                (Some(line), _) => return Some(*line),
                (None, Some((outer, _))) => around = outer,
                (None, None) => return None,
            }
        }
    }

    /// A path with its file and line, as problems begin.
    #[must_use]
    pub fn at(&self, path: &str) -> String {
        match self.line(path) {
            Some(line) => format!("{}:{line}: {path}", self.file),
            None => format!("{}: {path}", self.file),
        }
    }
}
