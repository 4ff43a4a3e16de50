//! Who made a change, read from one of the record's own columns.
//!
//! Knows nothing of any particular source. Cannot fail: where the column was not sent, nobody can tell.

use schemars::JsonSchema;
use serde::Deserialize;
use syncline_shared::config::FieldProblem;
use syncline_shared::record::{Row, Value};

use super::Session;

/// Tells persons from jobs by a column that names the user, such as `sys_updated_by`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionRule {
    /// The column that names who changed the record last.
    pub user_column: String,
    /// Users that are jobs, not persons; `*` stands for any characters, case matters. Default: none.
    #[serde(default)]
    pub background: Vec<String>,
}

impl SessionRule {
    /// What is wrong with the rule, as a field of its source.
    #[must_use]
    pub fn validate(&self) -> Option<FieldProblem> {
        let empty = || ("session.user_column", "is empty; the column that names who changed a record".to_owned());
        self.user_column.is_empty().then(empty)
    }

    /// The session of a change that left this row (for a delete: that removed it).
    ///
    /// Interactive when the column names a user that no background pattern matches; a column that names nobody is a
    /// job's. Not known when the row lacks the column, as that of a delete does which is known by its key alone.
    #[must_use]
    pub fn session(&self, row: &Row) -> Session {
        let value = match row.get(&self.user_column) {
            None | Some(Value::Unchanged) => return Session::default(),
            Some(value) => value,
        };
        let user = value.as_text().filter(|user| !user.is_empty());
        let person = user.is_some_and(|user| !self.background.iter().any(|pattern| matches(pattern, user)));
        Session { interactive: Some(person), user: user.map(Into::into) }
    }
}

/// Whether a pattern covers the whole text; `*` stands for any characters, none included.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
    // The first place of each part leaves the most for the parts after it.
    for part in middle.split('*') {
        let Some((_, after)) = text.split_once(part) else { return false };
        text = after;
    }
    text.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use syncline_shared::record::Columns;

    use super::*;

    fn updated_by(user: Value<'_>) -> Row {
        let mut row = Row::builder(Columns::new(["number", "sys_updated_by"]));
        row.push(Value::Text("INC1"));
        row.push(user);
        row.finish()
    }

    fn rule() -> SessionRule {
        let background = ["system", "guest", "*.integration"].map(str::to_owned).to_vec();
        SessionRule { user_column: "sys_updated_by".to_owned(), background }
    }

    #[test]
    fn a_user_no_pattern_matches_is_a_person() {
        let session = rule().session(&updated_by(Value::Text("abel.tuter")));
        assert_eq!(session, Session { interactive: Some(true), user: Some("abel.tuter".into()) });
    }

    #[test]
    fn a_user_of_the_background_is_a_job() {
        for job in ["system", "guest", "crm.integration", ".integration"] {
            let session = rule().session(&updated_by(Value::Text(job)));
            assert_eq!(session, Session { interactive: Some(false), user: Some(job.into()) });
        }
    }

    #[test]
    fn a_record_that_names_nobody_was_changed_by_a_job() {
        let nobody = Session { interactive: Some(false), user: None };
        for row in [updated_by(Value::Null), updated_by(Value::Text(""))] {
            assert_eq!(rule().session(&row), nobody);
        }
    }

    #[test]
    fn who_changed_a_record_whose_column_was_not_sent_is_not_known() {
        for row in [updated_by(Value::Unchanged), Row::default()] {
            assert_eq!(rule().session(&row), Session { interactive: None, user: None });
        }
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text) in
            [("*", ""), ("*", "x"), ("a*", "a"), ("a*b*c", "a-b-b-c"), ("*a*", "bab"), ("a*a", "aa"), ("**", "x")]
        {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "x"), ("a", "A"), ("a*a", "a"), ("a*b*c", "a-c-b"), ("*.x", "x"), ("a*", "ba")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}
