//! Parameters as a session sends them, for micro-benchmarks alone.

use bytes::BytesMut;
use tokio_postgres::types::{ToSql as _, Type};

use super::parameter::parameters;
use crate::target::fold::Folded;

/// The parameters of all operations of one shape; what cannot be sent is left out.
#[must_use]
pub fn bind(folded: &Folded<'_>, columns: usize) -> BytesMut {
    let mut out = BytesMut::new();
    for table in &folded.tables {
        let operations: Vec<_> = table.operations.iter().collect();
        for parameter in parameters(&operations, columns) {
            let _ = parameter.to_sql(&Type::TEXT_ARRAY, &mut out);
        }
    }
    out
}
