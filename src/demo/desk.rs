//! The demo's service desk: sample records, and the people and jobs that change them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

/// Incidents at the start.
pub(super) const INCIDENTS: u32 = 3000;
/// Users at the start.
pub(super) const USERS: u32 = 400;
/// Change requests at the start.
pub(super) const CHANGES: u32 = 300;
/// Transactions per second, about.
const PACE: Duration = Duration::from_millis(5);

const DESK: &str = "
    PRAGMA journal_mode = WAL;
    CREATE TABLE incident (
        number TEXT PRIMARY KEY, short_description TEXT NOT NULL, description TEXT, priority INTEGER NOT NULL,
        state TEXT NOT NULL, category TEXT NOT NULL, caller TEXT, assigned_to TEXT, correlation_id TEXT,
        cost NUMERIC, opened_at TEXT NOT NULL, sys_updated_on TEXT NOT NULL, sys_updated_by TEXT NOT NULL);
    CREATE TABLE sys_user (
        user_name TEXT PRIMARY KEY, name TEXT NOT NULL, email TEXT, department TEXT, active INTEGER NOT NULL,
        password_hash TEXT NOT NULL, sys_updated_by TEXT NOT NULL);
    CREATE TABLE change_request (
        number TEXT PRIMARY KEY, short_description TEXT NOT NULL, risk INTEGER NOT NULL, state TEXT NOT NULL,
        planned_start TEXT, sys_updated_by TEXT NOT NULL);";
const CRM: &str = "
    PRAGMA journal_mode = WAL;
    CREATE TABLE support_case (
        case_number TEXT PRIMARY KEY, subject TEXT NOT NULL, description TEXT, priority INTEGER, status TEXT, contact TEXT, cost NUMERIC);
    CREATE TABLE contact (user_name TEXT PRIMARY KEY, name TEXT NOT NULL, email TEXT, active INTEGER);
    CREATE TABLE change_request (
        number TEXT PRIMARY KEY, short_description TEXT NOT NULL, risk INTEGER, state TEXT, planned_start TEXT, sys_updated_by TEXT);";

/// Columns of an incident the CRM gets, in the order of [`super::compare`].
pub(super) const INCIDENT_COLUMNS: &str = "number, short_description, description, priority, state, caller, cost";

const SUBJECTS: [&str; 6] =
    ["Cannot log in", "E-mail is slow", "Printer on fire", "VPN drops", "Löschen geht nicht", "画面が真っ白"];
const STATES: [&str; 4] = ["new", "in progress", "on hold", "resolved"];
const CATEGORIES: [&str; 5] = ["network", "software", "hardware", "inquiry", "internal"];
const AGENTS: [&str; 4] = ["abel.tuter", "beth.anglin", "fred.luddy", "don.goodliffe"];

/// What the CRM must show of an incident a job changed last: what it was before the job, or nothing.
pub(super) type Held = BTreeMap<String, Option<Vec<Option<String>>>>;

/// The service desk and what has to come of its changes.
pub(super) struct Desk {
    /// The demo's folder.
    pub folder: PathBuf,
    /// Incidents whose last changes were made by jobs, which the share withholds.
    pub held: Held,
    random: u64,
    next_incident: u32,
}

impl Desk {
    /// Makes both databases and fills the service desk.
    pub(super) fn create(folder: &Path) -> rusqlite::Result<Self> {
        Connection::open(folder.join("crm.db"))?.execute_batch(CRM)?;
        let mut desk = Connection::open(folder.join("servicedesk.db"))?;
        desk.execute_batch(DESK)?;
        let mut this =
            Self { folder: folder.to_owned(), held: Held::new(), random: 0x5359_4e43, next_incident: INCIDENTS + 1 };
        let transaction = desk.transaction()?;
        for number in 1..=INCIDENTS {
            this.insert_incident(&transaction, number, "admin")?;
        }
        for number in 1..=USERS {
            transaction.execute(
                "INSERT INTO sys_user VALUES (?, ?, ?, ?, ?, ?, 'admin')",
                params![
                    format!("user.{number}"),
                    format!("User {number}"),
                    format!("user.{number}@example.com"),
                    this.pick(&["Sales", "IT", "Finance"]),
                    number % 10 != 0,
                    format!("{:016x}", this.next())
                ],
            )?;
        }
        for number in 1..=CHANGES {
            transaction.execute(
                "INSERT INTO change_request VALUES (?, ?, ?, 'new', ?, 'admin')",
                params![
                    format!("CHG{number:07}"),
                    this.pick(&SUBJECTS),
                    this.below(5) + 1,
                    (number % 3 == 0).then_some("2026-12-01T08:00:00Z")
                ],
            )?;
        }
        transaction.commit()?;
        Ok(this)
    }

    /// Changes records until it is time, one small transaction after the other.
    pub(super) fn work(mut self, until: Instant, stop: &AtomicBool) -> rusqlite::Result<Self> {
        let mut desk = Connection::open(self.folder.join("servicedesk.db"))?;
        desk.busy_timeout(Duration::from_secs(10))?;
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            let transaction = desk.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for _ in 0..=self.below(3) {
                self.change(&transaction)?;
            }
            transaction.commit()?;
            std::thread::sleep(PACE);
        }
        Ok(self)
    }

    fn change(&mut self, desk: &Transaction<'_>) -> rusqlite::Result<()> {
        let job = self.below(4) == 0;
        let user = if job { "sla.job" } else { self.pick(&AGENTS) };
        match self.below(100) {
            0..=9 => {
                let number = self.next_incident;
                self.next_incident += 1;
                self.hold(desk, &format!("INC{number:07}"), job)?;
                self.insert_incident(desk, number, user)
            }
            10..=14 => {
                let number = self.an_incident();
                self.hold(desk, &number, job)?;
                // A delete has no user of its own, so whoever deletes signs the record first.
                desk.execute("UPDATE incident SET sys_updated_by = ? WHERE number = ?", params![user, number])?;
                desk.execute("DELETE FROM incident WHERE number = ?", [number]).map(drop)
            }
            15..=74 => {
                let number = self.an_incident();
                self.hold(desk, &number, job)?;
                desk.execute(
                    "UPDATE incident SET state = ?, priority = ?, assigned_to = ?, cost = ?, sys_updated_by = ?, \
                     sys_updated_on = strftime('%Y-%m-%dT%H:%M:%fZ') WHERE number = ?",
                    params![self.pick(&STATES), self.below(5) + 1, user, self.cost(), user, number],
                )
                .map(drop)
            }
            75..=84 => desk
                .execute(
                    "UPDATE sys_user SET department = ?, active = ?, sys_updated_by = ? WHERE user_name = ?",
                    params![
                        self.pick(&["Sales", "IT", "Finance"]),
                        self.below(2),
                        user,
                        format!("user.{}", self.below(USERS) + 1)
                    ],
                )
                .map(drop),
            _ => desk
                .execute(
                    "UPDATE change_request SET state = ?, sys_updated_by = ? WHERE number = ?",
                    params![self.pick(&STATES), user, format!("CHG{:07}", self.below(CHANGES) + 1)],
                )
                .map(drop),
        }
    }

    /// Remembers what the CRM has to show while jobs change an incident, and forgets it when a person does.
    fn hold(&mut self, desk: &Transaction<'_>, number: &str, job: bool) -> rusqlite::Result<()> {
        if job && !self.held.contains_key(number) {
            let sql = format!("SELECT {INCIDENT_COLUMNS} FROM incident WHERE number = ? AND category <> 'internal'");
            let before = desk.query_row(&sql, [number], super::compare::texts).optional()?;
            self.held.insert(number.to_owned(), before);
        } else if !job && desk.prepare_cached("SELECT 1 FROM incident WHERE number = ?")?.exists([number])? {
            self.held.remove(number);
        }
        Ok(())
    }

    fn insert_incident(&mut self, desk: &Transaction<'_>, number: u32, user: &str) -> rusqlite::Result<()> {
        desk.execute(
            "INSERT INTO incident VALUES (?, ?, ?, ?, 'new', ?, ?, NULL, NULL, ?, '2026-11-21T08:00:00Z', '2026-11-21T08:00:00Z', ?)",
            params![
                format!("INC{number:07}"),
                self.pick(&SUBJECTS),
                format!("Reported by phone.\nSteps: \"{}\" → error 0x{:08x}", self.pick(&SUBJECTS), self.below(u32::MAX)),
                self.below(5) + 1,
                self.pick(&CATEGORIES),
                format!("user.{}", self.below(USERS) + 1),
                self.cost(),
                user
            ],
        )
        .map(drop)
    }

    fn an_incident(&mut self) -> String {
        format!("INC{:07}", self.below(self.next_incident - 1) + 1)
    }

    /// A cost with two decimals, or none.
    fn cost(&mut self) -> Option<f64> {
        (self.below(3) > 0).then(|| f64::from(self.below(100_000)) / 100.0)
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        let place = self.below(u32::try_from(list.len()).unwrap_or(1));
        list.get(place as usize).copied().unwrap_or_default()
    }

    fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.next() % u64::from(bound.max(1))).unwrap_or_default()
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): the same records and changes in every run.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
