//! Opening SQLite files, for every part that keeps something in one.
//!
//! Knows nothing of what is in the file. Calls block: they belong on a thread of their own, never on an I/O thread.

use std::path::Path;
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

/// How often a statement tries to get a lock before it fails with "busy"; with [`BUSY_WAIT`] between the tries this is
/// five seconds, longer than any write of a well-behaved program lasts.
const BUSY_TRIES: i32 = 1_000;
/// Short, so that a lock that is free again is taken at once; SQLite's own handler waits up to 100 ms.
const BUSY_WAIT: Duration = Duration::from_millis(5);

/// Opens a file for reading and writing; with `create`, a missing file and its folders are made.
///
/// Locks of other connections are waited for up to five seconds.
///
/// # Errors
/// The cause as SQLite reports it; a folder that cannot be made shows as a file that cannot be opened.
pub fn open(path: &Path, create: bool) -> rusqlite::Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            // A failure shows at once, with its reason, when the file is opened.
            let _ = std::fs::create_dir_all(folder);
        }
    }
    let mut connection = Connection::open_with_flags(path, flags)?;
    wait_for_locks(&mut connection)?;
    Ok(connection)
}

/// Waits up to five seconds for locks of other connections, as [`open`] does.
///
/// # Errors
/// The cause as SQLite reports it.
pub fn wait_for_locks(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.busy_handler(Some(wait_for_lock))
}

/// Puts the file in WAL mode, where readers and the writer do not wait for each other. The file remembers it.
///
/// # Errors
/// The cause as SQLite reports it.
pub fn use_wal(connection: &Connection) -> rusqlite::Result<()> {
    let mut tries = 0;
    // Changing the journal mode does not call the busy handler, and two processes may open a new file at once.
    while let Err(error) = connection.pragma_update(None, "journal_mode", "WAL") {
        if !is_busy(&error) || !wait_for_lock(tries) {
            return Err(error);
        }
        tries += 1;
    }
    Ok(())
}

fn wait_for_lock(tries: i32) -> bool {
    thread::sleep(BUSY_WAIT);
    tries < BUSY_TRIES
}

/// Whether another connection held a lock for too long: the same again may work.
#[must_use]
pub fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Device and number of a file.
pub type FileId = (u64, u64);

/// Which file a path names now: an open connection stays with the one it has opened, also when that is removed or replaced.
#[cfg(unix)]
#[must_use]
pub fn file_id(path: &Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Elsewhere an open file cannot be replaced.
#[cfg(not(unix))]
#[must_use]
pub fn file_id(path: &Path) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|_| (0, 0))
}

/// A number that changes whenever another connection has written to the file; costs microseconds.
///
/// # Errors
/// The cause as SQLite reports it.
pub fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}

/// A name of a table or column as SQL, whatever characters it has.
#[must_use]
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
