//! What one value of the map may be: each function takes a TOML value, or the text in one, and gives
//! what it stands for or says what is wrong and what would be right.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use super::near::nearest;
use super::{HostPort, HttpServer, UrlPrefix};
use crate::id::{LABEL_MAX, PATH_MAX, SiteId};

/// What is wrong with a value and what would be right. `what` goes on from the key's name: "is ...".
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) right: String,
}

pub(super) type Checked<T> = Result<T, Wrong>;

pub(super) fn wrong<T>(what: impl Into<String>, right: impl Into<String>) -> Checked<T> {
    Err(Wrong { what: what.into(), right: right.into() })
}

/// Longest piece of the map that a message repeats, in characters.
const SHOWN_MAX: usize = 80;

/// A piece of the map as one line of a message shows it.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        shown.push_str("...");
    }
    shown
}

/// A value of the wrong type. `example` is a right one, as the map would have it.
pub(super) fn wrong_type<T>(value: &DeValue<'_>, wanted: &str, example: &str) -> Checked<T> {
    let article = |name: &str| if name.starts_with(['a', 'i']) { "an" } else { "a" };
    let found = value.type_str();
    let what = format!("is {} {found}, not {} {wanted}", article(found), article(wanted));
    wrong(what, format!("write {example}"))
}

/// A checker of strings as a checker of values.
pub(super) fn text<T>(
    example: &str,
    check: impl FnOnce(&str) -> Checked<T>,
) -> impl FnOnce(&DeValue<'_>) -> Checked<T> {
    move |value| match value.as_str() {
        Some(text) => check(text),
        None => wrong_type(value, "string", example),
    }
}

pub(super) fn boolean(value: &DeValue<'_>) -> Checked<bool> {
    value.as_bool().map_or_else(|| wrong_type(value, "boolean", "true or false"), Ok)
}

/// A whole number of at least `least`.
pub(super) fn count(least: u64, example: &str) -> impl FnOnce(&DeValue<'_>) -> Checked<u64> {
    move |value| {
        let Some(integer) = value.as_integer() else {
            return wrong_type(value, "integer", example);
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(count) if count >= least && i64::try_from(count).is_ok() => Ok(count),
            _ => wrong(
                format!("is {}, out of range", shown(&integer.to_string())),
                format!("write a number from {least} to {}", i64::MAX),
            ),
        }
    }
}

/// One of a few words. `noun` is what they are: "role".
pub(super) fn word<T: Copy>(text: &str, noun: &str, words: &[(&str, T)]) -> Checked<T> {
    if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*meaning);
    }
    let what = format!("is \"{}\", which is no {noun}", shown(text));
    let all: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    let all = match all.split_last() {
        Some((last, rest @ [_, ..])) => format!("{} or {last}", rest.join(", ")),
        _ => all.concat(),
    };
    let right = match nearest(text, words.iter().map(|(word, _)| *word)) {
        Some(word) => format!("write \"{word}\""),
        None => format!("write {all}"),
    };
    wrong(what, right)
}

/// A label of the alphabet that sites' names have.
pub(super) fn label(text: &str) -> Checked<String> {
    match text.parse::<SiteId>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => wrong(format!("is \"{}\", which is no name", shown(text)), LABEL_RULE),
    }
}

pub(super) const LABEL_RULE: &str =
    "write 1 to 63 of a-z, 0-9 and '-', the first of them a letter or digit";

/// An absolute path of this host, spelled in one way: no `.`, no doubled or trailing slashes.
pub(super) fn absolute_path(text: &str) -> Checked<PathBuf> {
    let path = Path::new(text);
    if !path.is_absolute() {
        let right = if text.is_empty() || text.starts_with('.') || text.starts_with('~') {
            "write it from the root, such as \"/srv/engineering\"".to_owned()
        } else {
            format!("write it from the root, such as \"/{}\"", shown(text))
        };
        return wrong(format!("is \"{}\", a relative path", shown(text)), right);
    }
    if path.components().any(|part| part == Component::ParentDir) {
        let what = format!("is \"{}\", a path with `..` in it", shown(text));
        return wrong(what, "write where the directory really is");
    }
    if text.chars().any(char::is_control) {
        let what = format!("is \"{}\", a path with a control character in it", shown(text));
        return wrong(what, "write a path without one");
    }
    if text.len() >= PATH_MAX {
        let what = format!("is a path of {} bytes", text.len());
        return wrong(what, format!("write one of at most {}", PATH_MAX - 1));
    }
    Ok(path.components().collect())
}

/// `host:port`, as the other sites or a server are reached.
pub(super) fn host_port(text: &str) -> Checked<HostPort> {
    const RIGHT: &str = "write a name or address and a port, such as \"hq.example.com:7400\"";
    let (host, port) = split_port(text, RIGHT)?;
    let host = host_name(host, RIGHT)?;
    Ok(HostPort { host, port })
}

/// A DNS name in lower case, or an IP address without its brackets.
pub(super) fn host(text: &str) -> Checked<String> {
    const RIGHT: &str = "write a name or address, such as \"files.example.com\"";
    let bare = text.parse::<Ipv6Addr>().map(|address| address.to_string());
    bare.or_else(|_| host_name(text, RIGHT))
}

/// `address:port`, as this host listens.
pub(super) fn listen(text: &str) -> Checked<SocketAddr> {
    const RIGHT: &str = "write an address of this host and a port, such as \"0.0.0.0:8080\"";
    let (host, port) = split_port(text, RIGHT)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let address = match bare {
        Some(bare) => bare.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4),
    };
    match address {
        Some(address) => Ok(SocketAddr::new(address, port)),
        None => wrong(format!("is \"{}\", whose host is no IP address", shown(text)), RIGHT),
    }
}

/// `"embedded"` or `http://host[:port]`.
pub(super) fn http_server(text: &str) -> Checked<HttpServer> {
    const RIGHT: &str = "write \"embedded\" or a URL such as \"http://127.0.0.1:8080\"";
    if text == "embedded" {
        return Ok(HttpServer::Embedded);
    }
    if text.starts_with("https://") {
        let what = "is an https URL, and TLS to the local server does not exist in this release";
        return wrong(what, "write the server's http URL, such as \"http://127.0.0.1:8080\"");
    }
    let Some(rest) = text.strip_prefix("http://") else {
        return wrong(format!("is \"{}\", which is no http URL", shown(text)), RIGHT);
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        let what = format!("is \"{}\", a URL with a path", shown(text));
        return wrong(what, "write it without: the path that a client asks for is passed on as it is");
    }
    let ported = authority.rfind(':') > authority.rfind(']');
    let (host, port) = if ported { split_port(authority, RIGHT)? } else { (authority, 80) };
    Ok(HttpServer::Url(HostPort { host: host_name(host, RIGHT)?, port }))
}

/// A duration with its unit, from `least` to `most`.
pub(super) fn duration(text: &str, least: Duration, most: Duration) -> Checked<Duration> {
    let range = || {
        let (least, most) = (humantime::format_duration(least), humantime::format_duration(most));
        format!("write a number and its unit, from \"{least}\" to \"{most}\", such as \"60s\"")
    };
    match humantime::parse_duration(text) {
        Ok(duration) if (least..=most).contains(&duration) => Ok(duration),
        Ok(_) => wrong(format!("is \"{}\", out of range", shown(text)), range()),
        Err(_) => wrong(format!("is \"{}\", which is no duration", shown(text)), range()),
    }
}

/// A network without host bits.
pub(super) fn net(text: &str) -> Checked<IpNet> {
    const RIGHT: &str = "write an address and a prefix length, such as \"10.2.0.0/16\"";
    if let Ok(address) = text.parse::<IpAddr>() {
        let what = format!("is \"{address}\", which has no prefix length");
        return wrong(what, format!("write \"{}\"", IpNet::from(address)));
    }
    match text.parse::<IpNet>() {
        Ok(net) if net == net.trunc() => Ok(net),
        Ok(net) => {
            wrong(format!("is \"{net}\", which has host bits set"), format!("write \"{}\"", net.trunc()))
        }
        Err(_) => wrong(format!("is \"{}\", which is no network", shown(text)), RIGHT),
    }
}

pub(super) fn url_prefix(text: &str) -> Checked<UrlPrefix> {
    UrlPrefix::parse(text).or_else(|why| {
        let what = format!("is \"{}\", which {why}", shown(text));
        wrong(what, "write the path of a URL, such as \"/engineering\"")
    })
}

/// The part before the last colon and the port after it.
fn split_port<'t>(text: &'t str, right: &str) -> Checked<(&'t str, u16)> {
    let Some((host, port)) = text.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) else {
        return wrong(format!("is \"{}\", which has no port", shown(text)), right);
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port @ 1..) if digits => Ok((host, port)),
        _ => wrong(
            format!("is \"{}\", whose port is \"{}\"", shown(text), shown(port)),
            "write a port from 1 to 65535",
        ),
    }
}

/// A DNS name (RFC 1123 section 2.1; underscores are let through, as resolvers do) or an address,
/// IPv6 in brackets. What ends in a number must be an IPv4 address.
fn host_name(text: &str, right: &str) -> Checked<String> {
    if let Some(rest) = text.strip_prefix('[') {
        let address = rest.strip_suffix(']').and_then(|bare| bare.parse::<Ipv6Addr>().ok());
        return match address {
            Some(address) => Ok(address.to_string()),
            None => wrong(format!("holds \"{}\", which is no IPv6 address", shown(text)), right),
        };
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        let what = format!("holds \"{}\", an IPv6 address without brackets", shown(text));
        return wrong(what, format!("write \"[{text}]\" before the port"));
    }
    let labels = || text.split('.');
    let last_is_number = labels().next_back().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    let is_name = text.len() <= 253 && labels().all(is_dns_label) && !last_is_number;
    if is_name || text.parse::<std::net::Ipv4Addr>().is_ok() {
        Ok(text.to_ascii_lowercase())
    } else {
        wrong(format!("holds \"{}\", which is no host", shown(text)), right)
    }
}

fn is_dns_label(label: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte != b'-');
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    label.len() <= LABEL_MAX
        && label.bytes().all(inside)
        && edge(label.bytes().next())
        && edge(label.bytes().next_back())
}
