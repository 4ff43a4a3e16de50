//! Configuration: one TOML file, read once, every problem reported at once.
//!
//! Each service takes the tables it needs; what they mean is theirs to say. Nothing is connected to here.

mod document;
mod places;
mod problem;
mod queue;
mod secret;
mod span;

pub use document::{Document, Section, Tagged};
pub use places::Places;
pub use problem::{FieldProblem, Problem, Problems};
pub use queue::{KeyConfig, Keys, QueueConfig, SharedQueueConfig, keys};
pub use secret::{Secret, read_bounded};
pub use span::Span;
