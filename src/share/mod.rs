//! `syncline share`: what the shares are, and what they would do.

mod list;
mod running;

pub(crate) use list::list;
