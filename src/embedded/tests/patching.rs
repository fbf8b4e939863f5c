//! PROPPATCH, and what becomes of the properties that clients make up.

use super::*;

const ATTRIBUTE: &str = "user.nearshare.properties";

fn update(inside: &str) -> String {
    format!("<?xml version=\"1.0\"?><D:propertyupdate xmlns:D=\"DAV:\">{inside}</D:propertyupdate>")
}

/// Sets properties of the namespace `urn:x` to values.
fn set(pairs: &[(&str, &str)]) -> String {
    let one = |(name, value): &(&str, &str)| format!("<{name} xmlns=\"urn:x\">{value}</{name}>");
    let all: String = pairs.iter().map(one).collect();
    update(&format!("<D:set><D:prop>{all}</D:prop></D:set>"))
}

fn remove(name: &str) -> String {
    update(&format!("<D:remove><D:prop><{name} xmlns=\"urn:x\"/></D:prop></D:remove>"))
}

/// What an answer says of each propstat: the properties and the status, and what else there is.
fn told(reply: &Reply) -> Vec<(String, String)> {
    assert_eq!(reply.status, 207, "{}", reply.text());
    let propstats = reply.text().split("<D:propstat><D:prop>").skip(1);
    let parts = propstats.map(|part| {
        let (properties, rest) = part.split_once("</D:prop><D:status>HTTP/1.1 ").unwrap();
        let (rest, _) = rest.split_once("</D:propstat>").unwrap();
        (properties.to_owned(), rest.replace("</D:status>", "|"))
    });
    parts.collect()
}

impl Bench {
    async fn patch(&self, path: &str, body: String) -> Vec<(String, String)> {
        told(&self.send("PROPPATCH", path, &[], body).await)
    }

    async fn done(&self, path: &str, body: String) {
        let told = self.patch(path, body).await;
        assert!(told.iter().all(|(_, status)| status == "200 OK|"), "{told:?}");
    }

    /// What is said of one property of `urn:x`.
    async fn property(&self, path: &str, name: &str) -> Option<String> {
        let ask = format!("<propfind xmlns='DAV:'><prop><{name} xmlns='urn:x'/></prop></propfind>");
        let told = told(&self.send("PROPFIND", path, &[("depth", "0")], ask).await);
        let [(property, status)] = told.try_into().unwrap();
        (status == "200 OK|").then_some(property)
    }
}

fn element(name: &str, value: &str) -> Option<String> {
    Some(format!("<{name} xmlns=\"urn:x\">{value}</{name}>"))
}

#[tokio::test]
async fn what_clients_make_up_is_kept_and_told() {
    let bench = Bench::new();
    bench.write("a file", "x");
    std::fs::create_dir(bench.at("dir")).unwrap();
    let body = update(
        "<D:set><D:prop xml:lang='fr'><c xmlns='urn:x'>un <b xmlns='urn:y' n='&lt;'/>&amp;</c></D:prop></D:set>\
         <D:set><D:prop><D:displayname>name</D:displayname><none xmlns=''/></D:prop></D:set>\
         <D:remove><D:prop><no xmlns='urn:x'/></D:prop></D:remove>",
    );
    let reply = bench.send("PROPPATCH", "/eng/a%20file", &[], body).await;
    let names = "<c xmlns=\"urn:x\"/><D:displayname/><none xmlns=\"\"/>";
    assert_eq!(told(&reply), [(format!("{names}<no xmlns=\"urn:x\"/>"), "200 OK|".to_owned())]);
    assert_eq!(reply.field("content-type"), Some("application/xml; charset=utf-8"));
    assert!(reply.text().contains("<D:href>/eng/a%20file</D:href>"), "{}", reply.text());
    let elements = "<c xmlns=\"urn:x\" xml:lang=\"fr\">un <b xmlns=\"urn:y\" n=\"&lt;\"/>&amp;</c>\
                    <displayname xmlns=\"DAV:\">name</displayname><none xmlns=\"\"/>";
    let ask = async |body: &str| {
        bench.send("PROPFIND", "/eng/a%20file", &[("depth", "0")], body.to_owned()).await
    };
    let all = ask("").await;
    assert!(all.text().contains(&format!("{elements}</D:prop>")), "{}", all.text());
    let listed = ask("<propfind xmlns='DAV:'><propname/></propfind>").await;
    assert!(listed.text().contains(&format!("{names}</D:prop>")), "{}", listed.text());
    // Named beside all, each once.
    let both =
        ask("<propfind xmlns='DAV:'><allprop/><include><displayname/></include></propfind>").await;
    assert_eq!(both.text().matches("displayname").count(), 2, "{}", both.text());
    let some = ask(
        "<propfind xmlns='DAV:'><prop><displayname/><x/><c xmlns='urn:x'/><c xmlns='urn:X'/></prop></propfind>",
    );
    let there = "<displayname xmlns=\"DAV:\">name</displayname><c xmlns=\"urn:x\" xml:lang=\"fr\">un \
                 <b xmlns=\"urn:y\" n=\"&lt;\"/>&amp;</c>";
    let missing = "<D:x/><c xmlns=\"urn:X\"/>";
    let want =
        [(there, "200 OK|"), (missing, "404 Not Found|")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(told(&some.await), want);
    bench.done("/eng/a%20file", set(&[("c", "two")])).await;
    assert_eq!(bench.property("/eng/a%20file", "c").await, element("c", "two"));
    bench.done("/eng/a%20file", remove("c")).await;
    assert_eq!(bench.property("/eng/a%20file", "c").await, None);
    for path in ["/eng/dir", "/eng/"] {
        bench.done(path, set(&[("c", path)])).await;
        assert_eq!(bench.property(path, "c").await, element("c", path));
    }
    // In a listing, too, each its own.
    let listed = bench.send("PROPFIND", "/eng/", &[("depth", "1")], "").await;
    assert_eq!(listed.text().matches("<c xmlns=\"urn:x\">/eng/").count(), 2, "{}", listed.text());
    assert_eq!(bench.status("PROPPATCH", "/eng/none", &[]).await, 400);
    assert_eq!(bench.send("PROPPATCH", "/eng/none", &[], set(&[("c", "1")])).await.status, 404);
}

#[tokio::test]
async fn an_update_is_done_whole_or_not_at_all() {
    let bench = Bench::new();
    bench.write("file", "x");
    let path = "/eng/file";
    bench.done(path, set(&[("c", "red"), ("d", "1")])).await;
    let kept = async || {
        assert_eq!(bench.property(path, "c").await, element("c", "red"));
        assert_eq!(bench.property(path, "d").await, element("d", "1"));
    };
    let mixed = update(
        "<D:set><D:prop><c xmlns='urn:x'>blue</c><D:getetag>1</D:getetag></D:prop></D:set>\
         <D:remove><D:prop><d xmlns='urn:x'/><D:lockdiscovery/></D:prop></D:remove>",
    );
    let protected = "403 Forbidden|<D:error><D:cannot-modify-protected-property/></D:error>";
    let want = [
        ("<D:getetag/><D:lockdiscovery/>", protected),
        ("<c xmlns=\"urn:x\"/><d xmlns=\"urn:x\"/>", "424 Failed Dependency|"),
    ];
    assert_eq!(bench.patch(path, mixed).await, want.map(|(a, b)| (a.to_owned(), b.to_owned())));
    kept().await;
    let long = "x".repeat(40 << 10);
    let many: Vec<String> = (0..128).map(|number| format!("x{number}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "")).collect();
    for (body, why) in [
        (set(&[("c", "blue"), ("e", &long)]), "32768 bytes together"),
        (set(&many), "one object may have 128 properties"),
    ] {
        let told = bench.patch(path, body).await;
        let (_, status) = &told[0];
        assert!(told.len() == 1 && status.starts_with("507 Insufficient Storage|"), "{told:?}");
        assert!(status.contains(why), "{status}");
        kept().await;
    }
    // What is set in vain fails what is removed beside it.
    let both = update(&format!(
        "<D:remove><D:prop><d xmlns='urn:x'/></D:prop></D:remove><D:set><D:prop><e xmlns='urn:x'>{long}</e></D:prop>\
         </D:set>"
    ));
    let told = bench.patch(path, both).await;
    assert_eq!(told[1], ("<d xmlns=\"urn:x\"/>".to_owned(), "424 Failed Dependency|".to_owned()));
    kept().await;
}

#[tokio::test]
async fn properties_go_where_their_object_goes() {
    let bench = Bench::new();
    std::fs::create_dir_all(bench.at("tree/sub")).unwrap();
    bench.write("tree/sub/file", "x");
    bench.write("other", "x");
    let all = ["", "/sub", "/sub/file"];
    for path in all {
        bench.done(&format!("/eng/tree{path}"), set(&[("c", "red")])).await;
    }
    let red = element("c", "red");
    assert_eq!(bench.send("PUT", "/eng/tree/sub/file", &[], "longer").await.status, 204);
    assert_eq!(bench.property("/eng/tree/sub/file", "c").await, red);
    let to = |path| [("destination", path)];
    assert_eq!(bench.status("COPY", "/eng/tree", &to("/eng/copy")).await, 201);
    assert_eq!(bench.status("MOVE", "/eng/tree", &to("/eng/moved")).await, 201);
    for tree in ["copy", "moved"] {
        for path in all {
            assert_eq!(bench.property(&format!("/eng/{tree}{path}"), "c").await, red, "{tree}{path}");
        }
    }
    let flat = [("destination", "/eng/flat"), ("depth", "0")];
    assert_eq!(bench.status("COPY", "/eng/copy", &flat).await, 201);
    assert_eq!(bench.property("/eng/flat", "c").await, red);
    // What a copy takes the place of is gone, with what was said of it.
    assert_eq!(bench.status("COPY", "/eng/other", &to("/eng/copy/sub/file")).await, 204);
    assert_eq!(bench.property("/eng/copy/sub/file", "c").await, None);
    assert_eq!(bench.status("COPY", "/eng/moved/sub/file", &to("/eng/other")).await, 204);
    assert_eq!(bench.property("/eng/other", "c").await, red);
    assert_eq!(bench.status("DELETE", "/eng/other", &[]).await, 204);
    assert_eq!(bench.send("PUT", "/eng/other", &[], "new").await.status, 201);
    assert_eq!(bench.property("/eng/other", "c").await, None);
}

/// Anybody who may write to a file may set its attribute.
#[tokio::test]
async fn what_others_put_there_breaks_no_listing() {
    let bench = Bench::new();
    bench.write("file", "x");
    bench.write("none", "x");
    let put = |value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(bench.at("file"), ATTRIBUTE, value, flags).unwrap();
    };
    let long = [b"<prop xmlns='DAV:'><a>".to_vec(), vec![b'x'; 1500], b"</prop>".to_vec()].concat();
    for value in [&b"</D:prop></D:response>"[..], b"<prop xmlns='DAV:'><a/>", b"\xff", b"", &long] {
        put(value);
        let listed = bench.send("PROPFIND", "/eng/", &[("depth", "1")], "").await;
        assert_eq!(listed.text().matches("</D:response>").count(), 3, "{}", listed.text());
        bench.done("/eng/file", set(&[("c", "red")])).await;
        assert_eq!(bench.property("/eng/file", "c").await, element("c", "red"));
    }
    put(b"<D:prop xmlns:D='DAV:'><!-- --><c xmlns='urn:x'>blue</c></D:prop>");
    assert_eq!(bench.property("/eng/file", "c").await, element("c", "blue"));
}
