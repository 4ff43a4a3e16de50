//! `syncline share`: what the shares are, and what they would do.

mod list;
mod report;
mod running;
mod trial;

pub(crate) use list::list;
pub(crate) use trial::test;
