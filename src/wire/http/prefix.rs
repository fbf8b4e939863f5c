//! URLs that another site's server wrote, moved to where this site has the share.

use super::path::{segment, segments};
use crate::id::Name;

/// From one site's prefix of a share to another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    from: Vec<Name>,
    /// As it goes into URLs: `/a/b`, or empty.
    to: String,
}

impl Move {
    pub fn new(from: &[Name], to: &str) -> Self {
        Self { from: from.to_vec(), to: to.to_owned() }
    }
    /// The URL at its new place, as an absolute path with what followed it. `None` when it does not
    /// lead into the share.
    pub fn apply(&self, url: &str) -> Option<String> {
        let path = absolute_path(url)?;
        let end = path.find(['?', '#']).unwrap_or(path.len());
        let mut rest = &path[..end];
        for name in &self.from {
            rest = rest.trim_start_matches('/');
            let cut = rest.find('/').unwrap_or(rest.len());
            if *segment(&rest[..cut]).ok()?.bytes != *name.as_bytes() {
                return None;
            }
            rest = &rest[cut..];
        }
        let mut moved = String::with_capacity(self.to.len() + path.len());
        moved.push_str(&self.to);
        moved.push_str(rest);
        if moved.is_empty() {
            moved.push('/');
        }
        moved.push_str(&path[end..]);
        Some(moved)
    }
}

/// The part of an absolute URI after its authority, or an absolute path itself.
pub(super) fn absolute_path(url: &str) -> Option<&str> {
    if url.starts_with('/') && !url.starts_with("//") {
        return Some(url);
    }
    let (_, rest) = url.split_once("://")?;
    Some(&rest[rest.find('/')?..])
}

/// Whether any name along the URL's path is `.nearshare`.
pub(super) fn names_ours(url: &str) -> bool {
    let Some(path) = absolute_path(url) else { return false };
    let path = &path[..path.find(['?', '#']).unwrap_or(path.len())];
    segments(path).is_ok_and(|mut parts| {
        parts.any(|raw| segment(raw).is_ok_and(|part| &*part.bytes == Name::OURS))
    })
}
