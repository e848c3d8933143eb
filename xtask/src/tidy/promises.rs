//! Each invariant of `ARCHITECTURE.md` is named where it is tested: in the name of a test or in a comment beside one.

use super::Source;

pub(crate) fn violations(map: &str, files: &[Source]) -> Vec<String> {
    let names = invariants(map);
    let mut found = Vec::new();
    if names.is_empty() {
        found.push("ARCHITECTURE.md has no table of invariants".to_owned());
    }
    for name in names {
        if !files.iter().filter(|file| has_tests(file)).any(|file| keeps(file, &name)) {
            found.push(format!("no test is named after the invariant {name}, and no comment beside one names it"));
        }
    }
    found
}

/// The first column of the table below the heading `Invariants`.
fn invariants(map: &str) -> Vec<String> {
    let section = map.split_once("## Invariants").map(|(_, rest)| rest).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let names = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    names.filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '-')).map(str::to_owned).collect()
}

fn has_tests(file: &Source) -> bool {
    file.path.starts_with("tests/")
        || file.path.ends_with("/tests.rs")
        || file.path.contains("/tests/")
        || file.text.contains("#[test]")
}

fn keeps(file: &Source, name: &str) -> bool {
    let in_code = format!("{}_", name.to_ascii_lowercase().replace('-', "_"));
    file.text.lines().map(str::trim).any(|line| {
        let comment = line.starts_with("//")
            && line.split(|c: char| !c.is_ascii_alphabetic() && c != '-').any(|word| word == name);
        comment || (line.starts_with("fn ") && line.contains(&in_code))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "# A\n\n## Invariants\n\n| name | where |\n|---|---|\n| `WHOLE` | x |\n| `LAST-GOOD` | y |\n\n## Rules\n| `OTHER` | z |\n";

    fn check(path: &str, text: &str, expected: usize) {
        let files = [Source { path: path.to_owned(), text: text.to_owned() }];
        assert_eq!(violations(MAP, &files).len(), expected, "{text}");
    }

    #[test]
    fn names_come_from_the_table() {
        assert_eq!(invariants(MAP), ["WHOLE", "LAST-GOOD"]);
        assert_eq!(violations("# no table", &[]).len(), 1);
    }

    #[test]
    fn a_promise_is_kept_by_a_test_or_a_comment_beside_one() {
        check("x/src/a.rs", "/// Keeps WHOLE and LAST-GOOD.\n#[test]\nfn a() {}\n", 0);
        check("x/src/a.rs", "#[test]\nfn whole_sets_are_seen() {}\n// LAST-GOOD\n", 0);
        check("x/src/a.rs", "//! Keeps WHOLE, but nobody tests it.\n", 2);
        check("tests/tests/a.rs", "//! WHOLE\n", 1);
    }
}
