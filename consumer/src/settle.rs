//! The one place where deliveries are settled: acked after the commit, or set aside with a confirmed dead letter first.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use syncline_shared::class::Class;
use syncline_shared::envelope::{Envelope, Message, Route};
use syncline_shared::queue::{Broker, DeadLetter, Delivery, PublishError, Publisher, QueueError, Reason};
use syncline_shared::record::{Record, write_line};
use syncline_shared::seal::{Cipher, Keyring, Seal, seal_as};
use syncline_shared::traces::{Receipt, Settled, Traces};
use uuid::Uuid;

use crate::config::{SubscriptionConfig, Unlisted};
use crate::journal::{self, Notes};
use crate::metrics::{Fate, SubscriptionMetrics};
use crate::open::Opened;
use crate::run::{Outcomes, Run};
use crate::script::Made;
use crate::target::{Outcome, TableMap};

/// What is to be done with a message once its run was applied.
#[derive(Debug)]
pub(crate) struct Verdict {
    delivery: Delivery,
    receipt: Receipt,
    kind: Kind,
}

impl Verdict {
    /// Its run could not be applied, and is tried again.
    pub(crate) fn failed(&mut self, class: Class) {
        self.receipt.failed(class);
    }
}

#[derive(Debug)]
enum Kind {
    /// Its records are in the run, at this place.
    Applied { envelope: Envelope, records: Range<usize> },
    /// It is set aside as it came; with its records where they are known.
    Dead { reason: Reason, error: String, content: Option<(Envelope, Vec<Record>)> },
    /// It is dropped, as the subscription says.
    Skipped { envelope: Envelope, records: Vec<Record> },
}

/// Makes the spans of a subscription.
struct Spans {
    traces: Traces,
    subscription: String,
}

/// Settles the messages of one partition.
pub(crate) struct Settler<B: Broker> {
    broker: B,
    queue: String,
    partition: u32,
    config: Arc<SubscriptionConfig>,
    /// Connected when the first dead letter is written.
    parking: Option<B::Publisher>,
    /// Where tables go, by source and table; `None` for tables that are not listed.
    maps: HashMap<(String, String), Option<Arc<TableMap>>>,
    metrics: SubscriptionMetrics,
    /// Where what is settled is noted, if that is on.
    notes: Option<Notes>,
    /// Makes the spans of what is settled, if that is on.
    spans: Option<Spans>,
}

impl<B: Broker> Settler<B> {
    pub(crate) fn new(
        broker: B,
        queue: &str,
        partition: u32,
        config: Arc<SubscriptionConfig>,
        metrics: SubscriptionMetrics,
        notes: Option<Notes>,
    ) -> Self {
        let (queue, maps) = (queue.to_owned(), HashMap::new());
        Self { broker, queue, partition, config, parking: None, maps, metrics, notes, spans: None }
    }

    /// Has a span made of every message.
    pub(crate) fn traced(self, traces: Option<&Traces>, subscription: &str) -> Self {
        let spans = traces.map(|traces| Spans { traces: traces.clone(), subscription: subscription.to_owned() });
        Self { spans, ..self }
    }

    /// Adds a message's records to the run, or decides that it goes another way.
    pub(crate) fn judge(&mut self, opened: Opened, run: &mut Run) -> Verdict {
        let Opened { delivery, receipt, content, .. } = opened;
        let kind = match content {
            Err(fault) => Kind::Dead { reason: fault.reason(), error: fault.to_string(), content: None },
            Ok(content) => match (self.map(content.envelope.route()), self.config.unlisted) {
                (Some(table), _) => {
                    let (envelope, records) = run.push(table, content);
                    Kind::Applied { envelope, records }
                }
                (None, Unlisted::Skip) => Kind::Skipped { envelope: content.envelope, records: content.records },
                (None, Unlisted::DeadLetter) => Kind::Dead {
                    reason: Reason::Unsubscribed,
                    error: format!("table {} is not in the subscription", content.envelope.route().table),
                    content: Some((content.envelope, content.records)),
                },
            },
        };
        Verdict { delivery, receipt, kind }
    }

    fn map(&mut self, route: &Route) -> Option<Arc<TableMap>> {
        let key = (route.source.clone(), route.table.clone());
        let map = || self.config.map(&route.source, &route.table).map(Arc::new);
        self.maps.entry(key).or_insert_with(map).clone()
    }

    /// Settles messages whose run was applied, in order.
    ///
    /// # Errors
    /// [`QueueError`]: what was not settled comes again, and is found applied already.
    pub(crate) async fn settle(
        &mut self,
        run: &Run,
        outcomes: Outcomes,
        verdicts: Vec<Verdict>,
        keyring: &Keyring,
    ) -> Result<(), QueueError> {
        let now = Timestamp::now();
        for Verdict { delivery, receipt, kind } in verdicts {
            match kind {
                Kind::Applied { envelope, records } => {
                    let mut dead_letters = 0;
                    let all = || records.clone().zip(outcomes.get(records.clone()).unwrap_or_default());
                    for (place, outcome) in all() {
                        let (reason, error, behind) = match (run.made(place), outcome) {
                            (Some(Made::Failed(error)), _) => (Reason::Script, error.clone(), None),
                            (Some(Made::Withheld), _) => continue,
                            (_, Outcome::Applied | Outcome::Duplicate | Outcome::Stale) => continue,
                            (_, Outcome::Rejected { error }) => (Reason::Target, error.clone(), None),
                            (_, Outcome::Waits { behind }) => (
                                Reason::Waits,
                                format!("an older change of its record is dead letter {behind}"),
                                Some(behind),
                            ),
                        };
                        let Some(record) = run.record(place) else { unreachable!("there is an outcome for each") };
                        let message = sealed_alone(&delivery, &envelope, record, run.letter(place), keyring)?;
                        let mut letter = self.letter(&delivery, reason, &error);
                        (letter.message, letter.behind) = (message.unwrap_or(letter.message), behind.cloned());
                        let parked = self.parking().await?.park(&letter).await.map_err(QueueError::Park)?;
                        parked.await.map_err(QueueError::Park)?;
                        dead_letters += 1;
                        self.note(&letter);
                        self.remember(&envelope, std::iter::once((record, journal::Fate::set_aside(&letter))));
                    }
                    let fates = all().map(|(place, outcome)| (fate(run.made(place), outcome), run.record(place)));
                    self.count(&envelope, fates, now);
                    let taken =
                        |(place, outcome)| Some((run.record(place)?, journal::Fate::taken(run.made(place), outcome)?));
                    self.remember(&envelope, all().filter_map(taken));
                    self.trace(delivery.message(), receipt, now, dead_letters);
                    delivery.ack().await?;
                }
                Kind::Dead { reason, error, content } => {
                    let letter = self.letter(&delivery, reason, &error);
                    delivery.dead_letter(self.parking().await?, &letter).await?;
                    self.trace(&letter.message, receipt, Timestamp::now(), 1);
                    self.note(&letter);
                    if let Some((envelope, records)) = content {
                        let fate = journal::Fate::set_aside(&letter);
                        self.remember(&envelope, records.iter().map(|record| (record, fate)));
                    }
                }
                Kind::Skipped { envelope, records } => {
                    let skipped = records.iter().map(|_| Fate::Skipped);
                    self.metrics.records(share_label(&envelope), envelope.route().action, skipped);
                    self.remember(&envelope, records.iter().map(|record| (record, journal::Fate::Skipped)));
                    self.trace(delivery.message(), receipt, now, 0);
                    delivery.ack().await?;
                }
            }
        }
        Ok(())
    }

    /// Makes the span of a message whose records are committed, or set aside.
    fn trace(&self, message: &Message, receipt: Receipt, at: Timestamp, dead_letters: u32) {
        let Some(Spans { traces, subscription }) = &self.spans else { return };
        let (queue, partition) = (&self.queue, self.partition);
        traces.settled(&Settled { queue, partition, subscription, message, receipt, at, dead_letters });
    }

    /// Notes what became of a message's records, for those who ask where one is.
    fn remember<'r>(&self, envelope: &Envelope, records: impl Iterator<Item = (&'r Record, journal::Fate)>) {
        if let Some(notes) = &self.notes {
            notes.note(envelope, records);
        }
    }

    fn count<'r>(
        &self,
        envelope: &Envelope,
        fates: impl Iterator<Item = (Fate, Option<&'r Record>)> + Clone,
        now: Timestamp,
    ) {
        let (share, action) = (share_label(envelope), envelope.route().action);
        self.metrics.records(share, action, fates.clone().map(|(fate, _)| fate));
        let applied = fates.filter(|(fate, _)| *fate == Fate::Applied);
        self.metrics.applied(share, applied.filter_map(|(_, record)| Some(record?.at)), now);
    }

    async fn parking(&mut self) -> Result<&mut B::Publisher, QueueError> {
        if self.parking.is_none() {
            self.parking = Some(self.broker.publisher().await?);
        }
        self.parking.as_mut().ok_or_else(|| unreachable!("it was just connected"))
    }

    /// Counts and logs a dead letter.
    fn note(&self, letter: &DeadLetter) {
        self.metrics.dead_letter(letter.reason);
        tracing::error!(
            message_id = letter.id(),
            queue = letter.queue,
            routing_key = letter.routing_key,
            reason = %letter.reason,
            error = letter.error,
            "a message is set aside; see `syncline dead-letter list`"
        );
    }

    fn letter(&self, delivery: &Delivery, reason: Reason, error: &str) -> DeadLetter {
        let message = delivery.message().clone();
        // `<table>.<action>.<partition>`, as it was published.
        let routing_key = format!("{}.{}", message.kind.as_deref().unwrap_or("unknown"), self.partition);
        DeadLetter::new(message, &self.queue, routing_key, reason, error, delivery.attempts().saturating_add(1))
    }
}

/// One record of a message, sealed again under the key its batch came with; `None` when it is alone there. Where that key
/// has been taken out of the configuration meanwhile the whole batch is set aside; replayed, the other records are
/// duplicates.
fn sealed_alone(
    delivery: &Delivery,
    envelope: &Envelope,
    record: &Record,
    id: Option<Uuid>,
    keyring: &Keyring,
) -> Result<Option<Message>, QueueError> {
    let key = match envelope.cipher() {
        Cipher::None => Some(Seal::Plain),
        Cipher::Base64 => Some(Seal::Base64),
        Cipher::TripleDes | Cipher::Aes128 | Cipher::Aes256 => keyring.get(envelope.key()).cloned().map(Seal::Key),
    };
    let (Some(key), Some(id)) = (key.filter(|_| envelope.route().records > 1), id) else { return Ok(None) };
    let mut line = Vec::new();
    write_line(&mut line, &record.key, record.version, record.at, record.data.as_ref(), record.partial);
    let route = Route { records: 1, ..envelope.route().clone() };
    let sealed = seal_as(&key, route, &line, id).map_err(|error| QueueError::Park(PublishError::Seal(error)))?;
    // Read from the bytes that came: the time of sealing is theirs, and so is the trace.
    Ok(Some(sealed.to_message().in_place_of(delivery.message())))
}

/// What became of a record, by what its script and the target said.
const fn fate(made: Option<&Made>, outcome: &Outcome) -> Fate {
    match (made, outcome) {
        (Some(Made::Failed(_)), _) => Fate::Dead,
        (Some(Made::Withheld), _) => Fate::Withheld,
        (_, Outcome::Applied) => Fate::Applied,
        (_, Outcome::Duplicate) => Fate::Duplicate,
        (_, Outcome::Stale) => Fate::Stale,
        (_, Outcome::Rejected { .. } | Outcome::Waits { .. }) => Fate::Dead,
    }
}

/// The share to count a message under: anyone may write any name into a message that is not sealed.
fn share_label(envelope: &Envelope) -> &str {
    if envelope.cipher().is_keyed() { &envelope.route().share } else { "unsealed" }
}
