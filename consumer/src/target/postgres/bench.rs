//! Lines of COPY as a session writes them, for micro-benchmarks alone.

use super::copy;
use crate::target::fold::Folded;

/// The lines of all operations; what cannot be written is left out.
#[must_use]
pub fn copy_lines(folded: &Folded<'_>) -> Vec<u8> {
    let mut lines = Vec::new();
    for (number, table) in (1..).zip(&folded.tables) {
        for (row, operation) in table.operations.iter().enumerate() {
            let _ = copy::write_line(&mut lines, operation, number, row);
        }
    }
    lines
}
