//! Selected columns: which part of a row leaves.
//!
//! Names are looked up once per shape of rows, not once per record. Knows rows, not shares.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use syncline_shared::record::{Columns, Row};

use super::display::Displays;

/// Columns a Syncline target keeps in its tables begin so; they say nothing to another system.
const BOOKKEEPING: &str = "_syncline_";

/// The selected columns of rows of one shape.
#[derive(Debug)]
pub(super) struct Projection {
    of: Columns,
    key: Columns,
    selected: Columns,
    places: Vec<usize>,
    /// The first selected column the shape lacks, by its place in the selection.
    missing: Option<usize>,
}

impl Projection {
    /// Looks up a selection in the shape of a row; the key's columns always go along, the order is the row's. Without a
    /// selection all columns leave, but for the bookkeeping of a Syncline target in the same table. Columns that are
    /// `hidden` leave in neither case: the record's class does not have them. Those behind the first `read` were added by a
    /// script, to leave.
    pub(super) fn new(
        selection: Option<&[Box<str>]>,
        hidden: &[Box<str>],
        of: &Columns,
        read: usize,
        key: &Columns,
        displays: &Displays,
    ) -> Self {
        let is_in = |list: &[Box<str>], name: &str| list.iter().any(|column| **column == *name);
        let chosen = |place: usize, name: &str| match selection {
            _ if place >= read || key.position(name).is_some() => true,
            _ if is_in(hidden, name) => false,
            Some(selection) => is_in(selection, name),
            None => !name.starts_with(BOOKKEEPING),
        };
        // A display value goes along with its column.
        let leaves = |(place, name): &(usize, &str)| match displays.shown_by(name) {
            Some(shown) => of.position(shown).is_some_and(|place| chosen(place, shown)),
            None => chosen(*place, name),
        };
        let (places, names): (Vec<_>, Vec<_>) = of.iter().enumerate().filter(leaves).unzip();
        let lacks = |column: &str| of.position(column).is_none() && !is_in(hidden, column);
        let missing = selection.unwrap_or_default().iter().position(|column| lacks(column));
        Self { of: of.clone(), key: key.clone(), selected: Columns::new(names), places, missing }
    }

    /// The columns that leave.
    pub(super) const fn columns(&self) -> &Columns {
        &self.selected
    }

    /// Whether it was made for this shape.
    pub(super) fn is_of(&self, of: &Columns, key: &Columns) -> bool {
        self.of == *of && self.key == *key
    }

    /// The selected part of a row of the shape, as it came when that is all of it, or the place in the selection of a column
    /// the shape lacks.
    pub(super) fn apply<'a>(&self, row: Cow<'a, Row>) -> Result<Cow<'a, Row>, usize> {
        match self.missing {
            Some(place) => Err(place),
            None if self.places.len() == self.of.len() => Ok(row),
            None => Ok(Cow::Owned(row.select(self.selected.clone(), &self.places))),
        }
    }
}

/// What was worked out for the shape of rows seen last. One task decides, so the lock is never waited for.
#[derive(Debug)]
pub(super) struct Last<T>(Mutex<Option<T>>);

impl<T> Default for Last<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Last<T> {
    /// Uses what is there if it fits, else makes it anew.
    pub(super) fn with<R>(
        &self,
        fits: impl FnOnce(&T) -> bool,
        make: impl FnOnce() -> T,
        then: impl FnOnce(&T) -> R,
    ) -> R {
        // What a panic left behind is whole: it is replaced, never changed.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !last.as_ref().is_some_and(fits) {
            *last = None;
        }
        then(last.get_or_insert_with(make))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use syncline_shared::record::Value;

    use super::*;

    #[test]
    fn names_are_looked_up_once_per_shape() {
        let last = Last::default();
        let made = |shape: usize| last.with(|&known| known == shape, || shape, |&known| known);
        assert_eq!((made(1), made(1), made(2)), (1, 1, 2));
        assert_eq!(last.with(|&known: &usize| known == 2, || unreachable!("it fits"), |&known| known), 2);
    }

    #[test]
    fn the_bookkeeping_of_a_target_stays_at_home() {
        let mut row = Row::builder(Columns::new(["id", "_syncline_version", "note"]));
        ["1", "v", "x"].into_iter().for_each(|text| row.push(Value::Text(text)));
        let row = row.finish();
        let part = Projection::new(None, &[], row.columns(), 3, &Columns::new(["id"]), &Displays::default());
        let part = part.apply(Cow::Owned(row)).unwrap().into_owned();
        assert_eq!(part.columns(), &Columns::new(["id", "note"]));
        let all = Projection::new(None, &[], part.columns(), 2, &Columns::new(["id"]), &Displays::default());
        assert!(matches!(all.apply(Cow::Borrowed(&part)), Ok(Cow::Borrowed(_))));
    }

    proptest! {
        #[test]
        fn a_selection_keeps_the_key_the_order_and_nothing_else(
            chosen in prop::collection::vec(any::<bool>(), 8), keys in prop::collection::vec(any::<bool>(), 8),
        ) {
            let names: Vec<_> = (0..8).map(|number| format!("c{number}")).collect();
            let of = |flags: &[bool]| -> Vec<String> {
                names.iter().zip(flags).filter(|(_, flag)| **flag).map(|(name, _)| name.clone()).collect()
            };
            let mut row = Row::builder(Columns::new(names.clone()));
            names.iter().for_each(|name| row.push(Value::Text(name)));
            let row = row.finish();
            let selection: Vec<Box<str>> = of(&chosen).into_iter().map(Into::into).collect();
            let part = Projection::new(Some(&selection), &[], row.columns(), 8, &Columns::new(of(&keys)), &Displays::default());
            let part = part.apply(Cow::Borrowed(&row)).unwrap();
            let expected: Vec<_> = chosen.iter().zip(&keys).map(|(one, two)| *one || *two).collect();
            prop_assert!(part.columns().iter().eq(of(&expected).iter()));
            prop_assert!(part.iter().all(|(name, value)| value == Value::Text(name)));
        }
    }
}
