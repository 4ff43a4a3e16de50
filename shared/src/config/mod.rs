//! Configuration: load, interpolate, and say every problem at once.

mod secret;

pub use secret::Secret;
