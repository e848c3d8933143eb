//! How long to wait before contact is sought again.

use std::time::Duration;

/// The first pause is at most this: a control plane that restarts is missed for a moment only.
const FIRST: Duration = Duration::from_millis(50);
/// No pause is longer.
const LONGEST: Duration = Duration::from_secs(5);

/// The pause after so many failures in a row: doubled each time, and between half and all of it by chance, so that
/// the nodes of a cluster do not come back all at once.
pub(crate) fn pause(failures: u32, chance: u64) -> Duration {
    let full = FIRST.saturating_mul(1 << failures.min(16)).min(LONGEST);
    let half = full / 2;
    let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_micros(chance % spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_keep_their_jitter() {
        for failures in 0..40 {
            let (least, most) = (pause(failures, 0), pause(failures, u64::MAX));
            let full = FIRST.saturating_mul(1 << failures.min(7)).min(LONGEST);
            assert_eq!(least, full / 2, "after {failures} failures");
            assert!(most >= least && most <= full, "after {failures} failures: {most:?}");
        }
        assert_ne!(pause(5, 1_000), pause(5, 2_000));
    }
}
