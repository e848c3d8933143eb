//! A test's own main: one line per test, whatever else is missing on the machine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

/// A named test on a shared subject.
pub type Case<S> = (&'static str, fn(&mut S) -> Result<()>);

/// Sets the subject up, runs the tests that the command line names (all by default), and prints how each went.
pub fn run<S>(set_up: impl FnOnce() -> Result<S>, cases: &[Case<S>]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name: &str| arguments.is_empty() || arguments.iter().any(|argument| name.contains(argument));
    if !nix::unistd::geteuid().is_root() {
        for (name, _) in cases {
            println!("test {name} ... skipped (root is needed)");
        }
        return if std::env::var_os("REQUIRE").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let mut subject = match set_up() {
        Ok(subject) => subject,
        Err(error) => {
            println!("test set_up ... FAILED\n  {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut failed = 0;
    for (name, case) in cases.iter().filter(|(name, _)| wanted(name)) {
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| case(&mut subject)));
        let took = start.elapsed().as_millis();
        match outcome {
            Ok(Ok(())) => println!("test {name} ... ok ({took} ms)"),
            Ok(Err(error)) => {
                failed += 1;
                println!("test {name} ... FAILED ({took} ms)\n  {error:#}");
            }
            Err(_) => {
                failed += 1;
                println!("test {name} ... FAILED ({took} ms)\n  it panicked");
            }
        }
    }
    drop(subject);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
