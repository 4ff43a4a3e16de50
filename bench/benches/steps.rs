//! What each step of a record costs, without servers: `cargo bench -p bench`. Every figure is of one batch of 250 incidents
//! of 27 columns, about 1 KB each, as large as batches become by themselves. `cargo bench -p bench -- seal` takes some of
//! them.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a micro-benchmark ends at the first thing that is wrong"
)]

use divan::{Bencher, black_box};
use syncline_consumer::target::{Batch, TableMap, fold};
use syncline_producer::share::{Share, ShareConfig};
use syncline_producer::source::Change;
use syncline_shared::envelope::{Envelope, Route};
use syncline_shared::record::{Action, read_lines, write_line};
use syncline_shared::seal::{Cipher, Key, Keyring, OpenLimits, Seal, open, seal};

pub(crate) fn main() {
    let words: Vec<String> = std::env::args().collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "count", step, rounds] => count(step, rounds.parse().unwrap()),
        _ => divan::main(),
    }
}

const RECORDS: u32 = 250;
const CIPHERS: [&str; 4] = ["None", "AES128", "AES256", "TripleDES"];

/// Names of the columns, and the oids of their types.
const COLUMNS: [(&str, u32); 27] = [
    ("number", 25),
    ("short_description", 25),
    ("description", 25),
    ("priority", 23),
    ("impact", 23),
    ("urgency", 23),
    ("state", 23),
    ("active", 16),
    ("reassignment_count", 23),
    ("category", 25),
    ("subcategory", 25),
    ("caller_id", 25),
    ("opened_by", 25),
    ("assigned_to", 25),
    ("assignment_group", 25),
    ("cmdb_ci", 25),
    ("location", 25),
    ("company", 25),
    ("contact_type", 25),
    ("close_code", 25),
    ("close_notes", 25),
    ("comments", 25),
    ("correlation_id", 25),
    ("business_duration", 1700),
    ("opened_at", 1184),
    ("sys_updated_on", 1184),
    ("sys_updated_by", 25),
];

/// The values of record `n`, as PostgreSQL writes them.
fn values(n: u32) -> [String; 27] {
    let phrases = [
        "Cannot log in to the portal since this morning",
        "VPN drops every few minutes when working from home",
        "Printer on the third floor is out of toner again",
        "E-mail to outside addresses is delivered late",
        "Laptop does not wake up after sleep",
        "The link to set a new password has expired",
        "The application shows a blank page after the update",
    ];
    let phrase = |n: u32| phrases[n as usize % phrases.len()];
    // 32 hexadecimal digits of one of so many things.
    let id = |of: u32, seed: u32| {
        format!("{:032x}", u128::from(n % of + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
    };
    let texts = |from: u32, count: u32| (from..from + count).map(phrase).collect::<Vec<_>>().join(". ");
    [
        format!("INC{n:08}"),
        format!("{} {n}", phrase(n)),
        texts(n, 4),
        (1 + n % 5).to_string(),
        (1 + n % 3).to_string(),
        (1 + n % 3).to_string(),
        (1 + n % 7).to_string(),
        "t".to_owned(),
        "3".to_owned(),
        "network".to_owned(),
        format!("sub{}", n % 40),
        id(5000, 1),
        id(300, 2),
        id(300, 3),
        id(60, 4),
        id(20000, 5),
        id(90, 6),
        id(25, 7),
        "self-service".to_owned(),
        "Solved (Permanently)".to_owned(),
        texts(n / 5, 2),
        texts(n / 2, 3),
        id(u32::MAX, 8),
        format!("{n}.25"),
        format!("2026-01-05 08:{:02}:{:02}+00", n / 60 % 60, n % 60),
        format!("2026-01-05 09:{:02}:{:02}+00", n / 60 % 60, n % 60),
        format!("user.{}", n % 300),
    ]
}

/// What `pgoutput` sends for a transaction that updates all records: the relation, then the rows.
fn messages() -> Vec<Vec<u8>> {
    let mut relation = b"R\0\0\0\x07public\0incident\0d\0\x1b".to_vec();
    for (at, (name, oid)) in COLUMNS.into_iter().enumerate() {
        relation.push(u8::from(at == 0));
        relation.extend_from_slice(name.as_bytes());
        relation.push(0);
        relation.extend_from_slice(&oid.to_be_bytes());
        relation.extend_from_slice(&(-1_i32).to_be_bytes());
    }
    let row = |n| {
        let mut row = b"U\0\0\0\x07N\0\x1b".to_vec();
        for value in values(n) {
            row.push(b't');
            row.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
            row.extend_from_slice(value.as_bytes());
        }
        row
    };
    std::iter::once(relation).chain((1..=RECORDS).map(row)).collect()
}

fn changes() -> Vec<Change> {
    let changes = syncline_producer::source::postgres::bench::changes("incident", "number", messages());
    assert_eq!(changes.len(), RECORDS as usize);
    changes
}

fn lines() -> Vec<u8> {
    let mut out = Vec::new();
    for change in changes() {
        write_line(&mut out, &change.key, change.version, change.at, change.after.as_ref(), false);
    }
    out
}

/// From the stream's messages to changes.
#[divan::bench]
fn decode(bencher: Bencher) {
    let messages = messages();
    bencher
        .with_inputs(|| messages.clone())
        .bench_values(|messages| syncline_producer::source::postgres::bench::changes("incident", "number", messages));
}

/// What a share decides: with all columns, with a filter of three terms, with some columns, with a script.
#[divan::bench(args = ["all", "filter", "columns", "script"])]
fn share(bencher: Bencher, rules: &str) {
    let rules = match rules {
        "filter" => serde_json::json!({ "filter": "priority<=4^active=true^ORcategory=hardware" }),
        "columns" => {
            serde_json::json!({ "columns": ["number", "short_description", "priority", "state", "assigned_to"] })
        }
        "script" => serde_json::json!({ "before_share": "if(!current.correlation_id.isNil()) psp_action = 'bulk';" }),
        _ => serde_json::json!({}),
    };
    let mut config = serde_json::json!({
        "source": "desk", "table": "incident", "queue": "crm", "cipher": "None", "interactive_only": false,
    });
    config.as_object_mut().unwrap().extend(rules.as_object().unwrap().clone());
    let share = Share::compile("incidents", &serde_json::from_value::<ShareConfig>(config).unwrap()).unwrap();
    let changes = changes();
    bencher.bench(|| {
        for change in &changes {
            black_box(share.decide(change));
        }
    });
}

/// From changes to the lines of a batch.
#[divan::bench]
fn ndjson(bencher: Bencher) {
    let changes = changes();
    bencher.bench(|| {
        let mut out = Vec::with_capacity(512 * 1024);
        for change in &changes {
            write_line(&mut out, &change.key, change.version, change.at, change.after.as_ref(), false);
        }
        out
    });
}

/// Compression alone: level 1, as sealing does it.
#[divan::bench]
fn zstd_pack(bencher: Bencher) {
    let lines = lines();
    bencher.bench(|| zstd::bulk::compress(&lines, 1));
}

/// Decompression alone.
#[divan::bench]
fn zstd_unpack(bencher: Bencher) {
    let lines = lines();
    let packed = zstd::bulk::compress(&lines, 1).unwrap();
    bencher.bench(|| zstd::decode_all(packed.as_slice()));
}

/// What a batch is sealed with, and what opens it.
fn keys(cipher: &str) -> (Seal, Keyring) {
    let mut keyring = Keyring::default();
    let cipher: Cipher = cipher.parse().unwrap();
    if cipher == Cipher::None {
        return (Seal::Plain, keyring);
    }
    let key = Key::derive("bench", cipher, b"no secret: the key of a benchmark").unwrap();
    keyring.insert(key.clone());
    (Seal::Key(key), keyring)
}

fn sealed(with: &Seal, lines: &[u8]) -> Envelope {
    let route = Route {
        source: "desk".into(),
        share: "incidents".into(),
        table: "incident".into(),
        action: Action::Update,
        partition: 0,
        records: RECORDS,
        origin: Vec::new(),
    };
    seal(with, route, lines).unwrap()
}

/// Compress, encrypt, authenticate.
#[divan::bench(args = CIPHERS)]
fn seal_batch(bencher: Bencher, cipher: &str) {
    let (with, _) = keys(cipher);
    let lines = lines();
    bencher.bench(|| sealed(&with, &lines));
}

/// Verify, decrypt, decompress.
#[divan::bench(args = CIPHERS)]
fn open_batch(bencher: Bencher, cipher: &str) {
    let (with, keyring) = keys(cipher);
    let envelope = sealed(&with, &lines());
    let limits = OpenLimits { plain_bytes_max: 16 * 1024 * 1024, accept_unsealed: true };
    bencher.bench(|| open(&keyring, &envelope, limits).unwrap());
}

/// From lines to records.
#[divan::bench]
fn parse(bencher: Bencher) {
    let lines = lines();
    bencher.bench(|| read_lines(&lines).unwrap());
}

fn table() -> TableMap {
    TableMap { source: "desk".into(), table: "incident".into(), into: "incident".into(), columns: None }
}

/// From records to one operation for each key.
#[divan::bench]
fn fold_repeats(bencher: Bencher) {
    let (records, table) = (read_lines(&lines()).unwrap(), table());
    let batch = [Batch { table: &table, action: Action::Update, records: &records }];
    bencher.bench(|| fold::fold(&fold::items(&batch)));
}

/// From operations to parameters of statements.
#[divan::bench]
fn bind(bencher: Bencher) {
    let (records, table) = (read_lines(&lines()).unwrap(), table());
    let items = fold::items(&[Batch { table: &table, action: Action::Update, records: &records }]);
    let folded = fold::fold(&items);
    let columns = records.first().and_then(|record| record.data.as_ref()).unwrap().columns().len();
    bencher.bench(|| syncline_consumer::target::postgres::bench::bind(&folded, columns));
}

/// Does one of the hottest steps so many times, without a clock: `bench/instructions` counts what that takes.
fn count(step: &str, rounds: u32) {
    let (messages, changes, lines) = (messages(), changes(), lines());
    let (records, table) = (read_lines(&lines).unwrap(), table());
    let items = fold::items(&[Batch { table: &table, action: Action::Update, records: &records }]);
    let folded = fold::fold(&items);
    let columns = records.first().and_then(|record| record.data.as_ref()).unwrap().columns().len();
    for _ in 0..rounds {
        match step {
            "decode" => drop(black_box(syncline_producer::source::postgres::bench::changes(
                "incident",
                "number",
                messages.clone(),
            ))),
            "ndjson" => {
                let mut out = Vec::with_capacity(512 * 1024);
                for change in &changes {
                    write_line(&mut out, &change.key, change.version, change.at, change.after.as_ref(), false);
                }
                drop(black_box(out));
            }
            "parse" => drop(black_box(read_lines(&lines).unwrap())),
            "bind" => drop(black_box(syncline_consumer::target::postgres::bench::bind(&folded, columns))),
            _ => panic!("no step to count is called {step}"),
        }
    }
}
