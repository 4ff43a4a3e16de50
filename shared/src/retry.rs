//! Waiting between attempts.

use std::time::Duration;

/// Exponential back-off with full jitter: the n-th wait is a random time up to `first * 2^n`, at most `longest`.
///
/// Jitter keeps replicas that lost the same broker from coming back in one moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    attempts: u32,
}

impl Default for Backoff {
    /// From 100 ms up to 10 s: quick after a blip, and within seconds of a long outage's end.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(10))
    }
}

impl Backoff {
    /// Starts at `first` and never waits longer than `longest`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, attempts: 0 }
    }

    /// Forgets the failures, after a success.
    pub const fn reset(&mut self) {
        self.attempts = 0;
    }

    /// The next time to wait: between half and all of the exponential step, so that it never spins.
    pub fn next_wait(&mut self) -> Duration {
        let step = self.first.saturating_mul(1 << self.attempts.min(20)).min(self.longest);
        self.attempts = self.attempts.saturating_add(1);
        step / 2 + (step / 2).mul_f64(random_fraction())
    }

    /// Waits for [`Backoff::next_wait`]. Cancel-safe.
    pub async fn wait(&mut self) {
        let wait = self.next_wait();
        tokio::time::sleep(wait).await;
    }
}

/// A number in `0.0..1.0`; 0.5 when the system has no randomness to give, which only costs jitter.
fn random_fraction() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / 4_294_967_296.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        for step in [100, 200, 400, 800, 1600, 2000, 2000] {
            let wait = backoff.next_wait();
            assert!(
                wait >= Duration::from_millis(step / 2) && wait <= Duration::from_millis(step),
                "{wait:?} of {step}"
            );
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}
