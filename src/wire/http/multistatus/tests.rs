use super::*;
use crate::id::Name;

fn run(filter: fn() -> Multistatus, input: &str) -> String {
    let mut whole = Vec::new();
    let mut one = filter();
    one.push(input.as_bytes(), &mut whole).unwrap();
    one.finish().unwrap();
    // However it is cut, the same comes out.
    for size in [1, 2, 3, 7, 64] {
        let mut out = Vec::new();
        let mut cut = filter();
        for piece in input.as_bytes().chunks(size) {
            cut.push(piece, &mut out).unwrap();
        }
        cut.finish().unwrap();
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&whole), "cut by {size}");
    }
    String::from_utf8(whole).unwrap()
}

fn plain() -> Multistatus {
    Multistatus::new(None, None)
}

fn moving() -> Multistatus {
    let from = [Name::new(b"srv").unwrap(), Name::new(b"e").unwrap()];
    Multistatus::new(Some(Move::new(&from, "/eng")), Some(Tagger::ours()))
}

const NGINX: &str = r#"<?xml version="1.0" encoding="utf-8" ?>
<D:multistatus xmlns:D="DAV:">
<D:response>
<D:href>/srv/e/</D:href>
<D:propstat><D:prop><D:displayname>e</D:displayname><D:getetag>"1-2"</D:getetag></D:prop></D:propstat>
</D:response>
<D:response>
<D:href>/srv/e/.nearshare/</D:href>
<D:propstat><D:prop><D:displayname>.nearshare</D:displayname></D:prop></D:propstat>
</D:response>
<D:response>
<D:href>/srv/e/a%20b&amp;c</D:href>
<D:propstat><D:prop/></D:propstat>
</D:response>
</D:multistatus>
"#;

#[test]
fn leaves_out_what_is_ours_and_nothing_else() {
    let out = run(plain, NGINX);
    let start = NGINX.find("<D:response>\n<D:href>/srv/e/.nearshare").unwrap();
    let end = start + NGINX[start..].find("</D:response>").unwrap() + "</D:response>".len();
    let want = format!("{}{}", &NGINX[..start], &NGINX[end..]);
    assert_eq!(out, want);
}

#[test]
fn moves_urls_and_drops_tags_of_other_servers() {
    let out = run(moving, NGINX);
    assert!(out.contains("<D:href>/eng/</D:href>"), "{out}");
    assert!(out.contains("<D:href>/eng/a%20b&amp;c</D:href>"), "{out}");
    assert!(out.contains("<D:prop><D:displayname>e</D:displayname></D:prop>"), "{out}");
    assert!(!out.contains("nearshare") && !out.contains("/srv/"), "{out}");
}

#[test]
fn each_tag_becomes_what_is_said_of_its_url() {
    let tell = || {
        let tagger = Tagger::new(|url, tag| match (url, tag.opaque) {
            (Some("/e/a"), b"1-2") => Getetag::Say(HeaderValue::from_static("W/\"ours\"")),
            (Some("/e/a"), b"keep") => Getetag::Keep,
            _ => Getetag::Drop,
        });
        Multistatus::new(None, Some(tagger))
    };
    for (inside, want) in [
        (r#"<getetag>"1-2"</getetag>"#, r#"<getetag>W/"ours"</getetag>"#),
        (r#"<getetag a="<"> &quot;1-2&#34; </getetag >"#, r#"<getetag a="<">W/"ours"</getetag >"#),
        (r#"<getetag><![CDATA["1-2"]]></getetag>"#, r#"<getetag>W/"ours"</getetag>"#),
        (r#"<getetag><!-- x -->W/"keep"</getetag>"#, r#"<getetag><!-- x -->W/"keep"</getetag>"#),
        (r#"<getetag>"other"</getetag><x/>"#, "<x/>"),
        (r#"<getetag>1-2</getetag><x/>"#, "<x/>"),
        (r#"<getetag>"1-2"<b/></getetag><x/>"#, "<x/>"),
        ("<getetag/>", "<getetag/>"),
        ("<getetag></getetag>", ""),
    ] {
        let around = |inside: &str| {
            format!(
                "<multistatus xmlns=\"DAV:\"><response><href>/e/a</href><prop>{inside}</prop>\
                 </response></multistatus>"
            )
        };
        assert_eq!(run(tell, &around(inside)), around(want), "{inside}");
    }
    let long = format!("<getetag>\"{}\"</getetag>", "k".repeat(GETETAG_MAX));
    let before = |inside: &str| {
        format!(
            "<multistatus xmlns=\"DAV:\"><response>{inside}<href>/e/a</href></response></multistatus>"
        )
    };
    assert_eq!(run(tell, &before(&long)), before(""));
    assert_eq!(
        run(tell, &before(r#"<getetag>"1-2"</getetag>"#)),
        before(""),
        "of what is not known yet"
    );
}

#[test]
fn understands_every_spelling_of_dav() {
    let out = run(
        moving,
        concat!(
            r#"<multistatus xmlns='DAV:'><response><href>http://hq:81/srv/e/x</href></response>"#,
            r#"<response><status>200</status><href><![CDATA[/srv/e/.near]]>share/&#120;</href></response>"#,
            r#"<lp1:response xmlns:lp1="DAV:" a=">"><lp1:href> /srv/e/y </lp1:href></lp1:response>"#,
            r#"<response><href>/srv/e/d/%2Enearshare</href><href>/srv/e/z</href></response>"#,
            r#"<x:response xmlns:x="other"><x:href>/srv/e/.nearshare</x:href></x:response>"#,
            r#"<!-- <response> --><response><href>/srv/e/p</href><prop>"#,
            r#"<lockroot><href>/srv/e/q</href></lockroot><mine xmlns="me"><href>/srv/e/.nearshare</href></mine>"#,
            r#"<getetag/></prop></response></multistatus>"#
        ),
    );
    assert_eq!(
        out,
        concat!(
            r#"<multistatus xmlns='DAV:'><response><href>/eng/x</href></response>"#,
            r#"<lp1:response xmlns:lp1="DAV:" a=">"><lp1:href>/eng/y</lp1:href></lp1:response>"#,
            r#"<x:response xmlns:x="other"><x:href>/srv/e/.nearshare</x:href></x:response>"#,
            r#"<!-- <response> --><response><href>/eng/p</href><prop>"#,
            r#"<lockroot><href>/eng/q</href></lockroot><mine xmlns="me"><href>/srv/e/.nearshare</href></mine>"#,
            r#"<getetag/></prop></response></multistatus>"#
        )
    );
}

#[test]
fn names_that_are_not_utf8_pass() {
    let mut input =
        b"<D:multistatus xmlns:D=\"DAV:\"><D:response><D:href>/a/\xff</D:href><D:x>".to_vec();
    input.extend_from_slice(b"\xfe\xff</D:x></D:response></D:multistatus>");
    let mut filter = plain();
    let mut out = Vec::new();
    filter.push(&input, &mut out).unwrap();
    assert_eq!(filter.finish(), Ok(()));
    assert_eq!(out, input);
}

#[test]
fn has_limits_and_says_which() {
    let feed = |pieces: &mut dyn Iterator<Item = Vec<u8>>| {
        let mut filter = plain();
        let mut out = Vec::new();
        for piece in pieces {
            filter.push(&piece, &mut out)?;
        }
        filter.finish()
    };
    let many = |piece: &'static [u8], count| std::iter::repeat_n(piece.to_vec(), count);
    let open = |start: &'static [u8]| {
        std::iter::once(start.to_vec()).chain(std::iter::repeat_n(vec![b'x'; 8192], 64))
    };
    assert!(matches!(feed(&mut open(b"<m ")), Err(MultistatusError::TooLong { limit: TOKEN_MAX, .. })));
    assert!(matches!(
        feed(&mut open(b"<multistatus xmlns='DAV:'><response><status>")),
        Err(MultistatusError::TooLong { limit: HELD_MAX, .. })
    ));
    assert!(matches!(
        feed(&mut open(b"<multistatus xmlns='DAV:'><response><href>")),
        Err(MultistatusError::TooLong { limit: HREF_MAX, .. })
    ));
    assert_eq!(feed(&mut many(b"<a>", DEPTH_MAX + 1)), Err(MultistatusError::TooDeep));
    assert_eq!(feed(&mut many(b"<a>", 2)), Err(MultistatusError::CutOff));
}

#[test]
fn locks_are_told_by_who_keeps_them() {
    let head = "<multistatus xmlns='DAV:'><response><href>http://h/e/f</href><prop>";
    let tail = "</prop></response></multistatus>";
    let listed = format!(
        "{head}<lockdiscovery><activelock><lockroot><href>/e/.nearshare</href></lockroot>\
         <getetag>\"1-2\"</getetag></activelock></lockdiscovery>\
         <getetag>\"5-f\"</getetag><supportedlock/>{tail}"
    );
    fn without() -> Multistatus {
        let tagger = Tagger::new(|url, _| {
            assert_eq!(url, Some("http://h/e/f"));
            Getetag::Say(HeaderValue::from_static("\"ours\""))
        });
        Multistatus::new(None, Some(tagger)).without_locks()
    }
    let tag = "<getetag>\"ours\"</getetag>";
    assert_eq!(run(without, &listed), format!("{head}{tag}{tail}"));
    let with = || without().with_locks(Tell::new(|path| (path == "/e/f").then(|| "one".into())));
    let one = "<D:lockdiscovery xmlns:D=\"DAV:\">one</D:lockdiscovery>";
    let kinds = format!("<D:supportedlock xmlns:D=\"DAV:\">{SUPPORTED}</D:supportedlock>");
    assert_eq!(run(with, &listed), format!("{head}{one}{tag}{kinds}{tail}"));
}

/// Apache answers a property as often as it is named.
#[test]
fn locks_are_told_once_in_a_response() {
    let with = || plain().with_locks(Tell::new(|_| Some("one".into())));
    let many = "<lockdiscovery/><supportedlock/>".repeat(1000);
    let response = |inside: &str| format!("<response><href>/e/f</href><prop>{inside}</prop></response>");
    let listed = |inside: &str| {
        format!("<multistatus xmlns=\"DAV:\">{}</multistatus>", response(inside).repeat(2))
    };
    let one = "<D:lockdiscovery xmlns:D=\"DAV:\">one</D:lockdiscovery>";
    let kinds = format!("<D:supportedlock xmlns:D=\"DAV:\">{SUPPORTED}</D:supportedlock>");
    assert_eq!(run(with, &listed(&many)), listed(&format!("{one}{kinds}")));
}

#[test]
fn what_was_searched_is_not_searched_again() {
    for (open, close, longest) in [
        ("<a b='", "'>", 1),
        ("</a", ">", 1),
        ("<?a", "?>", 2),
        ("<!--", "-->", 3),
        ("<![CDATA[", "]]>", 3),
        ("<!a", ">", 1),
    ] {
        let (mut filter, mut out) = (plain(), Vec::new());
        for byte in open.bytes().chain(std::iter::repeat_n(b']', 1000)) {
            filter.push(&[byte], &mut out).unwrap();
            let known = filter.rest.len() >= open.len();
            assert!(!known || filter.search.at + longest > filter.rest.len(), "{open}: {filter:?}");
        }
        // Had an end been there, it would have been found then: it is not looked for again.
        filter.rest.extend_from_slice(close.as_bytes());
        let (passed, len) = (filter.rest.clone(), filter.rest.len());
        filter.search.at = len;
        assert!(Token::next(&passed, &mut filter.search).is_none(), "{open}");
        let mut search = Search::default();
        assert_eq!(Token::next(&passed, &mut search).map(|token| token.raw.len()), Some(len), "{open}");
    }
    // The quote that is open is remembered too, and each token begins anew.
    assert_eq!(
        run(plain, "<a b='>\"' c=\">'\"/><!-- - -- > --><?x > ?>"),
        "<a b='>\"' c=\">'\"/><!-- - -- > --><?x > ?>"
    );
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_alike_byte_by_byte(
        pieces in proptest::collection::vec(
            "(<a|</a|>|/>|<!--|--|->|<!\\[CDATA\\[|\\]|<\\?|\\?>|<!|\"|'|=|a| |<href>/eng/.nearshare</href>){0,12}",
            0..12,
        )
    ) {
        let input = pieces.concat();
        let filter = |size: usize| {
            let (mut filter, mut out) = (moving(), Vec::new());
            for piece in input.as_bytes().chunks(size) {
                filter.push(piece, &mut out)?;
            }
            filter.finish().map(|()| out)
        };
        let whole = filter(input.len().max(1));
        for size in [1, 2, 3, 5] {
            proptest::prop_assert_eq!(filter(size), whole.clone(), "cut by {}", size);
        }
    }

    #[test]
    fn any_bytes_end_in_an_answer_or_an_error(
        pieces in proptest::collection::vec("(<|</|>|/>|<!--|-->|<!\\[CDATA\\[|\\]\\]>|<\\?|\\?>|\"|'|=|xmlns=|DAV:|response|href|&amp;|&| |/|.nearshare){0,12}", 0..12)
    ) {
        let mut filter = moving();
        let mut out = Vec::new();
        for piece in pieces {
            if filter.push(piece.as_bytes(), &mut out).is_err() {
                return Ok(());
            }
        }
        let _ended = filter.finish();
    }
}
