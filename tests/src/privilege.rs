//! May this test run here? A laptop without the privilege skips and says so; where `REQUIRE` is set a skip is a failure.

/// Proof that the test may change interfaces, mounts and BPF objects.
#[derive(Debug, Clone, Copy)]
pub struct Root(());

/// Root, or `None` after a printed skip.
///
/// ```no_run
/// let Some(_root) = fairlead_tests::require_root() else { return };
/// ```
///
/// # Panics
/// Without root where `REQUIRE` is set.
#[must_use]
pub fn require_root() -> Option<Root> {
    if nix::unistd::geteuid().is_root() {
        return Some(Root(()));
    }
    skip("root is needed; run `sudo -E cargo xtask test`");
    None
}

/// Prints the reason in the form that `cargo xtask test` counts.
///
/// # Panics
/// Where `REQUIRE` is set: there every test has to run.
pub fn skip(reason: &str) {
    assert!(std::env::var_os("REQUIRE").is_none(), "this test was skipped although REQUIRE is set: {reason}");
    println!("\nSKIPPED: {reason}");
}
