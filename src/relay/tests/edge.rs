//! What passes, what is refused, and what is changed in an answer.

use super::*;
use crate::route::{ClientRule, Clients};

#[tokio::test]
async fn outside_every_share_nothing_is_changed() {
    let log = Log::default();
    let relay = primary(&log, ok).await;
    let mut get = request("POST", "/api//a%2Fb?%zz", Body::text("abc"));
    for (name, value) in [("x-end", "1"), ("connection", "x-hop"), ("x-hop", "2")] {
        get.headers_mut().insert(name, value.parse().unwrap());
    }
    let response = relay.serve(client(), get).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-host"], "files");
    assert_eq!(log.take(), ["server POST /api//a%2Fb?%zz x-end=1 body=3"]);
    let mut old = request("GET", "http://absolute/plain?x", Body::Empty);
    old.headers_mut().remove("host");
    *old.version_mut() = http::Version::HTTP_10;
    assert_eq!(relay.serve(client(), old).await.headers()["x-host"], "absolute");
    let mut bare = request("GET", "/bare", Body::Empty);
    bare.headers_mut().remove("host");
    *bare.version_mut() = http::Version::HTTP_10;
    let host = relay.serve(client(), bare).await.headers()["x-host"].to_str().unwrap().to_owned();
    assert!(host.starts_with("127.0.0.1:"), "{host}");
    ask(&relay, "OPTIONS", "*").await;
    assert_eq!(log.take(), ["server GET /plain?x", "server GET /bare", "server OPTIONS *"]);
}

#[tokio::test]
async fn what_leaves_the_share_never_reaches_the_server() {
    let log = Log::default();
    let relay = primary(&log, ok).await;
    for (method, uri, want) in [
        ("GET", "/eng/../x", 400),
        ("GET", "/eng/out", 403),
        ("PUT", "/eng/out", 403),
        ("DELETE", "/eng/out/", 403),
        ("GET", "/eng/gone", 503),
        ("GET", "/eng/.nearshare", 404),
        ("PUT", "/eng/.nearshare/x", 403),
        ("DELETE", "/", 403),
        ("TRACE", "/eng/f", 405),
    ] {
        assert_eq!(ask(&relay, method, uri).await.0, want, "{method} {uri}");
        assert_eq!(log.take(), Vec::<String>::new(), "{method} {uri}");
    }
    // Only the disk could tell, so it was asked.
    assert_eq!(ask(&relay, "GET", "/eng/slow").await.0, 403);
    assert_eq!(log.take(), ["looked"]);
    // The link itself may be removed.
    assert_eq!(ask(&relay, "DELETE", "/eng/out").await.0, 200);
}

#[tokio::test]
async fn the_rules_for_clients_hold() {
    let log = Log::default();
    let upstream = origin(log.clone(), ok).await;
    let mut hq = site("hq", "/eng", upstream, home(&log), &log);
    let rule = |net: &str, access| ClientRule { net: net.parse().unwrap(), access };
    hq.slots[0].clients =
        Clients::new(vec![rule("10.1.2.3/32", Access::Read), rule("10.1.2.4/32", Access::Write)]);
    let relay = HttpRelay::new(hq, Arc::new(Still));
    for (host, method, want) in [(3, "GET", 200), (3, "PUT", 403), (4, "PUT", 200), (5, "GET", 403)] {
        let client = ([10, 1, 2, host], 1).into();
        let request = request(method, "/eng/f", Body::Empty);
        assert_eq!(relay.serve(client, request).await.status(), want, "{host} {method}");
    }
    // Outside every share they say nothing.
    let response = relay.serve(([10, 1, 2, 5], 1).into(), request("GET", "/x", Body::Empty)).await;
    assert_eq!(response.status(), 200);
    // A forwarded request is judged by its client, not by the site that sends it.
    let caller = lyon(Class::Bulk);
    for (who, want) in [("10.1.2.3:5", 403), ("10.1.2.4:5", 200)] {
        let mut put = request("PUT", "/v1/share/eng/http/f", Body::Empty);
        put.headers_mut().insert("nearshare-client", who.parse().unwrap());
        let share = "eng".parse().unwrap();
        assert_eq!(relay.serve_peer(&caller, &share, put).await.status(), want, "{who}");
    }
}

#[tokio::test]
async fn the_map_says_the_host_and_a_reload_changes_it() {
    let log = Log::default();
    let upstream = origin(log.clone(), ok).await;
    let mut hq = site("hq", "/eng", upstream.clone(), home(&log), &log);
    hq.host = Some("files.hq".parse().unwrap());
    let relay = HttpRelay::new(hq, Arc::new(Still));
    let host = async |uri| {
        let response = relay.serve(client(), request("GET", uri, Body::Empty)).await;
        response.headers()["x-host"].to_str().unwrap().to_owned()
    };
    assert_eq!(host("/eng/f").await, "files.hq");
    assert_eq!(host("/x").await, "files.hq");
    relay.reload(site("hq", "/new", upstream, home(&log), &log));
    assert_eq!(host("/new/f").await, "files");
}

#[tokio::test]
async fn a_servers_own_port_does_not_leak() {
    let log = Log::default();
    let relay = primary(&log, |line| async move {
        let to = match line.rsplit('/').next().unwrap() {
            "own" => "http://files:8080/eng/own/",
            "behind" => "http://127.0.0.1/eng/x",
            "path" => "/eng/y",
            _ => "https://login.example.com/eng/z",
        };
        let mut response = status(301);
        response.headers_mut().insert("location", to.parse().unwrap());
        response
    })
    .await;
    for (path, want) in [
        ("own", "/eng/own/"),
        ("behind", "/eng/x"),
        ("path", "/eng/y"),
        ("foreign", "https://login.example.com/eng/z"),
    ] {
        let get = request("GET", &format!("/eng/{path}"), Body::Empty);
        let response = relay.serve(client(), get).await;
        assert_eq!(response.headers()["location"], want, "{path}");
    }
}

#[tokio::test]
async fn our_directory_is_in_no_listing() {
    const LISTING: &str = "<D:multistatus xmlns:D=\"DAV:\"><D:response><D:href>/eng/.nearshare/</D:href>\
        </D:response><D:response><D:href>/eng/f</D:href></D:response></D:multistatus>";
    let log = Log::default();
    let relay = primary(&log, |_| async {
        let mut response = status(207);
        *response.body_mut() = Body::text(LISTING);
        response
    })
    .await;
    let mut find = request("PROPFIND", "/eng/", Body::Empty);
    find.headers_mut().insert("depth", "1".parse().unwrap());
    let (status, said) = text(relay.serve(client(), find).await).await;
    assert_eq!(status, 207);
    assert!(said.contains("/eng/f") && !said.contains("nearshare"), "{said}");
}

/// Servers such as mod_dav write it into the file that is there, under the eyes of who reads it.
#[tokio::test]
async fn a_part_of_a_file_is_not_put() {
    let log = Log::default();
    let relay = primary(&log, ok).await;
    let part = |uri| {
        let mut put = request("PUT", uri, Body::text("data"));
        put.headers_mut().insert("content-range", "bytes 0-3/10".parse().unwrap());
        put
    };
    let (status, said) = text(relay.serve(client(), part("/eng/f")).await).await;
    assert_eq!(status, 400);
    assert!(said.contains("send the whole file"), "{said}");
    // Nor for another site.
    let mut forwarded = part("/v1/share/eng/http/f");
    forwarded.headers_mut().insert("nearshare-client", "10.1.2.3:5".parse().unwrap());
    let response = relay.serve_peer(&lyon(Class::Bulk), &"eng".parse().unwrap(), forwarded).await;
    assert_eq!(response.status(), 400);
    assert_eq!(log.take(), Vec::<String>::new());
}
