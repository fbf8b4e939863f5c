//! TLS to clients: which certificate is shown to whom, and which HTTP is offered. Not here: TLS between sites
//! (see `link`).

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;

/// The names of HTTP/2 and HTTP/1.1 in ALPN (RFC 7301).
pub const H2: &[u8] = b"h2";
const HTTP_11: &[u8] = b"http/1.1";
/// Longest file with certificates or a key: a chain of ten is about 20 KiB.
const FILE_MAX: u64 = 1 << 20;

/// Why a certificate cannot be shown. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is no regular file: name the file that is one")]
    NotAFile { path: PathBuf },
    #[error("{path} holds no {wanted} in PEM: name the file that does")]
    Pem { path: PathBuf, wanted: &'static str },
    #[error("the key in {path} is of no kind that is known: use ECDSA P-256, Ed25519 or RSA")]
    Key { path: PathBuf },
    #[error("the key in {key} is not that of the certificate in {certificate}")]
    Mismatch { certificate: PathBuf, key: PathBuf },
    #[error("TLS: {0}")]
    Config(#[from] rustls::Error),
}

/// Reads pairs of certificate chain and key, and offers HTTP/2 and HTTP/1.1 with them. The first is for
/// clients that ask for no name, or for one that none has. Blocks.
pub fn config(pairs: &[(PathBuf, PathBuf)]) -> Result<Arc<ServerConfig>, TlsError> {
    let mut shown = Shown { names: HashMap::new(), first: None };
    for (certificate, key) in pairs {
        shown.add(certificate, key)?;
    }
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![H2.to_vec(), HTTP_11.to_vec()];
    Ok(Arc::new(config))
}

/// Certificates by the names in them; `*.` stands for one label.
struct Shown {
    names: HashMap<String, Arc<CertifiedKey>>,
    first: Option<Arc<CertifiedKey>>,
}

impl Shown {
    fn add(&mut self, certificate: &Path, key: &Path) -> Result<(), TlsError> {
        let none = |path: &Path, wanted| TlsError::Pem { path: path.into(), wanted };
        let chain = CertificateDer::pem_slice_iter(&read(certificate)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| none(certificate, "certificate"))?;
        let leaf = chain.first().ok_or_else(|| none(certificate, "certificate"))?;
        let names = names(leaf).ok_or_else(|| none(certificate, "certificate"))?;
        let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| none(key, "private key"))?;
        let signing = ring::sign::any_supported_type(&secret)
            .map_err(|_| TlsError::Key { path: key.to_owned() })?;
        let pair = Arc::new(CertifiedKey::new(chain, signing));
        if pair.keys_match().is_err() {
            return Err(TlsError::Mismatch { certificate: certificate.into(), key: key.into() });
        }
        for name in names {
            self.names.entry(name).or_insert_with(|| pair.clone());
        }
        self.first.get_or_insert(pair);
        Ok(())
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        let wild = || self.names.get(&format!("*.{}", name.split_once('.')?.1));
        self.names.get(&name).or_else(wild)
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        hello.server_name().and_then(|name| self.find(name)).or(self.first.as_ref()).cloned()
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names.keys()).finish()
    }
}

/// The DNS names that a certificate is for, in lower case.
fn names(leaf: &CertificateDer<'_>) -> Option<Vec<String>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let alternatives = parsed.subject_alternative_name().ok()?;
    let all = alternatives.map(|it| it.value.general_names.as_slice()).unwrap_or_default();
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    Some(all.iter().filter_map(name).collect())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { path: path.into(), source };
    // Anything else is not opened: that could wait for ever.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(TlsError::NotAFile { path: path.into() });
    }
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(failed)
}
