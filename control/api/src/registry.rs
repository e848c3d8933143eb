//! The kinds served, each one declaration.

use crate::kind::Kind;

/// The kind at `group`/`version` whose URL name is `plural`.
pub fn by_plural(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    all().iter().copied().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}

/// The kind by `apiVersion` and `kind`, as objects name it.
pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    all().iter().copied().find(|one| one.kind == kind && one.api_version() == api_version)
}

/// Every kind, core first, in the order discovery shows them.
pub fn all() -> &'static [&'static Kind] {
    &[]
}
