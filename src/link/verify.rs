//! Mutual TLS 1.3 between sites: who is let in, and why the others are not. A certificate must come
//! from the cluster's CA, be valid now, and name one site of the map; at the dialling end the one that
//! was dialled. DNS names mean nothing here. ALPN says which of the two connections it is.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig, SignatureScheme, version,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::cert::{Identity, NoSite, site_of, valid_between};
use super::refuse::{Reason, Refusal};
use super::{Class, LinkError, Terms};
use crate::clock::Clock;
use crate::id::SiteId;

/// What the check of a certificate came to; empty until the other side has shown one.
pub(super) type Verdict = Arc<OnceLock<Result<SiteId, Refusal>>>;

/// What every connection's TLS needs.
pub(super) struct Trust {
    me: SiteId,
    provider: Arc<CryptoProvider>,
    time: Arc<Now>,
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    shown: Arc<SingleCertAndKey>,
}

impl Trust {
    pub(super) fn new(identity: Identity, clock: Arc<dyn Clock>) -> Result<Self, LinkError> {
        let tls = |what| {
            let site = identity.site.clone();
            move |source| LinkError::Tls { site, what, source }
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(identity.ca).map_err(tls("the CA's certificate"))?;
        let roots = Arc::new(roots);
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))
            .map_err(tls("the CA's certificate"))?;
        let shown = CertifiedKey::from_der(identity.chain, identity.key, &provider)
            .map_err(tls("the site's certificate and key"))?;
        let time = Arc::new(Now(clock));
        Ok(Self { me: identity.site, provider, time, roots, clients, shown: Arc::new(shown.into()) })
    }
    /// To dial `site`, and nobody else.
    pub(super) fn dial(
        &self,
        site: &SiteId,
        class: Class,
        terms: Arc<Terms>,
    ) -> Result<(Arc<ClientConfig>, Verdict), Error> {
        let judge = self.judge(terms, Some(site.clone()));
        let verdict = judge.verdict.clone();
        let mut config = ClientConfig::builder_with_details(self.provider.clone(), self.time.clone())
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(judge))
            .with_client_cert_resolver(self.shown.clone());
        config.alpn_protocols = vec![class.alpn().to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok((Arc::new(config), verdict))
    }
    /// To be dialled by any site of the map. Nothing is ever resumed: a resumed connection would show
    /// no certificate.
    pub(super) fn accept(&self, terms: Arc<Terms>) -> Result<(Arc<ServerConfig>, Verdict), Error> {
        let judge = self.judge(terms, None);
        let verdict = judge.verdict.clone();
        let mut config = ServerConfig::builder_with_details(self.provider.clone(), self.time.clone())
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(Arc::new(judge))
            .with_cert_resolver(self.shown.clone());
        config.alpn_protocols = [Class::Control, Class::Bulk].map(|class| class.alpn().to_vec()).into();
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok((Arc::new(config), verdict))
    }
    fn judge(&self, terms: Arc<Terms>, expected: Option<SiteId>) -> Judge {
        let (roots, clients) = (self.roots.clone(), self.clients.clone());
        let (me, provider) = (self.me.clone(), self.provider.clone());
        Judge { me, provider, roots, clients, terms, expected, verdict: Verdict::default() }
    }
}

/// The room's clock, as rustls wants it.
struct Now(Arc<dyn Clock>);

impl fmt::Debug for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Now")
    }
}

impl TimeProvider for Now {
    fn current_time(&self) -> Option<UnixTime> {
        let since_1970 = u64::try_from(self.0.wall().0).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_nanos(since_1970)))
    }
}

/// Judges the certificate of one connection.
struct Judge {
    me: SiteId,
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    terms: Arc<Terms>,
    expected: Option<SiteId>,
    verdict: Verdict,
}

impl Judge {
    /// `signed` is what webpki says of chain, dates and use.
    fn judge(&self, cert: &CertificateDer<'_>, signed: Result<(), Error>) -> Result<(), Error> {
        let (verdict, alert) = match signed {
            Err(error) => (Err(badly_signed(cert, &error)), error),
            Ok(()) => (self.identify(cert), CertificateError::ApplicationVerificationFailure.into()),
        };
        let result = if verdict.is_ok() { Ok(()) } else { Err(alert) };
        // One certificate is checked per connection, so the cell is always empty here.
        let _ = self.verdict.set(verdict);
        result
    }
    fn identify(&self, cert: &CertificateDer<'_>) -> Result<SiteId, Refusal> {
        let me = &self.me;
        let site = site_of(cert).map_err(no_site)?;
        let refuse = |reason, why, fix| Err(Refusal { reason, claims: Some(site.clone()), why, fix });
        if let Some(refusal) = not_in_map(me, &site, &self.terms) {
            return Err(refusal);
        }
        match &self.expected {
            Some(expected) if *expected != site => refuse(
                Reason::OtherSite,
                format!("{expected} was dialled and {site} answered with its own certificate"),
                format!(
                    "put right `link` of [site.{expected}] in the map, or the certificate files of \
                     the site at that address"
                ),
            ),
            None if site == *me => refuse(
                Reason::OtherSite,
                format!("another site dials with the certificate of {me} itself"),
                format!("give every site its own bundle, only {me} may have that of {me}"),
            ),
            _ => Ok(site),
        }
    }
}

/// The refusal of a site that the map does not have.
pub(super) fn not_in_map(me: &SiteId, site: &SiteId, terms: &Terms) -> Option<Refusal> {
    (!terms.sites.contains_key(site)).then(|| Refusal {
        reason: Reason::NotInMap,
        claims: Some(site.clone()),
        why: format!("site {site} is not in the map of {me} (serial {})", terms.serial),
        fix: format!("add [site.{site}] to the map at every site, or stop nearshare at {site}"),
    })
}

fn no_site(error: NoSite) -> Refusal {
    Refusal {
        reason: Reason::NoSite,
        claims: None,
        why: format!("its certificate {error}"),
        fix: "issue that site's certificate with `nearshare cert issue NAME`".into(),
    }
}

fn badly_signed(cert: &CertificateDer<'_>, error: &Error) -> Refusal {
    let claims = site_of(cert).ok();
    let name = claims.as_ref().map_or("SITE", SiteId::as_str);
    let (from, to) = valid_between(cert).unwrap_or_default();
    let renew = format!("run `nearshare cert issue {name}` and copy the bundle to that site");
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let (reason, why, fix) = match error {
        Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            (Reason::Expired, format!("its certificate expired on {to}"), renew)
        }
        Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => (
            Reason::NotYetValid,
            format!("its certificate is valid from {from} on"),
            "set the clocks of both sites and of the machine with the CA".into(),
        ),
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => (
            Reason::Stranger,
            "its certificate is not from this cluster's CA".into(),
            format!("if it is one of ours, {renew}; all bundles come from one `nearshare cert init`"),
        ),
        other => (Reason::Stranger, format!("its certificate is not acceptable ({other})"), renew),
    };
    Refusal { reason, claims, why, fix }
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Judge({:?})", self.expected)
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let signed = ParsedCertificate::try_from(cert).and_then(|parsed| {
            let roots = &self.roots;
            verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
        });
        self.judge(cert, signed).map(|()| ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls12_signature(message, cert, signature)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls13_signature(message, cert, signature)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Judge {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Without hints the other side always shows its certificate, and the log can say whose it is.
        &[]
    }
    fn verify_client_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let signed = self.clients.verify_client_cert(cert, intermediates, now).map(drop);
        self.judge(cert, signed).map(|()| ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls12_signature(message, cert, signature)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls13_signature(message, cert, signature)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}
