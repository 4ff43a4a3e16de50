//! Decodes the row messages of PostgreSQL's `pgoutput`, protocol version 1.
//!
//! The format is "Logical Replication Message Formats" of the PostgreSQL manual. Begin, commit and logical messages are
//! decoded by the transport and never come here. Pure: no I/O, no state. Fails with [`Malformed`], never panics.

use thiserror::Error;

/// Bytes that are no message of this protocol. Says where, never what.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a pgoutput message of {length} bytes is malformed at byte {at}")]
pub(super) struct Malformed {
    length: usize,
    at: usize,
}

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// Describes a table; comes before its first change and again after its definition changed.
    Relation(Relation<'a>),
    /// A new row.
    Insert { relation: u32, new: Vec<Cell<'a>> },
    /// A changed row; the old one as far as the replica identity says.
    Update { relation: u32, old: Option<Old<'a>>, new: Vec<Cell<'a>> },
    /// A removed row.
    Delete { relation: u32, old: Old<'a> },
    /// All rows of these tables were removed at once.
    Truncate { relations: Vec<u32> },
    /// Where the transaction was first made; comes right after its begin.
    Origin { name: &'a str },
    /// Names a type; its oid is all this program needs.
    Type,
}

/// A table's definition at the time of the changes that follow.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Relation<'a> {
    /// The table's oid.
    pub(super) oid: u32,
    /// The setting of `REPLICA IDENTITY`.
    pub(super) identity: Identity,
    /// The published columns in order.
    pub(super) columns: Vec<Column<'a>>,
}

/// Which columns of the old row the server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// The primary key.
    Default,
    /// Nothing.
    Nothing,
    /// Every column.
    Full,
    /// The columns of a unique index.
    Index,
}

/// A published column.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Column<'a> {
    /// Whether it belongs to the replica identity.
    pub(super) key: bool,
    /// Its name.
    pub(super) name: &'a str,
    /// The oid of its type.
    pub(super) type_oid: u32,
}

/// The row before an update or delete, with as many cells as the table has columns.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Old<'a> {
    /// The columns of the replica identity; all others are null, whatever they were.
    Key(Vec<Cell<'a>>),
    /// Every column.
    Full(Vec<Cell<'a>>),
}

/// One column of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell<'a> {
    /// SQL null.
    Null,
    /// A stored-apart (TOAST) value the change left alone; the server does not send it.
    Unchanged,
    /// The value in its text form.
    Text(&'a str),
}

/// Decodes one message, which must fill all the bytes.
///
/// # Errors
/// [`Malformed`]: truncated, trailing bytes, an unknown tag, text that is not UTF-8, or values in binary form.
pub(super) fn decode(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut reader = Reader { rest: bytes };
    reader.message().filter(|_| reader.rest.is_empty()).ok_or_else(|| {
        let length = bytes.len();
        Malformed { length, at: length - reader.rest.len() }
    })
}

/// The bytes not read yet; every read checks that there are enough.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn message(&mut self) -> Option<Message<'a>> {
        match self.byte()? {
            b'R' => self.relation().map(Message::Relation),
            b'I' => {
                let relation = self.u32()?;
                let new = self.tagged(b'N')?;
                Some(Message::Insert { relation, new })
            }
            b'U' => {
                let relation = self.u32()?;
                let old = match self.rest.first()? {
                    b'N' => None,
                    _ => Some(self.old()?),
                };
                let new = self.tagged(b'N')?;
                Some(Message::Update { relation, old, new })
            }
            b'D' => {
                let relation = self.u32()?;
                let old = self.old()?;
                Some(Message::Delete { relation, old })
            }
            b'T' => {
                let count = self.u32()?;
                let _options = self.byte()?;
                let relations = (0..count).map(|_| self.u32()).collect::<Option<_>>()?;
                Some(Message::Truncate { relations })
            }
            b'O' => {
                let _commit_lsn = self.take(8)?;
                self.text().map(|name| Message::Origin { name })
            }
            b'Y' => {
                let _oid = self.u32()?;
                let (_schema, _name) = (self.text()?, self.text()?);
                Some(Message::Type)
            }
            _ => None,
        }
    }

    fn relation(&mut self) -> Option<Relation<'a>> {
        let oid = self.u32()?;
        let (_schema, _table) = (self.text()?, self.text()?);
        let identity = match self.byte()? {
            b'd' => Identity::Default,
            b'n' => Identity::Nothing,
            b'f' => Identity::Full,
            b'i' => Identity::Index,
            _ => return None,
        };
        let count = self.u16()?;
        let column = |_| {
            let key = self.byte()? & 1 == 1;
            let name = self.text()?;
            let type_oid = self.u32()?;
            let _modifier = self.u32()?;
            Some(Column { key, name, type_oid })
        };
        let columns = (0..count).map(column).collect::<Option<_>>()?;
        Some(Relation { oid, identity, columns })
    }

    fn old(&mut self) -> Option<Old<'a>> {
        match self.byte()? {
            b'K' => self.cells().map(Old::Key),
            b'O' => self.cells().map(Old::Full),
            _ => None,
        }
    }

    fn tagged(&mut self, tag: u8) -> Option<Vec<Cell<'a>>> {
        if self.byte()? == tag { self.cells() } else { None }
    }

    fn cells(&mut self) -> Option<Vec<Cell<'a>>> {
        let count = self.u16()?;
        // A cell takes at least one byte, so a lying count reserves no more than the message is long.
        let mut cells = Vec::with_capacity(usize::from(count).min(self.rest.len()));
        for _ in 0..count {
            cells.push(match self.byte()? {
                b'n' => Cell::Null,
                b'u' => Cell::Unchanged,
                b't' => {
                    let length = usize::try_from(self.u32()?).ok()?;
                    Cell::Text(str::from_utf8(self.take(length)?).ok()?)
                }
                _ => return None,
            });
        }
        Some(cells)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A text that ends with a zero byte.
    fn text(&mut self) -> Option<&'a str> {
        let length = self.rest.iter().position(|byte| *byte == 0)?;
        let text = str::from_utf8(self.take(length)?).ok()?;
        self.byte()?;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RELATION: &[u8] = b"R\0\0\x40\x01public\0incident\0d\0\x02\x01number\0\0\0\0\x19\xff\xff\xff\xff\0notes\0\0\0\0\x19\xff\xff\xff\xff";
    const UPDATE: &[u8] = b"U\0\0\x40\x01K\0\x02t\0\0\0\x04INC1nN\0\x02t\0\0\0\x04INC2u";

    #[test]
    fn a_relation_names_its_columns_and_key() {
        let Ok(Message::Relation(relation)) = decode(RELATION) else { panic!("a relation") };
        assert_eq!((relation.oid, relation.identity), (0x4001, Identity::Default));
        let columns: Vec<_> =
            relation.columns.iter().map(|column| (column.name, column.key, column.type_oid)).collect();
        assert_eq!(columns, [("number", true, 25), ("notes", false, 25)]);
    }

    #[test]
    fn an_update_keeps_null_unchanged_and_text_apart() {
        let old = Some(Old::Key(vec![Cell::Text("INC1"), Cell::Null]));
        let new = vec![Cell::Text("INC2"), Cell::Unchanged];
        assert_eq!(decode(UPDATE), Ok(Message::Update { relation: 0x4001, old, new }));
    }

    #[test]
    fn every_other_message_decodes() {
        let full = Old::Full(vec![Cell::Text("")]);
        assert_eq!(decode(b"D\0\0\0\x07O\0\x01t\0\0\0\0"), Ok(Message::Delete { relation: 7, old: full }));
        assert_eq!(decode(b"I\0\0\0\x07N\0\0"), Ok(Message::Insert { relation: 7, new: vec![] }));
        assert_eq!(decode(b"T\0\0\0\x01\x02\0\0\0\x07"), Ok(Message::Truncate { relations: vec![7] }));
        assert_eq!(decode(b"O\0\0\0\0\0\0\0\x01syncline_crm\0"), Ok(Message::Origin { name: "syncline_crm" }));
        assert_eq!(decode(b"Y\0\0\0\x07public\0mood\0"), Ok(Message::Type));
    }

    #[test]
    fn truncated_or_padded_messages_are_refused() {
        for message in [RELATION, UPDATE] {
            for end in 0..message.len() {
                assert!(decode(&message[..end]).is_err(), "{end}");
            }
            assert!(decode(&[message, b"x"].concat()).is_err());
        }
        assert_eq!(decode(b"I\0\0\0\x07N\0\x01b\0\0\0\x01x"), Err(Malformed { length: 14, at: 9 }));
        assert!(decode(b"I\0\0\0\x07N\0\x01t\xff\xff\xff\xff").is_err());
        assert!(decode(b"I\0\0\0\x07N\0\x01t\0\0\0\x01\xff").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(tag in prop::sample::select(b"RIUDTOYBCMx".to_vec()), rest in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&[&[tag], rest.as_slice()].concat());
        }

        #[test]
        fn no_flipped_byte_makes_it_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), relation in any::<bool>()) {
            let mut message = if relation { RELATION } else { UPDATE }.to_vec();
            let at = at.index(message.len());
            message[at] = byte;
            let _ = decode(&message);
        }
    }
}
