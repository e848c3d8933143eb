//! Names, label keys and label values: what is wrong with a text, in the words clients know. Nothing wrong, no words.

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";

/// RFC 1123 label, up to 63 characters.
pub fn dns_label(text: &str) -> Vec<String> {
    let mut wrong = too_long(text, 63);
    if !is_label(text) {
        wrong.push(format!(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
             end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{LABEL}')"
        ));
    }
    wrong
}

/// RFC 1123 subdomain, up to 253 characters.
pub fn dns_subdomain(text: &str) -> Vec<String> {
    let mut wrong = too_long(text, 253);
    if !text.split('.').all(is_label) {
        wrong.push(format!(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '{SUBDOMAIN}')"
        ));
    }
    wrong
}

/// RFC 1035 label, up to 63 characters, starting with a letter.
pub fn dns_1035_label(text: &str) -> Vec<String> {
    let mut wrong = too_long(text, 63);
    if !is_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        wrong.push(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
             validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
                .to_owned(),
        );
    }
    wrong
}

/// Keys of labels and annotations, finalizers: `[prefix/]name`.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else {
                wrong.extend(dns_subdomain(prefix).into_iter().map(|why| format!("prefix part {why}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                pattern(
                    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                         alphanumeric character",
                    "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]",
                    &["MyName", "my.name", "123-abc"]
                )
            )];
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else {
        wrong.extend(too_long(name, 63).into_iter().map(|why| format!("name part {why}")));
    }
    if !is_loose(name) {
        wrong.push(format!(
            "name part {}",
            pattern(
                "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                 alphanumeric character",
                "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]",
                &["MyName", "my.name", "123-abc"]
            )
        ));
    }
    wrong
}

/// Values of labels: empty, or up to 63 loose characters.
pub fn label_value(text: &str) -> Vec<String> {
    let mut wrong = too_long(text, 63);
    if !text.is_empty() && !is_loose(text) {
        wrong.push(pattern(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    wrong
}

/// Names of environment variables: printable ASCII without `=`.
pub fn env_name(text: &str) -> Vec<String> {
    if text.is_empty() || text.chars().any(|c| !(' '..='~').contains(&c) || c == '=') {
        return vec![
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        ];
    }
    Vec::new()
}

/// Keys of ConfigMaps and Secrets.
pub fn config_key(text: &str) -> Vec<String> {
    let mut wrong = too_long(text, 253);
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        wrong.push(pattern(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match text {
        "." => wrong.push("must not be '.'".to_owned()),
        ".." => wrong.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => wrong.push("must not start with '..'".to_owned()),
        _ => {}
    }
    wrong
}

/// Names of ports: up to 15 lower-case characters with at least one letter.
pub fn port_name(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 15 {
        wrong.push("must be no more than 15 characters".to_owned());
    }
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
        wrong.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.contains(|c: char| c.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        wrong.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        wrong.push("must not begin or end with a hyphen".to_owned());
    }
    wrong
}

fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(inner) && text.ends_with(inner) && text.chars().all(|c| inner(c) || c == '-')
}

fn is_loose(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(edge) && text.ends_with(edge) && text.chars().all(|c| edge(c) || "-_.".contains(c))
}

fn too_long(text: &str, max: usize) -> Vec<String> {
    if text.len() > max { vec![format!("must be no more than {max} characters")] } else { Vec::new() }
}

fn pattern(what: &str, regex: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|one| format!("'{one}'")).collect();
    let examples = examples.join(",  or ");
    format!("{what} (e.g. {examples}, regex used for validation is '{regex}')")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_and_refuses() {
        let long = "a".repeat(64);
        type Row<'a> = (fn(&str) -> Vec<String>, &'a [&'a str], &'a [&'a str]);
        let rows: [Row<'_>; 8] = [
            (dns_label, &["a", "a-b", "1a"], &["", "A", "a.b", "-a", "a-", "a_b", &long]),
            (dns_subdomain, &["a", "a.b", "1.2", &long], &["", "A", "a..b", ".a", "a.", "a_b"]),
            (dns_1035_label, &["a", "a-1"], &["", "1a", "a.b", "A", &long]),
            (qualified_name, &["a", "A_b.c", "example.com/Name"], &["", "/a", "a/", "a/b/c", "-a", "X.com/a", &long]),
            (label_value, &["", "a", "A_b.c"], &["-a", "a b", "a/", &long]),
            (env_name, &["A", "a.b", "1A", "a-b"], &["", "A=B", "ä"]),
            (config_key, &["a", ".a", "A_b-c.d", "a..b"], &["", "a/b", ".", "..", "..a", "a b"]),
            (port_name, &["http", "a-1"], &["", "80", "HTTP", "a--b", "-a", "abcdefghijklmnop"]),
        ];
        for (check, good, bad) in rows {
            for text in good {
                assert_eq!(check(text), [""; 0], "{text}");
            }
            for text in bad {
                assert_ne!(check(text), [""; 0], "{text}");
            }
        }
    }
}
