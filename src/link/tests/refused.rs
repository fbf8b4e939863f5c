//! Who is not let in.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::*;
use crate::link::PeerFault;

/// Starts `osaka` with this identity against a good `hq`; gives both once they have refused.
async fn dial_as(cluster: &Cluster, identity: Identity) -> (Arc<Links>, Arc<Links>) {
    let hq = cluster.hq().await;
    let dial = terms(&["hq", "osaka", "lyon"], &[("hq", hq.local_addr())]);
    let osaka = start(cluster.config_with(identity), dial).await;
    until("a refusal", || !hq.refused().is_empty() && !osaka.refused().is_empty()).await;
    assert!(!osaka.peer(&site("hq")).unwrap().up());
    assert!(hq.states().is_empty());
    (hq, osaka)
}

fn last_error(links: &Links) -> PeerFault {
    links.states()[0].last_error.clone().unwrap()
}

fn ago(days: i64) -> WallTime {
    WallTime(RealClock.wall().0 - days * 86_400_000_000_000)
}

#[tokio::test]
async fn a_stranger_dials() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let mut identity = other.identity("osaka");
    identity.ca = cluster.identity("osaka").ca;
    let (hq, osaka) = dial_as(&cluster, identity).await;
    assert!(refused(&hq, Reason::Stranger) > 0);
    let latest = &hq.refusals()[0];
    assert_eq!((latest.claims.clone(), latest.reason), (Some(site("osaka")), Reason::Stranger));
    assert!(latest.fix.contains("nearshare cert issue osaka"), "{latest:?}");
    assert!(refused(&osaka, Reason::RefusedUs) > 0, "{:?}", osaka.refusals());
    assert!(last_error(&osaka).fix.contains("cert init"), "{:?}", last_error(&osaka));
}

#[tokio::test]
async fn a_stranger_answers() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let (hq, osaka) = dial_as(&cluster, other.identity("osaka")).await;
    assert!(refused(&osaka, Reason::Stranger) > 0);
    assert!(last_error(&osaka).what.contains("not from this cluster's CA"));
    assert!(refused(&hq, Reason::RefusedUs) > 0, "{:?}", hq.refusals());
}

#[tokio::test]
async fn an_expired_certificate_dials() {
    let cluster = Cluster::new();
    let (hq, osaka) = dial_as(&cluster, cluster.identity_from("osaka", ago(3))).await;
    assert!(refused(&hq, Reason::Expired) > 0);
    assert!(hq.refusals()[0].why.contains("expired on 20"), "{:?}", hq.refusals());
    assert!(refused(&osaka, Reason::RefusedUs) > 0);
    assert!(last_error(&osaka).fix.contains("nearshare cert issue osaka"));
}

#[tokio::test]
async fn an_expired_or_future_certificate_answers() {
    for (from, reason) in [(ago(3), Reason::Expired), (ago(-3), Reason::NotYetValid)] {
        let cluster = Cluster::new();
        let config = cluster.config_with(cluster.identity_from("hq", from));
        let hq = start(config, terms(&["hq", "osaka"], &[])).await;
        let osaka = cluster.osaka(hq.local_addr()).await;
        until("a refusal", || refused(&osaka, reason) > 0 && refused(&hq, Reason::RefusedUs) > 0).await;
        assert!(!osaka.peer(&site("hq")).unwrap().up());
    }
}

#[tokio::test]
async fn a_site_that_is_not_in_the_map_dials() {
    let cluster = Cluster::new();
    let (hq, osaka) = dial_as(&cluster, cluster.identity("lyon")).await;
    assert!(refused(&hq, Reason::NotInMap) > 0);
    assert!(hq.refusals()[0].fix.contains("[site.lyon]"), "{:?}", hq.refusals());
    assert!(last_error(&osaka).fix.contains("[site.lyon]"), "{:?}", last_error(&osaka));
}

#[tokio::test]
async fn another_site_answers() {
    let cluster = Cluster::new();
    let lyon = start(cluster.config("lyon"), terms(&["hq", "osaka", "lyon"], &[])).await;
    let dial = terms(&["hq", "osaka", "lyon"], &[("hq", lyon.local_addr())]);
    let osaka = start(cluster.config("osaka"), dial).await;
    until("a refusal", || refused(&osaka, Reason::OtherSite) > 0).await;
    let PeerFault { what, fix, .. } = last_error(&osaka);
    assert!(what.contains("hq was dialled and lyon answered"), "{what}");
    assert!(fix.contains("[site.hq]"), "{fix}");
}

#[tokio::test]
async fn our_own_certificate_dials() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let sender = raw(cluster.identity("hq"), hq.local_addr(), Class::Control).await;
    until("a refusal", || refused(&hq, Reason::OtherSite) == 1 && sender.is_closed()).await;
}

#[tokio::test]
async fn a_certificate_that_names_no_site_dials() {
    let cluster = Cluster::new();
    let mut identity = cluster.identity("osaka");
    // The CA's own certificate is signed by the CA, and names nobody.
    let key = rcgen::KeyPair::from_pem(&cluster.ca.key_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(cluster.ca.cert_pem(), &key).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["osaka".to_string()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let own = rcgen::KeyPair::generate().unwrap();
    identity.chain = vec![params.signed_by(&own, &issuer).unwrap().der().clone()];
    identity.key = rustls_pki_types::PrivateKeyDer::try_from(own.serialize_der()).unwrap();
    let (hq, _) = dial_as(&cluster, identity).await;
    assert!(refused(&hq, Reason::NoSite) > 0, "{:?}", hq.refusals());
}

#[tokio::test]
async fn another_secret_is_refused() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let mut config = cluster.config("osaka");
    config.secret = Secret::generate().unwrap();
    let osaka = start(config, terms(&["hq", "osaka"], &[("hq", hq.local_addr())])).await;
    until("a refusal", || refused(&hq, Reason::Secret) > 0 && refused(&osaka, Reason::RefusedUs) > 0)
        .await;
    assert!(last_error(&osaka).what.contains("secret"), "{:?}", last_error(&osaka));
    assert!(!osaka.peer(&site("hq")).unwrap().up());
}

#[tokio::test]
async fn what_is_not_tls_is_refused_and_what_says_nothing_is_dropped() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let cluster = Cluster::new();
    let limits =
        Limits { tls: Duration::from_millis(200), hello: Duration::from_millis(200), ..QUICK() };
    let config = cluster.config("hq");
    let hq = start_with(config, terms(&["hq", "osaka"], &[]), Arc::default(), limits).await;
    let mut http = TcpStream::connect(hq.local_addr()).await.unwrap();
    http.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // Whatever comes, it ends.
    let _ = http.read_to_end(&mut Vec::new()).await;
    until("a refusal", || refused(&hq, Reason::Handshake) == 1).await;
    let mut mute = TcpStream::connect(hq.local_addr()).await.unwrap();
    let _ = mute.read_to_end(&mut Vec::new()).await;
    until("a refusal", || refused(&hq, Reason::Handshake) == 2).await;

    let sender = raw(cluster.identity("osaka"), hq.local_addr(), Class::Control).await;
    until("no hello", || refused(&hq, Reason::Hello) == 1 && sender.is_closed()).await;
}

/// Takes whoever answers.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Speaks TLS of one version, with a certificate or without, until the other side ends it; gives what it
/// was told.
async fn speak(
    version: &'static rustls::SupportedProtocolVersion,
    identity: Option<Identity>,
    to: SocketAddr,
) -> std::io::Error {
    use tokio::io::AsyncReadExt;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match identity {
        Some(identity) => config.with_client_auth_cert(identity.chain, identity.key).unwrap(),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![Class::Control.alpn().to_vec()];
    let tcp = TcpStream::connect(to).await.unwrap();
    let name = ServerName::try_from("nearshare").unwrap();
    match tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await {
        Err(error) => error,
        // The dialling side of TLS 1.3 is through before its certificate is looked at.
        Ok(mut tls) => tls.read_to_end(&mut Vec::new()).await.expect_err("it was let in"),
    }
}

#[tokio::test]
async fn who_speaks_an_older_tls_is_refused() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let told = speak(&rustls::version::TLS12, Some(cluster.identity("osaka")), hq.local_addr()).await;
    assert!(told.to_string().contains("ProtocolVersion"), "{told}");
    until("a refusal", || refused(&hq, Reason::Handshake) == 1).await;
    assert_eq!(hq.refused().len(), 1, "{:?}", hq.refusals());
    assert!(hq.states().is_empty());
}

#[tokio::test]
async fn who_shows_no_certificate_is_a_stranger() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let told = speak(&rustls::version::TLS13, None, hq.local_addr()).await;
    assert!(told.to_string().contains("CertificateRequired"), "{told}");
    until("a refusal", || refused(&hq, Reason::Stranger) == 1).await;
    assert_eq!(hq.refused().len(), 1, "{:?}", hq.refusals());
    assert!(hq.refusals()[0].why.contains("no certificate"), "{:?}", hq.refusals());
    assert!(hq.states().is_empty());
}

#[tokio::test]
async fn strangers_have_a_limit_and_give_it_back() {
    let cluster = Cluster::new();
    let limits = Limits { strangers: 3, ..QUICK() };
    let hq =
        start_with(cluster.config("hq"), terms(&["hq", "osaka"], &[]), Arc::default(), limits).await;
    let mut mute = Vec::new();
    for _ in 0..4 {
        mute.push(TcpStream::connect(hq.local_addr()).await.unwrap());
    }
    until("a refusal", || refused(&hq, Reason::TooMany) == 1).await;
    drop(mute);
    let osaka = cluster.osaka(hq.local_addr()).await;
    until("both connections", || both_up(&osaka, "hq")).await;
}

#[tokio::test]
async fn a_bundle_of_another_site_does_not_start() {
    let cluster = Cluster::new();
    let mut config = cluster.config("osaka");
    config.me = site("hq");
    let error = Links::start(config, Arc::default(), Arc::new(Answers::default())).await.err().unwrap();
    assert!(error.to_string().contains("certificate is that of osaka"), "{error}");
    let mut config = cluster.config("hq");
    config.identity.key = cluster.identity("hq").key;
    let error = Links::start(config, Arc::default(), Arc::new(Answers::default())).await.err().unwrap();
    assert!(error.to_string().contains("certificate and key"), "{error}");
}
