//! What a kind is. Adding one means writing one [`Kind`] declaration in [`crate::registry`] and nothing else.
//!
//! Everything that differs from kind to kind is a field here; everything that is the same for all (metadata, decoding,
//! patches, discovery, OpenAPI) is derived from these fields and from the kind's schema.

use schemars::SchemaGenerator;
use serde_json::Value;

use crate::object::Object;
use crate::status::FieldError;

/// Whether objects of a kind live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One per cluster: Node, Namespace.
    Cluster,
    /// One per namespace.
    Namespaced,
}

/// How names of a kind are formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Naming {
    /// RFC 1123 subdomain, up to 253 characters: most kinds.
    Subdomain,
    /// RFC 1123 label, up to 63 characters: namespaces.
    Label,
    /// RFC 1035 label, up to 63 characters, starting with a letter: services.
    Label1035,
}

/// A column of the table that `kubectl get` shows.
#[derive(Clone, Copy)]
pub struct Column {
    /// Heading as clients know it: `Name`, `Ready`, `Cluster-IP`.
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `date`.
    pub r#type: &'static str,
    /// OpenAPI format; `name` marks the column that holds the name.
    pub format: &'static str,
    /// What the column means, one sentence.
    pub description: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: i32,
    /// The cell. `now` is seconds since the Unix epoch: ages are counted by the server.
    pub cell: fn(&Object, now: i64) -> Value,
}

/// Subresources that are views of the same stored object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subresource {
    /// `status`: writes touch `.status` alone; writes of the main resource leave it alone.
    Status,
    /// `scale`: autoscaling/v1 Scale over `.spec.replicas`.
    Scale,
    /// `binding` of pods: sets `.spec.nodeName` once.
    Binding,
    /// `finalize` of namespaces: writes `.spec.finalizers` alone.
    Finalize,
}

impl Subresource {
    /// The last segment of its URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Subresource::Status => "status",
            Subresource::Scale => "scale",
            Subresource::Binding => "binding",
            Subresource::Finalize => "finalize",
        }
    }

    /// The subresource of that URL segment.
    pub fn parse(segment: &str) -> Option<Self> {
        [Self::Status, Self::Scale, Self::Binding, Self::Finalize].into_iter().find(|one| one.as_str() == segment)
    }
}

/// A subresource that is not a stored object but a connection to the node: `pods/log`, `pods/exec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connect {
    /// The last segment of its URL.
    pub name: &'static str,
    /// Kind that discovery names for it: `Pod` for `log`, `PodExecOptions` for `exec`.
    pub kind: &'static str,
    /// Verbs that discovery names for it.
    pub verbs: &'static [&'static str],
}

/// One kind at one version: everything the server must know of it.
pub struct Kind {
    /// Empty for core/v1.
    pub group: &'static str,
    /// `v1`.
    pub version: &'static str,
    /// `Deployment`.
    pub kind: &'static str,
    /// Name in the URL: `deployments`.
    pub plural: &'static str,
    /// `deployment`.
    pub singular: &'static str,
    /// `deploy`.
    pub short_names: &'static [&'static str],
    /// `all` puts it into `kubectl get all`.
    pub categories: &'static [&'static str],
    /// Namespaced or not.
    pub scope: Scope,
    /// How its names are formed.
    pub naming: Naming,
    /// Views of the same object.
    pub subresources: &'static [Subresource],
    /// Connections to the object's node.
    pub connects: &'static [Connect],
    /// Key of the kind's schema in the OpenAPI document: `io.k8s.api.apps.v1.Deployment`.
    pub schema: &'static str,
    /// Adds the kind's types to the OpenAPI components.
    pub types: fn(&mut SchemaGenerator),
    /// True where `metadata.generation` counts changes of anything but metadata and status.
    pub generation: bool,
    /// Fills what upstream's defaulting fills. Called on create, update and patch, before validation.
    pub default: fn(&mut Object),
    /// What upstream's validation refuses, beyond metadata. `old` is the stored object on an update.
    /// Callers use [`Kind::validate_all`], which adds what is common to all kinds.
    pub validate: fn(new: &Object, old: Option<&Object>, errors: &mut Vec<FieldError>),
    /// Field selectors beyond `metadata.name` and `metadata.namespace`: (label as clients write it, path).
    pub selectable: &'static [(&'static str, &'static [&'static str])],
    /// Table columns.
    pub columns: &'static [Column],
}

impl Kind {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// True for kinds with a namespace.
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// The name errors use: `deployments.apps`, `pods`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// True if the kind has the subresource.
    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    /// Every error of an object: those of its metadata, then those of the kind. `old` is the stored object on an
    /// update.
    pub fn validate_all(&self, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        crate::validate::metadata::validate(self, new, old, &mut errors);
        (self.validate)(new, old, &mut errors);
        errors
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.api_version(), self.kind)
    }
}

impl std::fmt::Debug for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        (self.group, self.version, self.kind) == (other.group, other.version, other.kind)
    }
}

impl Eq for Kind {}
