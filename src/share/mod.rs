//! `syncline share`: what the shares are, and what they would do.

mod list;
mod report;
mod running;
mod trial;

pub(crate) use list::list;
pub(crate) use report::{Verdict, because, explained};
pub(crate) use trial::{Tried, find, session, test, tried};
