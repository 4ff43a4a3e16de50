//! What a notification says: which service, what is at fault since when, and what to do. Made of the texts of `/readyz`,
//! which show no record, key or password.

use jiff::{SignedDurationRound, Timestamp, Unit};
use serde_json::json;

use super::watch::Due;
use crate::health::Fault;

/// What a notification is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Something is at fault.
    Paused,
    /// It lasts.
    StillPaused,
    /// It is over.
    Works,
    /// Somebody wants to see whether notifications arrive.
    Test,
}

impl Event {
    /// Its name, for machines.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::StillPaused => "still_paused",
            Self::Works => "works_again",
            Self::Test => "test",
        }
    }
}

/// One notification.
#[derive(Clone, Debug)]
pub(super) struct Notice {
    /// `producer`, `consumer`, `up`.
    pub(super) service: String,
    /// The machine it runs on.
    pub(super) host: String,
    /// When this is written.
    pub(super) at: Timestamp,
    pub(super) due: Due,
}

const PAUSED: &str = "Nothing is lost: changes wait at the source, messages in their queue. It goes on by itself once this is \
mended; no restart is needed.\n\nNow: /readyz of the service. What each reason means and what mends it: docs/operations.md, \
\"Faults and how they are mended\". Watch the disks of source and broker meanwhile.\n";

const TEST: &str = "This is a test: notifications of this service arrive here.\n";

impl Notice {
    /// One line.
    pub(super) fn subject(&self) -> String {
        let Self { service, host, due, .. } = self;
        let parts = || match due.faults.as_slice() {
            [one] => one.part.clone(),
            several => format!("{} parts", several.len()),
        };
        match due.event {
            Event::Paused => format!("Syncline {service} on {host}: {} paused", parts()),
            Event::StillPaused => format!("Syncline {service} on {host}: {} still paused", parts()),
            Event::Works => format!("Syncline {service} on {host}: works again"),
            Event::Test => format!("Syncline {service} on {host}: test"),
        }
    }

    /// The whole, for people.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.subject());
        match self.due.event {
            Event::Paused | Event::StillPaused => {
                text.extend(self.due.faults.iter().map(|fault| self.paragraph(fault)));
                text.push_str(PAUSED);
            }
            Event::Works => {
                let Self { at, due, .. } = self;
                text.push_str(&format!(
                    "Nothing is paused any more. It began {}, {} ago:\n\n",
                    time(due.since),
                    length(due.since, *at)
                ));
                text.extend(due.faults.iter().map(|fault| format!("{}\n  {}\n\n", fault.part, fault.reason)));
            }
            Event::Test => text.push_str(TEST),
        }
        text
    }

    fn paragraph(&self, Fault { part, reason, since, .. }: &Fault) -> String {
        format!("{part}\n  since {} ({})\n  {reason}\n\n", time(*since), length(*since, self.at))
    }

    /// The whole, for machines; `text` is what chats show.
    pub(super) fn json(&self) -> String {
        let Self { service, host, at, due } = self;
        let fault =
            |Fault { part, reason, since, .. }: &Fault| json!({ "part": part, "reason": reason, "since": since });
        let faults: Vec<_> = due.faults.iter().map(fault).collect();
        let (event, text) = (due.event.as_str(), self.text());
        let told = json!({ "event": event, "service": service, "host": host, "at": at, "since": due.since, "faults": faults, "text": text });
        told.to_string()
    }
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// To the second, as people write it.
fn length(since: Timestamp, until: Timestamp) -> String {
    let length = until.duration_since(since);
    let rounded = length.round(SignedDurationRound::new().smallest(Unit::Second)).unwrap_or(length);
    format!("{rounded:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_says_what_failed_since_when_and_what_to_do() {
        let since: Timestamp = "2026-11-22T08:00:00.25Z".parse().expect("a time");
        let at: Timestamp = "2026-11-22T09:01:05.5Z".parse().expect("a time");
        let fault = Fault {
            part: "subscription crm partitions 0-7".to_owned(),
            reason: "the target at db:5432 is out of reach".to_owned(),
            since,
            stands_by: false,
        };
        let due = |event| Due { event, since, faults: vec![fault.clone()] };
        let notice = |event| Notice { service: "consumer".to_owned(), host: "crm-1".to_owned(), at, due: due(event) };
        let paused = notice(Event::Paused);
        assert_eq!(paused.subject(), "Syncline consumer on crm-1: subscription crm partitions 0-7 paused");
        let text = paused.text();
        for part in
            ["since 2026-11-22 08:00:00 UTC (1h 1m 5s)", "is out of reach", "goes on by itself", "docs/operations.md"]
        {
            assert!(text.contains(part), "{text}");
        }
        let works = notice(Event::Works).text();
        assert!(
            works.contains("works again") && works.contains("It began 2026-11-22 08:00:00 UTC, 1h 1m 5s ago"),
            "{works}"
        );
        let json: serde_json::Value = serde_json::from_str(&notice(Event::StillPaused).json()).expect("JSON");
        assert_eq!(json["event"], "still_paused");
        assert_eq!(json["faults"][0]["part"], "subscription crm partitions 0-7");
        assert_eq!(json["faults"][0]["since"], "2026-11-22T08:00:00.25Z");
        assert!(json["text"].as_str().is_some_and(|text| text.contains("still paused")), "{json}");
    }
}
