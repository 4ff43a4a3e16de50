//! Who may read a file, and what is refused.

use super::*;

#[tokio::test]
async fn only_one_producer_reads_a_file() {
    let desk = Desk::incidents();
    let (mut one, mut two) = (desk.source(&[("incident", &[])]), desk.source(&[("incident", &[])]));
    quiet(&mut one).await;
    assert!(matches!(fails(&mut two).await, SourceError::Taken { .. }));
    one.close().await;
    quiet(&mut two).await;
}

#[tokio::test]
async fn a_table_without_a_key_is_refused_by_name() {
    let desk = Desk::new("CREATE TABLE note (text TEXT); CREATE TABLE incident (number TEXT PRIMARY KEY)");
    let mut source = desk.source(&[("note", &[]), ("incident", &[])]);
    let error = fails(&mut source).await;
    assert_eq!(error.class(), Class::Systemic);
    assert!(error.to_string().contains("\"note\" has no primary key"), "{error}");
    assert!(error.to_string().contains("CREATE TABLE \"note_new\""), "{error}");
    assert_eq!(source.check().await.problems.len(), 1);
    // Mended while the producer runs.
    desk.run("CREATE TABLE note_new (text TEXT PRIMARY KEY); DROP TABLE note; ALTER TABLE note_new RENAME TO note");
    quiet(&mut source).await;
    desk.run("INSERT INTO note VALUES ('a')");
    assert_eq!(lines(&next(&mut source).await), ["insert a: a"]);
}

#[tokio::test]
async fn every_problem_is_found_by_a_check_that_changes_nothing() {
    let desk = Desk::new("CREATE TABLE note (text TEXT); CREATE TABLE incident (number TEXT PRIMARY KEY)");
    let source = desk.source(&[("note", &[]), ("incident", &[]), ("typo", &[])]);
    let checked = source.check().await;
    assert!(matches!(checked.problems.as_slice(), [SourceError::Unfit { .. }]), "{checked:?}");
    assert_eq!(checked.missing, ["typo".into()]);
    assert_eq!(checked.columns, [("incident".into(), vec!["number".to_owned()])].into());
    let tables: i64 = desk
        .app
        .query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table'", [], |row| row.get(0))
        .expect("a count");
    assert_eq!(tables, 2);

    let config = SqliteSourceConfig { path: desk.folder.path().join("no/such.db"), ..desk.config() };
    let mut missing = SqliteSource::new("desk", config, Vec::new());
    assert_eq!(fails(&mut missing).await.class(), Class::Transient);
    assert!(matches!(missing.check().await.problems.as_slice(), [SourceError::Unreachable { .. }]));
    let text = desk.folder.path().join("text");
    std::fs::write(&text, "no database, but long enough to be taken for one ".repeat(100)).expect("a file");
    let mut text = SqliteSource::new("desk", SqliteSourceConfig { path: text, ..desk.config() }, watch(&[("a", &[])]));
    assert!(matches!(fails(&mut text).await, SourceError::Unfit { .. }));
}
