//! How a source file has to look: a story at its head, a size one can read, no module named `mod`, nothing unfinished.

use super::Source;

/// A file beyond this is two rooms.
const LONGEST: usize = 600;
/// The only places with unsafe code.
const UNSAFE: [&str; 3] = ["ebpf/abi/", "ebpf/programs/", "daemon/datapath/src/"];

pub(crate) fn violations(file: &Source) -> Vec<String> {
    let Source { path, text } = file;
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > LONGEST {
        found.push(format!("{path} has {lines} lines; split it (at most {LONGEST})"));
    }
    if path.ends_with("/mod.rs") {
        found.push(format!("{path}: a module is x.rs beside x/, not x/mod.rs"));
    }
    if !path.ends_with("/tests.rs") && !begins_with_story(text) {
        found.push(format!("{path} has no module comment; begin it with `//!` and what the file is for"));
    }
    if is_crate_root(path)
        && !UNSAFE.iter().any(|place| path.starts_with(place))
        && !text.contains("#![forbid(unsafe_code)]")
    {
        found.push(format!("{path} lacks #![forbid(unsafe_code)]"));
    }
    for (number, line) in text.lines().enumerate() {
        if let Some(word) = unfinished(line) {
            found.push(format!("{path}:{}: `{word}` is not finished", number + 1));
        }
    }
    found
}

/// The first line that is neither empty nor an attribute is a module comment.
fn begins_with_story(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("#!"));
    lines.next().is_none_or(|line| line.starts_with("//!"))
}

fn is_crate_root(path: &str) -> bool {
    path.ends_with("/src/lib.rs") || path.ends_with("/src/main.rs")
}

/// A macro that stands for code to come. The names are put together here, so that this file does not accuse itself.
fn unfinished(line: &str) -> Option<String> {
    let code = line.split("//").next().unwrap_or_default();
    let words = ["todo", "unimplemented"].map(|word| format!("{word}!("));
    words.into_iter().find(|word| code.contains(word.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str, expected: &[&str]) {
        let found = violations(&Source { path: path.to_owned(), text: text.to_owned() });
        assert_eq!(found.len(), expected.len(), "{path}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found} does not say {expected}");
        }
    }

    #[test]
    fn files_are_judged_one_by_one() {
        check("control/api/src/lib.rs", "//! Story.\n#![forbid(unsafe_code)]\n", &[]);
        check("control/api/src/lib.rs", "//! Story.\n", &["lacks"]);
        check("ebpf/abi/src/lib.rs", "#![no_std]\n//! Story.\n", &[]);
        check("control/api/src/kind.rs", "use std::fs;\n", &["no module comment"]);
        check("control/api/src/kind/tests.rs", "use super::*;\n", &[]);
        check("control/api/src/kind/mod.rs", "//! Story.\n", &["not x/mod.rs"]);
        check("x/src/y.rs", &format!("//! Story.\n{}", "\n".repeat(LONGEST)), &["split it"]);
        check("x/src/y.rs", &format!("//! Story.\nfn f() {{ {}!() }}\n// todo!(\n", "todo"), &["y.rs:2"]);
    }
}
