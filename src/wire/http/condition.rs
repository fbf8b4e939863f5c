//! Conditions (RFC 9110 section 13) that name our entity tags. The server that answers knows nothing of them:
//! what they say is found out here, and it is asked in its own words. Not here: how it is known what a
//! path's file is (see `relay`).

use ::http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::etag::{EntityTag, Tag, list, server_tags};
use crate::object::Stamp;

/// The file at a request's path as it is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current {
    pub stamp: Stamp,
    /// `None` while it is not proven which version it is.
    pub tag: Option<Tag>,
}

/// Whether only the primary's site can judge a request's conditions (RFC 9110 section 13.1, RFC 4918 section
/// 10.4): those with tags of the content of no object, which its server may know.
pub fn is_for_home(headers: &HeaderMap) -> bool {
    let foreign = |tag: Option<EntityTag<'_>>| tag.is_none_or(|tag| tag.ours().is_none());
    headers.contains_key("if") || tags(headers, header::IF_MATCH).any(foreign)
}

/// Whether a condition names a tag of ours.
pub fn names_ours(headers: &HeaderMap) -> bool {
    let ours = |tag: Option<EntityTag<'_>>| tag.is_some_and(|tag| tag.ours().is_some());
    [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_RANGE]
        .into_iter()
        .any(|name| headers.contains_key(&name) && tags(headers, name).any(ours))
}

/// Whether the answer is right if the conditions are left out: all they can do is save sending it.
pub fn full_answer_will_do(headers: &HeaderMap) -> bool {
    let decide = [header::IF_MATCH, header::IF_UNMODIFIED_SINCE];
    !decide.iter().any(|name| headers.contains_key(name)) && !headers.contains_key("if")
}

/// Makes a request that [`full_answer_will_do`] for an unconditional one.
pub fn drop_conditions(headers: &mut HeaderMap) {
    headers.remove(header::IF_NONE_MATCH);
    headers.remove(header::IF_MODIFIED_SINCE);
    if headers.remove(header::IF_RANGE).is_some() {
        headers.remove(header::RANGE);
    }
}

/// No server's tag: If-Match with it fails wherever there is something.
const NOBODYS: HeaderValue = HeaderValue::from_static("\"none-of-these\"");

/// The tags that a field lists; none if it is `*`.
fn tags(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = Option<EntityTag<'_>>> {
    let fields = headers.get_all(name).into_iter().map(|field| field.as_bytes().trim_ascii());
    fields.filter(|field| *field != b"*").flat_map(list)
}

fn is_any(headers: &HeaderMap, name: HeaderName) -> bool {
    headers.get_all(name).into_iter().any(|field| field.as_bytes().trim_ascii() == b"*")
}

/// What became of a read's conditions: on what the answer rests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fitted {
    /// If-Match held: anything but the version that it names is no answer.
    pub required: bool,
    /// The tag, of those that the client has, that is the current one: 304 says that.
    pub matched: Option<HeaderValue>,
    /// If-Range held: a part must be of that version.
    pub ranged: bool,
}

impl Fitted {
    /// Whether the answer is right only for the file that was looked at.
    pub fn rests(&self) -> bool {
        self.required || self.matched.is_some() || self.ranged
    }
}

/// It cannot be told whether If-Match holds: nobody knows yet which version is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unproven;

/// Puts the conditions of a GET or HEAD into words that the server understands. `file`: none if there is no
/// file. `keep`: tags that are not ours may be the server's own, of what is no file as it is on the disk.
///
/// # Errors
/// If-Match names a tag of ours, and it is not proven which version is there.
pub fn fit(headers: &mut HeaderMap, file: Option<&Current>, keep: bool) -> Result<Fitted, Unproven> {
    let mut fitted = Fitted::default();
    let current = file.and_then(|file| file.tag);
    let keep = |tag: &EntityTag<'_>| keep && !file.is_some_and(|file| tag.is_of(&file.stamp));
    if headers.contains_key(header::IF_MATCH) {
        headers.remove(header::IF_UNMODIFIED_SINCE);
        if !is_any(headers, header::IF_MATCH) {
            let mut foreign = Vec::new();
            for tag in tags(headers, header::IF_MATCH).flatten() {
                match tag.ours() {
                    Some(_) if file.is_some() && current.is_none() => return Err(Unproven),
                    Some((tag_, _)) => fitted.required |= Some(tag_) == current && !tag.weak,
                    None if keep(&tag) => foreign.push(quoted(tag.weak, tag.opaque)),
                    None => {}
                }
            }
            match fitted.required {
                true => headers.remove(header::IF_MATCH),
                false => headers.insert(header::IF_MATCH, joined(&foreign).unwrap_or(NOBODYS)),
            };
        }
    }
    if headers.contains_key(header::IF_NONE_MATCH) {
        headers.remove(header::IF_MODIFIED_SINCE);
        if !is_any(headers, header::IF_NONE_MATCH) {
            let mut said = Vec::new();
            for tag in tags(headers, header::IF_NONE_MATCH).flatten() {
                match (tag.ours(), file, current) {
                    (Some((named, coding)), Some(file), Some(current)) => {
                        let takes = coding.is_none_or(|coding| accepts(headers, coding));
                        if named == current && takes && fitted.matched.is_none() {
                            said.extend(words(current, &file.stamp));
                            let text = quoted(tag.weak, tag.opaque);
                            fitted.matched = HeaderValue::from_bytes(&text).ok();
                        }
                    }
                    (None, ..) if keep(&tag) => said.push(quoted(tag.weak, tag.opaque)),
                    _ => {}
                }
            }
            match joined(&said) {
                Some(field) => headers.insert(header::IF_NONE_MATCH, field),
                None => headers.remove(header::IF_NONE_MATCH),
            };
        }
    }
    if let Some(field) = headers.get(header::IF_RANGE)
        && let Some(tag) = EntityTag::parse(field.as_bytes())
    {
        let holds = match tag.ours() {
            Some((named, None)) => !tag.weak && Some(named) == current,
            _ => false,
        };
        let kept = tag.ours().is_none() && keep(&tag);
        if holds {
            fitted.ranged = headers.contains_key(header::RANGE);
            headers.remove(header::IF_RANGE);
        } else if !kept {
            headers.remove(header::IF_RANGE);
            headers.remove(header::RANGE);
        }
    }
    Ok(fitted)
}

/// How servers may call that file: nginx and Apache by its stamp, the embedded one as we do.
fn words(tag: Tag, stamp: &Stamp) -> impl Iterator<Item = Vec<u8>> {
    let own = std::iter::once(tag.to_string());
    own.chain(server_tags(stamp).into_iter().flatten()).map(|opaque| quoted(false, opaque.as_bytes()))
}

fn quoted(weak: bool, opaque: &[u8]) -> Vec<u8> {
    [if weak { &b"W/\""[..] } else { b"\"" }, opaque, b"\""].concat()
}

fn joined(tags: &[Vec<u8>]) -> Option<HeaderValue> {
    if tags.is_empty() {
        return None;
    }
    // What was taken from a field may stand in one.
    HeaderValue::from_bytes(&tags.join(&b", "[..])).ok()
}

/// Whether a content coding may be sent (RFC 9110 section 12.5.3).
fn accepts(headers: &HeaderMap, coding: &[u8]) -> bool {
    if !headers.contains_key(header::ACCEPT_ENCODING) {
        return true;
    }
    let fields = headers.get_all(header::ACCEPT_ENCODING).into_iter();
    fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b',')).any(|item| {
        let mut parts = item.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let refused =
            parts.any(|part| part.starts_with(b"q=0") && part[3..].iter().all(|b| b".0".contains(b)));
        !refused && (name == b"*" || name.eq_ignore_ascii_case(coding))
    })
}

/// Whether a change may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Holds,
    /// 412.
    Fails,
    /// Nobody knows yet which version is there.
    Unproven,
}

/// Whether the tags that a change's conditions name are judged before its server is asked. `any`: also those
/// that are nobody's, for what the method changes is the file itself.
pub fn is_judged(headers: &HeaderMap, any: bool) -> bool {
    let named = [header::IF_MATCH, header::IF_NONE_MATCH];
    named.iter().any(|name| headers.contains_key(name)) && (any || names_ours(headers))
}

/// Judges If-Match and If-None-Match of a change (RFC 9110 section 13.2.2). `exists`: whether there is
/// anything; `file`: none if that is no file.
pub fn judge(headers: &HeaderMap, exists: bool, file: Option<&Current>) -> Verdict {
    let current = file.and_then(|file| file.tag);
    let unproven = file.is_some() && current.is_none();
    let mut open = false;
    // `None`: that hangs on what is not proven.
    let mut matches = |name: HeaderName, weakly: bool| {
        if is_any(headers, name.clone()) {
            return exists;
        }
        tags(headers, name).flatten().filter_map(|tag| Some((tag.weak, tag.ours()?.0))).any(
            |(weak, tag)| {
                open |= unproven && (weakly || !weak);
                (weakly || !weak) && Some(tag) == current
            },
        )
    };
    let holds = (!headers.contains_key(header::IF_MATCH) || matches(header::IF_MATCH, false))
        && !(headers.contains_key(header::IF_NONE_MATCH) && matches(header::IF_NONE_MATCH, true));
    match (holds, open) {
        (_, true) => Verdict::Unproven,
        (true, false) => Verdict::Holds,
        (false, false) => Verdict::Fails,
    }
}

/// Takes away what [`judge`] has judged, and what counts only where that is missing.
pub fn drop_judged(headers: &mut HeaderMap) {
    if headers.remove(header::IF_MATCH).is_some() {
        headers.remove(header::IF_UNMODIFIED_SINCE);
    }
    if headers.remove(header::IF_NONE_MATCH).is_some() {
        headers.remove(header::IF_MODIFIED_SINCE);
    }
}

#[cfg(test)]
mod tests;
