//! Whole maps: good ones and what they mean, bad ones and every word that is said of them.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

mod bad;

const EXAMPLE: &str = include_str!("../../../server-map.example.toml");

/// Two sites and a share. The tables below change one thing in it.
const GOOD: &str = r#"serial = 1
[site.hq]
link = "hq.example.com:7400"
http = { server = "embedded", listen = "10.1.0.10:80" }
[site.lyon]
link = "lyon.example.com:7400"
http = { server = "embedded", listen = "0.0.0.0:8080" }
[share.eng]
http = "/eng"
hq = { role = "local", path = "/srv/eng" }
lyon = { role = "broadcast", path = "/data/eng" }
"#;

/// A second share without a URL, to be put at the end of `GOOD`.
const MORE: &str = "[share.more]\nhq = { role = \"local\", path = \"/srv/more\" }\n";

fn site(name: &str) -> SiteId {
    name.parse().expect("a site's name")
}

fn share<'m>(map: &'m Map, name: &str) -> &'m Share {
    &map.shares[&name.parse::<ShareId>().expect("a share's name")]
}

fn said(text: &str) -> String {
    let mistakes = parse(text).expect_err("the map is bad");
    mistakes.iter().map(|mistake| format!("{mistake}\n")).collect()
}

#[test]
fn the_example_is_clean_and_means_what_it_says() {
    let map = parse(EXAMPLE).expect("the example is clean");
    assert_eq!(map.serial, 1);
    assert_eq!(map.hash, *blake3::hash(EXAMPLE.as_bytes()).as_bytes());
    assert_eq!(map.cluster, Cluster::default());
    let (hq, lyon, osaka) = (site("hq"), site("lyon"), site("osaka"));
    let nginx = HostPort { host: "127.0.0.1".to_owned(), port: 8080 };
    assert_eq!(
        map.sites[&hq].http,
        Some(HttpDoor {
            server: HttpServer::Url(nginx),
            listen: "10.1.0.10:80".parse().expect("an address"),
            host: Some("files.hq.example.com".to_owned()),
            server_timeout: Duration::from_secs(60),
            via: false,
            client_connections: 4096,
            client_rate: None,
            tls: None,
        })
    );
    assert_eq!(map.sites[&hq].link.to_string(), "hq.example.com:7400");
    assert_eq!(map.sites[&hq].link_addr().to_string(), "0.0.0.0:7400");
    assert_eq!(map.sites[&osaka].link_addr().to_string(), "10.3.0.10:7401");
    assert_eq!(map.sites[&osaka].zone.as_deref(), Some("apac"));
    let timeout = map.sites[&osaka].http.as_ref().map(|door| door.server_timeout);
    assert_eq!(timeout, Some(Duration::from_secs(120)));
    let door = map.sites[&osaka].http.as_ref().expect("Osaka has a door");
    assert_eq!((door.via, door.client_connections, door.client_rate), (true, 1000, Some(500)));
    let tls = door.tls.as_ref().expect("Osaka speaks TLS");
    assert_eq!((tls.listen.to_string().as_str(), tls.certificates.len()), ("10.3.0.10:443", 2));
    assert_eq!(tls.certificates[1].key, Path::new("/etc/nearshare/files.key"));
    let own = Cluster { state: "/data/nearshare".into(), ..Cluster::default() };
    assert_eq!(map.sites[&osaka].cluster, own);

    let engineering = share(&map, "engineering");
    assert_eq!(engineering.primary(), &hq);
    assert_eq!(engineering.consistency, Consistency::Strict);
    let urls = engineering.sites().map(|(_, at)| at.http.as_ref().map(UrlPrefix::as_str));
    assert_eq!(urls.collect::<Vec<_>>(), [Some("/engineering"), Some("/eng"), Some("/engineering")]);
    let at_lyon = engineering.at(&lyon).expect("Lyon has a copy");
    assert_eq!(at_lyon.place, Place::Broadcast("/data/eng".into()));
    assert!(at_lyon.http_sync);

    let drawings = share(&map, "drawings");
    let roles = drawings.sites().map(|(site, at)| format!("{site} {}", at.role()));
    assert_eq!(roles.collect::<Vec<_>>(), ["hq remote", "lyon broadcast", "osaka local"]);
    assert_eq!(drawings.at(&hq).and_then(AtSite::path), None);
    let here: Vec<_> =
        map.shares_at(&lyon).map(|(share, at)| (share.name.as_str(), at.path())).collect();
    let paths = [Path::new("/data/drawings"), Path::new("/data/eng")];
    assert_eq!(here, [("drawings", Some(paths[0])), ("engineering", Some(paths[1]))]);
}

#[test]
fn an_empty_map_lacks_everything() {
    let expected = "1:1: the map has no `serial`; add serial = 1\n\
                    1:1: the map has no share; add [share.engineering]\n\
                    1:1: the map has no site; add [site.hq]\n";
    for text in ["", "\u{feff}", "# nothing\n"] {
        assert_eq!(said(text), expected, "{text:?}");
    }
}

#[test]
fn mistakes_of_all_kinds_are_told_at_once() {
    let text = GOOD
        .replace("serial = 1\n", "")
        .replace("\"embedded\", listen = \"10", "\"ftp://x\", listen = \"310")
        .replace("role = \"broadcast\"", "role = \"local\", oops = 1")
        .replace("http = \"/eng\"", "consistency = \"eventual\"\nhtttp = \"/eng\"");
    let lines: Vec<String> = said(&text).lines().map(str::to_owned).collect();
    let places: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(places, ["1:1:", "3:19:", "3:39:", "8:15:", "9:1:", "11:17:", "11:26:"], "{lines:#?}");
}

#[test]
fn columns_count_characters_and_no_byte_order_mark() {
    let line = "site.hq.zone = \"é\"\n";
    assert!(said(line).contains("\n1:16: `zone` is \"é\""), "{}", said(line));
    let marked = format!("\u{feff}{line}");
    assert_eq!(said(&marked), said(line));
    let behind = said("'é€😀' = 1 \"\n");
    assert!(behind.contains("1:11: "), "{behind}");
    let later = said("# é€😀\n'é€😀' = { a = 1 }\n'é€' = { zoe = 1 }\r\n\tx = 1\n");
    let places = later.lines().filter_map(|line| line.split(' ').next());
    assert_eq!(places.collect::<Vec<_>>(), ["1:1:", "1:1:", "1:1:", "2:1:", "3:1:", "4:2:"], "{later}");
}

#[test]
fn the_example_has_every_key() {
    let all = [
        &["cluster", "serial", "share", "site"][..],
        site::CLUSTER_KEYS,
        site::SITE_KEYS,
        site::NFS_KEYS,
        http::HTTP_KEYS,
        http::TLS_KEYS,
        http::CERTIFICATE_KEYS,
        share::SHARE_KEYS,
        share::AT_SITE_KEYS,
        share::CLIENT_KEYS,
    ];
    let is_word = |c: char| c == '_' || c.is_ascii_alphanumeric();
    let words: BTreeSet<&str> = EXAMPLE.split(|c| !is_word(c)).collect();
    let lacks: Vec<_> = all.concat().into_iter().filter(|key| !words.contains(key)).collect();
    assert!(lacks.is_empty(), "{lacks:?}");
}

#[test]
fn limits_are_told() {
    let long = format!("#{}", "x".repeat(TEXT_MAX));
    assert_eq!(said(&long), "1:1: the map is 1048577 bytes long; write one of at most 1048576\n");
    assert_eq!(text(long.as_bytes()), Err(NotText::TooLarge));
    assert!(text(&long.as_bytes()[1..]).is_ok());

    let site = |n: usize| format!("[site.s{n}]\nlink = \"s{n}.example.com:7400\"\n");
    let sites = |count| (0..count).map(site).collect::<String>();
    let share = "[share.a]\ns0 = { role = \"local\", path = \"/a\" }\n";
    let most = format!("serial = 1\n{}{share}", sites(SITES_MAX));
    assert_eq!(parse(&most).map(|map| map.sites.len()), Ok(SITES_MAX));
    let more = format!("serial = 1\n{}{share}", sites(SITES_MAX + 1));
    assert_eq!(said(&more), "2050:7: the map has 1025 sites; write at most 1024\n");
}

/// Shapes that would cost time in the square of the length, or a stack frame a byte.
#[test]
fn the_longest_texts_come_to_an_end() {
    for piece in ["[", "a.", "a=[", "a={", "{", "x=1,", "\n", "\"", "[[a]]\n", "é"] {
        let text = piece.repeat(TEXT_MAX / piece.len());
        assert!(parse(&text).is_err(), "{piece}");
    }
    let keys = |head: &str| {
        let keys = (0..6_000).map(|key| format!("k{key}.a={{}}\n")).collect::<String>();
        format!("{head}\n{keys}")
    };
    for head in ["", "[site.hq]", "[share.eng]", "[site]", "[share]"] {
        assert!(parse(&keys(head)).is_err(), "{head}");
    }
    let parts = (0..2_000).map(|n| format!("s{n}={{role=\"local\",path=\"/p\",http=\"/a\"}}\n"));
    assert!(parse(&format!("[share.a]\n{}", parts.collect::<String>())).is_err());
    let shares =
        (0..1_000).map(|n| format!("[share.a{n}]\nhq={{role=\"local\",path=\"/p\",http=\"/a\"}}\n"));
    assert!(parse(&format!("{GOOD}{}", shares.collect::<String>())).is_err());
}

#[test]
fn bytes_that_are_no_text_are_told_by_place() {
    assert_eq!(text(b"serial = 1\n"), Ok("serial = 1\n"));
    let place = text("é = 1\nß = ".as_bytes()).map(str::len);
    assert_eq!(place, Ok(12));
    let bytes = [b"a = 1\n\xc3\xa9 = \"".as_slice(), b"\xff\""].concat();
    assert_eq!(text(&bytes), Err(NotText::NotUtf8 { line: 2, column: 6 }));
}

#[test]
fn what_sites_must_agree_on_is_in_the_digest_and_nothing_else() {
    let digest = |text: &str| share(&parse(text).expect(text), "eng").digest();
    let good = digest(GOOD);
    for (from, to) in [
        ("/data/eng", "/other/eng"),
        ("\"/eng\"", "\"/other\""),
        ("serial = 1", "serial = 2"),
        ("hq.example.com", "other.example.com"),
        ("http = \"/eng\"", "http = \"/eng\"\nhttp_sync = false\nconsistency = \"strict\""),
        ("[share.eng]", "[share.eng] # the engineers'"),
    ] {
        assert_eq!(digest(&GOOD.replacen(from, to, 1)), good, "{to}");
    }
    let swapped =
        GOOD.replace("local", "x").replace("broadcast", "local").replace("\"x\"", "\"broadcast\"");
    let alone = GOOD.replace("lyon = { role = \"broadcast\", path = \"/data/eng\" }\n", "");
    let remote = GOOD.replace("\"broadcast\", path = \"/data/eng\"", "\"remote\"");
    let digests = [good, digest(&swapped), digest(&alone), digest(&remote)];
    let distinct: std::collections::BTreeSet<_> = digests.iter().collect();
    assert_eq!(distinct.len(), digests.len());
    let renamed = parse(&GOOD.replace("share.eng", "share.other")).expect("renamed");
    assert_ne!(share(&renamed, "other").digest(), good);
}

#[test]
fn a_site_may_override_what_a_share_says() {
    let text = format!(
        "{GOOD}http_sync = false\n\
         clients = [{{ net = \"10.0.0.0/8\" }}]\n\
         [share.eng.osaka]\nrole = \"broadcast\"\npath = \"/a/./b//c/\"\nhttp = false\nhttp_sync = true\n\
         clients = [{{ net = \"::/0\" }}]\n\
         [site.osaka]\nlink = \"[2001:DB8::1]:7400\"\nca = \"/ca\"\n"
    );
    let map = parse(&text).expect("clean");
    let eng = share(&map, "eng");
    let at_lyon = eng.at(&site("lyon")).expect("a part");
    assert_eq!(
        (at_lyon.http_sync, at_lyon.clients[0].net.to_string()),
        (false, "10.0.0.0/8".to_owned())
    );
    let at_osaka = eng.at(&site("osaka")).expect("a part");
    assert_eq!((at_osaka.http_sync, at_osaka.clients[0].net.to_string()), (true, "::/0".to_owned()));
    assert_eq!((&at_osaka.http, at_osaka.path()), (&None, Some(Path::new("/a/b/c"))));
    let osaka = &map.sites[&site("osaka")];
    assert_eq!(osaka.link.to_string(), "[2001:db8::1]:7400");
    assert_eq!(osaka.link_addr().to_string(), "[2001:db8::1]:7400");
    assert_eq!(osaka.cluster.ca, Path::new("/ca"));
    assert_eq!(eng.at(&site("nara")), None);
}

#[test]
fn a_server_is_embedded_or_an_http_url() {
    for (server, host, port) in [
        ("http://nginx.local", "nginx.local", 80),
        ("http://Nginx.Local:8080/", "nginx.local", 8080),
        ("http://[::1]:81", "::1", 81),
        ("http://[::1]", "::1", 80),
    ] {
        let text = GOOD.replacen("embedded", server, 1);
        let map = parse(&text).expect(server);
        let door = map.sites[&site("hq")].http.clone().expect("a door");
        assert_eq!(door.server, HttpServer::Url(HostPort { host: host.to_owned(), port }), "{server}");
    }
    for bad in
        ["http://", "http://a:b@c", "http://x:y", "http://x?y", "HTTP//x", "http://::1", "http://[::1"]
    {
        let said = said(&GOOD.replacen("embedded", bad, 1));
        assert!(said.starts_with("4:19: `server` ") && said.lines().count() == 1, "{bad}: {said}");
    }
}

#[test]
fn needs_are_found_with_their_places_even_in_a_bad_map() {
    let text = GOOD.replace("[site.lyon]\n", "secret = \"/root/secret\"\n[site.lyon]\nzoen = 1\n");
    let reading = read(&text);
    assert!(reading.map.is_none());
    let hq = reading.needs.iter().filter(|need| need.site == site("hq"));
    let hq: Vec<_> = hq.map(|n| (n.line, n.column, n.path.to_str().unwrap_or(""), n.kind)).collect();
    assert_eq!(
        hq,
        [
            (2, 7, "/etc/nearshare/ca.pem", NeedKind::Readable),
            (2, 7, "/etc/nearshare/site.pem", NeedKind::Readable),
            (2, 7, "/etc/nearshare/site.key", NeedKind::Private),
            (2, 7, "/var/lib/nearshare", NeedKind::State),
            (5, 10, "/root/secret", NeedKind::Private),
            (12, 31, "/srv/eng", NeedKind::Directory),
        ]
    );
}

/// What must hold of any text.
fn sound(text: &str) -> Result<(), TestCaseError> {
    let reading = read(text);
    prop_assert_eq!(reading.map.is_some(), reading.mistakes.is_empty());
    prop_assert!(reading.mistakes.is_sorted_by_key(|mistake| (mistake.line, mistake.column)));
    let lines: Vec<&str> = text.split('\n').collect();
    for mistake in &reading.mistakes {
        let shown = mistake.to_string();
        prop_assert!(!shown.contains(char::is_control), "{:?}", shown);
        let line = lines.get(mistake.line as usize - 1);
        prop_assert!(
            line.is_some_and(|line| (mistake.column as usize) <= line.chars().count() + 1),
            "{}",
            shown
        );
    }
    Ok(())
}

/// One edit: how many bytes at which place, in thousandths of the text, give way to what.
fn edit() -> impl Strategy<Value = (usize, usize, String)> {
    let piece = prop_oneof![
        "\\PC{0,3}",
        Just("[".to_owned()),
        Just("\n".to_owned()),
        Just("\"".to_owned()),
        Just(" = 1\n".to_owned()),
        Just("{ role = \"local\", path = \"/srv\" }".to_owned()),
        Just("[site.hq]\n".to_owned()),
        Just("hq = ".to_owned()),
    ];
    (0..1000usize, 0..40usize, piece)
}

proptest! {
    #[test]
    fn any_text_is_a_map_or_has_mistakes(text in "(\\PC|\n|\t|[\\[\\]{}=\"'#.]){0,200}") {
        sound(&text)?;
    }

    #[test]
    fn any_bytes_are_text_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(text(&bytes).ok(), std::str::from_utf8(&bytes).ok());
    }

    #[test]
    fn so_is_any_edit_of_the_example(edits in proptest::collection::vec(edit(), 1..6)) {
        let mut text = EXAMPLE.to_owned();
        for (at, length, piece) in edits {
            let start = text.floor_char_boundary(text.len() * at / 1000);
            let end = text.floor_char_boundary(start + length);
            text.replace_range(start..end.max(start), &piece);
        }
        sound(&text)?;
    }
}
