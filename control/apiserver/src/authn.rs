//! Who is asking: the subject of the client certificate, checked against our CA by TLS.

use x509_parser::prelude::{FromDer, X509Certificate};

/// A user and the groups they are in. Put into the extensions of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate's common name.
    pub user: String,
    /// The certificate's organizations, and the group of everybody who proved a name.
    pub groups: Vec<String>,
}

impl Identity {
    /// Who sends no certificate.
    pub fn anonymous() -> Self {
        Self { user: "system:anonymous".to_owned(), groups: vec!["system:unauthenticated".to_owned()] }
    }

    /// The control plane's own loops.
    pub fn control() -> Self {
        Self {
            user: "system:fairlead-control".to_owned(),
            groups: vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
        }
    }

    /// The subject of a certificate, if it has a common name.
    pub fn from_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let organizations = subject.iter_organization().filter_map(|one| one.as_str().ok()).map(str::to_owned);
        let groups = organizations.chain(["system:authenticated".to_owned()]).collect();
        Some(Self { user, groups })
    }

    /// True for members of a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|one| one == group)
    }

    /// True without a proven name.
    pub fn is_anonymous(&self) -> bool {
        self.is_in("system:unauthenticated")
    }
}
