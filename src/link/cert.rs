//! Who a site is: the private CA, the certificates that it issues, and the cluster secret. A site's
//! name is the one URI SAN of its certificate, `nearshare://site/NAME`. Pure but for randomness: files
//! are in `bundle`, the checks of a connection in `verify`.

use std::str::FromStr;
use std::time::Duration;

use rand::TryRngCore;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;

use crate::clock::WallTime;
use crate::id::SiteId;

/// What a site's URI SAN begins with; its name follows.
pub const SITE_URI: &str = "nearshare://site/";
/// How long a CA is valid: ten years.
pub const CA_DAYS: u32 = 3650;
/// How long a site's certificate is valid unless told: two years.
pub const SITE_DAYS: u32 = 730;
/// Certificates are valid from a little before they are made: the sites' clocks differ.
const BACKDATE: Duration = Duration::from_secs(3600);
/// BLAKE3 contexts are namespaced, so that no other program derives our keys from a shared secret.
const CONTEXT: &str = "nearshare v1 ";

/// Why keys, certificates or the secret cannot be made or used. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    #[error("cannot make a {what}: {source}")]
    Make { what: &'static str, source: rcgen::Error },
    #[error("the system gives no random bytes: {0}")]
    Random(rand::rand_core::OsError),
    #[error("the wall clock says {0} ns since 1970, which is no date: set the clock")]
    Clock(i64),
    #[error("--days is {0}; it must be 1 to {CA_DAYS}, the CA lives no longer")]
    Days(u32),
    #[error("the {what} holds no {wanted} in PEM: copy it again from where `nearshare cert` wrote it")]
    Pem { what: &'static str, wanted: &'static str },
    #[error("the certificate {0}; issue one with `nearshare cert issue NAME`")]
    NoSite(NoSite),
    #[error(
        "the cluster secret must be 64 hexadecimal digits: copy it again from the CA's directory, \
         it is the same at every site"
    )]
    Secret,
}

/// Why a certificate does not say which site it is for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSite {
    #[error("cannot be parsed")]
    Unparsable,
    #[error("has {0} alternative names, a site's certificate has exactly one")]
    Names(usize),
    #[error("has the name {0:?}, which is not nearshare://site/NAME")]
    Foreign(String),
}

/// The secret that all sites of a cluster share. Every key is derived from it; it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    pub fn generate() -> Result<Self, CertError> {
        let mut bytes = [0; 32];
        rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(CertError::Random)?;
        Ok(Self(bytes))
    }
    /// The key for one purpose. The context names the purpose, for ever.
    pub fn derive(&self, context: &str) -> [u8; 32] {
        blake3::derive_key(&format!("{CONTEXT}{context}"), &self.0)
    }
    /// What two sites compare to know that they have the same secret; says nothing about it.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.derive("fingerprint")
    }
    /// For the secret's file: 64 hexadecimal digits and a line end.
    pub fn to_text(&self) -> String {
        let mut text = blake3::Hash::from_bytes(self.0).to_hex().to_string();
        text.push('\n');
        text
    }
}

impl FromStr for Secret {
    type Err = CertError;
    fn from_str(text: &str) -> Result<Self, CertError> {
        let hash = blake3::Hash::from_hex(text.trim_ascii()).map_err(|_| CertError::Secret)?;
        Ok(Self(*hash.as_bytes()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The private CA of one cluster, with its key.
pub struct Authority {
    pem: String,
    key: KeyPair,
}

/// A site's certificate and key, both PEM.
pub struct Issued {
    pub cert: String,
    pub key: String,
}

impl Authority {
    /// A new CA with a new key (ECDSA P-256), valid [`CA_DAYS`]; it can sign sites, no other CA.
    pub fn create(now: WallTime) -> Result<Self, CertError> {
        let key = new_key()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "nearshare cluster CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = validity(now, CA_DAYS)?;
        let cert = params
            .self_signed(&key)
            .map_err(|source| CertError::Make { what: "CA certificate", source })?;
        Ok(Self { pem: cert.pem(), key })
    }
    pub fn from_pem(cert: &str, key: &str) -> Result<Self, CertError> {
        let key = KeyPair::from_pem(key)
            .map_err(|_| CertError::Pem { what: "CA's key file", wanted: "private key" })?;
        Ok(Self { pem: cert.into(), key })
    }
    /// The CA's own certificate, for every site.
    pub fn cert_pem(&self) -> &str {
        &self.pem
    }
    /// The CA's private key, which stays where it was made.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
    /// A certificate and a new key for `site`, valid for `days` from `now`.
    pub fn issue(&self, site: &SiteId, now: WallTime, days: u32) -> Result<Issued, CertError> {
        if days == 0 || days > CA_DAYS {
            return Err(CertError::Days(days));
        }
        let make = |source| CertError::Make { what: "site certificate", source };
        let issuer = Issuer::from_ca_cert_pem(&self.pem, &self.key).map_err(make)?;
        let key = new_key()?;
        let uri = format!("{SITE_URI}{site}").try_into().map_err(make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, site.as_str());
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(now, days)?;
        let cert = params.signed_by(&key, &issuer).map_err(make)?;
        Ok(Issued { cert: cert.pem(), key: key.serialize_pem() })
    }
}

/// What a site shows to others and trusts in them.
pub struct Identity {
    pub site: SiteId,
    pub ca: CertificateDer<'static>,
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Identity {
    /// From the three PEM files of a bundle. Whether the key fits is found when links start.
    pub fn from_pem(ca: &str, cert: &str, key: &str) -> Result<Self, CertError> {
        let certs = |what, pem: &str| {
            let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
            let lacking = CertError::Pem { what, wanted: "certificate" };
            certs.ok().filter(|certs| !certs.is_empty()).ok_or(lacking)
        };
        let chain = certs("certificate file", cert)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| CertError::Pem { what: "key file", wanted: "private key" })?;
        Ok(Self {
            site: site_of(&chain[0]).map_err(CertError::NoSite)?,
            ca: certs("CA file", ca)?.swap_remove(0),
            chain,
            key,
        })
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        let Self { site, ca, chain, key } = self;
        Self { site: site.clone(), ca: ca.clone(), chain: chain.clone(), key: key.clone_key() }
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({}, ..)", self.site)
    }
}

/// Which site a certificate is for. Says nothing about who signed it.
pub fn site_of(cert: &CertificateDer<'_>) -> Result<SiteId, NoSite> {
    let (_, cert) = x509_parser::parse_x509_certificate(cert).map_err(|_| NoSite::Unparsable)?;
    let names = cert.subject_alternative_name().map_err(|_| NoSite::Unparsable)?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let [name] = names else {
        return Err(NoSite::Names(names.len()));
    };
    let GeneralName::URI(uri) = name else {
        return Err(NoSite::Foreign(printable(&name.to_string())));
    };
    let site = uri.strip_prefix(SITE_URI).and_then(|name| name.parse().ok());
    site.ok_or_else(|| NoSite::Foreign(printable(uri)))
}

/// The time from which and to which a certificate is valid, as people write it.
pub fn valid_between(cert: &CertificateDer<'_>) -> Option<(String, String)> {
    let (_, cert) = x509_parser::parse_x509_certificate(cert).ok()?;
    let validity = cert.validity();
    Some((date(validity.not_before.to_datetime()), date(validity.not_after.to_datetime())))
}

pub(super) fn date(time: OffsetDateTime) -> String {
    format!("{:04}-{:02}-{:02}", time.year(), u8::from(time.month()), time.day())
}

/// A stranger's text, made fit for a log line.
fn printable(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

fn new_key() -> Result<KeyPair, CertError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|source| CertError::Make { what: "key", source })
}

fn validity(now: WallTime, days: u32) -> Result<(OffsetDateTime, OffsetDateTime), CertError> {
    let lacking = || CertError::Clock(now.0);
    let now = OffsetDateTime::from_unix_timestamp_nanos(i128::from(now.0)).map_err(|_| lacking())?;
    let from = now.checked_sub(BACKDATE.try_into().map_err(|_| lacking())?);
    let to = now.checked_add(time::Duration::days(i64::from(days)));
    from.zip(to).ok_or_else(lacking)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime(1_795_000_000_000_000_000);

    fn site(name: &str) -> SiteId {
        name.parse().unwrap()
    }

    #[test]
    fn an_issued_certificate_names_its_site_and_its_lifetime() {
        let ca = Authority::create(NOW).unwrap();
        let again = Authority::from_pem(ca.cert_pem(), &ca.key_pem()).unwrap();
        let issued = again.issue(&site("osaka"), NOW, 10).unwrap();
        let identity = Identity::from_pem(ca.cert_pem(), &issued.cert, &issued.key).unwrap();
        assert_eq!(identity.site, site("osaka"));
        let (from, to) = valid_between(&identity.chain[0]).unwrap();
        assert_eq!((from.as_str(), to.as_str()), ("2026-11-18", "2026-11-28"));

        let (_, cert) = x509_parser::parse_x509_certificate(&identity.chain[0]).unwrap();
        let usage = cert.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && usage.client_auth && !usage.any);
        assert!(!cert.is_ca());
        let (_, cert) = x509_parser::parse_x509_certificate(&identity.ca).unwrap();
        let constraints = cert.basic_constraints().unwrap().unwrap().value;
        assert_eq!((constraints.ca, constraints.path_len_constraint), (true, Some(0)));
        assert!(cert.key_usage().unwrap().unwrap().value.key_cert_sign());
    }

    #[test]
    fn a_ca_lives_ten_years_and_a_site_two_unless_told() {
        const DAY: i64 = 86_400;
        let ca = Authority::create(NOW).unwrap();
        let issued = ca.issue(&site("osaka"), NOW, SITE_DAYS).unwrap();
        let identity = Identity::from_pem(ca.cert_pem(), &issued.cert, &issued.key).unwrap();
        for (cert, days) in [(&identity.ca, 3650), (&identity.chain[0], 730)] {
            let (_, cert) = x509_parser::parse_x509_certificate(cert).unwrap();
            let now = NOW.0 / 1_000_000_000;
            let (from, to) = (cert.validity().not_before, cert.validity().not_after);
            assert_eq!((from.timestamp() - now, to.timestamp() - now), (-3600, days * DAY));
        }
    }

    #[test]
    fn lifetimes_have_limits() {
        let ca = Authority::create(NOW).unwrap();
        for days in [0, CA_DAYS + 1] {
            assert!(matches!(ca.issue(&site("a"), NOW, days), Err(CertError::Days(d)) if d == days));
        }
        assert!(Authority::create(WallTime(i64::MAX)).is_ok());
    }

    #[test]
    fn only_one_uri_of_our_kind_is_a_site() {
        let key = new_key().unwrap();
        let with = |names: Vec<SanType>| {
            let mut params = CertificateParams::default();
            params.subject_alt_names = names;
            site_of(params.self_signed(&key).unwrap().der())
        };
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        assert_eq!(with(vec![uri("nearshare://site/hq")]), Ok(site("hq")));
        assert_eq!(with(vec![]), Err(NoSite::Names(0)));
        let two = vec![uri("nearshare://site/hq"), uri("nearshare://site/lyon")];
        assert_eq!(with(two), Err(NoSite::Names(2)));
        for foreign in ["nearshare://site/HQ", "nearshare://site/", "https://hq", "nearshare://site/a/b"]
        {
            assert_eq!(with(vec![uri(foreign)]), Err(NoSite::Foreign(foreign.into())));
        }
        let dns = vec![SanType::DnsName("hq".try_into().unwrap())];
        assert!(matches!(with(dns), Err(NoSite::Foreign(_))));
        assert_eq!(site_of(&CertificateDer::from(vec![1, 2, 3])), Err(NoSite::Unparsable));
    }

    #[test]
    fn a_secret_shows_nothing_and_derives_apart() {
        let secret = Secret::generate().unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_eq!(secret.to_text().parse::<Secret>().unwrap(), secret);
        assert_ne!(secret.derive("a"), secret.derive("b"));
        assert_ne!(secret.derive("a"), Secret::generate().unwrap().derive("a"));
        for bad in ["", "00", &"g".repeat(64), &"0".repeat(66)] {
            assert!(bad.parse::<Secret>().is_err(), "{bad}");
        }
    }
}
