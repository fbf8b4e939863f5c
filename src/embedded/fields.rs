//! What a GET's fields ask for: conditions (RFC 9110 section 13) and ranges (section 14). Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{self, HeaderMap, HeaderName};

use crate::object::Timespec;
use crate::wire::http::etag::{EntityTag, list};

/// Most ranges that are answered one by one; a request for more gets the whole file, as
/// RFC 9110 section 14.2 allows. Nobody honest asks for so many, and each costs a part header.
const RANGES_MAX: usize = 16;
/// The last second that an HTTP date can say: 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

/// What may be compared with a request's conditions.
pub struct Validators<'a> {
    /// With its quotes; strong.
    pub etag: Option<&'a str>,
    pub modified: Timespec,
}

/// What a request's conditions make of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answer; `ranges` says whether a Range field counts.
    Answer {
        ranges: bool,
    },
    NotModified,
    Failed,
}

/// A modification time at the precision of an HTTP date, kept within what one can say.
pub fn http_time(time: Timespec) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.sec).unwrap_or(0).min(LAST_SECOND))
}

/// RFC 9110 section 13.2.2, for GET and HEAD of something that exists.
pub fn judge(headers: &HeaderMap, of: &Validators<'_>) -> Verdict {
    let modified = http_time(of.modified);
    if headers.contains_key(header::IF_MATCH) {
        if !names_tag(headers, header::IF_MATCH, of.etag, false) {
            return Verdict::Failed;
        }
    } else if date(headers, header::IF_UNMODIFIED_SINCE).is_some_and(|date| modified > date) {
        return Verdict::Failed;
    }
    if headers.contains_key(header::IF_NONE_MATCH) {
        if names_tag(headers, header::IF_NONE_MATCH, of.etag, true) {
            return Verdict::NotModified;
        }
    } else if date(headers, header::IF_MODIFIED_SINCE).is_some_and(|date| modified <= date) {
        return Verdict::NotModified;
    }
    let ranges = match headers.get(header::IF_RANGE).map(|value| value.as_bytes().trim_ascii()) {
        None => true,
        Some(tag) if tag.starts_with(b"\"") => of.etag.is_some_and(|etag| etag.as_bytes() == tag),
        // A date is strong enough only if it is exact (section 13.1.5), and weak tags never are.
        Some(_) => date(headers, header::IF_RANGE) == Some(modified),
    };
    Verdict::Answer { ranges }
}

/// Whether the field is `*` or lists `etag`; `weakly` takes `W/"x"` for `"x"` (section 8.8.3.2).
fn names_tag(headers: &HeaderMap, field: HeaderName, etag: Option<&str>, weakly: bool) -> bool {
    headers.get_all(field).iter().any(|value| {
        let value = value.as_bytes().trim_ascii();
        value == b"*"
            || etag.and_then(|etag| EntityTag::parse(etag.as_bytes())).is_some_and(|etag| {
                let same = |tag: EntityTag<'_>| tag.opaque == etag.opaque && (weakly || !tag.weak);
                list(value).flatten().any(same)
            })
    })
}

fn date(headers: &HeaderMap, field: HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(field)?.to_str().ok()?.trim()).ok()
}

/// Which bytes of a file are asked for; each pair is from (inclusive) and to (exclusive).
#[derive(Debug, PartialEq, Eq)]
pub enum Ranges {
    Whole,
    Parts(Vec<(u64, u64)>),
    /// 416.
    Unsatisfiable,
}

/// Reads a Range field for a file of `len` bytes. A field that breaks the grammar, is of another
/// unit, or asks for overlapping parts or more than [`RANGES_MAX`] counts as absent.
pub fn ranges(headers: &HeaderMap, len: u64) -> Ranges {
    let Some(field) = headers.get(header::RANGE).and_then(|value| value.to_str().ok()) else {
        return Ranges::Whole;
    };
    let Some(list) = field.trim().split_once('=').filter(|(unit, _)| unit.eq_ignore_ascii_case("bytes"))
    else {
        return Ranges::Whole;
    };
    let specs = list.1.split(',').map(str::trim).filter(|spec| !spec.is_empty());
    let Some(specs) = specs.map(spec).collect::<Option<Vec<_>>>() else { return Ranges::Whole };
    if specs.is_empty() || specs.len() > RANGES_MAX {
        return Ranges::Whole;
    }
    let parts: Vec<_> = specs.iter().filter_map(|spec| spec.within(len)).collect();
    let mut sorted = parts.clone();
    sorted.sort_unstable();
    match parts.as_slice() {
        [] => Ranges::Unsatisfiable,
        _ if sorted.windows(2).any(|pair| matches!(pair, [a, b] if b.0 < a.1)) => Ranges::Whole,
        _ => Ranges::Parts(parts),
    }
}

enum Spec {
    From(u64, Option<u64>),
    Last(u64),
}

impl Spec {
    fn within(&self, len: u64) -> Option<(u64, u64)> {
        let (from, to) = match *self {
            Self::From(from, last) => (from, last.map_or(len, |last| last.saturating_add(1).min(len))),
            Self::Last(count) => (len.saturating_sub(count), len),
        };
        (from < to).then_some((from, to))
    }
}

fn spec(text: &str) -> Option<Spec> {
    let (first, last) = text.split_once('-')?;
    let number = |digits: &str| {
        let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        // A position beyond 2^64 is beyond every file.
        all.then(|| digits.parse().unwrap_or(u64::MAX))
    };
    match (first, last) {
        ("", last) => Some(Spec::Last(number(last)?)),
        (first, "") => Some(Spec::From(number(first)?, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::From(first, Some(last)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn ranges_table() {
        use Ranges::*;
        let parts = |parts: &[(u64, u64)]| Parts(parts.to_vec());
        let many = format!("bytes={}", (0..17).map(|n| format!("{n}-{n},")).collect::<String>());
        for (field, len, want) in [
            ("bytes=0-0", 10, parts(&[(0, 1)])),
            ("bytes=0-", 10, parts(&[(0, 10)])),
            ("bytes=3-5", 10, parts(&[(3, 6)])),
            ("bytes=9-99", 10, parts(&[(9, 10)])),
            ("bytes=-3", 10, parts(&[(7, 10)])),
            ("bytes=-99", 10, parts(&[(0, 10)])),
            ("BYTES=1-2", 10, parts(&[(1, 3)])),
            ("bytes=0-1, 4-5", 10, parts(&[(0, 2), (4, 6)])),
            ("bytes=4-5,0-1", 10, parts(&[(4, 6), (0, 2)])),
            ("bytes=0-1,20-", 10, parts(&[(0, 2)])),
            ("bytes=10-", 10, Unsatisfiable),
            ("bytes=-0", 10, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-1", 0, Unsatisfiable),
            ("bytes=99999999999999999999-", 10, Unsatisfiable),
            ("bytes=5-3", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("bytes=+1-2", 10, Whole),
            ("bytes=1", 10, Whole),
            ("bytes=", 10, Whole),
            ("bytes=-", 10, Whole),
            ("lines=0-1", 10, Whole),
            ("bytes=0-5,3-8", 10, Whole),
            ("bytes=0-,0-,0-", 10, Whole),
            (&many, 100, Whole),
        ] {
            assert_eq!(ranges(&headers(&[(header::RANGE, field)]), len), want, "{field} of {len}");
        }
        assert_eq!(ranges(&HeaderMap::new(), 10), Whole);
    }

    #[test]
    fn conditions_table() {
        use Verdict::*;
        use header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE};
        let (before, at, after) = (
            "Fri, 13 Feb 2009 23:31:29 GMT",
            "Fri, 13 Feb 2009 23:31:30 GMT",
            "Fri, 13 Feb 2009 23:31:31 GMT",
        );
        let go = || Answer { ranges: true };
        let tagged = [
            (IF_MATCH, "\"t\"", go()),
            (IF_MATCH, "*", go()),
            (IF_MATCH, "\"a,b\", \"t\"", go()),
            (IF_MATCH, "W/\"t\"", Failed),
            (IF_MATCH, "\"x\"", Failed),
            (IF_MATCH, "garbage", Failed),
            (IF_NONE_MATCH, "\"t\"", NotModified),
            (IF_NONE_MATCH, "W/\"t\"", NotModified),
            (IF_NONE_MATCH, "*", NotModified),
            (IF_NONE_MATCH, "\"x\"", go()),
            (IF_MODIFIED_SINCE, before, go()),
            (IF_MODIFIED_SINCE, at, NotModified),
            (IF_MODIFIED_SINCE, after, NotModified),
            (IF_MODIFIED_SINCE, "yesterday", go()),
            (IF_UNMODIFIED_SINCE, before, Failed),
            (IF_UNMODIFIED_SINCE, at, go()),
            (IF_RANGE, "\"t\"", go()),
            (IF_RANGE, "\"x\"", Answer { ranges: false }),
            (IF_RANGE, "W/\"t\"", Answer { ranges: false }),
            (IF_RANGE, at, go()),
            (IF_RANGE, after, Answer { ranges: false }),
        ];
        let modified = Timespec { sec: 1_234_567_890, nsec: 999_999_999 };
        for (field, value, want) in tagged {
            let of = Validators { etag: Some("\"t\""), modified };
            let headers = headers(&[(field.clone(), value)]);
            assert_eq!(judge(&headers, &of), want, "{field}: {value}");
        }
        // Without a tag of ours nothing that names one holds.
        let untagged = [
            (IF_MATCH, "\"t\"", Failed),
            (IF_MATCH, "*", go()),
            (IF_NONE_MATCH, "\"t\"", go()),
            (IF_NONE_MATCH, "*", NotModified),
            (IF_RANGE, "\"t\"", Answer { ranges: false }),
        ];
        for (field, value, want) in untagged {
            let of = Validators { etag: None, modified };
            let headers = headers(&[(field.clone(), value)]);
            assert_eq!(judge(&headers, &of), want, "{field}: {value}, no tag");
        }
    }

    #[test]
    fn times_outside_what_http_can_say_are_kept_within() {
        for sec in [i64::MIN, -1, 0, i64::MAX] {
            let text = httpdate::fmt_http_date(http_time(Timespec { sec, nsec: 0 }));
            assert!(text.ends_with("GMT"), "{sec}: {text}");
        }
    }
}
