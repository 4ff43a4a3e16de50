-- The tables config/postgres-to-postgres.toml shares, and a few records.
CREATE TABLE incident (
    number text PRIMARY KEY,
    short_description text NOT NULL,
    priority int NOT NULL,
    state text NOT NULL DEFAULT 'new',
    category text NOT NULL DEFAULT 'inquiry',
    sys_updated_by text NOT NULL DEFAULT 'system',
    sys_updated_on timestamptz NOT NULL DEFAULT now()
);
-- Changes carry the values before them, so that a record that leaves a filter is known by what it was.
ALTER TABLE incident REPLICA IDENTITY FULL;
CREATE TABLE sys_user (
    user_name text PRIMARY KEY,
    name text NOT NULL,
    email text,
    active boolean NOT NULL DEFAULT true,
    password_hash text
);
INSERT INTO incident (number, short_description, priority)
    SELECT 'INC' || lpad(n::text, 7, '0'), 'Cannot log in', n % 5 + 1 FROM generate_series(1, 1000) n;
INSERT INTO sys_user (user_name, name, email)
    SELECT 'user.' || n, 'User ' || n, 'user.' || n || '@example.com' FROM generate_series(1, 200) n;
