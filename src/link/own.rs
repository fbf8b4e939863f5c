//! What a site shows to others, found in its own files and tried as the others will try it, so that what
//! they would refuse is known before anything starts. Not here: what a connection is judged by (`verify`),
//! and how files are made (`bundle`).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use serde::Serialize;
use time::OffsetDateTime;

use super::bundle::{self, BundleError};
use super::cert::{CertError, Identity, Secret, date, site_of};
use crate::clock::WallTime;
use crate::id::SiteId;

/// A certificate's last days, in which whoever runs the site is told to renew it. One that was issued for
/// less than three times as long is spoken of in the last third of its life.
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);

/// Something of this site's own that it cannot start with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}; {right}", path.display())]
pub struct Unfit {
    /// As the map has it.
    pub path: PathBuf,
    pub what: String,
    pub right: String,
}

/// Where a site's files are.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    pub ca: &'a Path,
    pub certificate: &'a Path,
    pub key: &'a Path,
}

/// A site's certificate and key, which belong together and come from its CA.
#[derive(Debug)]
pub struct Own {
    pub identity: Identity,
    pub validity: Validity,
}

/// What site `me` shows to others, or all that is wrong with it. Whether the certificate is valid today is
/// not asked: see [`Validity::at`]. Blocks.
pub fn own(me: &SiteId, files: &Files<'_>) -> Result<Own, Vec<Unfit>> {
    let provider = Arc::new(ring::default_provider());
    let Files { ca, certificate, key } = *files;
    let roots = roots(me, ca);
    let chain = chain(me, certificate);
    let secret = secret_key(me, key);
    let mut unfit = Vec::new();
    if let (Ok((_, roots)), Ok((chain, validity))) = (&roots, &chain)
        && let Err(what) = signed(chain, *validity, roots, &provider)
    {
        let what = format!("{what} {}", ca.display());
        let right = "copy all four files of one bundle: the others trust what comes from one `nearshare cert init`";
        unfit.push(Unfit { path: certificate.into(), what, right: right.into() });
    }
    if let (Ok((chain, _)), Ok(secret)) = (&chain, &secret)
        && let Err(wrong) = belongs(me, chain, secret, files, &provider)
    {
        unfit.push(wrong);
    }
    match (roots, chain, secret) {
        (Ok((ca, _)), Ok((chain, validity)), Ok(key)) if unfit.is_empty() => {
            Ok(Own { identity: Identity { site: me.clone(), ca, chain, key }, validity })
        }
        (roots, chain, secret) => {
            unfit.extend([roots.err(), chain.err(), secret.err()].into_iter().flatten());
            Err(unfit)
        }
    }
}

/// The cluster's secret, for site `me`. Blocks.
pub fn secret(me: &SiteId, path: &Path) -> Result<Secret, Unfit> {
    bundle::read_secret(path).map_err(|error| unfit(me, path, error))
}

/// Somebody may not read what is there, or what is there is missing: what to do about it.
pub fn open_advice(error: &io::Error, otherwise: &str) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "become the user that nearshare runs as, such as root".into(),
        _ => otherwise.to_owned(),
    }
}

type Chain = (Vec<CertificateDer<'static>>, Validity);

fn roots(me: &SiteId, path: &Path) -> Result<(CertificateDer<'static>, RootCertStore), Unfit> {
    let ca = certificates(me, path)?.swap_remove(0);
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(|_| {
        let right = format!("copy `{}` of this site's bundle again", bundle::CA_CERT);
        Unfit { path: path.into(), what: "holds no CA's certificate".into(), right }
    })?;
    Ok((ca, roots))
}

fn chain(me: &SiteId, path: &Path) -> Result<Chain, Unfit> {
    let chain = certificates(me, path)?;
    let issue = format!("copy the bundle that `nearshare cert issue {me}` wrote");
    let wrong = |what: String| Unfit { path: path.into(), what, right: issue.clone() };
    let site = site_of(&chain[0]).map_err(|error| wrong(format!("the certificate {error}")))?;
    if site != *me {
        return Err(wrong(format!("this is site {me}, but the certificate is that of {site}")));
    }
    let validity =
        Validity::of(&chain[0]).ok_or_else(|| wrong("the certificate has no dates".into()))?;
    Ok((chain, validity))
}

fn secret_key(me: &SiteId, path: &Path) -> Result<PrivateKeyDer<'static>, Unfit> {
    let pem = bundle::read(path, true).map_err(|error| unfit(me, path, error))?;
    let lacking = CertError::Pem { what: "key file", wanted: "private key" };
    let lacking = BundleError::Content { path: path.into(), source: lacking };
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| unfit(me, path, lacking))
}

/// At least one.
fn certificates(me: &SiteId, path: &Path) -> Result<Vec<CertificateDer<'static>>, Unfit> {
    let pem = bundle::read(path, false).map_err(|error| unfit(me, path, error))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let lacking = CertError::Pem { what: "file", wanted: "certificate" };
    let lacking = BundleError::Content { path: path.into(), source: lacking };
    all.ok().filter(|all| !all.is_empty()).ok_or_else(|| unfit(me, path, lacking))
}

/// Whether the others will find that their CA made it, for both ends of a connection. They also look at the
/// clock; that is apart, so that a certificate that has expired is told from a stranger's.
fn signed(
    chain: &[CertificateDer<'static>],
    validity: Validity,
    roots: &RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<(), String> {
    let stranger = |error: Error| match error {
        Error::InvalidCertificate(
            rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature,
        ) => "the certificate is not from the CA in".to_owned(),
        other => format!("the certificate is not acceptable ({other}) to whoever trusts the CA in"),
    };
    let seconds = u64::try_from(validity.from_unix_ms / 1000).unwrap_or(0);
    let then = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let algorithms = provider.signature_verification_algorithms.all;
    let (leaf, between) = (&chain[0], &chain[1..]);
    ParsedCertificate::try_from(leaf)
        .and_then(|leaf| {
            verify_server_cert_signed_by_trust_anchor(&leaf, roots, between, then, algorithms)
        })
        .map_err(stranger)?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider.clone());
    let clients = clients.build().map_err(|error| stranger(Error::General(error.to_string())))?;
    clients.verify_client_cert(leaf, between, then).map(drop).map_err(stranger)
}

fn belongs(
    me: &SiteId,
    chain: &[CertificateDer<'static>],
    secret: &PrivateKeyDer<'static>,
    files: &Files<'_>,
    provider: &CryptoProvider,
) -> Result<(), Unfit> {
    let what = match CertifiedKey::from_der(chain.to_vec(), secret.clone_key(), provider) {
        Ok(_) => return Ok(()),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            format!("the key is not that of the certificate in {}", files.certificate.display())
        }
        Err(_) => "the key is of no kind that is known".to_owned(),
    };
    let right = format!("copy both from one bundle that `nearshare cert issue {me}` wrote");
    Err(Unfit { path: files.key.into(), what, right })
}

/// An error of a bundle's file, in the words of a mistake.
fn unfit(me: &SiteId, path: &Path, error: BundleError) -> Unfit {
    let make = || "make it with `nearshare cert`, or name where it is".to_owned();
    let again = || format!("copy it again from where `nearshare cert issue {me}` wrote it");
    let (what, right) = match error {
        BundleError::Io { source, .. } => (source.to_string(), open_advice(&source, &make())),
        BundleError::NotAFile(_) => ("not a regular file".to_owned(), make()),
        BundleError::Readable(path) => (
            "can be read by every user of this machine".to_owned(),
            format!("chmod 0600 {}", path.display()),
        ),
        BundleError::TooLong(_) => (
            format!("is longer than {} bytes, and so no key, certificate or secret", bundle::FILE_MAX),
            make(),
        ),
        BundleError::Content { source: CertError::Secret, .. } => (
            "the cluster secret must be 64 hexadecimal digits".to_owned(),
            "copy it again from the CA's directory, it is the same at every site".to_owned(),
        ),
        BundleError::Content { source: CertError::Pem { wanted, .. }, .. } => {
            (format!("holds no {wanted} in PEM"), again())
        }
        other => (other.to_string(), again()),
    };
    Unfit { path: path.into(), what, right }
}

/// From when to when a certificate is valid, in milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Validity {
    pub from_unix_ms: i64,
    pub until_unix_ms: i64,
}

/// What a certificate's dates are at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    Early,
    Good,
    /// It should be renewed.
    Soon,
    Expired,
}

impl Validity {
    fn of(cert: &CertificateDer<'_>) -> Option<Self> {
        let (_, cert) = x509_parser::parse_x509_certificate(cert).ok()?;
        let of = |time: &x509_parser::time::ASN1Time| time.timestamp().saturating_mul(1000);
        let validity = cert.validity();
        Some(Self { from_unix_ms: of(&validity.not_before), until_unix_ms: of(&validity.not_after) })
    }

    pub fn at(self, now: WallTime) -> Age {
        let Self { from_unix_ms: from, until_unix_ms: until } = self;
        let now = now.0 / 1_000_000;
        let month = i64::try_from(SOON.as_millis()).unwrap_or(i64::MAX);
        let soon = month.min(until.saturating_sub(from) / 3);
        match now {
            _ if now < from => Age::Early,
            _ if now >= until => Age::Expired,
            _ if until.saturating_sub(now) < soon => Age::Soon,
            _ => Age::Good,
        }
    }

    /// Negative once it has expired.
    pub fn seconds_left(self, now: WallTime) -> i64 {
        self.until_unix_ms.saturating_sub(now.0 / 1_000_000) / 1000
    }

    /// What is wrong with the dates, and what to do, at site `me`.
    pub fn trouble(self, me: &SiteId, now: WallTime) -> Option<(String, String)> {
        let renew = || {
            format!(
                "run `nearshare cert issue {me}`, copy the bundle to {me} and restart nearshare there"
            )
        };
        let (from, until) = (day(self.from_unix_ms), day(self.until_unix_ms));
        match self.at(now) {
            Age::Good => None,
            Age::Soon => {
                let days = self.seconds_left(now) / (24 * 3600);
                let what = format!("the certificate of {me} expires on {until}, in {days} days");
                Some((what + "; other sites will refuse it then", renew()))
            }
            Age::Expired => Some((
                format!("the certificate of {me} expired on {until}: other sites refuse it"),
                renew(),
            )),
            Age::Early => Some((
                format!("the certificate of {me} is valid from {from} on, and refused until then"),
                "set the clocks of this machine and of the one with the CA".to_owned(),
            )),
        }
    }
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "valid from {} to {}", day(self.from_unix_ms), day(self.until_unix_ms))
    }
}

fn day(unix_ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix_ms / 1000).map(date).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::cert::{Authority, Issued};

    const NOW: WallTime = WallTime(1_795_000_000_000_000_000);
    const DAY: i64 = 24 * 3600 * 1_000_000_000;

    struct Bundle {
        dir: tempfile::TempDir,
        ca: Authority,
        issued: Issued,
        me: SiteId,
    }

    impl Bundle {
        fn new() -> Self {
            let (dir, me) = (tempfile::tempdir().unwrap(), "hq".parse().unwrap());
            let ca = Authority::create(NOW).unwrap();
            let issued = ca.issue(&me, NOW, 90).unwrap();
            let bundle = Self { dir, ca, issued, me };
            bundle.write(bundle.ca.cert_pem(), &bundle.issued);
            bundle
        }
        fn file(&self, name: &str, text: &str) {
            use std::os::unix::fs::PermissionsExt;
            let path = self.dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        fn write(&self, ca: &str, issued: &Issued) {
            self.file("ca", ca);
            self.file("cert", &issued.cert);
            self.file("key", &issued.key);
        }
        fn own(&self) -> Result<Own, Vec<Unfit>> {
            let path = |name| self.dir.path().join(name);
            let (ca, certificate, key) = (path("ca"), path("cert"), path("key"));
            own(&self.me, &Files { ca: &ca, certificate: &certificate, key: &key })
        }
        /// The files that are unfit, and what is said of them.
        fn unfit(&self) -> Vec<(String, String)> {
            let name = |unfit: Unfit| {
                let file = unfit.path.file_name().unwrap().to_str().unwrap().to_owned();
                (file, format!("{}; {}", unfit.what, unfit.right))
            };
            self.own().unwrap_err().into_iter().map(name).collect()
        }
    }

    #[track_caller]
    fn one(unfit: &[(String, String)], file: &str, said: &str) {
        let [(name, what)] = unfit else { panic!("{unfit:?}") };
        assert_eq!(name, file, "{what}");
        assert!(what.contains(said), "{what}");
    }

    #[test]
    fn what_the_others_would_refuse_is_found_and_says_which_file_it_is() {
        let bundle = Bundle::new();
        assert_eq!(bundle.own().unwrap().identity.site, bundle.me);

        let other = Authority::create(NOW).unwrap();
        bundle.file("ca", other.cert_pem());
        one(&bundle.unfit(), "cert", "the certificate is not from the CA in");
        bundle.file("ca", &bundle.issued.cert.replace("BEGIN CERTIFICATE", "BEGIN NOTHING"));
        one(&bundle.unfit(), "ca", "holds no certificate in PEM");

        let osaka = bundle.ca.issue(&"osaka".parse().unwrap(), NOW, 90).unwrap();
        bundle.write(bundle.ca.cert_pem(), &osaka);
        one(&bundle.unfit(), "cert", "this is site hq, but the certificate is that of osaka");

        let again = bundle.ca.issue(&bundle.me, NOW, 90).unwrap();
        bundle.write(bundle.ca.cert_pem(), &Issued { cert: again.cert, key: bundle.issued.key.clone() });
        one(&bundle.unfit(), "key", "the key is not that of the certificate in");
    }

    #[test]
    fn every_file_is_looked_at_and_nothing_that_could_block_is_opened() {
        let bundle = Bundle::new();
        for name in ["ca", "cert", "key"] {
            std::fs::remove_file(bundle.dir.path().join(name)).unwrap();
        }
        let path = bundle.dir.path().join("ca");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let unfit = bundle.unfit();
        let files: Vec<&str> = unfit.iter().map(|(file, _)| file.as_str()).collect();
        assert_eq!(files, ["ca", "cert", "key"], "{unfit:?}");
        assert!(unfit[0].1.starts_with("not a regular file"), "{unfit:?}");
        assert!(unfit[1].1.contains("make it with `nearshare cert`"), "{unfit:?}");
    }

    #[test]
    fn a_certificate_is_told_of_before_it_expires_and_a_date_is_no_stranger() {
        let bundle = Bundle::new();
        let validity = bundle.own().unwrap().validity;
        let after = |days: i64| WallTime(NOW.0 + days * DAY);
        let ages =
            [(-1, Age::Early), (1, Age::Good), (59, Age::Good), (61, Age::Soon), (91, Age::Expired)];
        for (days, age) in ages {
            assert_eq!(validity.at(after(days)), age, "after {days} days");
            assert_eq!(validity.trouble(&bundle.me, after(days)).is_none(), age == Age::Good);
        }
        assert_eq!(validity.seconds_left(after(89)), 24 * 3600);
        let (what, fix) = validity.trouble(&bundle.me, after(88)).unwrap();
        assert!(what.contains("in 2 days") && fix.contains("nearshare cert issue hq"), "{what}; {fix}");

        // One that was issued for a week is not spoken of on its first day.
        let week = bundle.ca.issue(&bundle.me, NOW, 7).unwrap();
        bundle.write(bundle.ca.cert_pem(), &week);
        let validity = bundle.own().unwrap().validity;
        assert_eq!([1, 4, 5].map(|days| validity.at(after(days))), [Age::Good, Age::Good, Age::Soon]);
    }

    #[test]
    fn who_may_not_read_a_file_is_not_told_to_make_it() {
        let (me, path) = ("hq".parse().unwrap(), Path::new("/etc/nearshare/site.key"));
        let of = |kind: io::ErrorKind| {
            let error = BundleError::Io { operation: "read", path: path.into(), source: kind.into() };
            unfit(&me, path, error).right
        };
        assert!(of(io::ErrorKind::NotFound).contains("make it with `nearshare cert`"));
        assert_eq!(
            of(io::ErrorKind::PermissionDenied),
            "become the user that nearshare runs as, such as root"
        );
    }

    #[test]
    fn a_secret_says_what_it_should_be() {
        let bundle = Bundle::new();
        bundle.file("secret", "abc");
        let error = secret(&bundle.me, &bundle.dir.path().join("secret")).unwrap_err();
        assert!(error.what.contains("64 hexadecimal digits"), "{error}");
    }
}
