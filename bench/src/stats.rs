//! The arithmetic of the figures: percentiles, ratios, spreads.

/// The value below which a share `p` (0 to 1) of the values lies, by the nearest rank; `None` of no values.
///
/// `sorted` ascends.
pub(crate) fn percentile(sorted: &[f64], p: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank, at least 1")]
    let rank = (p * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get((rank - 1).min(last)).copied()
}

/// The mean; 0 of no values.
pub(crate) fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, count) = values.into_iter().fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    if count == 0.0 { 0.0 } else { sum / count }
}

/// How far values that should be the same are apart: greatest less smallest, in parts of their mean.
pub(crate) fn spread(values: &[f64]) -> f64 {
    let greatest = values.iter().copied().fold(f64::MIN, f64::max);
    let smallest = values.iter().copied().fold(f64::MAX, f64::min);
    let mean = mean(values.iter().copied());
    if mean == 0.0 { 0.0 } else { (greatest - smallest) / mean }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_the_nearest_rank() {
        let values: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), Some(500.0));
        assert_eq!(percentile(&values, 0.99), Some(990.0));
        assert_eq!(percentile(&values, 0.999), Some(999.0));
        assert_eq!(percentile(&values, 1.0), Some(1000.0));
    }

    #[test]
    fn percentiles_of_few_values_are_values() {
        assert_eq!(percentile(&[7.0], 0.999), Some(7.0));
        assert_eq!(percentile(&[1.0, 2.0, 3.0], 0.5), Some(2.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn the_spread_is_in_parts_of_the_mean() {
        assert!((spread(&[90.0, 110.0]) - 0.2).abs() < 1e-12);
        assert_eq!(spread(&[5.0, 5.0]), 0.0);
        assert_eq!(spread(&[5.0]), 0.0);
    }

    #[test]
    fn the_mean_of_nothing_is_nothing() {
        assert_eq!(mean([]), 0.0);
        assert_eq!(mean([1.0, 3.0]), 2.0);
    }
}
