//! Which faults strike, when and for how long: a schedule that a seed repeats.

use std::time::Duration;

use super::world::{CONSUMERS, PRODUCERS};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    KillProducer,
    KillConsumer,
    StopProducer,
    StopConsumer,
    FreezeProducer,
    FreezeConsumer,
    KillBroker,
    FreezeBroker,
    KillSource,
    KillTarget,
    CutLink,
    StallLink,
    HalfCloseLink,
    LinkDown,
    TargetLocked,
    TargetReadOnly,
    TargetTableMissing,
    TargetFull,
}

impl Kind {
    const ALL: [Self; 18] = [
        Self::KillProducer,
        Self::KillConsumer,
        Self::StopProducer,
        Self::StopConsumer,
        Self::FreezeProducer,
        Self::FreezeConsumer,
        Self::KillBroker,
        Self::FreezeBroker,
        Self::KillSource,
        Self::KillTarget,
        Self::CutLink,
        Self::StallLink,
        Self::HalfCloseLink,
        Self::LinkDown,
        Self::TargetLocked,
        Self::TargetReadOnly,
        Self::TargetTableMissing,
        Self::TargetFull,
    ];
}

/// One fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Time since the fault before.
    pub after: Duration,
    pub kind: Kind,
    /// Which of the parts of this kind, modulo their number.
    pub which: usize,
    /// Time until it is mended.
    pub lasts: Duration,
}

/// A schedule of this many faults. Every kind comes once before one comes again.
pub fn plan(seed: u64, faults: usize) -> Vec<Fault> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut left = Vec::new();
    (0..faults)
        .map(|_| {
            if left.is_empty() {
                left = Kind::ALL.to_vec();
                random.shuffle(&mut left);
            }
            Fault {
                after: Duration::from_millis(random.u64(200..2000)),
                kind: left.pop().unwrap(),
                // A multiple of how many there are of any part, so that each is as likely.
                which: random.usize(..PRODUCERS * CONSUMERS * 3),
                // Most are short, some are longer than every time-out in the configuration.
                lasts: Duration::from_millis(if random.u8(..4) == 0 {
                    random.u64(3000..9000)
                } else {
                    random.u64(50..2000)
                }),
            }
        })
        .collect()
}
