//! The cluster's own certificate authority and what it signs.
//!
//! Files that exist are kept, so a restart changes no identity; the serving certificate is made again when it lacks a
//! name or an address that is needed now, or is about to end.

use std::net::IpAddr;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

mod files;

pub use files::PkiError;
use files::{read, write};

/// Ten years for the CA.
const CA_DAYS: i64 = 3650;
/// One year for what it signs.
const LEAF_DAYS: i64 = 365;
/// What ends sooner than this is made again at start.
const RENEW_DAYS: i64 = 60;

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The private key. Never shown.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// The identities of the control plane.
#[derive(Debug)]
pub struct Pki {
    /// PEM of the CA's certificate.
    pub ca: String,
    /// What the API server shows.
    pub server: Pair,
    /// How the API server names itself to kubelets.
    pub kubelet_client: Pair,
    /// The administrator.
    pub admin: Pair,
    issuer: Authority,
}

/// Names and addresses under which the API server is reached.
#[derive(Clone, Debug, Default)]
pub struct ServingNames {
    /// DNS names.
    pub names: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

struct Authority(Issuer<'static, KeyPair>);

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

/// What a certificate is for.
struct Subject<'a> {
    common_name: &'a str,
    organization: Option<&'a str>,
    usage: ExtendedKeyUsagePurpose,
    serving: Option<&'a ServingNames>,
}

impl Pki {
    /// Reads `dir`, making what is not there.
    pub fn open(dir: &Path, serving: &ServingNames) -> Result<Self, PkiError> {
        files::make_dir(dir)?;
        let ca = match read(dir, "ca")? {
            Some(pair) => pair,
            None => write(dir, "ca", new_ca()?)?,
        };
        let key =
            KeyPair::from_pem(&ca.key).map_err(|source| PkiError::Unusable { path: dir.join("ca.key"), source })?;
        let issuer = Issuer::from_ca_cert_pem(&ca.certificate, key)
            .map_err(|source| PkiError::Unusable { path: dir.join("ca.crt"), source })?;
        let authority = Authority(issuer);
        let client = |common_name, organization| Subject {
            common_name,
            organization: Some(organization),
            usage: ExtendedKeyUsagePurpose::ClientAuth,
            serving: None,
        };
        let server = Subject {
            common_name: "kube-apiserver",
            organization: None,
            usage: ExtendedKeyUsagePurpose::ServerAuth,
            serving: Some(serving),
        };
        let keep = |name: &str, subject: Subject<'_>| -> Result<Pair, PkiError> {
            match read(dir, name)? {
                Some(pair) if still_good(&pair, subject.serving) => Ok(pair),
                _ => write(dir, name, authority.sign(&subject)?),
            }
        };
        Ok(Self {
            server: keep("apiserver", server)?,
            kubelet_client: keep("kubelet-client", client("kube-apiserver-kubelet-client", "system:masters"))?,
            admin: keep("admin", client("kubernetes-admin", "system:masters"))?,
            ca: ca.certificate,
            issuer: authority,
        })
    }

    /// Writes the identities of a node into `dir`: `client`, `server` and the CA's certificate. Good ones are kept.
    pub fn issue_node(&self, name: &str, address: IpAddr, dir: &Path) -> Result<(), PkiError> {
        files::make_dir(dir)?;
        let user = format!("system:node:{name}");
        let serving = ServingNames { names: vec![name.to_owned()], addresses: vec![address] };
        let client = Subject {
            common_name: &user,
            organization: Some("system:nodes"),
            usage: ExtendedKeyUsagePurpose::ClientAuth,
            serving: None,
        };
        let server = Subject { usage: ExtendedKeyUsagePurpose::ServerAuth, serving: Some(&serving), ..client };
        for (file, subject) in [("client", client), ("server", server)] {
            match read(dir, file)? {
                Some(pair)
                    if still_good(&pair, subject.serving)
                        && common_name(&pair).as_deref() == Some(&user)
                        && self.signed(&pair) => {}
                _ => {
                    write(dir, file, self.issuer.sign(&subject)?)?;
                }
            }
        }
        files::write_public(&dir.join("ca.crt"), &self.ca)
    }

    /// A kubeconfig of the administrator with everything in it.
    pub fn kubeconfig(&self, server: &str) -> String {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let encode = |pem: &str| STANDARD.encode(pem);
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: fairlead\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: {}\ncontexts:\n- name: fairlead\n  context:\n    cluster: fairlead\n    \
             user: kubernetes-admin\ncurrent-context: fairlead\npreferences: {{}}\nusers:\n- name: kubernetes-admin\n  \
             user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
            encode(&self.ca),
            encode(&self.admin.certificate),
            encode(&self.admin.key),
        )
    }

    /// Writes the administrator's kubeconfig, for its owner's eyes only.
    pub fn write_kubeconfig(&self, server: &str, path: &Path) -> Result<(), PkiError> {
        files::write_file(path, &self.kubeconfig(server), 0o600)
    }

    fn signed(&self, pair: &Pair) -> bool {
        let (Ok(ca), Ok(leaf)) = (
            CertificateDer::from_pem_slice(self.ca.as_bytes()),
            CertificateDer::from_pem_slice(pair.certificate.as_bytes()),
        ) else {
            return false;
        };
        let (Ok((_, ca)), Ok((_, leaf))) = (X509Certificate::from_der(&ca), X509Certificate::from_der(&leaf)) else {
            return false;
        };
        let key_id = |certificate: &X509Certificate<'_>| certificate.subject().to_string();
        leaf.issuer().to_string() == key_id(&ca) && authority_key(&leaf) == subject_key(&ca)
    }
}

impl Authority {
    fn sign(&self, subject: &Subject<'_>) -> Result<Pair, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(organization) = subject.organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.distinguished_name.push(DnType::CommonName, subject.common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![subject.usage.clone()];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, LEAF_DAYS);
        for address in subject.serving.iter().flat_map(|serving| &serving.addresses) {
            params.subject_alt_names.push(SanType::IpAddress(*address));
        }
        for name in subject.serving.iter().flat_map(|serving| &serving.names) {
            let name = name.as_str().try_into().map_err(PkiError::Make)?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        let key = KeyPair::generate().map_err(PkiError::Make)?;
        let certificate = params.signed_by(&key, &self.0).map_err(PkiError::Make)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn new_ca() -> Result<Pair, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "fairlead-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, CA_DAYS);
    let key = KeyPair::generate().map_err(PkiError::Make)?;
    let certificate = params.self_signed(&key).map_err(PkiError::Make)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// From an hour ago, for clocks that disagree.
fn validity(params: &mut CertificateParams, days: i64) {
    let now = std::time::SystemTime::now();
    let span = |seconds: i64| std::time::Duration::from_secs(seconds.unsigned_abs());
    params.not_before = (now - span(3600)).into();
    params.not_after = (now + span(days * 86_400)).into();
}

fn still_good(pair: &Pair, serving: Option<&ServingNames>) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(pair.certificate.as_bytes()) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(&der) else { return false };
    let now = jiff::Timestamp::now().as_second();
    if certificate.validity().not_after.timestamp() < now + RENEW_DAYS * 86_400
        || PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).is_err()
    {
        return false;
    }
    let Some(serving) = serving else { return true };
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else { return false };
    let has = |wanted: &GeneralName<'_>| alternatives.value.general_names.contains(wanted);
    let bytes = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    serving.names.iter().all(|name| has(&GeneralName::DNSName(name)))
        && serving.addresses.iter().all(|address| has(&GeneralName::IPAddress(&bytes(address))))
}

fn common_name(pair: &Pair) -> Option<String> {
    let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).ok()?;
    crate::authn::Identity::from_certificate(&der).map(|identity| identity.user)
}

fn subject_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    use x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier;
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}

fn authority_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    use x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier;
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    })
}

/// DER of the certificates in a PEM text.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(PkiError::Pem)
}

/// DER of the key in a PEM text.
pub(crate) fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, PkiError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(PkiError::Pem)
}
