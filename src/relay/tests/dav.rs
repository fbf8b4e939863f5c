//! WebDAV's own fields and bodies, between sites that have the share under other URLs.

use super::copy::{LISTED, two};
use super::*;

/// Answers with what it was asked.
async fn echo(line: String) -> Response<Body> {
    Response::new(Body::text(line))
}

#[tokio::test]
async fn every_place_in_a_request_is_written_for_the_server_that_hears_it() {
    let two = two(false, echo).await;
    let put = |uri: &str, field: &str| {
        let mut put = request("PUT", uri, Body::Empty);
        put.headers_mut().insert("if", field.parse().unwrap());
        put
    };
    for (field, heard) in [
        ("(<urn:a>)", "(<urn:a>)"),
        (
            "<http://files/e/d/> (<urn:a>) </e/f%67> (Not <urn:b> [\"e\"])",
            "<http://files/srv/eng/d/> (<urn:a>) <http://files/srv/eng/fg> (Not <urn:b> [\"e\"])",
        ),
        ("<http://elsewhere/e/f> (<urn:a>) </e> (<urn:b>)", "<http://files/srv/eng/> (<urn:b>)"),
    ] {
        let (status, said) = text(two.lyon.serve(client(), put("/e/fg", field)).await).await;
        assert_eq!((status, said), (200, format!("PUT /srv/eng/fg if={heard}")), "{field}");
    }
    // Their own URLs mean nothing at the other site.
    let (status, _) = text(two.lyon.serve(client(), put("/e/f", "</srv/eng/f> (<urn:a>)")).await).await;
    assert_eq!(status, 412);
    two.log.take();
    let (status, _) = text(two.lyon.serve(client(), put("/e/f", "(<urn:a>")).await).await;
    assert_eq!((status, two.log.take().len()), (400, 0));
    // Both at once.
    let mut both = request("MOVE", "/e/f", Body::Empty);
    both.headers_mut().insert("destination", "http://files/e/g%20h/".parse().unwrap());
    both.headers_mut().insert("if", "<http://files/e/g%20h/> (<urn:a>)".parse().unwrap());
    let (_, said) = text(two.lyon.serve(client(), both).await).await;
    let heard = "MOVE /srv/eng/f destination=http://files/srv/eng/g%20h/ if=<http://files/srv/eng/g%20h/> (<urn:a>)";
    assert_eq!(said, heard);
}

#[tokio::test]
async fn a_server_that_is_told_another_host_hears_it_in_tags_as_well() {
    let log = Log::default();
    let upstream = origin(log.clone(), echo).await;
    let mut site = site("hq", "/eng", upstream, home(&log), &log);
    site.host = Some("inner:8".parse().unwrap());
    let relay = HttpRelay::new(site, Arc::new(Still));
    let mut put = request("PUT", "/eng/f", Body::Empty);
    put.headers_mut().insert("if", "<http://FILES:80/eng/f> (<urn:a>)".parse().unwrap());
    let (_, said) = text(relay.serve(client(), put).await).await;
    assert_eq!(said, "PUT /eng/f if=<http://inner:8/eng/f> (<urn:a>)");
}

/// A lock's root, and what a refusal is about (RFC 4918 sections 9.10.1 and 16).
#[tokio::test]
async fn every_place_in_an_answer_is_written_for_the_client_that_gets_it() {
    let two = two(false, |line| async move {
        let (code, kind, xml) = if line.starts_with("LOCK") {
            let lock = "<D:locktoken><D:href>urn:uuid:7</D:href></D:locktoken>\
                        <D:lockroot><D:href>http://hq:81/srv/eng/f</D:href></D:lockroot>";
            (201, "application/xml; charset=utf-8", format!("<D:prop xmlns:D='DAV:'>{lock}</D:prop>"))
        } else if line.starts_with("DELETE") {
            let error = "<lock-token-submitted><href>/srv/eng/d/f</href></lock-token-submitted>";
            (423, "text/xml", format!("<error xmlns='DAV:'>{error}</error>"))
        } else {
            // A file.
            (200, "application/xml", "<href xmlns='DAV:'>/srv/eng/f".to_owned())
        };
        let mut response = status(code);
        response.headers_mut().insert("content-type", kind.parse().unwrap());
        *response.body_mut() = Body::text(xml);
        response
    })
    .await;
    let (status, said) =
        text(two.lyon.serve(client(), request("LOCK", "/e/f", Body::Empty)).await).await;
    assert_eq!(status, 201);
    assert!(said.contains("<D:href>urn:uuid:7<") && said.contains("<D:href>/e/f<"), "{said}");
    let delete = request("DELETE", "/e/d", Body::Empty);
    let (status, said) = text(two.lyon.serve(client(), delete).await).await;
    assert_eq!(status, 423);
    assert!(said.contains("<href>/e/d/f<"), "{said}");
    let mut get = request("GET", "/e/f", Body::Empty);
    get.headers_mut().insert("if", "(<urn:a>)".parse().unwrap());
    let (status, said) = text(two.lyon.serve(client(), get).await).await;
    assert_eq!((status, said.as_str()), (200, "<href xmlns='DAV:'>/srv/eng/f"));
}

#[tokio::test]
async fn a_copy_says_nothing_of_locks_and_asks_the_primary_when_it_is_asked() {
    let two = two(true, |_| async {
        let mut response = status(207);
        *response.body_mut() = Body::text(LISTED);
        response
    })
    .await;
    let find = async |xml: &str| {
        let mut find = request("PROPFIND", "/e/f", Body::text(xml.to_owned()));
        find.headers_mut().insert("depth", "0".parse().unwrap());
        let answer = text(two.lyon.serve(client(), find).await).await;
        (answer, two.log.take().iter().any(|line| line.starts_with("link")))
    };
    let ((status, said), away) = find("").await;
    assert_eq!((status, away), (207, false));
    assert!(said.contains("<D:prop></D:prop>"), "{said}");
    let ((status, said), away) =
        find("<propfind xmlns='DAV:'><prop><lockdiscovery/></prop></propfind>").await;
    assert_eq!((status, away), (207, true));
    assert!(said.contains("<D:activelock/>") && said.contains("<D:supportedlock/>"), "{said}");
    let ((status, _), away) = find("<propfind xmlns='DAV:'><prop><getetag/></prop></propfind>").await;
    assert_eq!((status, away), (207, false));
    // Without the link nobody can say.
    *two.wire.up.lock().unwrap() = false;
    let ((status, _), _) = find("<propfind xmlns='DAV:'><prop><lockdiscovery/></prop></propfind>").await;
    assert_eq!(status, 503);
    let ((status, _), _) = find("").await;
    assert_eq!(status, 207);
    let ((status, said), _) = find(&" ".repeat(xml::BODY_MAX + 1)).await;
    assert_eq!(status, 413, "{said}");
}
