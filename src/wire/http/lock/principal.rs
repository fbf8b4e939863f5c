//! Whom the credentials of a request name.

use ::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::GeneralPurposeConfig;

use crate::id::Hash;
use crate::wire::http::auth;

/// Somebody, by a hash of the name, which may be of any length. That he is who he says is for the server to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Principal(pub Hash);

impl Principal {
    /// Of the Authorization field: Basic (RFC 7617) and Digest (RFC 7616) say a name. What other schemes say
    /// is of one request or one hour, and stands for nobody.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let field = headers.get(header::AUTHORIZATION)?.as_bytes().trim_ascii();
        let end = field.iter().position(|byte| *byte == b' ')?;
        let (scheme, said) = (&field[..end], field[end..].trim_ascii());
        if scheme.eq_ignore_ascii_case(b"basic") {
            let pair = LENIENT.decode(said).ok()?;
            let name = &pair[..pair.iter().position(|byte| *byte == b':')?];
            return Some(Self::named(name));
        }
        if scheme.eq_ignore_ascii_case(b"digest") {
            // `username*` as it is written.
            let name = auth::param(said, b"username").or_else(|| auth::param(said, b"username*"));
            return name.map(|name| Self::named(&name));
        }
        None
    }

    /// Whether the credentials are good for the request that they came with and no other (RFC 7616 section
    /// 3.4.3).
    pub fn is_proven_for_one_method(headers: &HeaderMap) -> bool {
        let field = headers.get(header::AUTHORIZATION).map(|field| field.as_bytes().trim_ascii());
        let scheme = field.and_then(|field| field.split(|byte| *byte == b' ').next());
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"digest"))
    }

    fn named(name: &[u8]) -> Self {
        Self(Hash(blake3::derive_key("nearshare maker of a lock v1", name)))
    }
}

/// Some clients leave the padding out.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::HeaderValue;
    use base64::engine::general_purpose::STANDARD;

    fn of(field: &str) -> Option<Principal> {
        let field = HeaderValue::from_bytes(field.as_bytes()).unwrap();
        Principal::of(&HeaderMap::from_iter([(header::AUTHORIZATION, field)]))
    }

    #[test]
    fn credentials_that_name_somebody_name_the_same_every_time() {
        let basic = |pair: &str| of(&format!("Basic {}", STANDARD.encode(pair)));
        let ann = basic("ann:secret").unwrap();
        for same in [
            basic("ann:"),
            basic("ann:other:one"),
            of("bAsIc  YW5uOnNlY3JldA"),
            of("Digest username=\"ann\", realm=\"a, username=\\\"bob\\\"\", nc=00000001"),
            of("digest realm=x,nc=1 ,  UserName = \"a\\nn\""),
        ] {
            assert_eq!(same, Some(ann));
        }
        assert_ne!(basic("bob:secret"), Some(ann));
        assert_ne!(of("Digest realm=\"username=\\\"ann\\\"\", username=bob"), Some(ann));
        for nobody in [
            "",
            "Basic",
            "Basic YW5u",
            "Basic ?",
            "Bearer YW5uOnNlY3JldA==",
            "Negotiate YW5uOnNlY3JldA==",
            "Digest realm=\"x\"",
            "Digest username=\"ann",
        ] {
            assert_eq!(of(nobody), None, "{nobody}");
        }
        assert_eq!(Principal::of(&HeaderMap::new()), None);
    }
}
