//! The life of a service's tasks: named, watched, and stopped together.
//!
//! The first task to end without being asked (an error, a panic, a plain return) starts the shutdown of all. SIGTERM and
//! SIGINT do the same: tasks stop taking work, finish what is in flight and return within the grace period.

use std::future::Future;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// How a group of tasks ended badly.
#[derive(Debug, Error)]
pub enum TaskError {
    /// A task failed.
    #[error("{task} failed")]
    Failed {
        /// Its name.
        task: &'static str,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A task returned before it was asked to.
    #[error("{task} ended unexpectedly")]
    Ended {
        /// Its name.
        task: &'static str,
    },
    /// A task panicked: a broken invariant of our own.
    #[error("a task panicked")]
    Panicked,
    /// Tasks were still busy when the grace period was over.
    #[error("{tasks} did not finish within {grace_ms} ms")]
    Unfinished {
        /// Their names.
        tasks: String,
        /// The grace period.
        grace_ms: u128,
    },
}

/// Tells tasks to stop. Cheap to clone; stays set once set.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Whether the shutdown has begun.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the shutdown begins. Cancel-safe.
    pub async fn wait(&mut self) {
        // An error means the group is gone, which is a shutdown too.
        let _ = self.0.wait_for(|stop| *stop).await;
    }

    /// Runs a future until it is done or the shutdown begins; `None` when stopped. The future is dropped then, so it has
    /// to be cancel-safe.
    pub async fn or<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.wait() => None,
            value = future => Some(value),
        }
    }
}

type Outcome = (&'static str, Result<(), Box<dyn std::error::Error + Send + Sync>>);

/// A service's tasks.
#[derive(Debug)]
pub struct TaskGroup {
    tasks: JoinSet<Outcome>,
    running: Vec<(&'static str, AbortHandle)>,
    stop: watch::Sender<bool>,
}

impl Default for TaskGroup {
    fn default() -> Self {
        Self { tasks: JoinSet::new(), running: Vec::new(), stop: watch::Sender::new(false) }
    }
}

impl TaskGroup {
    /// What tasks watch to know when to stop.
    #[must_use]
    pub fn stop(&self) -> Stop {
        Stop(self.stop.subscribe())
    }

    /// Starts a task. It returns `Ok` when it was told to stop and has finished.
    pub fn spawn<E>(&mut self, name: &'static str, task: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let handle = self.tasks.spawn(async move { (name, task.await.map_err(Into::into)) });
        self.running.push((name, handle));
    }

    /// Runs until a signal comes, `until` resolves or a task ends, then drains all tasks within the grace period.
    ///
    /// # Errors
    /// The first [`TaskError`]; later ones are logged.
    pub async fn run(mut self, until: impl Future<Output = ()>, grace: Duration) -> Result<(), TaskError> {
        let mut first = tokio::select! {
            ended = self.tasks.join_next() => ended.and_then(|ended| unexpected(ended).err()),
            () = until => None,
            signal = signal() => {
                tracing::info!(signal, "stopping: finishing what is in flight");
                None
            }
        };
        self.stop.send_replace(true);
        let drained = tokio::time::timeout(grace, async {
            while let Some(ended) = self.tasks.join_next().await {
                let failed = match ended {
                    Ok((_, Ok(()))) => continue,
                    other => unexpected(other).err(),
                };
                match (&first, failed) {
                    (None, failed) => first = failed,
                    (Some(_), Some(error)) => tracing::error!(error = %chain(&error), "another task failed"),
                    (Some(_), None) => {}
                }
            }
        })
        .await;
        if drained.is_err() {
            let busy: Vec<_> =
                self.running.iter().filter(|(_, task)| !task.is_finished()).map(|(name, _)| *name).collect();
            let unfinished = TaskError::Unfinished { tasks: busy.join(", "), grace_ms: grace.as_millis() };
            tracing::error!(error = %unfinished, "giving up");
            return Err(first.unwrap_or(unfinished));
        }
        first.map_or(Ok(()), Err)
    }
}

fn unexpected(ended: Result<Outcome, tokio::task::JoinError>) -> Result<(), TaskError> {
    match ended {
        Ok((task, Ok(()))) => Err(TaskError::Ended { task }),
        Ok((task, Err(cause))) => Err(TaskError::Failed { task, cause }),
        Err(_) => Err(TaskError::Panicked),
    }
}

/// An error with its causes in one line.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Waits for SIGTERM or SIGINT; its name.
async fn signal() -> &'static str {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            return tokio::select! {
                _ = term.recv() => "SIGTERM",
                _ = int.recv() => "SIGINT",
            };
        }
    }
    // Without Unix signals, Ctrl-C is all there is.
    let _ = tokio::signal::ctrl_c().await;
    "SIGINT"
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn one_failure_stops_all_and_is_reported() {
        let mut group = TaskGroup::default();
        let drained = Arc::new(AtomicBool::new(false));
        let (mut stop, seen) = (group.stop(), drained.clone());
        group.spawn("patient", async move {
            stop.wait().await;
            seen.store(true, Ordering::Relaxed);
            Ok::<_, std::io::Error>(())
        });
        group.spawn("faulty", async { Err(std::io::Error::other("broken")) });
        let error = group.run(std::future::pending(), GRACE).await.expect_err("a failure");
        assert_eq!(chain(&error), "faulty failed: broken");
        assert!(drained.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_finish_is_named() {
        let mut group = TaskGroup::default();
        group.spawn("stuck", std::future::pending::<Result<(), std::io::Error>>());
        let error = group.run(async {}, GRACE).await.expect_err("unfinished");
        assert_eq!(error.to_string(), "stuck did not finish within 5000 ms");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_failure() {
        let mut group = TaskGroup::default();
        group.spawn("doomed", async {
            assert!(std::hint::black_box(false), "doomed");
            Ok::<_, std::io::Error>(())
        });
        assert!(matches!(group.run(std::future::pending(), GRACE).await, Err(TaskError::Panicked)));
    }
}
