-- The tables config/postgres-to-postgres.toml applies to. Syncline adds a column _syncline_version to each and a table
-- _syncline_tombstone beside them.
CREATE TABLE IF NOT EXISTS support_case (
    case_number text PRIMARY KEY,
    subject text NOT NULL,
    priority int,
    status text
);
CREATE TABLE IF NOT EXISTS contact (
    user_name text PRIMARY KEY,
    name text NOT NULL,
    email text,
    active boolean
);
CREATE TABLE IF NOT EXISTS solved_case (
    case_number text PRIMARY KEY,
    subject text,
    status text
);
