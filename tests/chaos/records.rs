//! The tables of the chaos suite, and the names of their records.

use std::fmt;

/// Both tables; `item` has large values stored out of line, `line` a key of two columns.
pub const SOURCE_TABLES: &str = "
    CREATE TABLE item (id int PRIMARY KEY, kind text NOT NULL, n bigint NOT NULL, note text, body text);
    ALTER TABLE item ALTER body SET STORAGE EXTERNAL;
    CREATE TABLE line (item int, no int, n bigint NOT NULL, note text, PRIMARY KEY (item, no));
    ALTER TABLE line REPLICA IDENTITY FULL;
    CREATE TABLE written (transaction bigint PRIMARY KEY);";

/// The same at the target, where a record made bad on purpose is refused.
pub const TARGET_TABLES: &str = "
    CREATE TABLE item (id int PRIMARY KEY, kind text NOT NULL, n bigint NOT NULL, note text, body text);
    CREATE TABLE line (item int, no int, n bigint NOT NULL, note text, PRIMARY KEY (item, no));
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'bad'; END $$;
    CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'full' USING ERRCODE = '53100'; END $$;
    CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON item FOR EACH ROW WHEN (NEW.note = 'bad') EXECUTE FUNCTION refuse();
    CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON line FOR EACH ROW WHEN (NEW.note = 'bad') EXECUTE FUNCTION refuse();";

/// Writes down every applied version; made once the target has its bookkeeping.
pub const AUDIT: &str = r#"
    CREATE TABLE audit (seq bigserial PRIMARY KEY, record text, action text, version uuid, n bigint, at timestamptz);
    CREATE FUNCTION audit_item() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO audit (record, action, version, n, at) VALUES
            (format('item ["%s"]', NEW.id), lower(TG_OP), NEW._syncline_version, NEW.n, clock_timestamp());
        RETURN NULL; END $$;
    CREATE FUNCTION audit_line() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO audit (record, action, version, n, at) VALUES
            (format('line ["%s","%s"]', NEW.item, NEW.no), lower(TG_OP), NEW._syncline_version, NEW.n, clock_timestamp());
        RETURN NULL; END $$;
    CREATE FUNCTION audit_delete() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO audit (record, action, version, at) VALUES
            (NEW.table_name || ' ' || NEW.key, 'delete', NEW.version, clock_timestamp());
        RETURN NULL; END $$;
    CREATE TRIGGER audit AFTER INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION audit_item();
    CREATE TRIGGER audit AFTER INSERT OR UPDATE ON line FOR EACH ROW EXECUTE FUNCTION audit_line();
    CREATE TRIGGER audit AFTER INSERT OR UPDATE ON _syncline_tombstone FOR EACH ROW EXECUTE FUNCTION audit_delete();"#;

/// Everything the shares let out, by record; the same query serves both ends.
pub const CONTENTS: &str = r#"
    SELECT format('item ["%s"]', id), concat_ws(' ', kind, n, coalesce(note, 'null'), coalesce(md5(body), 'null'))
        FROM item WHERE kind = 'shared'
    UNION ALL SELECT format('line ["%s","%s"]', item, no), concat_ws(' ', n, coalesce(note, 'null')) FROM line"#;

/// A record of one of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Item(i32),
    Line(i32, i32),
}

impl Key {
    /// Its table.
    pub const fn table(self) -> &'static str {
        match self {
            Self::Item(_) => "item",
            Self::Line(..) => "line",
        }
    }

    /// A condition that holds for it alone.
    pub fn condition(self) -> String {
        match self {
            Self::Item(id) => format!("id = {id}"),
            Self::Line(item, no) => format!("item = {item} AND no = {no}"),
        }
    }

    /// Gives a record this key.
    pub fn assignment(self) -> String {
        self.condition().replace(" AND ", ", ")
    }
}

impl fmt::Display for Key {
    /// The table, and the key as it is written in tombstones.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Item(id) => write!(f, "item [\"{id}\"]"),
            Self::Line(item, no) => write!(f, "line [\"{item}\",\"{no}\"]"),
        }
    }
}
