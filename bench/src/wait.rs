//! Waiting with a deadline, and names that nobody else on this machine uses.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks `probe` until it has an answer.
///
/// The probe says why it has none yet; the last reason is in the error when the deadline passes.
///
/// # Errors
/// The deadline passed.
pub fn wait_for<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        let reason = match probe() {
            Ok(answer) => return Ok(answer),
            Err(reason) => reason,
        };
        if start.elapsed() >= deadline {
            bail!("{what} did not happen within {deadline:?}; last seen: {reason:#}");
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// A name of at most 15 bytes (it fits an interface) that no other process of this machine has.
#[must_use]
pub fn unique_name(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let tail = format!("{:x}{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let room = 15usize.saturating_sub(tail.len());
    format!("{}{tail}", &prefix[..prefix.len().min(room)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_fit_an_interface() {
        let names = [unique_name("averylongprefixindeed"), unique_name("a"), unique_name("a")];
        assert!(names.iter().all(|name| name.len() <= 15), "{names:?}");
        assert_ne!(names[1], names[2]);
    }

    #[test]
    fn a_deadline_reports_the_last_reason() {
        let failed = wait_for("the moon", Duration::from_millis(20), || -> Result<()> { bail!("still cheese") });
        let text = format!("{:#}", failed.expect_err("it never happens"));
        assert!(text.contains("the moon") && text.contains("still cheese"), "{text}");
    }
}
