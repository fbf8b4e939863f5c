//! Paths of URLs: from what a client sent to names, and back (RFC 3986 section 2.1). Names may be any
//! bytes.

use http::StatusCode;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use crate::id::{IdError, Name, RelPath};

/// All but the unreserved characters of RFC 3986 section 2.3.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What a URL's path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub path: RelPath,
    /// The URL ends in `/`: it means a directory.
    pub slash: bool,
}

impl Place {
    /// The rest of it below `prefix`.
    pub fn below(&self, prefix: &RelPath) -> Option<Self> {
        let rest = self.path.names().strip_prefix(prefix.names())?;
        Some(Self { path: RelPath::new(rest.to_vec()).ok()?, slash: self.slash })
    }
}

/// Decodes the path of a URL. `..`, NUL, an encoded slash and a broken encoding are 400; what no
/// directory can hold for its length is 414.
pub fn decode(path: &str) -> Result<Place, StatusCode> {
    if !path.starts_with('/') {
        return Err(StatusCode::BAD_REQUEST);
    }
    let names = path.split('/').filter(|segment| !segment.is_empty() && *segment != ".");
    let names = names
        .map(|segment| Name::new(&percent_decode(segment.as_bytes())?).map_err(|error| status(&error)));
    let path_names = RelPath::new(names.collect::<Result<_, _>>()?).map_err(|error| status(&error))?;
    Ok(Place { path: path_names, slash: path.ends_with('/') })
}

/// Decodes a Destination (RFC 4918 section 10.3): an absolute URL, of which the path counts, or a path.
pub fn decode_destination(value: &[u8]) -> Result<Place, StatusCode> {
    let uri = http::Uri::try_from(value).map_err(|_| StatusCode::BAD_REQUEST)?;
    decode(uri.path())
}

/// Encodes names as an absolute path; without names it is `/`.
pub fn encode<'a>(names: impl Iterator<Item = &'a Name>, slash: bool) -> String {
    let mut path = String::new();
    for name in names {
        path.push('/');
        path.extend(percent_encode(name.as_bytes(), ENCODED));
    }
    if slash || path.is_empty() {
        path.push('/');
    }
    path
}

/// Encodes one name.
pub fn encode_name(name: &Name) -> String {
    percent_encode(name.as_bytes(), ENCODED).to_string()
}

fn percent_decode(segment: &[u8]) -> Result<Vec<u8>, StatusCode> {
    let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(segment.len());
    let mut rest = segment.iter();
    while let Some(&byte) = rest.next() {
        decoded.push(match byte {
            b'%' => match (hex(rest.next()), hex(rest.next())) {
                // Two hexadecimal digits fit a byte.
                (Some(high), Some(low)) => (high << 4 | low) as u8,
                _ => return Err(StatusCode::BAD_REQUEST),
            },
            byte => byte,
        });
    }
    Ok(decoded)
}

fn status(error: &IdError) -> StatusCode {
    match error {
        IdError::NameTooLong { .. } | IdError::PathTooLong => StatusCode::URI_TOO_LONG,
        _ => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_paths_are_refused() {
        let long = format!("/{}", "x".repeat(256));
        let deep = "/x".repeat(2049);
        for (path, want) in [
            ("/../etc/passwd", 400),
            ("/a/%2e%2e/b", 400),
            ("/a/%2E%2e", 400),
            ("/a/%2e/b", 400),
            ("/a%2fb", 400),
            ("/a%00", 400),
            ("/a%", 400),
            ("/a%4", 400),
            ("/a%zz", 400),
            ("relative", 400),
            ("", 400),
            (&long, 414),
            (&deep, 414),
        ] {
            assert_eq!(decode(path).unwrap_err().as_u16(), want, "{path}");
        }
    }

    #[test]
    fn ordinary_paths_are_taken_apart() {
        let names = |path: &str| decode(path).unwrap().path.to_string();
        assert_eq!(names("//a///b/"), "/a/b");
        assert_eq!(names("/./a/./b"), "/a/b");
        assert_eq!(names("/a+b%20c"), "/a+b c");
        assert!(decode("/a/").unwrap().slash && !decode("/a").unwrap().slash);
        assert!(decode("/").unwrap().path.is_root());
        let place = decode_destination(b"http://files:8080/a/b%41").unwrap();
        assert_eq!(place.path.to_string(), "/a/bA");
    }

    proptest! {
        #[test]
        fn any_name_survives(bytes in proptest::collection::vec(1u8..=255, 1..100)) {
            if let Ok(name) = Name::new(&bytes) {
                let encoded = encode([&name].into_iter(), false);
                prop_assert!(encoded.is_ascii());
                let place = decode(&encoded).unwrap();
                prop_assert_eq!(place.path.names(), &[name]);
            }
        }
    }
}
