//! HTTP/2 at the door: with prior knowledge, and over TLS with the right certificate.

use http_body_util::BodyExt;
use hyper::client::conn::http2::{SendRequest, handshake};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;

use super::*;

async fn connect<I>(io: I) -> SendRequest<Body>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn plain(door: &Door) -> SendRequest<Body> {
    connect(TcpStream::connect(door.address).await.unwrap()).await
}

fn request(method: &str, uri: &str, body: &'static str) -> Request<Body> {
    Request::builder().method(method).uri(uri).body(Body::text(body)).unwrap()
}

async fn text(response: Response<Incoming>) -> (u16, String) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn with_prior_knowledge_many_requests_at_once() {
    let door = door(Limits::default()).await;
    let sender = plain(&door).await;
    let slow = sender.clone().send_request(request("GET", "http://files/slow", ""));
    let slow = tokio::spawn(slow);
    door.came.cancelled().await;
    // One that waits holds up nobody.
    for number in 0..50 {
        let put = request("PUT", &format!("http://files/{number}"), "four");
        let answer = text(sender.clone().send_request(put).await.unwrap()).await;
        assert_eq!(answer, (200, format!("/{number} 4")));
    }
    door.go.cancel();
    assert_eq!(text(slow.await.unwrap().unwrap()).await, (200, "/slow 0".to_owned()));
    // Ends like any other.
    door.stop.cancel();
    drop(sender);
    door.serving.await.unwrap();
}

#[tokio::test]
async fn its_limits_hold_for_it_as_well() {
    let limits = Limits { streams: 3, client_rate: Some(1000), ..Limits::default() };
    let door = door(limits).await;
    let sender = plain(&door).await;
    assert_eq!(
        text(sender.clone().send_request(request("GET", "http://u@files/a", "")).await.unwrap()).await.0,
        400
    );
    assert_eq!(
        text(sender.clone().send_request(request("GET", "ftp://files/a", "")).await.unwrap()).await.0,
        400
    );
    let mut twice = request("PUT", "http://files/a", "four");
    for _ in 0..2 {
        twice.headers_mut().append("content-length", HeaderValue::from_static("4"));
    }
    assert_eq!(text(sender.clone().send_request(twice).await.unwrap()).await.0, 400);
    let mut many = request("GET", "http://files/a", "");
    for number in 0..200 {
        let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
        many.headers_mut().insert(name, HeaderValue::from_static("y"));
    }
    assert_eq!(text(sender.clone().send_request(many).await.unwrap()).await.0, 431);
    let mut long = request("GET", "http://files/a", "");
    long.headers_mut().insert("x", HeaderValue::try_from("y".repeat(100_000)).unwrap());
    let answer = sender.clone().send_request(long).await;
    assert!(answer.is_err() || answer.unwrap().status() == 431);
}

/// Bodies that nobody takes fill their own windows and nobody else's.
#[tokio::test]
async fn a_body_that_waits_its_turn_stops_no_other() {
    let door = door(Limits::default()).await;
    let sender = plain(&door).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        // More than all the buffers on the way to the server hold.
        let body = Body::Full(vec![b'x'; 32 << 20].into());
        let put = Request::builder().method("PUT").uri("http://files/slow").body(body).unwrap();
        waiting.push(tokio::spawn(sender.clone().send_request(put)));
    }
    door.came.cancelled().await;
    // Long enough for them to fill whatever they can; if it is not, this shows nothing.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let put = sender.clone().send_request(request("PUT", "http://files/a", "four"));
    let answer = tokio::time::timeout(Duration::from_secs(30), put).await.expect("it stands still");
    assert_eq!(text(answer.unwrap()).await, (200, "/a 4".to_owned()));
    waiting.iter().for_each(|put| assert!(!put.is_finished()));
}

#[tokio::test]
async fn nobody_keeps_a_connection_for_nothing() {
    let door = door(Limits { idle: Duration::from_millis(100), ..Limits::default() }).await;
    let sender = plain(&door).await;
    let slow = tokio::spawn(sender.clone().send_request(request("GET", "http://files/slow", "")));
    door.came.cancelled().await;
    let closed = async {
        while sender.clone().send_request(request("GET", "http://files/a", "")).await.is_ok() {
            // Longer than the door waits, twice.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), closed).await.expect("the connection stays open");
    // What was asked before is answered.
    door.go.cancel();
    assert_eq!(text(slow.await.unwrap().unwrap()).await, (200, "/slow 0".to_owned()));
}

/// A client that resets every request it makes gets thrown out.
#[tokio::test]
async fn a_storm_of_resets_ends_the_connection() {
    let door = door(Limits::default()).await;
    let stream = TcpStream::connect(door.address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let storm = async {
        loop {
            client = client.clone().ready().await?;
            let asked = Request::builder().uri("http://files/slow").body(()).unwrap();
            let (answer, mut stream) = client.send_request(asked, true)?;
            stream.send_reset(h2::Reason::CANCEL);
            drop(answer);
            tokio::task::yield_now().await;
        }
    };
    let ended: Result<(), h2::Error> =
        tokio::time::timeout(Duration::from_secs(30), storm).await.unwrap();
    let why = connection.await.unwrap().err().or(ended.err()).unwrap();
    // Of a connection that is closed in the middle of a storm the reason may not arrive.
    assert!(why.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) || why.is_io(), "{why}");
}

/// Takes any certificate, and notes it.
#[derive(Debug, Default)]
struct Any(std::sync::Mutex<Vec<Vec<u8>>>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.lock().unwrap().push(end_entity.to_vec());
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn over_tls_with_the_certificate_of_the_name_that_was_asked_for() {
    let door = door(Limits::default()).await;
    let files = tempfile::tempdir().unwrap();
    let mut pairs = Vec::new();
    let mut shown = Vec::new();
    for names in [["files.example.com", "files"], ["*.lyon.example.com", "lyon.example.com"]] {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(names.map(str::to_owned)).unwrap();
        let path = |end: &str| files.path().join(format!("{}{end}", names[1]));
        std::fs::write(path(".pem"), cert.pem()).unwrap();
        std::fs::write(path(".key"), signing_key.serialize_pem()).unwrap();
        pairs.push((path(".pem"), path(".key")));
        shown.push(cert.der().to_vec());
    }
    let mixed = [(pairs[0].0.clone(), pairs[1].1.clone())];
    assert!(matches!(tls::config(&mixed), Err(tls::TlsError::Mismatch { .. })));
    let swapped = [(pairs[0].1.clone(), pairs[0].0.clone())];
    assert!(matches!(tls::config(&swapped), Err(tls::TlsError::Pem { .. })));
    door.door.set_tls(tls::config(&pairs).unwrap());
    let listener = listen(([127, 0, 0, 1], 0).into(), false).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(door.door.clone().serve_tls(listener, door.stop.clone()));
    let cases = [
        ("files.example.com", 0, Some("h2")),
        ("FILES", 0, Some("http/1.1")),
        ("a.lyon.example.com", 1, Some("h2")),
        ("lyon.example.com", 1, None),
        ("a.b.lyon.example.com", 0, Some("http/1.1")),
        ("127.0.0.1", 0, Some("h2")),
    ];
    for (name, which, alpn) in cases {
        let seen = Arc::new(Any::default());
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(seen.clone())
                .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(address).await.unwrap();
        let server = ServerName::try_from(name).unwrap().to_owned();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(server, stream).await.unwrap();
        assert_eq!(*seen.0.lock().unwrap(), [shown[which].clone()], "{name}");
        let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(agreed.as_deref(), alpn.map(str::as_bytes), "{name}");
        if alpn == Some("h2") {
            let answer = connect(stream).await.send_request(request("GET", "https://files/a", "")).await;
            assert_eq!(text(answer.unwrap()).await, (200, "/a 0".to_owned()));
        } else {
            let get = b"GET https://files/a HTTP/1.1\r\nHost: files\r\nConnection: close\r\n\r\n";
            stream.write_all(get).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("/a 0"), "{name}: {answer}");
        }
    }
    // Not TLS at all.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ended = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    assert_eq!(door.door.tally().counts()["handshake"], 1);
}
