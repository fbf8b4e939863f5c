//! Where a client's request is to go: the forms of a request target (RFC 9112 section 3.2, RFC 9113 section
//! 8.3.1), made one.

use ::http::request::Parts;
use ::http::uri::{PathAndQuery, Scheme};
use ::http::{HeaderValue, Method, Uri, Version, header};

use super::Refusal;

/// Marks a request that came over TLS.
#[derive(Debug, Clone, Copy)]
pub struct Secure;

/// Makes a request of any version and form one with a path for its target and a Host.
pub fn normalise(parts: &mut Parts) -> Result<(), Refusal> {
    if parts.method == Method::CONNECT {
        // It has a target of its own form, and is refused for what it is.
        return Ok(());
    }
    if parts.uri.authority().is_some() {
        with_authority(parts)?;
    }
    if parts.version == Version::HTTP_2 {
        join_cookies(parts);
    }
    match parts.uri.path() {
        "*" if parts.method == Method::OPTIONS => Ok(()),
        path if path.starts_with('/') => Ok(()),
        _ => Err(Refusal::Target),
    }
}

fn with_authority(parts: &mut Parts) -> Result<(), Refusal> {
    let uri = std::mem::take(&mut parts.uri).into_parts();
    let Some(authority) = uri.authority else { return Err(Refusal::Target) };
    let one = parts.version != Version::HTTP_2;
    match uri.scheme {
        // `host:port` alone is for CONNECT only.
        None => return Err(Refusal::Target),
        Some(scheme) if scheme == Scheme::HTTP => {}
        // Between two proxies, HTTP/2 may tell of the TLS that the first one ended.
        Some(scheme) if scheme == Scheme::HTTPS => {
            if one && parts.extensions.get::<Secure>().is_none() {
                return Err(Refusal::Misdirected);
            }
        }
        Some(_) => return Err(Refusal::Target),
    }
    if authority.as_str().contains('@') {
        return Err(Refusal::Host);
    }
    let said = parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
    match said {
        // It counts for nothing, but must be there (RFC 9112 section 3.2).
        None if parts.version == Version::HTTP_11 => {
            return Err(Refusal::Missing("Host field", "HTTP/1.1"));
        }
        // RFC 9113 section 8.3.1: the two must agree.
        Some(said) if !one && !said.eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            return Err(Refusal::Host);
        }
        _ => {}
    }
    let host = HeaderValue::try_from(authority.as_str()).map_err(|_| Refusal::Host)?;
    parts.headers.insert(header::HOST, host);
    let path = uri.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
    parts.uri = Uri::from(path);
    Ok(())
}

/// HTTP/2 cuts Cookie into pieces, which HTTP/1.1 has in one (RFC 9113 section 8.2.3).
fn join_cookies(parts: &mut Parts) {
    let all = parts.headers.get_all(header::COOKIE);
    if all.iter().nth(1).is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = all.iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        parts.headers.insert(header::COOKIE, whole);
    }
}

#[cfg(test)]
mod tests {
    use ::http::Request;

    use super::*;

    fn normal(version: Version, uri: &str, fields: &[(&str, &str)]) -> Result<Parts, Refusal> {
        let mut request = Request::builder().version(version).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        normalise(&mut parts).map(|()| parts)
    }

    #[test]
    fn http_2_and_absolute_targets_become_a_path_and_a_host() {
        let two = normal(Version::HTTP_2, "https://files/a?b", &[("cookie", "a=1"), ("cookie", "b=2")]);
        let two = two.unwrap();
        assert_eq!(
            (two.uri.to_string().as_str(), &two.headers["host"]),
            ("/a?b", &"files".parse().unwrap())
        );
        assert_eq!(two.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
        let one = normal(Version::HTTP_11, "http://files:81/a", &[("host", "other")]).unwrap();
        assert_eq!(
            (one.uri.to_string().as_str(), &one.headers["host"]),
            ("/a", &"files:81".parse().unwrap())
        );
        assert_eq!(normal(Version::HTTP_11, "http://files/a", &[]).unwrap_err().status(), 400);
        assert_eq!(
            normal(Version::HTTP_2, "http://files/a", &[("host", "other")]).unwrap_err().status(),
            400
        );
        assert_eq!(normal(Version::HTTP_10, "http://files/a", &[]).unwrap().headers["host"], "files");
    }
}
