//! The wait before the next attempt.

use std::time::Duration;

use crate::config::ClientConfig;

/// The number of attempts in a row without progress, after which a transfer is left for later.
pub(crate) const ATTEMPTS: u32 = 4;

/// Returns a wait with full jitter: any time up to a bound that doubles, but no less than the
/// server asked for.
pub(crate) fn back_off(config: &ClientConfig, failures: u32, asked: Option<Duration>) -> Duration {
    let (least, most) = config.backoff;
    let bound = least.saturating_mul(1 << failures.min(16)).min(most);
    // An application's environment may say anything.
    let jitter = config.environment.jitter();
    let jittered = bound.mul_f64(if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 1.0 });
    jittered.max(asked.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_back_off_is_bounded_and_honours_the_server() {
        let backoff = (Duration::from_millis(100), Duration::from_secs(2));
        let config = ClientConfig { backoff, ..ClientConfig::default() };
        let asked = Duration::from_secs(5);
        for failures in 1..100 {
            assert!(back_off(&config, failures, None) <= backoff.1);
            assert_eq!(back_off(&config, failures, Some(asked)), asked);
        }
        assert!(back_off(&config, 1, None) <= Duration::from_millis(200));
    }
}
