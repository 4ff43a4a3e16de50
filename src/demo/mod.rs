//! `syncline demo`: the whole pipeline in one process, on sample data that changes while you watch.
//!
//! Nothing in it is special: it writes an ordinary configuration into its folder and runs the same services as `up`.

mod compare;
mod desk;
mod view;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prometheus::Registry;

use self::compare::Comparison;
use self::desk::Desk;
use self::view::View;
use crate::cli::DemoArgs;
use crate::config::{Config, Role};
use crate::failure::Failure;
use crate::keys;
use crate::services::Service;

/// The demo's configuration; paths are filled in.
const CONFIG: &str = include_str!("syncline.toml");
/// How often the picture is drawn anew.
const FRAME: Duration = Duration::from_millis(150);
/// The target has this long to catch up after the last change.
const SETTLE: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(10);

/// Runs the demo; fails unless source and target agree at the end.
pub(crate) async fn run(args: DemoArgs) -> Result<(), Failure> {
    println!("Syncline demo: a service desk and a CRM, kept in step through sealed shared queues.\n");
    let folder = args.folder.clone();
    let config_path = prepare(&folder)?;
    let config = Config::load(&config_path, &Arc::default(), Role::Both)?;
    let desk = Desk::create(&folder).map_err(|error| Failure::other(&error))?;
    println!(
        "Loaded {} incidents, {} users and {} change requests into {}.\nThe CRM gets them first; then agents and background jobs change them for {} seconds.\n",
        desk::INCIDENTS,
        desk::USERS,
        desk::CHANGES,
        folder.join("servicedesk.db").display(),
        args.seconds
    );
    let mut service = Service::new("up")?;
    service.start(&config, &Config::load_keyring(config_path.clone(), Arc::default()), Role::Both)?;
    let registry = service.registry.clone();
    let mut verdict: Option<Result<(), Failure>> = None;
    let watched = async {
        if let Err(failure) = watch(&args, desk, registry, &mut verdict).await {
            verdict = Some(Err(failure));
        }
    };
    service.tasks.run(watched, GRACE).await.map_err(|error| Failure::other(&error))?;
    let stopped = || Err(Failure::Other("stopped before source and target were compared".to_owned()));
    verdict.unwrap_or_else(stopped)
}

/// Makes the folder with its configuration and keys; the configuration's path.
fn prepare(folder: &Path) -> Result<PathBuf, Failure> {
    let says = |error: std::io::Error| Failure::Other(format!("cannot make the folder {}: {error}", folder.display()));
    let marker = folder.join("syncline.toml");
    if folder.exists() && !marker.exists() && std::fs::read_dir(folder).map_err(says)?.next().is_some() {
        return Err(Failure::Other(format!(
            "{} is not empty and not a demo's; name another folder with --folder",
            folder.display()
        )));
    }
    std::fs::create_dir_all(folder).map_err(says)?;
    for name in ["servicedesk.db", "crm.db", "queue.db"] {
        for suffix in ["", "-wal", "-shm"] {
            match std::fs::remove_file(folder.join(format!("{name}{suffix}"))) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(says(error)),
                Ok(()) | Err(_) => {}
            }
        }
    }
    for key in ["tripledes.key", "aes256.key"] {
        let path = folder.join(key);
        if !path.exists() {
            keys::write_secret(&path)?;
        }
    }
    // A JSON string is a TOML string too, whatever the path holds.
    let quoted = serde_json::Value::String(folder.display().to_string()).to_string();
    let inner = quoted.trim_matches('"');
    std::fs::write(&marker, CONFIG.replace("FOLDER", inner)).map_err(says)?;
    Ok(marker)
}

/// Waits for the rows already there, lets the desk work while the view shows the pipeline, then compares. The verdict
/// stands before the demo goes on for ever, so that ending it then is no failure.
async fn watch(
    args: &DemoArgs,
    desk: Desk,
    registry: Registry,
    verdict: &mut Option<Result<(), Failure>>,
) -> Result<(), Failure> {
    let mut view = View::new(registry, std::io::stdout().is_terminal());
    let (desk, copied) = settle(desk, &mut view).await?;
    if !copied.holds() {
        return Err(Failure::Other(format!("the rows already there did not arrive:\n{copied}")));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let work = tokio::task::spawn_blocking({
        let (stop, until) = (stop.clone(), Instant::now() + Duration::from_secs(args.seconds));
        move || desk.work(until, &stop)
    });
    // Should this future be dropped by a signal, the desk stops at its next change.
    let _stop_desk = SetOnDrop(stop);
    while !work.is_finished() {
        view.draw();
        tokio::time::sleep(FRAME).await;
    }
    let desk = done(work.await)?;
    let (desk, comparison) = settle(desk, &mut view).await?;
    view.finish();
    print!("{comparison}");
    let program = std::env::args().next().unwrap_or_else(|| "syncline".to_owned());
    let incident = comparison.an_incident(&desk).unwrap_or_default();
    println!("{}", next_steps(&program, &args.folder, &incident, args.forever));
    if !comparison.holds() {
        return Err(Failure::Other("source and target differ".to_owned()));
    }
    *verdict = Some(Ok(()));
    if !args.forever {
        return Ok(());
    }
    loop {
        tokio::time::sleep(FRAME).await;
        view.draw();
    }
}

/// Compares until source and target agree, or the time to settle is over.
async fn settle(mut desk: Desk, view: &mut View) -> Result<(Desk, Comparison), Failure> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let compare = tokio::task::spawn_blocking(move || Comparison::make(&desk).map(|comparison| (desk, comparison)));
        let comparison;
        (desk, comparison) = done(compare.await)?;
        view.draw();
        if comparison.holds() || Instant::now() > deadline {
            return Ok((desk, comparison));
        }
        tokio::time::sleep(FRAME).await;
    }
}

/// The result of work on another thread.
fn done<T>(result: Result<rusqlite::Result<T>, tokio::task::JoinError>) -> Result<T, Failure> {
    match result {
        Ok(done) => done.map_err(|error| Failure::other(&error)),
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

/// Where everything lies, and what to try next; `program` is how this one was started.
fn next_steps(program: &str, folder: &Path, incident: &str, forever: bool) -> String {
    let folder = folder.display();
    let mut text = format!("\nSource         {folder}/servicedesk.db\nTarget         {folder}/crm.db\n");
    text.push_str(&format!("Configuration  {folder}/syncline.toml\n\n"));
    if !forever {
        text.push_str(&format!(
            "Next:\n  {program} --config {folder}/syncline.toml share list\n  {program} --config {folder}/syncline.toml queue status\n  \
             {program} demo --forever      keeps running, for changes of your own\n"
        ));
        return text;
    }
    text.push_str(&format!(
        "Still running; Ctrl-C ends it. In another terminal, with any SQLite client:\n  \
         sqlite3 {folder}/servicedesk.db \"UPDATE incident SET short_description = 'hello', \\\n      \
         sys_updated_by = 'you' WHERE number = '{incident}'\"\n  \
         sqlite3 {folder}/crm.db \"SELECT subject FROM support_case WHERE case_number = '{incident}'\"\n"
    ));
    text
}

/// Tells the desk to stop when the demo ends, however it does.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
