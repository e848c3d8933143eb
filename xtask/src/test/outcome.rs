//! Counting results in what test programs print.
//!
//! Both rust's own harness and our kernel tests print `test NAME ... RESULT`, one line per test. The latter name a skip
//! there; the former call it ok and say `SKIPPED: reason` in the output they captured.

/// What a layer came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) passed: usize,
    /// The name of each failed test, or what else went wrong.
    pub(crate) failed: Vec<String>,
    /// Why each skipped test was.
    pub(crate) skipped: Vec<String>,
}

/// The result of one test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    Failed,
    Skipped(String),
}

impl Outcome {
    pub(crate) fn failure(what: impl Into<String>) -> Self {
        Self { failed: vec![what.into()], ..Self::default() }
    }

    pub(crate) fn skip(why: impl Into<String>) -> Self {
        let why = why.into();
        println!("  skipped: {why}");
        Self { skipped: vec![why], ..Self::default() }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
    }

    /// Reads the output of a test program.
    pub(crate) fn read(lines: &[String]) -> Self {
        let mut outcome = Self::default();
        for line in lines {
            match result_of(line) {
                Some((_, Verdict::Passed)) => outcome.passed += 1,
                Some((name, Verdict::Failed)) => outcome.failed.push(name.to_owned()),
                Some((name, Verdict::Skipped(why))) => outcome.skipped.push(format!("{name}: {why}")),
                None => {
                    if let Some(why) = line.trim().strip_prefix("SKIPPED: ") {
                        outcome.passed = outcome.passed.saturating_sub(1);
                        outcome.skipped.push(why.to_owned());
                    }
                }
            }
        }
        outcome
    }
}

/// The name and the result in `test NAME ... RESULT`.
pub(crate) fn result_of(line: &str) -> Option<(&str, Verdict)> {
    let (name, result) = line.trim().strip_prefix("test ")?.rsplit_once(" ... ")?;
    let verdict = match result.split([' ', ',']).next()? {
        "ok" => Verdict::Passed,
        "FAILED" => Verdict::Failed,
        "ignored" | "skipped" => {
            Verdict::Skipped(result.trim_start_matches("skipped ").trim_matches(['(', ')']).to_owned())
        }
        _ => return None,
    };
    Some((name, verdict))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_output_are_counted() {
        let said = "running 3 tests\ntest a ... ok\ntest b ... FAILED\ntest c ... skipped (no tcx: kernel 6.1)\n\
                    test d ... ok\n---- d stdout ----\n\nSKIPPED: root is needed\ntest e ... ok (2.1 s)\ntest result: FAILED.";
        let lines: Vec<String> = said.lines().map(str::to_owned).collect();
        let outcome = Outcome::read(&lines);
        assert_eq!(outcome.passed, 2);
        assert_eq!(outcome.failed, ["b"]);
        assert_eq!(outcome.skipped, ["c: no tcx: kernel 6.1", "root is needed"]);
    }

    #[test]
    fn the_summary_is_no_result() {
        assert_eq!(result_of("test result: ok. 3 passed; 0 failed"), None);
        assert_eq!(result_of("test x has been running for over 60 seconds"), None);
    }
}
