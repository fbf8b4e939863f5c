//! Header fields that the decision needs, and those that end at every hop.

use ::http::{HeaderMap, HeaderName, header};

use super::Refusal;
use crate::effect::Depth;

/// The Depth field (RFC 4918 section 10.2).
pub fn depth(headers: &HeaderMap) -> Result<Option<Depth>, Refusal> {
    let Some(field) = headers.get("depth") else { return Ok(None) };
    match field.as_bytes() {
        b"0" => Ok(Some(Depth::Object)),
        b"1" => Ok(Some(Depth::Children)),
        text if text.eq_ignore_ascii_case(b"infinity") => Ok(Some(Depth::Tree)),
        _ => Err(Refusal::Depth),
    }
}

/// The Overwrite field (RFC 4918 section 10.6) is `T` or `F`; what it says is the server's to obey.
pub fn check_overwrite(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get("overwrite").map(|field| field.as_bytes()) {
        None | Some(b"T" | b"F" | b"t" | b"f") => Ok(()),
        Some(_) => Err(Refusal::Overwrite),
    }
}

/// The path of a Destination field (RFC 4918 section 10.3): an absolute URI of this very site, or an
/// absolute path.
pub fn destination_path<'a>(field: &'a [u8], own: Option<&str>) -> Result<&'a str, Refusal> {
    let text = std::str::from_utf8(field).map_err(|_| Refusal::Destination("not ASCII"))?.trim();
    if text.contains(['?', '#']) {
        return Err(Refusal::Destination("a URL with a query or fragment"));
    }
    if text.starts_with('/') && !text.starts_with("//") {
        return Ok(text);
    }
    let (scheme, rest) =
        text.split_once("://").ok_or(Refusal::Destination("neither an absolute URI nor a path"))?;
    let port = match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => 80,
        _ if scheme.eq_ignore_ascii_case("https") => 443,
        _ => return Err(Refusal::AcrossTheEdge("under another scheme")),
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    if authority.is_empty() {
        return Err(Refusal::Destination("a URI without a host"));
    }
    match own {
        Some(own) if same_authority(own, authority, port) => Ok(path),
        _ => Err(Refusal::AcrossTheEdge("on another host")),
    }
}

/// `host[:port]`, compared without case and with the scheme's port where one has none.
pub fn same_authority(one: &str, other: &str, default_port: u16) -> bool {
    let (host, port) = split_port(one, default_port);
    let (other_host, other_port) = split_port(other, default_port);
    port == other_port && host.eq_ignore_ascii_case(other_host)
}

fn split_port(authority: &str, default_port: u16) -> (&str, u16) {
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match authority.rsplit_once(':') {
        Some((host, "")) => (host, default_port),
        Some((host, port)) if !port.contains(']') => match port.parse() {
            Ok(port) => (host, port),
            Err(_) => (authority, default_port),
        },
        _ => (authority, default_port),
    }
}

/// Removes the fields that belong to one connection only, those that Connection nominates among them
/// (RFC 9110 section 7.6.1). Framing is made anew on the next one. Says whether who sent it takes trailers.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) -> bool {
    const ALWAYS: [HeaderName; 6] = [
        HeaderName::from_static("http2-settings"),
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    let trailers = headers.contains_key(header::TE) && takes_trailers(headers);
    if headers.contains_key(header::CONNECTION) {
        for name in nominated(headers) {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    // Most messages have none of them, and a look costs less than six.
    if headers.keys().any(|name| ALWAYS.contains(name)) {
        for name in ALWAYS {
            headers.remove(name);
        }
    }
    trailers
}

/// RFC 9110 section 10.1.4.
fn takes_trailers(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(header::TE).into_iter();
    let mut codings = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let fields = headers.get_all(header::CONNECTION).into_iter();
    let tokens = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
    let names = tokens.filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok());
    names.filter(|name| !END_TO_END.contains(&name.as_str())).collect()
}

/// What Connection may not take away: without these the message would mean something else.
pub(super) const END_TO_END: [&str; 26] = [
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "depth",
    "destination",
    "etag",
    "expect",
    "host",
    "if",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "lock-token",
    "overwrite",
    "range",
    "set-cookie",
    "timeout",
    "trailer",
    "www-authenticate",
];
