-- The tables config/postgres-to-postgres.toml and config/rules.toml apply to. Syncline adds a column _syncline_version to each and a table
-- _syncline_tombstone beside them.
CREATE TABLE IF NOT EXISTS support_case (
    case_number text PRIMARY KEY,
    subject text NOT NULL,
    priority int,
    status text,
    changed_by text
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
CREATE TABLE IF NOT EXISTS urgent_case (
    case_number text PRIMARY KEY,
    subject text NOT NULL
);
CREATE TABLE IF NOT EXISTS server (
    id int PRIMARY KEY,
    name text NOT NULL,
    cores int
);
CREATE TABLE IF NOT EXISTS printer (
    id int PRIMARY KEY,
    name text NOT NULL,
    tray text
);
