//! The URL under which a site serves a share.

use std::fmt;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};

use crate::id::RelPath;

/// What stays as it is in a segment of a path: RFC 3986's `pchar`.
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The absolute path of a share's root in a site's URLs, as the names along it, so that no two
/// spellings of one URL differ. The empty one, `/`, is the whole server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UrlPrefix {
    path: RelPath,
    text: String,
}

impl UrlPrefix {
    /// From `/a/b`, percent-encoded or not, with or without a slash at the end. The error says why
    /// this is no URL path of a share.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') {
            return Err("does not begin with a slash".to_owned());
        }
        if text.contains(['?', '#']) {
            return Err("holds a query or a fragment".to_owned());
        }
        if text.chars().any(char::is_control) {
            return Err("holds a control character".to_owned());
        }
        if text.contains("//") {
            return Err("holds an empty name between two slashes".to_owned());
        }
        if !percent_signs_are_codes(text.as_bytes()) {
            return Err("holds a '%' that two hexadecimal digits do not follow".to_owned());
        }
        let segments = text.split('/').filter(|segment| !segment.is_empty());
        let decoded = segments.map(|segment| percent_decode_str(segment).collect::<Vec<u8>>());
        let names = decoded.map(|bytes| crate::id::Name::new(&bytes)).collect::<Result<_, _>>();
        let path = names.and_then(RelPath::new).map_err(|error| format!("is no path: {error}"))?;
        if path.has_ours() {
            return Err("holds the name .nearshare, which no client ever sees".to_owned());
        }
        Ok(Self::from(path))
    }

    /// The names along it.
    pub fn path(&self) -> &RelPath {
        &self.path
    }

    /// `/a/b`, percent-encoded where RFC 3986 asks for it, with no slash at the end; `/` alone for
    /// the whole server.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl From<RelPath> for UrlPrefix {
    fn from(path: RelPath) -> Self {
        let mut text = String::new();
        for name in path.names() {
            text.push('/');
            text.extend(percent_encode(name.as_bytes(), SEGMENT));
        }
        if text.is_empty() {
            text.push('/');
        }
        Self { path, text }
    }
}

impl fmt::Display for UrlPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn percent_signs_are_codes(text: &[u8]) -> bool {
    text.iter().enumerate().filter(|(_, byte)| **byte == b'%').all(|(at, _)| {
        text.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_url_has_one_spelling() {
        for (text, canonical) in [
            ("/", "/"),
            ("/engineering", "/engineering"),
            ("/engineering/", "/engineering"),
            ("/%65ng/a%20b", "/eng/a%20b"),
            ("/a b/é", "/a%20b/%C3%A9"),
            ("/%ff%FE", "/%FF%FE"),
            ("/~x;y=1,2@z:8", "/~x;y=1,2@z:8"),
        ] {
            assert_eq!(UrlPrefix::parse(text).expect(text).as_str(), canonical, "{text}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for (text, why) in [
            ("", "slash"),
            ("eng", "slash"),
            ("/a?b", "query"),
            ("/a#b", "fragment"),
            ("/a\nb", "control"),
            ("//a", "empty name"),
            ("/a//b", "empty name"),
            ("/a/../b", "'..'"),
            ("/a/%2e%2E", "'..'"),
            ("/./a", "'.'"),
            ("/a%2fb", "'/'"),
            ("/a%00b", "NUL"),
            ("/a%2", "hexadecimal"),
            ("/100%", "hexadecimal"),
            ("/a%zz", "hexadecimal"),
            ("/a/.nearshare/x", ".nearshare"),
            (&format!("/{}", "x".repeat(256)), "256 bytes"),
            (&"/x".repeat(3000), "4096"),
        ] {
            let refusal = UrlPrefix::parse(text).expect_err(text);
            assert!(refusal.contains(why), "{text}: {refusal}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_text_is_its_own(text in "/(\\PC|%[0-9a-f]{2}){0,40}") {
            if let Ok(prefix) = UrlPrefix::parse(&text) {
                let again = UrlPrefix::parse(prefix.as_str());
                prop_assert_eq!(again, Ok(prefix));
            }
        }
    }
}
