//! The layer without privileges: what `cargo fmt`, `clippy`, `test` and `doc` say, and our own rules.

use std::collections::BTreeMap;
use std::process::Command;

use super::{LAYER_LIMIT, Outcome, outcome, workspace};
use crate::build::{Embedded, cargo};
use crate::{place, run, tidy};

/// Checks one after the other; a failed one does not keep the others from being made.
pub(crate) fn perform(embedded: &Embedded) -> Outcome {
    let mut sum = Outcome::default();
    sum.add(check("cargo fmt --check", cargo().args(["fmt", "--all", "--", "--check"])));
    sum.add(rules());
    sum.add(tests(embedded));
    // The last one is for the privileged tests, which are no part of `--tests`.
    let clippy = ["--lib", "--bins", "--benches", "--tests", "--test", "*", "--", "--deny", "warnings"];
    sum.add(check("cargo clippy", workspace(embedded, "clippy").args(clippy)));
    let mut doc = workspace(embedded, "doc");
    doc.args(["--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-Dwarnings -Arustdoc::private_intra_doc_links");
    sum.add(check("cargo doc", &mut doc));
    sum
}

/// A command that says yes or no.
fn check(name: &str, command: &mut Command) -> Outcome {
    match run::step(name, command) {
        Ok(_) => Outcome { passed: 1, ..Outcome::default() },
        Err(error) => {
            println!("{error:#}");
            Outcome::failure(name)
        }
    }
}

fn rules() -> Outcome {
    match tidy::violations(&place::root()) {
        Ok(found) if found.is_empty() => Outcome { passed: 1, ..Outcome::default() },
        Ok(found) => {
            found.iter().for_each(|violation| println!("  {violation}"));
            Outcome::failure(format!("tidy: {} rules broken", found.len()))
        }
        Err(error) => Outcome::failure(format!("tidy: {error:#}")),
    }
}

/// Unit, property and documentation tests of the whole workspace; a line per crate that has some.
fn tests(embedded: &Embedded) -> Outcome {
    let mut cargo = workspace(embedded, "test");
    cargo.arg("--no-fail-fast");
    // What needs root is a layer of its own and not selected by a plain `cargo test`.
    let ended = match run::watch("cargo test", &mut cargo, LAYER_LIMIT, |line| line.contains(" ... FAILED")) {
        Ok(ended) => ended,
        Err(error) => return Outcome::failure(format!("{error:#}")),
    };
    println!("  {:<34} {}", "cargo test", run::seconds(ended.took));
    let mut sum = Outcome::read(&ended.lines);
    for (program, count) in by_program(&ended.lines) {
        println!("    {program:<32} {count} tests");
    }
    if !ended.success {
        println!("{}", ended.lines.join("\n"));
        if sum.failed.is_empty() {
            sum.failed.push("cargo test did not get to its end".to_owned());
        }
    }
    sum
}

/// How many tests each test program has run.
fn by_program(lines: &[String]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut program = String::new();
    for line in lines {
        let line = line.trim();
        if let Some(started) = line.strip_prefix("Running ").or_else(|| line.strip_prefix("Doc-tests ")) {
            program = program_name(started).to_owned();
        } else if outcome::result_of(line).is_some() {
            *counts.entry(program.clone()).or_insert(0) += 1;
        }
    }
    counts
}

/// `unittests src/lib.rs (target/debug/deps/fairlead_api-0123)` is `fairlead_api`.
fn program_name(started: &str) -> &str {
    let file = started.rsplit('/').next().unwrap_or(started).trim_end_matches(')');
    file.rsplit_once('-').map_or(file, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_counted_per_program() {
        let said = "     Running unittests src/lib.rs (target/debug/deps/fairlead_api-01ab)\ntest a ... ok\ntest b ... ok\n   \
                    Doc-tests fairlead_store\ntest src/lib.rs - x (line 3) ... ok\n";
        let lines: Vec<String> = said.lines().map(str::to_owned).collect();
        let counts = by_program(&lines);
        assert_eq!(counts.get("fairlead_api"), Some(&2));
        assert_eq!(counts.get("fairlead_store"), Some(&1));
    }
}
