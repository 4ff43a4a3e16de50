-- The SQLite table config/rules.toml shares: one table for all classes.
CREATE TABLE cmdb_ci (
    id INTEGER PRIMARY KEY,
    sys_class_name TEXT NOT NULL,
    name TEXT NOT NULL,
    cores INTEGER,
    tray TEXT,
    sys_updated_by TEXT
);
INSERT INTO cmdb_ci VALUES (1, 'server', 'web-1', 8, NULL, 'abel.tuter'), (2, 'printer', 'floor-2', NULL, 'A4', 'abel.tuter');
