//! What authentication (RFC 9110 section 11) and sessions (RFC 6265) say of who sends a request, as far as that
//! is known to one server alone. Whether any of it is right is for the server to find.

use ::http::{HeaderMap, HeaderValue, StatusCode, header};

/// Of one message no more are looked at.
const MOST: usize = 64;

/// Whether who sends it is proven, or about to be, for the connection that it goes on.
pub fn is_of_connection(headers: &HeaderMap) -> bool {
    headers.get_all(header::AUTHORIZATION).iter().any(|field| names_connection(field.as_bytes()))
}

/// Whether an answer is a step of such a proof.
pub fn proves_connection(headers: &HeaderMap) -> bool {
    headers.get_all(header::WWW_AUTHENTICATE).iter().any(|field| {
        elements(field.as_bytes()).any(|element| element.scheme.is_some_and(names_connection))
    })
}

fn names_connection(field: &[u8]) -> bool {
    let scheme = field.trim_ascii_start().split(|byte| matches!(byte, b' ' | b'\t')).next();
    scheme.is_some_and(|it| it.eq_ignore_ascii_case(b"ntlm") || it.eq_ignore_ascii_case(b"negotiate"))
}

/// The nonce that a client proves itself by (Digest, RFC 7616).
pub fn nonce_said(headers: &HeaderMap) -> Option<Vec<u8>> {
    let field = headers.get(header::AUTHORIZATION)?.as_bytes().trim_ascii();
    let end = field.iter().position(|byte| *byte == b' ')?;
    field[..end].eq_ignore_ascii_case(b"digest").then(|| param(&field[end..], b"nonce"))?
}

/// Those that a server gives.
pub fn nonces_given(headers: &HeaderMap) -> Vec<Vec<u8>> {
    let mut given = Vec::new();
    for field in headers.get_all(header::WWW_AUTHENTICATE) {
        given.extend(elements(field.as_bytes()).filter_map(|element| element.value(b"nonce")));
    }
    for field in headers.get_all("authentication-info") {
        given.extend(param(field.as_bytes(), b"nextnonce"));
    }
    given.truncate(MOST);
    given
}

/// The cookies that a client has, each as `name=value`.
pub fn cookies_said(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let fields = headers.get_all(header::COOKIE).iter();
    let pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty()).take(MOST)
}

/// Those that a server gives.
pub fn cookies_given(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let fields = headers.get_all(header::SET_COOKIE).iter();
    let pairs = fields.filter_map(|field| field.as_bytes().split(|byte| *byte == b';').next());
    pairs.map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty()).take(MOST)
}

/// Says with a challenge of Digest that it was the nonce that was not good, and that the name and the password may be:
/// the client then tries again and asks nobody (RFC 7616 section 3.3).
pub fn say_stale(status: StatusCode, headers: &mut HeaderMap) {
    if status != StatusCode::UNAUTHORIZED {
        return;
    }
    let challenges: Vec<HeaderValue> =
        headers.get_all(header::WWW_AUTHENTICATE).iter().cloned().collect();
    headers.remove(header::WWW_AUTHENTICATE);
    for challenge in challenges {
        let stale = HeaderValue::from_bytes(&stale(challenge.as_bytes()));
        headers.append(header::WWW_AUTHENTICATE, stale.unwrap_or(challenge));
    }
}

fn stale(field: &[u8]) -> Vec<u8> {
    let (mut said, mut digest) = (Vec::new(), false);
    for element in elements(field) {
        if let Some(scheme) = element.scheme {
            if digest {
                said.push(&b"stale=true"[..]);
            }
            digest = scheme.eq_ignore_ascii_case(b"digest");
        } else if digest && element.name().eq_ignore_ascii_case(b"stale") {
            continue;
        }
        said.push(element.text);
    }
    if digest {
        said.push(b"stale=true");
    }
    said.join(&b", "[..])
}

/// The parameter of that name among those of one challenge or proof.
pub fn param(params: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    elements(params).find_map(|element| element.value(name))
}

/// Between two commas of a field: a parameter, a scheme, or both.
struct Element<'a> {
    text: &'a [u8],
    scheme: Option<&'a [u8]>,
    param: &'a [u8],
}

impl Element<'_> {
    fn name(&self) -> &[u8] {
        let end = self.param.iter().position(|byte| *byte == b'=').unwrap_or(self.param.len());
        self.param[..end].trim_ascii()
    }
    /// If it is the parameter of that name: without quotes.
    fn value(&self, name: &[u8]) -> Option<Vec<u8>> {
        let equals = self.param.iter().position(|byte| *byte == b'=')?;
        self.name()
            .eq_ignore_ascii_case(name)
            .then(|| unquoted(self.param[equals + 1..].trim_ascii()))?
    }
}

/// A token, or a quoted string that has an end (RFC 9110 section 5.6).
fn unquoted(text: &[u8]) -> Option<Vec<u8>> {
    let Some(quoted) = text.strip_prefix(b"\"") else { return Some(text.to_vec()) };
    let (mut value, mut bytes) = (Vec::new(), quoted.iter());
    loop {
        match bytes.next()? {
            b'"' => return Some(value),
            b'\\' => value.push(*bytes.next()?),
            byte => value.push(*byte),
        }
    }
}

fn elements(field: &[u8]) -> impl Iterator<Item = Element<'_>> {
    let (mut quoted, mut escaped) = (false, false);
    let texts = field.split(move |byte| {
        let ends = *byte == b',' && !quoted;
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
        ends
    });
    texts.map(<[u8]>::trim_ascii).filter(|text| !text.is_empty()).map(|text| {
        let word = text.iter().position(|byte| matches!(byte, b' ' | b'\t' | b'='));
        let (word, rest) = text.split_at(word.unwrap_or(text.len()));
        match rest.trim_ascii_start() {
            // `name = value`
            after if after.first() == Some(&b'=') => Element { text, scheme: None, param: text },
            after => Element { text, scheme: Some(word), param: after },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::HeaderName;
    use proptest::prelude::*;

    fn of(fields: &[(HeaderName, &str)]) -> HeaderMap {
        let field = |(name, value): &(HeaderName, &str)| (name.clone(), value.parse().unwrap());
        fields.iter().map(field).collect()
    }

    #[test]
    fn some_prove_themselves_for_a_connection() {
        let said = |field: &str| is_of_connection(&of(&[(header::AUTHORIZATION, field)]));
        for yes in ["NTLM TlRM", "ntlm", "Negotiate YII=", "NEGOTIATE\tx"] {
            assert!(said(yes), "{yes}");
        }
        for no in ["", "Basic TlRM", "Digest username=\"NTLM \"", "NTLMx y", "Bearer Negotiate"] {
            assert!(!said(no), "{no}");
        }
        let asked = |field: &str| proves_connection(&of(&[(header::WWW_AUTHENTICATE, field)]));
        assert!(asked("NTLM") && asked("Basic realm=\"a, b\", Negotiate abc=="));
        assert!(!asked("Basic realm=\", NTLM\"") && !asked("Digest realm=NTLM"));
    }

    #[test]
    fn nonces_are_found_wherever_they_stand() {
        let given = of(&[
            (header::WWW_AUTHENTICATE, "Basic realm=\"nonce=\\\"x\\\", nonce=y\""),
            (
                header::WWW_AUTHENTICATE,
                "Negotiate, Digest realm=\"a, b\", Nonce = \"o\\ne\", qop=\"auth\"",
            ),
            (header::WWW_AUTHENTICATE, "Digest nonce=two,realm=x, Basic realm=y"),
            (HeaderName::from_static("authentication-info"), "rspauth=\"q\", nextnonce=\"three\""),
        ]);
        assert_eq!(nonces_given(&given), [&b"one"[..], b"two", b"three"]);
        let said = |field: &str| nonce_said(&of(&[(header::AUTHORIZATION, field)]));
        let full =
            "Digest username=\"nonce=\\\"a\\\"\", realm=\"r\", nonce=\"b,c\", uri=\"/\", cnonce=\"d\"";
        assert_eq!(said(full).as_deref(), Some(&b"b,c"[..]));
        assert_eq!(said("digest nonce=b").as_deref(), Some(&b"b"[..]));
        for none in ["Digest cnonce=\"d\"", "Digest nonce=\"open", "Basic nonce=x", "Digest"] {
            assert_eq!(said(none), None, "{none}");
        }
    }

    #[test]
    fn cookies_are_known_by_name_and_value() {
        let said = of(&[(header::COOKIE, "a=1; b=\"2\" ;; c"), (header::COOKIE, "d=")]);
        assert_eq!(cookies_said(&said).collect::<Vec<_>>(), [&b"a=1"[..], b"b=\"2\"", b"c", b"d="]);
        let given = of(&[(header::SET_COOKIE, "a=1; Path=/; HttpOnly"), (header::SET_COOKIE, "d=")]);
        assert_eq!(cookies_given(&given).collect::<Vec<_>>(), [&b"a=1"[..], b"d="]);
    }

    #[test]
    fn a_nonce_of_another_server_is_stale() {
        for (said, becomes) in [
            ("Digest realm=\"x\", nonce=\"y\"", "Digest realm=\"x\", nonce=\"y\", stale=true"),
            ("Digest nonce=y, STALE = false, realm=x", "Digest nonce=y, realm=x, stale=true"),
            (
                "Basic realm=\"stale=no, Digest\", Digest nonce=y,qop=auth, Negotiate",
                "Basic realm=\"stale=no, Digest\", Digest nonce=y, qop=auth, stale=true, Negotiate",
            ),
            ("Basic realm=x, stale=false", "Basic realm=x, stale=false"),
            ("Digest nonce=\"open, stale=false", "Digest nonce=\"open, stale=false, stale=true"),
        ] {
            let mut headers = of(&[(header::WWW_AUTHENTICATE, said)]);
            say_stale(StatusCode::FORBIDDEN, &mut headers);
            assert_eq!(headers[header::WWW_AUTHENTICATE], said);
            say_stale(StatusCode::UNAUTHORIZED, &mut headers);
            assert_eq!(headers[header::WWW_AUTHENTICATE], becomes);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            super::super::judge::auth(&bytes).map_err(TestCaseError::fail)?;
        }
    }
}
