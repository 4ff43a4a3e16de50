//! The messages under way on one channel, until the broker has confirmed each.
//!
//! The client library hands a returned message (`basic.return`) to whichever confirm it completes next, and completes
//! those of one `basic.ack` with `multiple` in no order. So a message that reached no queue can look confirmed while
//! another one carries the return. Here a return fails every message of the channel that was not reported yet: some are
//! sent twice, none is lost.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_util::future::FutureExt as _;
use lapin::{Channel, Confirmation, PublisherConfirm};
use tokio::time::Instant;

/// What became of a message.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// Stored by a queue.
    Acked,
    /// Refused.
    Nacked,
    /// This message, or one under way with it, reached no queue.
    Returned {
        /// Routing key of the returned message.
        routing_key: String,
    },
    /// The channel does not confirm; our mistake.
    NotRequested,
    /// The channel or its connection broke.
    Failed(lapin::Error),
}

/// The messages under way on one channel.
#[derive(Clone)]
pub(super) struct Window(Arc<Inner>);

struct Inner {
    channel: Channel,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    under_way: BTreeMap<u64, UnderWay>,
    last_ticket: u64,
    /// Routing key of the first returned message.
    returned: Option<String>,
    failed: bool,
    /// When the broker was last seen to take nothing.
    last_blocked: Option<Instant>,
}

enum UnderWay {
    Waiting {
        confirm: PublisherConfirm,
        waker: Waker,
    },
    /// Nobody asks any more, but a return may come with it.
    Abandoned(PublisherConfirm),
    Settled(Outcome),
}

/// One message's place in the window.
pub(super) struct Ticket {
    window: Window,
    number: u64,
}

impl Window {
    /// An empty window of a channel in confirm mode.
    pub(super) fn new(channel: Channel) -> Self {
        Self(Arc::new(Inner { channel, state: Mutex::default() }))
    }

    /// The channel to publish on.
    pub(super) fn channel(&self) -> &Channel {
        &self.0.channel
    }

    /// Whether every message so far was acked or is still under way, and the channel is open.
    pub(super) fn is_sound(&self) -> bool {
        !self.state().failed && self.0.channel.status().connected()
    }

    /// Whether somebody still waits for the outcome of a message.
    pub(super) fn is_awaited(&self) -> bool {
        self.state().under_way.values().any(|under_way| match under_way {
            UnderWay::Waiting { .. } | UnderWay::Settled(_) => true,
            UnderWay::Abandoned(_) => false,
        })
    }

    /// Says that a message was given up.
    pub(super) fn fail(&self) {
        self.state().failed = true;
    }

    /// Says that the broker takes nothing now.
    pub(super) fn note_blocked(&self) {
        self.state().last_blocked = Some(Instant::now());
    }

    /// When the broker was last seen to take nothing, by any message of the channel.
    pub(super) fn last_blocked(&self) -> Option<Instant> {
        self.state().last_blocked
    }

    /// Takes in a message that was just published.
    pub(super) fn register(&self, confirm: PublisherConfirm) -> Ticket {
        let mut state = self.state();
        state.last_ticket += 1;
        let number = state.last_ticket;
        state.under_way.insert(number, UnderWay::Waiting { confirm, waker: Waker::noop().clone() });
        Ticket { window: self.clone(), number }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is complete before anything can panic, so a poisoned state is a good one.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(&self, number: u64, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.state();
        match state.under_way.get_mut(&number) {
            Some(UnderWay::Waiting { confirm, waker }) => {
                waker.clone_from(context.waker());
                let Poll::Ready(result) = confirm.poll_unpin(context) else {
                    return state.returned_outcome().map_or(Poll::Pending, Poll::Ready);
                };
                state.settle(number, result);
                // The library completes the confirms of one frame under one lock, which this takes once: afterwards
                // every confirm of the frame is complete, and a return among them is found.
                let drained = self.0.channel.wait_for_confirms().now_or_never();
                if let Some(Ok(returned)) = drained {
                    returned.iter().for_each(|message| state.note_return(message.routing_key.as_str()));
                }
                state.sweep();
            }
            Some(UnderWay::Abandoned(_) | UnderWay::Settled(_)) | None => {}
        }
        if let Some(returned) = state.returned_outcome() {
            return Poll::Ready(returned);
        }
        match state.under_way.get(&number) {
            Some(UnderWay::Settled(outcome)) => Poll::Ready(outcome.clone()),
            Some(UnderWay::Waiting { .. } | UnderWay::Abandoned(_)) | None => Poll::Pending,
        }
    }
}

impl State {
    fn returned_outcome(&self) -> Option<Outcome> {
        self.returned.clone().map(|routing_key| Outcome::Returned { routing_key })
    }

    fn note_return(&mut self, routing_key: &str) {
        self.failed = true;
        self.returned.get_or_insert_with(|| routing_key.to_owned());
        for under_way in self.under_way.values() {
            if let UnderWay::Waiting { waker, .. } = under_way {
                waker.wake_by_ref();
            }
        }
    }

    fn settle(&mut self, number: u64, result: lapin::Result<Confirmation>) {
        let outcome = match result {
            Ok(Confirmation::Ack(None)) => Outcome::Acked,
            Ok(Confirmation::Ack(Some(returned))) => {
                self.note_return(returned.routing_key.as_str());
                Outcome::Acked
            }
            Ok(Confirmation::Nack(returned)) => {
                if let Some(returned) = returned {
                    self.note_return(returned.routing_key.as_str());
                }
                Outcome::Nacked
            }
            Ok(Confirmation::NotRequested) => Outcome::NotRequested,
            Err(error) => Outcome::Failed(error),
        };
        self.failed |= !matches!(outcome, Outcome::Acked);
        if let Some(UnderWay::Waiting { waker, .. }) = self.under_way.remove(&number) {
            waker.wake();
            self.under_way.insert(number, UnderWay::Settled(outcome));
        }
    }

    /// Settles every message whose confirm is complete.
    fn sweep(&mut self) {
        let mut complete = Vec::new();
        for (number, under_way) in &mut self.under_way {
            let (confirm, waker) = match under_way {
                UnderWay::Waiting { confirm, waker } => (confirm, &*waker),
                UnderWay::Abandoned(confirm) => (confirm, Waker::noop()),
                UnderWay::Settled(_) => continue,
            };
            if let Poll::Ready(result) = confirm.poll_unpin(&mut Context::from_waker(waker)) {
                complete.push((*number, result));
            }
        }
        for (number, result) in complete {
            self.settle(number, result);
        }
    }
}

impl Ticket {
    /// Waits for the broker's word. Cancel-safe.
    pub(super) async fn outcome(&self) -> Outcome {
        poll_fn(|context| self.window.poll(self.number, context)).await
    }

    /// Says that this message was given up.
    pub(super) fn give_up(&self) {
        self.window.fail();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.window.state();
        if let Some(UnderWay::Waiting { confirm, .. }) = state.under_way.remove(&self.number) {
            state.under_way.insert(self.number, UnderWay::Abandoned(confirm));
        }
    }
}
