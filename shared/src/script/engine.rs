//! The JavaScript engine of one script. The only file that names `rquickjs`, with `error`.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rquickjs::context::{EvalOptions, intrinsic};
use rquickjs::function::Function;
use rquickjs::{Context, Ctx, Exception, IntoJs as _, Object, Runtime, Value};
use rustix::time::{ClockId, clock_gettime};

use super::SCRIPT_BYTES_MAX;
use super::error::{FILE, ScriptError, SyntaxError};
use super::record::{Effect, Refusal, Side, Subject, Work, Written};
use crate::record::Value as Column;

/// What of the language there is: no clock and no network. Promises are what `async` functions stand on.
type Intrinsics = (
    intrinsic::Eval,
    intrinsic::RegExpCompiler,
    intrinsic::RegExp,
    intrinsic::Json,
    intrinsic::Proxy,
    intrinsic::MapSet,
    intrinsic::Promise,
);

/// An engine that holds one compiled script.
pub(super) struct Engine {
    context: Context,
    source: Box<str>,
    time_max: Duration,
    desk: Desk,
    watch: Arc<Watch>,
}

/// The record at work, where the script's functions find it.
type Desk = Arc<Mutex<Option<Work>>>;

/// The time a run may take, of the thread's own: a machine under load is no fault of a script.
#[derive(Default)]
struct Watch {
    deadline_ns: AtomicU64,
    ran_over: AtomicBool,
}

impl Watch {
    fn start(&self, time_max: Duration) {
        let deadline = thread_time().saturating_add(time_max);
        self.deadline_ns.store(u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.ran_over.store(false, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        let over = thread_time().as_nanos() > u128::from(self.deadline_ns.load(Ordering::Relaxed));
        self.ran_over.fetch_or(over, Ordering::Relaxed);
        over
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Engine {
    /// Makes an engine and compiles the script in it.
    pub(super) fn start(source: &str, time_max: Duration) -> Result<Self, SyntaxError> {
        let failed = |_| SyntaxError { line: 1, column: 1, problem: "the engine does not start".to_owned() };
        let runtime = Runtime::new().map_err(failed)?;
        runtime.set_memory_limit(SCRIPT_BYTES_MAX);
        let watch = Arc::new(Watch::default());
        let handler = watch.clone();
        runtime.set_interrupt_handler(Some(Box::new(move || handler.is_over())));
        let context = Context::custom::<Intrinsics>(&runtime).map_err(failed)?;
        let desk = Desk::default();
        watch.start(Duration::from_secs(1));
        context.with(|ctx| {
            let script = compile(&ctx, source).map_err(|_| SyntaxError::take(&ctx, source))?;
            prepare(&ctx, script, &desk).map_err(failed)
        })?;
        Ok(Self { context, source: source.into(), time_max, desk, watch })
    }

    /// Runs the script on a record; also whether the engine is as it was before. After an error it is not.
    pub(super) fn run(&self, subject: Subject<'_>) -> Result<(Effect, bool), ScriptError> {
        let work = Work::new(subject);
        let has_previous = work.has_previous();
        *lock(&self.desk) = Some(work);
        self.watch.start(self.time_max);
        let ran = self.context.with(|ctx| {
            let run = ctx.userdata::<Function<'_>>().ok_or_else(ScriptError::no_engine)?;
            run.call::<_, bool>((has_previous,)).map_err(|_| {
                let refused = lock(&self.desk).as_mut().and_then(|work| work.refused.take());
                ScriptError::take(&ctx, &self.source, refused)
            })
        });
        let work = lock(&self.desk).take().ok_or_else(ScriptError::no_engine)?;
        match ran {
            Ok(_) if self.context.runtime().is_job_pending() => {
                Err(ScriptError::refused("waits for a promise; a script has come to its end with its last line"))
            }
            Ok(is_clean) => Ok((work.finish()?, is_clean)),
            Err(error) if self.watch.ran_over.load(Ordering::Relaxed) => {
                Err(error.because(format!("ran for more than {} ms", self.time_max.as_millis())))
            }
            Err(error) => Err(error),
        }
    }
}

/// The script as a function. It stands in lines of its own, so that its places are those a person counts.
fn compile<'js>(ctx: &Ctx<'js>, source: &str) -> rquickjs::Result<Function<'js>> {
    let text = format!(
        "(function (current, previous, psp_action, ignore, log, done) {{ try {{\n{source}\n}} finally {{ done(psp_action, ignore) }} }})"
    );
    evaluate(ctx, text, FILE, false)
}

/// Makes what a script sees, closes everything against changes, and keeps the function that runs the script.
fn prepare<'js>(ctx: &Ctx<'js>, script: Function<'js>, desk: &Desk) -> rquickjs::Result<()> {
    let prelude: Function<'js> = evaluate(ctx, include_str!("prelude.js"), "prelude", true)?;
    let close: Function<'js> = prelude.call((host(ctx, desk)?,))?;
    let run: Function<'js> = close.call((script,))?;
    // Nothing else is kept there.
    let _ = ctx.store_userdata(run);
    Ok(())
}

fn evaluate<'js>(
    ctx: &Ctx<'js>,
    text: impl Into<Vec<u8>>,
    file: &str,
    strict: bool,
) -> rquickjs::Result<Function<'js>> {
    let mut options = EvalOptions::default();
    options.strict = strict;
    options.filename = Some(file.to_owned());
    ctx.eval_with_options(text, options)
}

/// The functions the prelude stands on: all that a script reaches of the record.
fn host<'js>(ctx: &Ctx<'js>, desk: &Desk) -> rquickjs::Result<Object<'js>> {
    let host = Object::new(ctx.clone())?;
    let own = || desk.clone();
    let desk = own();
    let action = move |ctx: Ctx<'js>| with(&desk, &ctx, |work| Ok(work.action.as_str()));
    host.set("action", Function::new(ctx.clone(), action)?)?;
    let desk = own();
    let table = move |ctx: Ctx<'js>| with(&desk, &ctx, |work| Ok(work.table.to_string()));
    host.set("table", Function::new(ctx.clone(), table)?)?;
    let desk = own();
    let has =
        move |ctx: Ctx<'js>, side: u32, column: String| with(&desk, &ctx, |work| Ok(work.has(side_of(side), &column)));
    host.set("has", Function::new(ctx.clone(), has)?)?;
    let desk = own();
    let columns = move |ctx: Ctx<'js>, side: u32| with(&desk, &ctx, |work| Ok(work.columns(side_of(side))));
    host.set("columns", Function::new(ctx.clone(), columns)?)?;
    let desk = own();
    let read = move |ctx: Ctx<'js>, side: u32, column: String| {
        with(&desk, &ctx, |work| work.read(side_of(side), &column).map(|value| to_script(&ctx, value)))?
    };
    host.set("read", Function::new(ctx.clone(), read)?)?;
    let desk = own();
    let changes = move |ctx: Ctx<'js>, column: String| with(&desk, &ctx, |work| work.changes(&column));
    host.set("changes", Function::new(ctx.clone(), changes)?)?;
    let desk = own();
    let write = move |ctx: Ctx<'js>, column: String, value: Value<'js>| {
        with(&desk, &ctx, |work| work.write(&column, from_script(&value)?))
    };
    host.set("write", Function::new(ctx.clone(), write)?)?;
    let desk = own();
    let copy = move |ctx: Ctx<'js>, column: String, side: u32, from: String| {
        with(&desk, &ctx, |work| work.copy(&column, side_of(side), &from))
    };
    host.set("copy", Function::new(ctx.clone(), copy)?)?;
    let desk = own();
    let log = move |ctx: Ctx<'js>, line: String| with(&desk, &ctx, |work| work.log(&line));
    host.set("log", Function::new(ctx.clone(), log)?)?;
    let desk = own();
    let done = move |ctx: Ctx<'js>, action: String, ignore: bool| with(&desk, &ctx, |work| work.done(&action, ignore));
    host.set("done", Function::new(ctx.clone(), done)?)?;
    let desk = own();
    let refuse = move |ctx: Ctx<'js>, words: String| with(&desk, &ctx, |_| Err::<(), _>(words));
    host.set("refuse", Function::new(ctx.clone(), refuse)?)?;
    Ok(host)
}

/// Looks at the record at work; what it refuses is thrown.
fn with<T>(desk: &Desk, ctx: &Ctx<'_>, look: impl FnOnce(&mut Work) -> Result<T, Refusal>) -> rquickjs::Result<T> {
    let mut held = lock(desk);
    let Some(work) = held.as_mut() else { return Err(Exception::throw_internal(ctx, "no record")) };
    look(work).map_err(|words| {
        let thrown = Exception::throw_type(ctx, &words);
        work.refused = Some(words);
        thrown
    })
}

const fn side_of(number: u32) -> Side {
    if number == 0 { Side::Current } else { Side::Previous }
}

/// A column as the script gets it: text, `true`, `false`, null, or undefined when there is none. Numbers are text, so
/// that none loses a digit.
fn to_script<'js>(ctx: &Ctx<'js>, value: Option<Column<'_>>) -> rquickjs::Result<Value<'js>> {
    match value {
        None => Ok(Value::new_undefined(ctx.clone())),
        Some(Column::Null | Column::Unchanged) => Ok(Value::new_null(ctx.clone())),
        Some(Column::Bool(flag)) => Ok(Value::new_bool(ctx.clone(), flag)),
        Some(Column::Number(text) | Column::Text(text) | Column::Bytes(text)) => text.into_js(ctx),
    }
}

/// What a script may set a column to.
fn from_script(value: &Value<'_>) -> Result<Written, Refusal> {
    let number = value.as_number().filter(|number| number.is_finite());
    if value.is_null() || value.is_undefined() {
        Ok(Written::Null)
    } else if let Some(flag) = value.as_bool() {
        Ok(Written::Bool(flag))
    } else if let Some(number) = number {
        Ok(Written::Number(number.to_string()))
    } else if let Some(text) = value.as_string().and_then(|text| text.to_string().ok()) {
        Ok(Written::Text(text))
    } else {
        Err("a column is set to a string, a finite number, true, false or null".to_owned())
    }
}

fn lock(desk: &Desk) -> MutexGuard<'_, Option<Work>> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}
