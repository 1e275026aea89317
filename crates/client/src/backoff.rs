//! How long to wait before the same again.

use std::time::Duration;

use rand::RngExt as _;

/// Attempts in a row that bring nothing, before a transfer is left for later.
pub(crate) const ATTEMPTS: u32 = 4;

/// Full jitter: anything up to a bound that doubles, but no sooner than the server asked for.
pub(crate) fn back_off(
    bounds: (Duration, Duration),
    failures: u32,
    asked: Option<Duration>,
) -> Duration {
    let bound = bounds.0.saturating_mul(1 << failures.min(16)).min(bounds.1);
    let jittered = bound.mul_f64(rand::rng().random_range(0.0..1.0));
    jittered.max(asked.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_back_off_is_bounded_and_honours_the_server() {
        let bounds = (Duration::from_millis(100), Duration::from_secs(2));
        let asked = Duration::from_secs(5);
        for failures in 1..100 {
            assert!(back_off(bounds, failures, None) <= bounds.1);
            assert_eq!(back_off(bounds, failures, Some(asked)), asked);
        }
        assert!(back_off(bounds, 1, None) <= Duration::from_millis(200));
    }
}
