//! The three kinds of failure and what each leads to.

/// What to do about a failure. Every error enum of a boundary sorts its variants into these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Passes by itself: the same again after a back-off.
    Transient,
    /// This record will never work: it goes to the dead letters and the rest flows.
    Permanent,
    /// Every record would fail until someone mends it: pause, say so, keep everything (promise P7).
    Systemic,
}
