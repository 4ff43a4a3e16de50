//! What a share's configuration says of columns.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Serialize};
use syncline_shared::config::{FieldProblem, Secret};
use syncline_shared::seal::{PSEUDONYM_SECRET_BYTES_MIN, Pseudonyms};

use super::ShareConfig;
use crate::share::changed::Minded;
use crate::share::display::display_name;
use crate::share::form::{Form, Mask};

/// Which columns leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Leaving {
    /// These.
    Listed(Vec<String>),
    /// Of an update those it changed.
    #[serde(serialize_with = "updated")]
    Updated,
}

const UPDATED: &str = "updated";

/// What stands instead of an empty selection.
pub(in crate::share) const SEND_ALL: &str = "leave it out to send all";

fn updated<S: serde::Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(UPDATED)
}

impl<'de> Deserialize<'de> for Leaving {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Leaving;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of columns, or \"updated\"")
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Leaving, E> {
                if word == UPDATED {
                    Ok(Leaving::Updated)
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Str(word), &self))
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Leaving, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(Leaving::Listed)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Leaving {
    fn schema_name() -> Cow<'static, str> {
        "Leaving".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [generator.subschema_for::<Vec<String>>(), { "const": UPDATED }] })
    }
}

impl ShareConfig {
    /// The columns that are listed; `None` when all leave, or all that are updated.
    pub(in crate::share) fn listed_columns(&self) -> Option<&[String]> {
        match &self.columns {
            Some(Leaving::Listed(columns)) => Some(columns),
            Some(Leaving::Updated) | None => None,
        }
    }

    /// Whether of an update only those columns leave that it changed.
    pub(in crate::share) fn only_updated(&self) -> bool {
        self.columns == Some(Leaving::Updated)
    }

    /// Which columns an update must change for the share to take it; `None` for any.
    pub(in crate::share) fn minded(&self) -> Option<Minded> {
        let share_on = self.share_on.clone().map(Minded::ShareOn);
        share_on.or_else(|| self.ignore.clone().map(Minded::Ignore))
    }

    /// What becomes of columns that leave.
    ///
    /// # Errors
    /// The secret of the masks cannot be had.
    pub(in crate::share) fn form(&self) -> Result<Form, FieldProblem> {
        let pseudonyms = self.pseudonyms()?;
        Ok(Form::new(self.mask.clone(), pseudonyms, self.rename.clone(), self.constants.clone()))
    }

    fn pseudonyms(&self) -> Result<Option<Pseudonyms>, FieldProblem> {
        let hashes = self.mask.values().any(|mask| *mask == Mask::Hash);
        let (inline, file) = (self.mask_secret.as_ref(), self.mask_secret_file.as_deref());
        if inline.is_some() && file.is_some() {
            return Err(("mask_secret_file", "stands beside mask_secret; keep one of the two".to_owned()));
        }
        let secret =
            Secret::resolve(inline, file).map_err(|error| ("mask_secret_file", format!("cannot be read: {error}")))?;
        match (hashes, secret) {
            (true, None) => Err(("mask", "hash needs a secret; set mask_secret_file or mask_secret".to_owned())),
            (_, None) => Ok(None),
            (_, Some(secret)) => Pseudonyms::new(secret.expose().as_bytes()).map(Some).ok_or_else(|| {
                let field = if file.is_some() { "mask_secret_file" } else { "mask_secret" };
                (field, format!("is too short; {PSEUDONYM_SECRET_BYTES_MIN} bytes or more"))
            }),
        }
    }

    /// What is wrong with what it says of columns.
    pub(super) fn validate_columns(&self) -> Vec<FieldProblem> {
        let lists = [
            ("columns", self.listed_columns(), SEND_ALL),
            ("share_on", self.share_on.as_deref(), "leave it out to share every update"),
            ("ignore", self.ignore.as_deref(), "leave it out to share every update"),
        ];
        let mut problems: Vec<FieldProblem> = lists
            .into_iter()
            .filter_map(|(field, list, instead)| Some((field, list?, instead)))
            .flat_map(|(field, list, instead)| validate_list(list, instead).into_iter().map(move |text| (field, text)))
            .collect();
        let id = match self.id.as_deref() {
            Some("") => Some("is empty; the name of a column, or leave it out"),
            Some(_) if !self.only_updated() => {
                Some("is about parts of updates, and all columns leave; say columns = \"updated\", or leave it out")
            }
            Some(_) | None => None,
        };
        problems.extend(id.map(|text| ("id", text.to_owned())));
        if self.share_on.is_some() && self.ignore.is_some() {
            problems.push(("ignore", "stands beside share_on; keep one of the two".to_owned()));
        }
        let selections = self.selections();
        let leaves = |column: &str| {
            selections
                .iter()
                .any(|listed| listed.as_ref().is_none_or(|listed| listed.iter().any(|one| **one == *column)))
        };
        let displays: Vec<String> = self.display.keys().map(|column| display_name(column)).collect();
        let listed: BTreeSet<&str> = selections.iter().flatten().flatten().map(AsRef::as_ref).collect();
        let accepted = listed.iter().copied().chain(displays.iter().map(String::as_str)).collect::<Vec<_>>().join(", ");
        let masked = self.mask.keys().map(|column| ("mask", column));
        let renamed = self.rename.keys().map(|column| ("rename", column));
        let displayed = self.display.keys().map(|column| ("display", column));
        for (field, column) in masked.chain(renamed).chain(displayed) {
            if !leaves(column) && !displays.contains(column) {
                let text =
                    format!("names {column}, which columns does not, so it does not leave; accepted: {accepted}");
                problems.push((field, text));
            }
        }
        if self.display.values().any(|one| one.table.is_empty() || one.key.is_empty() || one.value.is_empty()) {
            problems.push(("display", "has an empty name; table, key and value of a lookup table".to_owned()));
        }
        let shown = displays.iter().filter(|name| !self.rename.contains_key(*name));
        let mut names: Vec<&String> = self.rename.values().chain(self.constants.keys()).chain(shown).collect();
        if names.iter().any(|name| name.is_empty()) {
            problems.push(("rename", "gives an empty name; names of columns".to_owned()));
        }
        for (field, name) in (self.rename.values().map(|name| ("rename", name)))
            .chain(self.constants.keys().map(|name| ("constants", name)))
            .filter(|(_, name)| listed.contains(name.as_str()) && !self.rename.contains_key(*name))
        {
            let text = format!("gives the name {name}, which a column has that leaves; any name but {accepted}");
            problems.push((field, text));
        }
        names.sort();
        for pair in names.windows(2) {
            if let [one, other] = pair
                && one == other
            {
                problems.push(("rename", format!("gives the name {one} twice, or a constant has it; each name once")));
            }
        }
        problems.extend(self.pseudonyms().err());
        problems
    }
}

/// Everything wrong with a list of columns; `instead` is what an empty one should be.
pub(in crate::share) fn validate_list(list: &[String], instead: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if list.is_empty() {
        problems.push(format!("is empty; name columns, or {instead}"));
    }
    if list.iter().any(String::is_empty) {
        problems.push("has an empty name; names of columns of the table".to_owned());
    }
    for (place, column) in list.iter().enumerate() {
        if list.iter().take(place).any(|earlier| earlier == column) {
            problems.push(format!("names {column} twice; each column once"));
        }
    }
    problems
}
