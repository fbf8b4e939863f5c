use ::http::header::{
    ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
};

use super::*;
use crate::id::{ObjectId, Version};
use crate::object::Timespec;

/// Of version 3; `OLD` of the one before, `OTHER` of another object.
const NOW: &str = "\"000102030405060708090a0b0c0d0e0f-3\"";
const WEAK: &str = "W/\"000102030405060708090a0b0c0d0e0f-3\"";
const GZIP: &str = "W/\"000102030405060708090a0b0c0d0e0f-3-gzip\"";
const STRONG_GZIP: &str = "\"000102030405060708090a0b0c0d0e0f-3-gzip\"";
const OLD: &str = "\"000102030405060708090a0b0c0d0e0f-2\"";
const OTHER: &str = "\"100102030405060708090a0b0c0d0e0f-3\"";
/// What nginx and Apache call the file, and what the embedded server does.
const NGINX: &str = "\"5f5e100-ff\"";
const APACHE: &str = "\"ff-5af3107a4fa0\"";
const SAID: &str = "\"000102030405060708090a0b0c0d0e0f-3\", \"5f5e100-ff\", \"ff-5af3107a4fa0\"";
const DATE: &str = "Fri, 13 Feb 2009 23:31:30 GMT";

fn tag() -> Tag {
    Tag { id: ObjectId::from_bytes(std::array::from_fn(|n| n as u8)), version: Version(3) }
}

fn file(tag: Option<Tag>) -> Current {
    let mtime = Timespec { sec: 100_000_000, nsec: 4_000_999 };
    Current { stamp: Stamp { size: 255, mtime, ctime: mtime }, tag }
}

fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(name, value.parse().unwrap());
    }
    headers
}

fn value(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name).map(|value| value.to_str().unwrap().to_owned())
}

#[test]
fn the_tags_are_what_their_servers_make() {
    for (text, of) in
        [(NGINX, true), (APACHE, true), ("W/\"5f5e100-ff\"", true), ("\"5f5e100-fe\"", false)]
    {
        assert_eq!(EntityTag::parse(text.as_bytes()).unwrap().is_of(&file(None).stamp), of, "{text}");
    }
    for (text, coded) in [("\"ff-5af3107a4fa0-gzip\"", true), (APACHE, false)] {
        let tag = EntityTag::parse(text.as_bytes()).unwrap();
        assert_eq!((tag.is_of(&file(None).stamp), tag.is_coded()), (true, coded), "{text}");
    }
    assert_eq!(tag().field(), NOW);
    assert_eq!(tag().weak_field(None), WEAK);
    assert_eq!(tag().weak_field(Some(b"GZip")), GZIP);
    assert_eq!(tag().weak_field(Some(b"gzip, br")), WEAK);
}

#[test]
fn a_file_of_any_size_and_time_has_tags_or_none() {
    let tags = |sec, nsec| {
        let mtime = Timespec { sec, nsec };
        server_tags(&Stamp { size: u64::MAX, mtime, ctime: mtime }).map(|tag| tag.unwrap_or_default())
    };
    let last = i64::MAX / 1_000_000;
    assert_eq!(tags(0, 0), ["0-ffffffffffffffff", "ffffffffffffffff-0"]);
    assert_eq!(tags(last, 0)[1], "ffffffffffffffff-7ffffffffff42980");
    // Some microseconds later there are too many of them, and long after that as well.
    for (sec, nsec) in [(last, 999_999_999), (last, u32::MAX), (last + 1, 0), (i64::MAX, 999_999_999)] {
        assert_eq!(tags(sec, nsec), [format!("{sec:x}-ffffffffffffffff"), String::new()]);
    }
    for sec in [-1, -last, i64::MIN] {
        assert_eq!(tags(sec, 999), ["", ""]);
    }
}

/// RFC 9110 sections 13.1.1 and 13.1.2, for a read of version 3: what If-None-Match and If-Match become, and
/// what the answer rests on.
#[test]
fn tags_of_reads_table() {
    let nobodys = Some("\"none-of-these\"");
    let both = format!("{OLD} ,, {NOW}");
    let mixed = format!("{NOW}, \"x\"");
    for (field, text, keep, becomes, rests) in [
        (IF_NONE_MATCH, NOW, true, Some(SAID), true),
        (IF_NONE_MATCH, WEAK, true, Some(SAID), true),
        (IF_NONE_MATCH, GZIP, true, Some(SAID), true),
        (IF_NONE_MATCH, STRONG_GZIP, true, Some(SAID), true),
        (IF_NONE_MATCH, &both, false, Some(SAID), true),
        (IF_NONE_MATCH, OLD, true, None, false),
        (IF_NONE_MATCH, OTHER, true, None, false),
        (IF_NONE_MATCH, "*", true, Some("*"), false),
        // What means nothing here is no match, and least of all the server's own tag of the file.
        (IF_NONE_MATCH, NGINX, true, None, false),
        (IF_NONE_MATCH, NGINX, false, None, false),
        (IF_NONE_MATCH, "\"x\"", false, None, false),
        (IF_NONE_MATCH, "W/\"x\", \"y\"", true, Some("W/\"x\", \"y\""), false),
        (IF_NONE_MATCH, "rubbish", true, None, false),
        (IF_NONE_MATCH, "", true, None, false),
        (IF_MATCH, NOW, true, None, true),
        (IF_MATCH, &both, true, None, true),
        (IF_MATCH, STRONG_GZIP, true, None, true),
        (IF_MATCH, WEAK, true, nobodys, false),
        (IF_MATCH, GZIP, true, nobodys, false),
        (IF_MATCH, OLD, true, nobodys, false),
        (IF_MATCH, NGINX, true, nobodys, false),
        (IF_MATCH, "\"x\"", false, nobodys, false),
        (IF_MATCH, "\"x\"", true, Some("\"x\""), false),
        (IF_MATCH, &mixed, true, None, true),
        (IF_MATCH, "*", true, Some("*"), false),
        (IF_MATCH, "rubbish", true, nobodys, false),
    ] {
        let mut asked = headers(&[(field.clone(), text)]);
        let fitted = fit(&mut asked, Some(&file(Some(tag()))), keep).unwrap();
        assert_eq!(value(&asked, field.clone()).as_deref(), becomes, "{field}: {text}, {keep}");
        assert_eq!(fitted.rests(), rests, "{field}: {text}, {keep}");
        // Of no file no tag of ours is right.
        let mut asked = headers(&[(field.clone(), text)]);
        assert!(!fit(&mut asked, None, keep).unwrap().rests(), "{field}: {text}, no file");
    }
}

#[test]
fn a_304_names_what_the_client_has_and_may_have() {
    let matched = |fields: &[(HeaderName, &str)]| {
        fit(&mut headers(fields), Some(&file(Some(tag()))), true).unwrap().matched
    };
    let both = format!("{GZIP}, {NOW}");
    assert_eq!(matched(&[(IF_NONE_MATCH, &both)]).unwrap(), GZIP);
    let accept = header::ACCEPT_ENCODING;
    for (takes, want) in [
        ("gzip", GZIP),
        ("br;q=1.0, GZIP;q=0.5", GZIP),
        ("*", GZIP),
        ("br", NOW),
        ("gzip;q=0, br", NOW),
        ("gzip; q=0.00", NOW),
        ("", NOW),
    ] {
        assert_eq!(
            matched(&[(IF_NONE_MATCH, &both), (accept.clone(), takes)]).unwrap(),
            want,
            "{takes}"
        );
    }
    assert_eq!(matched(&[(IF_NONE_MATCH, GZIP), (accept, "identity")]), None);
    // Two fields are one list.
    assert_eq!(matched(&[(IF_NONE_MATCH, OLD), (IF_NONE_MATCH, NOW)]).unwrap(), NOW);
}

/// Section 13.2.2: a date counts only where no tag is named.
#[test]
fn tags_come_before_dates() {
    for named in [NOW, OLD, "*", "\"x\""] {
        let mut asked = headers(&[
            (IF_MATCH, named),
            (IF_UNMODIFIED_SINCE, DATE),
            (IF_NONE_MATCH, named),
            (IF_MODIFIED_SINCE, DATE),
        ]);
        fit(&mut asked, Some(&file(Some(tag()))), true).unwrap();
        assert!(!asked.contains_key(IF_UNMODIFIED_SINCE) && !asked.contains_key(IF_MODIFIED_SINCE));
    }
    let dates =
        [(IF_UNMODIFIED_SINCE, DATE), (IF_MODIFIED_SINCE, DATE), (IF_RANGE, DATE), (RANGE, "bytes=0-1")];
    let mut asked = headers(&dates);
    assert_eq!(fit(&mut asked, Some(&file(Some(tag()))), false), Ok(Fitted::default()));
    assert_eq!(asked, headers(&dates));
}

/// Section 13.1.5: only a strong tag of the file itself makes a part of it fit.
#[test]
fn if_range_table() {
    for (text, keep, range, left) in [
        (NOW, true, true, None),
        (NOW, false, true, None),
        (WEAK, true, false, None),
        (GZIP, true, false, None),
        (STRONG_GZIP, true, false, None),
        (OLD, true, false, None),
        (OTHER, true, false, None),
        (NGINX, true, false, None),
        ("\"x\"", false, false, None),
        ("\"x\"", true, true, Some("\"x\"")),
        (DATE, false, true, Some(DATE)),
    ] {
        let mut asked = headers(&[(IF_RANGE, text), (RANGE, "bytes=0-1")]);
        let fitted = fit(&mut asked, Some(&file(Some(tag()))), keep).unwrap();
        assert_eq!(
            (asked.contains_key(RANGE), value(&asked, IF_RANGE).as_deref()),
            (range, left),
            "{text}"
        );
        assert_eq!(fitted.ranged, range && left.is_none(), "{text}");
        let mut asked = headers(&[(IF_RANGE, text), (RANGE, "bytes=0-1")]);
        assert!(!fit(&mut asked, Some(&file(None)), keep).unwrap().rests(), "{text}, unproven");
        assert!(!asked.contains_key(RANGE) || left.is_some(), "{text}, unproven");
    }
}

#[test]
fn what_is_not_proven_matches_nothing_and_is_required_by_nobody() {
    let mut asked = headers(&[(IF_NONE_MATCH, NOW)]);
    assert_eq!(fit(&mut asked, Some(&file(None)), true), Ok(Fitted::default()));
    assert!(asked.is_empty());
    assert_eq!(fit(&mut headers(&[(IF_MATCH, NOW)]), Some(&file(None)), true), Err(Unproven));
}

#[test]
fn who_may_judge_table() {
    let mixed = format!("{NOW}, \"x\"");
    for (field, text, home, ours, full) in [
        (IF_NONE_MATCH, NOW, false, true, true),
        (IF_NONE_MATCH, "\"x\"", false, false, true),
        (IF_NONE_MATCH, "*", false, false, true),
        (IF_MATCH, NOW, false, true, false),
        (IF_MATCH, &mixed, true, true, false),
        (IF_MATCH, "\"x\"", true, false, false),
        (IF_MATCH, "*", false, false, false),
        (IF_RANGE, NOW, false, true, true),
        (IF_RANGE, DATE, false, false, true),
        (IF_MODIFIED_SINCE, DATE, false, false, true),
        (IF_UNMODIFIED_SINCE, DATE, false, false, false),
        (HeaderName::from_static("if"), "(<urn:x>)", true, false, false),
        (ETAG, NOW, false, false, true),
    ] {
        let mut asked = headers(&[(field.clone(), text), (RANGE, "bytes=0-1")]);
        let said = (is_for_home(&asked), names_ours(&asked), full_answer_will_do(&asked));
        assert_eq!(said, (home, ours, full), "{field}: {text}");
        drop_conditions(&mut asked);
        assert!(!full || asked.keys().all(|name| [RANGE, ETAG].contains(name)), "{field}: {text}");
    }
}

/// Section 13.2.2 for changes: of version 3, of nothing, of a directory, of what is not proven.
#[test]
fn changes_table() {
    use Verdict::{Fails, Holds, Unproven};
    let list = format!("\"x\", {NOW}");
    for (field, text, there, nothing, directory, unproven) in [
        (IF_MATCH, NOW, Holds, Fails, Fails, Unproven),
        (IF_MATCH, &list, Holds, Fails, Fails, Unproven),
        (IF_MATCH, STRONG_GZIP, Holds, Fails, Fails, Unproven),
        (IF_MATCH, WEAK, Fails, Fails, Fails, Fails),
        (IF_MATCH, GZIP, Fails, Fails, Fails, Fails),
        (IF_MATCH, OLD, Fails, Fails, Fails, Unproven),
        (IF_MATCH, NGINX, Fails, Fails, Fails, Fails),
        (IF_MATCH, "\"x\"", Fails, Fails, Fails, Fails),
        (IF_MATCH, "rubbish", Fails, Fails, Fails, Fails),
        (IF_MATCH, "*", Holds, Fails, Holds, Holds),
        (IF_NONE_MATCH, NOW, Fails, Holds, Holds, Unproven),
        (IF_NONE_MATCH, WEAK, Fails, Holds, Holds, Unproven),
        (IF_NONE_MATCH, GZIP, Fails, Holds, Holds, Unproven),
        (IF_NONE_MATCH, OLD, Holds, Holds, Holds, Unproven),
        (IF_NONE_MATCH, NGINX, Holds, Holds, Holds, Holds),
        (IF_NONE_MATCH, "*", Fails, Holds, Fails, Fails),
    ] {
        let asked = headers(&[(field.clone(), text)]);
        let judged = [
            judge(&asked, true, Some(&file(Some(tag())))),
            judge(&asked, false, None),
            judge(&asked, true, None),
            judge(&asked, true, Some(&file(None))),
        ];
        assert_eq!(judged, [there, nothing, directory, unproven], "{field}: {text}");
    }
    let both = headers(&[(IF_MATCH, NOW), (IF_NONE_MATCH, OLD)]);
    assert_eq!(judge(&both, true, Some(&file(Some(tag())))), Holds);
    let both = headers(&[(IF_MATCH, NOW), (IF_NONE_MATCH, NOW)]);
    assert_eq!(judge(&both, true, Some(&file(Some(tag())))), Fails);
    let mut judged =
        headers(&[(IF_MATCH, NOW), (IF_UNMODIFIED_SINCE, DATE), (IF_NONE_MATCH, OLD), (IF_RANGE, DATE)]);
    drop_judged(&mut judged);
    assert_eq!(judged, headers(&[(IF_RANGE, DATE)]));
    let mut dated = headers(&[(IF_UNMODIFIED_SINCE, DATE)]);
    drop_judged(&mut dated);
    assert!(!dated.is_empty() && !is_judged(&dated, true));
    assert!(is_judged(&headers(&[(IF_MATCH, "\"x\"")]), true));
    assert!(!is_judged(&headers(&[(IF_MATCH, "\"x\"")]), false));
    assert!(is_judged(&headers(&[(IF_MATCH, NOW)]), false));
}
