//! The two tables, their rows, and the statements of every load. A row is a function of its number and of how often it
//! was changed, so every run of the benchmark writes the same.

/// A table of the benchmark.
pub(crate) struct Table {
    /// Its name.
    pub name: &'static str,
    columns: &'static str,
    /// Key column, and its value in row `g`.
    key: [&'static str; 2],
    /// The select list of row `g` as it is written first.
    row: &'static str,
    /// What an update sets in row `g` when it is changed for the `r`th time: one value in place of another.
    set: &'static str,
    /// The column that counts how often a row was changed.
    count: &'static str,
}

/// An incident as service desks have it: 27 columns, about 1 KB.
pub(crate) const INCIDENT: Table = Table {
    name: "incident",
    columns: "number text PRIMARY KEY, short_description text, description text, priority int, impact int, urgency int,
        state int, active boolean, reassignment_count int, category text, subcategory text, caller_id text,
        opened_by text, assigned_to text, assignment_group text, cmdb_ci text, location text, company text,
        contact_type text, close_code text, close_notes text, comments text, correlation_id text,
        business_duration numeric(12, 2), opened_at timestamptz, sys_updated_on timestamptz, sys_updated_by text",
    key: ["number", "'INC' || lpad((g)::text, 8, '0')"],
    row: "'INC' || lpad(g::text, 8, '0'), phrase(g) || ' ' || g,
        phrase(g + 3) || '. ' || phrase(g / 7) || '. ' || phrase(g / 11 + 5) || '. ' || phrase(g / 17) || '.',
        1 + g % 5, 1 + g % 3, 1 + g / 3 % 3, 1 + g % 7, g % 7 < 5, 0, (ARRAY['network', 'software', 'hardware', 'inquiry'])[1 + g % 4],
        'sub' || g % 40, md5('user' || g * 199 % 5000), md5('user' || g * 101 % 300), md5('user' || g * 31 % 300),
        md5('group' || g % 60), md5('item' || g * 13 % 20000), md5('place' || g % 90), md5('company' || g % 25),
        (ARRAY['phone', 'email', 'self-service'])[1 + g % 3], 'Solved (Permanently)', phrase(g / 5 + 1) || '. ' || phrase(g / 9),
        phrase(g / 2) || '. ' || phrase(g / 19 + 2) || '.', md5('outside' || g), g * 1.25,
        timestamptz '2026-01-05 08:00+00' + g * interval '1 second', timestamptz '2026-01-05 08:00+00' + g * interval '1 second',
        'user.' || g % 300",
    set: "short_description = phrase(g + r) || ' ' || g, state = 1 + (g + r) % 7, assigned_to = md5('user' || (g + r) * 31 % 300),
        comments = phrase(g / 2 + r) || '. ' || phrase(g / 19 + r) || '.', business_duration = g * 1.25 + r,
        sys_updated_on = opened_at + r * interval '1 hour', sys_updated_by = 'user.' || (g + r) % 300, reassignment_count = r",
    count: "reassignment_count",
};

/// A contact: 8 columns, about 200 bytes.
pub(crate) const CONTACT: Table = Table {
    name: "contact",
    columns: "id bigint PRIMARY KEY, name text, email text, phone text, account_id text, city text, changes int,
        updated_at timestamptz",
    key: ["id", "(g)::bigint"],
    row: "g, 'Contact number ' || g, 'contact.' || g || '@customer-' || g % 400 || '.example', '+49 30 ' || 1000000 + g,
        md5('account' || g % 400), (ARRAY['Berlin', 'Leipzig', 'Hamburg', 'Frankfurt am Main'])[1 + g % 4], 0,
        timestamptz '2026-01-05 08:00+00' + g * interval '1 second'",
    set: "phone = '+49 40 ' || 1000000 + g + r, city = (ARRAY['Berlin', 'Leipzig', 'Hamburg', 'Frankfurt am Main'])[1 + (g + r) % 4],
        changes = r, updated_at = updated_at + interval '1 hour'",
    count: "changes",
};

/// Words for texts, so that they compress like texts.
const PHRASE: &str = "CREATE FUNCTION phrase(n int) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT (ARRAY[
    'Cannot log in to the portal since this morning', 'VPN drops every few minutes when working from home',
    'Printer on the third floor is out of toner again', 'E-mail to outside addresses is delivered late',
    'Laptop does not wake up after sleep', 'The link to set a new password has expired',
    'The application shows a blank page after the update', 'Display in the meeting room has no signal',
    'The network share is read only for the whole team', 'Access to the finance report is missing',
    'Backup of the file server ended with warnings', 'New colleague needs an account and a phone by Monday',
    'The ticket queue is slow between nine and ten', 'Certificate of the web shop runs out next week'])[1 + n % 14] $$";

/// What a load does to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// New rows.
    Insert,
    /// Other values in rows that are there.
    Update,
    /// Of ten: five updates, three inserts, two deletes.
    Mix,
}

impl Table {
    /// Creates the table; rows are read and written by Syncline and by the server itself alike, so vacuum is left to us.
    pub(crate) fn create(&self) -> String {
        let Self { name, columns, .. } = self;
        format!("{PHRASE}; CREATE TABLE {name} ({columns}) WITH (autovacuum_enabled = off)")
    }

    /// Inserts the rows from one number to another.
    pub(crate) fn insert(&self, from: &str, to: &str) -> String {
        format!("INSERT INTO {} SELECT {} FROM generate_series({from}, {to}) g", self.name, self.row)
    }

    fn update(&self, from: &str, to: &str) -> String {
        let Self { name, key: [key, value], set, .. } = self;
        format!("UPDATE {name} SET {set} FROM generate_series({from}, {to}) g WHERE {key} = {value}")
    }

    fn delete(&self, from: &str, to: &str) -> String {
        let Self { name, key: [key, value], .. } = self;
        format!("DELETE FROM {name} USING generate_series({from}, {to}) g WHERE {key} = {value}")
    }

    /// The block that makes `rows` changes in transactions of `per_transaction`, the `load`th time (from 1) on a table that
    /// had rows 1 to `rows` at first.
    pub(crate) fn load(&self, change: Change, rows: u32, per_transaction: u32, load: u32) -> String {
        // The rows `begin`.. are taken `count` at a time.
        let range = |begin: u32, count: u32| {
            let from = format!("{begin} + i * {count}");
            (from.clone(), format!("{from} + {}", count - 1))
        };
        let new = rows * load + 1;
        let (per, transactions) = (per_transaction, rows / per_transaction);
        let statements = match change {
            Change::Insert => self.insert(&range(new, per).0, &range(new, per).1),
            Change::Update => self.update(&range(1, per).0, &range(1, per).1),
            Change::Mix => {
                let (updated, inserted, deleted) =
                    (range(1, per / 2), range(new, per * 3 / 10), range(rows / 2 + 1 + (load - 1) * rows / 5, per / 5));
                [
                    self.update(&updated.0, &updated.1),
                    self.insert(&inserted.0, &inserted.1),
                    self.delete(&deleted.0, &deleted.1),
                ]
                .join("; ")
            }
        };
        let last = transactions.saturating_sub(1);
        format!("DO $$ DECLARE r int := {load}; BEGIN FOR i IN 0..{last} LOOP {statements}; COMMIT; END LOOP; END $$")
    }

    /// Writes the rows of a staged copy, which has a version, over what is older.
    pub(crate) fn upsert(&self, staged: &str) -> String {
        let Self { name, key: [key, _], .. } = self;
        let names = self.names().into_iter().filter(|name| name != key).chain(["_syncline_version"]);
        let set: Vec<String> = names.map(|name| format!("{name} = excluded.{name}")).collect();
        format!(
            "INSERT INTO {name} AS t SELECT * FROM {staged} ON CONFLICT ({key}) DO UPDATE SET {} \
             WHERE t._syncline_version IS NULL OR t._syncline_version < excluded._syncline_version",
            set.join(", ")
        )
    }

    fn names(&self) -> Vec<&str> {
        self.columns.split(',').filter_map(column_name).collect()
    }

    /// Counts rows and changes: cheap enough to ask while the clock runs.
    pub(crate) fn tally(&self) -> String {
        format!("SELECT count(*), coalesce(sum({}), 0) FROM {}", self.count, self.name)
    }

    /// A number that differs when any value of any row differs.
    pub(crate) fn digest(&self) -> String {
        let Self { name, .. } = self;
        format!(
            "SELECT coalesce(sum(hashtextextended(ROW({})::text, 0)), 0)::text FROM {name}",
            self.names().join(", ")
        )
    }
}

/// The name in a piece of the column list, unless it is the rest of `numeric(12, 2)`.
fn column_name(piece: &str) -> Option<&str> {
    piece.split_whitespace().next().filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wide_table_has_27_columns_and_the_narrow_one_8() {
        assert_eq!((INCIDENT.names().len(), CONTACT.names().len()), (27, 8));
    }

    #[test]
    fn a_load_makes_as_many_changes_as_it_says() {
        let mix = CONTACT.load(Change::Mix, 1000, 100, 2);
        assert!(mix.contains("FOR i IN 0..9 LOOP"));
        assert!(mix.contains("generate_series(1 + i * 50, 1 + i * 50 + 49)"), "{mix}");
        assert!(mix.contains("generate_series(2001 + i * 30, 2001 + i * 30 + 29)"), "{mix}");
        assert!(mix.contains("generate_series(701 + i * 20, 701 + i * 20 + 19)"), "{mix}");
    }

    #[test]
    fn an_update_writes_other_values_each_time() {
        for table in [INCIDENT, CONTACT] {
            let [first, second] = [1, 2].map(|load| table.load(Change::Update, 100, 1, load));
            assert_ne!(first, second);
        }
    }
}
