//! Field selectors: `spec.nodeName=n1,status.phase!=Running`, with the labels that a kind offers.

use super::FieldRequirement;
use crate::kind::Kind;
use crate::status::Status;

/// Fields that are absent when false.
const BOOLEANS: [&str; 2] = ["spec.hostNetwork", "spec.unschedulable"];

/// The requirements of a text; an empty text has none.
pub(super) fn parse(kind: &Kind, text: &str) -> Result<Vec<FieldRequirement>, Status> {
    split(text).into_iter().filter(|term| !term.is_empty()).map(|term| requirement(kind, text, &term)).collect()
}

fn requirement(kind: &Kind, text: &str, term: &str) -> Result<FieldRequirement, Status> {
    let (label, equal, value) = take_apart(term)
        .ok_or_else(|| Status::bad_request(format!("invalid selector: '{text}'; can't understand '{term}'")))?;
    let value = unescape(value)
        .ok_or_else(|| Status::bad_request(format!("invalid field selector: invalid escape sequence in '{term}'")))?;
    let path = path(kind, label)?;
    if BOOLEANS.contains(&label) && value == "false" {
        return Ok(FieldRequirement { path, value: "true".to_owned(), equal: !equal });
    }
    Ok(FieldRequirement { path, value, equal })
}

fn path(kind: &Kind, label: &str) -> Result<Vec<String>, Status> {
    let own = kind.selectable.iter().find(|(name, _)| *name == label).map(|(_, path)| *path);
    let path: &[&str] = match (label, own) {
        (_, Some(path)) => path,
        ("metadata.name", _) => &["metadata", "name"],
        ("metadata.namespace", _) => &["metadata", "namespace"],
        _ => return Err(unsupported(kind, label)),
    };
    Ok(path.iter().map(|step| (*step).to_owned()).collect())
}

fn unsupported(kind: &Kind, label: &str) -> Status {
    Status::bad_request(match (kind.selectable, kind.group) {
        ([], _) => format!("{label:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
        (_, "") => format!("field label not supported: {label}"),
        (_, group) => format!("field label {label:?} not supported for {group}{}.{}", kind.version, kind.kind),
    })
}

/// Splits at commas that are not escaped.
fn split(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            terms.push(String::new());
        } else if let Some(last) = terms.last_mut() {
            last.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    terms
}

/// Label, whether equality is asked for, and the value as written.
fn take_apart(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!'])?;
    let (label, rest) = term.split_at(at);
    let (equal, value) = if let Some(value) = rest.strip_prefix("!=") {
        (false, value)
    } else if let Some(value) = rest.strip_prefix("==") {
        (true, value)
    } else {
        (true, rest.strip_prefix('=')?)
    };
    Some((label, equal, value))
}

fn unescape(value: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            ',' | '=' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}
