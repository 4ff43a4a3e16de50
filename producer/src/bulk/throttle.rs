//! Rows per second.

use std::time::Duration;

use tokio::time::Instant;

/// Lets so many rows through per second, about evenly.
#[derive(Debug)]
pub(super) struct Throttle {
    per_second: Option<u32>,
    next: Instant,
}

impl Throttle {
    pub(super) fn new(per_second: Option<u32>) -> Self {
        Self { per_second, next: Instant::now() }
    }

    /// How many rows may come at once without a burst: a tenth of a second's, `rows_max` at most.
    pub(super) fn rows_at_once(&self, rows_max: usize) -> usize {
        let tenth = self.per_second.map_or(usize::MAX, |rate| usize::try_from(rate / 10).unwrap_or(usize::MAX));
        tenth.clamp(1, rows_max)
    }

    /// Waits until this many more rows may pass. What was not used meanwhile is not saved up.
    pub(super) async fn pass(&mut self, rows: usize) {
        let Some(per_second) = self.per_second else { return };
        let now = Instant::now();
        let from = self.next.max(now);
        tokio::time::sleep_until(from).await;
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        self.next = from + Duration::from_secs(1).mul_f64(f64::from(rows) / f64::from(per_second.max(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_rows_than_allowed() {
        let mut throttle = Throttle::new(Some(1000));
        let (start, rows) = (Instant::now(), throttle.rows_at_once(500));
        assert_eq!(rows, 100);
        for _ in 0..30 {
            throttle.pass(rows).await;
        }
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(2_890) && took <= Duration::from_millis(2_930), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_followed_by_no_burst() {
        let mut throttle = Throttle::new(Some(10));
        throttle.pass(1).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        for _ in 0..11 {
            throttle.pass(1).await;
        }
        assert!(start.elapsed() >= Duration::from_millis(990), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits() {
        let mut throttle = Throttle::new(None);
        let start = Instant::now();
        throttle.pass(1_000_000).await;
        throttle.pass(1_000_000).await;
        assert_eq!((start.elapsed(), throttle.rows_at_once(500)), (Duration::ZERO, 500));
    }
}
