//! HTTP and WebDAV (RFC 9110, 9112, 4918): from a request's head to the [`Effect`] it has on a share.
//!
//! [`classify`] is for clients' requests, whose URLs are the site's own; [`classify_below`] for what
//! another site forwarded, whose paths are already below a share. Not here: bodies, connections, and
//! the decision where a request goes.

pub mod auth;
pub mod condition;
pub mod etag;
mod fields;
pub mod framing;
mod if_field;
#[cfg(any(test, feature = "fuzz"))]
pub mod judge;
pub mod lock;
mod method;
pub mod multistatus;
mod path;
mod prefix;
mod shares;
mod target;
pub mod xml;

use ::http::request::Parts;
use ::http::uri::Authority;
use ::http::{HeaderMap, Method, StatusCode, Version, header};

pub use self::fields::{depth, same_authority, strip_hop_by_hop};
pub use self::if_field::{Condition, IfField, List, State};
pub use self::method::{Row, Touches, lock as lock_method, propfind, row, unlock};
pub use self::path::{PathError, UrlPath, encode, encode_into};
pub use self::prefix::Move;
pub use self::shares::{Located, ShareUrl, SiteShares};
pub use self::target::{Secure, normalise};

use crate::effect::{Change, Depth, Effect, Reach, Read, Target};
use crate::id::RelPath;

/// A request that is not carried out, and why. Nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the path of the URL is not usable: {0}")]
    Path(#[from] PathError),
    #[error("the Destination field is {0}")]
    Destination(&'static str),
    #[error("COPY and MOVE work within one share only: the other end is {0}")]
    AcrossTheEdge(&'static str),
    #[error(
        "{0} with one end inside the other would destroy what it is about; name another Destination"
    )]
    IntoItself(&'static str),
    #[error("{0} would change a directory that holds a share; name a place inside the share")]
    AboveShare(&'static str),
    #[error("{0} would remove or replace the share itself; name a place inside the share")]
    ShareRoot(&'static str),
    #[error("the collection exists already: it is the share itself")]
    RootExists,
    #[error("a listing of everything below a directory that holds a share is not given; use Depth: 1")]
    InfiniteDepth,
    #[error("the If field is {0}")]
    If(&'static str),
    #[error("no list of the If field is about a place in this share")]
    IfElsewhere,
    #[error("there is nothing of that name")]
    OursRead,
    #[error("what is of that name is not for clients to change")]
    OursChanged,
    #[error("the method {0} is not relayed")]
    Method(&'static str),
    #[error("the Depth field must be 0, 1 or infinity")]
    Depth,
    #[error("the Overwrite field must be T or F")]
    Overwrite,
    #[error(
        "{0} with Content-Range would change a part of a file in place; send the whole file without it"
    )]
    Part(&'static str),
    #[error("a message has either Content-Length or Transfer-Encoding, not both")]
    TwoLengths,
    #[error("the Host field is neither a host nor a host and a port")]
    Host,
    #[error("the request target must be a path, or an absolute URL of this site")]
    Target,
    #[error("an https URL was asked for over a connection without TLS")]
    Misdirected,
    #[error("of what may be expected only 100-continue is known")]
    Expectation,
    #[error("the field {0} may stand only once")]
    Twice(&'static str),
    #[error("the request names no {0}, which {1} needs")]
    Missing(&'static str, &'static str),
}

impl Refusal {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Path(error) if error.too_long() => StatusCode::URI_TOO_LONG,
            Self::Path(_)
            | Self::Destination(_)
            | Self::Depth
            | Self::Overwrite
            | Self::If(_)
            | Self::Part(_)
            | Self::TwoLengths
            | Self::Host
            | Self::Target
            | Self::Twice(_)
            | Self::Missing(..) => StatusCode::BAD_REQUEST,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::IfElsewhere => StatusCode::PRECONDITION_FAILED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::AcrossTheEdge(_) => StatusCode::BAD_GATEWAY,
            Self::IntoItself(_)
            | Self::AboveShare(_)
            | Self::ShareRoot(_)
            | Self::InfiniteDepth
            | Self::OursChanged => StatusCode::FORBIDDEN,
            Self::OursRead => StatusCode::NOT_FOUND,
            Self::RootExists | Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
    /// Whether somebody tried to get out of, or into, what clients may touch: worth a warning.
    pub fn of_the_edge(&self) -> bool {
        matches!(
            self,
            Self::Path(PathError::Dots | PathError::EncodedSlash | PathError::Nul)
                | Self::AboveShare(_)
                | Self::OursChanged
                | Self::OursRead
                | Self::AcrossTheEdge(_)
        )
    }
}

/// Where in a share a request is, and how its path is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Index of the share among the site's (see [`SiteShares`]).
    pub slot: usize,
    /// The path ended in a slash: servers treat a collection's URL with and without one differently.
    pub slash: bool,
    /// The request's own path is byte for byte what [`encode`] makes: it may be sent on as it is.
    pub canonical: bool,
    /// For changes: the request's own path. (A read has it in its effect.)
    source: Option<RelPath>,
    /// COPY and MOVE: the place in the same share, and whether it ended in a slash.
    pub destination: Option<(RelPath, bool)>,
    /// What the If field says.
    pub conditions: Option<IfField>,
}

/// What a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classified {
    pub effect: Effect,
    pub row: &'static Row,
    /// `None` outside every share.
    pub place: Option<Place>,
}

impl Classified {
    /// The request's path below its share; the root for what is outside every share.
    pub fn path(&self) -> &RelPath {
        const ROOT: &RelPath = &RelPath::ROOT;
        match (&self.effect, &self.place) {
            (Effect::Read(read), _) => &read.path,
            (_, Some(Place { source: Some(path), .. })) => path,
            _ => ROOT,
        }
    }

    /// What the request's If field says.
    pub fn conditions(&self) -> Option<&IfField> {
        self.place.as_ref()?.conditions.as_ref()
    }
}

/// What a client's request touches.
pub fn classify(parts: &Parts, shares: &SiteShares) -> Result<Classified, Refusal> {
    let row = row(&parts.method);
    if let Touches::Refused = row.touches {
        return Err(Refusal::Method(row.name));
    }
    refuse_ambiguous(&parts.headers)?;
    check_host(parts)?;
    match shares.locate(parts.uri.path())? {
        Located::Outside => {
            if row.has_destination() {
                let (to, _) = destination(parts, shares)?;
                match to {
                    Located::Outside => {}
                    Located::Above => return Err(Refusal::AboveShare(row.name)),
                    Located::Inside { .. } => return Err(Refusal::AcrossTheEdge("inside a share")),
                }
            }
            Ok(Classified { effect: Effect::Outside, row, place: None })
        }
        Located::Above => {
            refuse_above(row, &parts.headers)?;
            Ok(Classified { effect: Effect::Outside, row, place: None })
        }
        Located::Inside { slot, path, slash, canonical, above } => {
            if above {
                refuse_above(row, &parts.headers)?;
            }
            let destination = match row.has_destination() {
                true => Some(inside(destination(parts, shares)?, slot, row.name)?),
                false => None,
            };
            let own = own_authority(parts);
            let conditions = if_field(&parts.headers, |tag| tagged(tag, shares, slot, own))?;
            let place = Place { slot, slash, canonical, source: None, destination, conditions };
            finish(row, shares.url(slot), path, place, &parts.headers)
        }
    }
}

/// What a request touches that another site forwarded: `path` and `destination` are below the share.
pub fn classify_below(
    method: &Method,
    headers: &HeaderMap,
    url: &ShareUrl,
    slot: usize,
    path: UrlPath,
    destination: Option<UrlPath>,
) -> Result<Classified, Refusal> {
    let row = row(method);
    if let Touches::Refused = row.touches {
        return Err(Refusal::Method(row.name));
    }
    if row.has_destination() && destination.is_none() {
        return Err(Refusal::Missing("destination", row.name));
    }
    let destination = destination
        .filter(|_| row.has_destination())
        .map(|to| Ok::<_, Refusal>((RelPath::new(to.names).map_err(PathError::from)?, to.slash)))
        .transpose()?;
    let source = RelPath::new(path.names).map_err(PathError::from)?;
    // The other site has written every place as it is below the share.
    let below = |tag: &str| {
        let UrlPath { names, slash } = UrlPath::decode(tag)?;
        Ok(Some((RelPath::new(names).map_err(PathError::from)?, slash)))
    };
    let conditions = if_field(headers, below)?;
    let place =
        Place { slot, slash: path.slash, canonical: false, source: None, destination, conditions };
    finish(row, url, source, place, headers)
}

/// The last checks, and the effect.
fn finish(
    row: &'static Row,
    url: &ShareUrl,
    path: RelPath,
    mut place: Place,
    headers: &HeaderMap,
) -> Result<Classified, Refusal> {
    fields::check_overwrite(headers)?;
    // Some servers write the part into the file that is there, under the eyes of who reads it (R22). RFC 9110
    // section 14.5 has those that do not know it refuse it.
    if row.touches == Touches::Entry && headers.contains_key(header::CONTENT_RANGE) {
        return Err(Refusal::Part(row.name));
    }
    let depth = fields::depth(headers)?;
    let share = &url.share;
    let ours = url.hides(&path) || place.destination.as_ref().is_some_and(|(to, _)| url.hides(to));
    if ours {
        return Err(if row.touches.changes() { Refusal::OursChanged } else { Refusal::OursRead });
    }
    let home_only = condition::is_for_home(headers);
    let read = |path, depth| Effect::Read(Read { share: share.clone(), path, depth, home_only });
    let effect = match row.touches {
        Touches::Object => read(path, if place.slash { Depth::Children } else { Depth::Object }),
        Touches::ByDepth => read(path, depth.unwrap_or(Depth::Tree)),
        Touches::Entry
        | Touches::Lock
        | Touches::About
        | Touches::Both
        | Touches::Copy
        | Touches::Below
        | Touches::Refused => {
            let mut targets = targets(row, &path, place.destination.as_ref())?;
            properties(row, url, &mut targets);
            if let Some((to, _)) = &place.destination {
                refuse_into_itself(row, &path, to, depth)?;
            }
            place.source = Some(path);
            Effect::Change(Change { share: share.clone(), targets })
        }
    };
    Ok(Classified { effect, row, place: Some(place) })
}

/// What a change may change (R2), in the order in which it does.
fn targets(
    row: &'static Row,
    path: &RelPath,
    destination: Option<&(RelPath, bool)>,
) -> Result<Vec<Target>, Refusal> {
    let named = |path: &RelPath, reach| match path.is_root() {
        true if row.name == "MKCOL" => Err(Refusal::RootExists),
        true => Err(Refusal::ShareRoot(row.name)),
        false => Ok(Target { path: path.clone(), reach }),
    };
    let to = || destination.map(|(to, _)| to).ok_or(Refusal::Missing("Destination field", row.name));
    match row.touches {
        Touches::Entry => Ok(vec![named(path, Reach::Entry)?]),
        Touches::Both => Ok(vec![named(path, Reach::Entry)?, named(to()?, Reach::Entry)?]),
        Touches::Copy => Ok(vec![named(to()?, Reach::Below)?]),
        Touches::Lock | Touches::About => Ok(vec![Target { path: path.clone(), reach: Reach::Entry }]),
        Touches::Below | Touches::Object | Touches::ByDepth | Touches::Refused => {
            Ok(vec![Target { path: path.clone(), reach: Reach::Below }])
        }
    }
}

/// Where the server keeps the properties of what it changes, it changes them too. A file that is put has those
/// that it had.
fn properties(row: &Row, url: &ShareUrl, targets: &mut Vec<Target>) {
    if !matches!(row.name, "PUT" | "MKCOL") {
        let beside = targets.iter().flat_map(|target| url.beside(&target.path));
        let beside: Vec<_> = beside.map(|path| Target { path, reach: Reach::Below }).collect();
        targets.extend(beside);
    }
}

/// A tree that is copied into itself never ends, and one that is moved into itself or over its own parent
/// is gone: some servers, nginx among them, carry that out. (RFC 4918 sections 9.8.5 and 9.9.4: 403.)
fn refuse_into_itself(
    row: &'static Row,
    from: &RelPath,
    to: &RelPath,
    depth: Option<Depth>,
) -> Result<(), Refusal> {
    // Without its members a collection may be copied to a place inside itself.
    let alone = row.touches == Touches::Copy && depth == Some(Depth::Object) && from != to;
    match from.starts_with(to) || to.starts_with(from) && !alone {
        true => Err(Refusal::IntoItself(row.name)),
        false => Ok(()),
    }
}

/// A directory that holds a share: its listing passes, a change of it would be one of the share.
fn refuse_above(row: &'static Row, headers: &HeaderMap) -> Result<(), Refusal> {
    match row.touches {
        Touches::ByDepth if fields::depth(headers)?.unwrap_or(Depth::Tree) == Depth::Tree => {
            Err(Refusal::InfiniteDepth)
        }
        // A lock of the directory alone takes nothing from who uses the share.
        Touches::Lock if fields::depth(headers)? == Some(Depth::Object) => Ok(()),
        touches if touches.changes() => Err(Refusal::AboveShare(row.name)),
        _ => Ok(()),
    }
}

fn destination(parts: &Parts, shares: &SiteShares) -> Result<(Located, bool), Refusal> {
    let row = row(&parts.method);
    let field =
        parts.headers.get("destination").ok_or(Refusal::Missing("Destination field", row.name))?;
    let path = fields::destination_path(field.as_bytes(), own_authority(parts))?;
    let located = shares.locate(path)?;
    let slash = matches!(&located, Located::Inside { slash: true, .. });
    Ok((located, slash))
}

fn inside(
    (located, slash): (Located, bool),
    slot: usize,
    method: &'static str,
) -> Result<(RelPath, bool), Refusal> {
    match located {
        Located::Inside { above: true, .. } => Err(Refusal::AboveShare(method)),
        Located::Inside { slot: other, path, .. } if other == slot => Ok((path, slash)),
        Located::Inside { .. } => Err(Refusal::AcrossTheEdge("in another share")),
        Located::Above | Located::Outside => Err(Refusal::AcrossTheEdge("outside the share")),
    }
}

fn if_field(
    headers: &HeaderMap,
    place: impl FnMut(&str) -> Result<Option<(RelPath, bool)>, Refusal>,
) -> Result<Option<IfField>, Refusal> {
    let field = headers.get("if");
    field.map(|field| IfField::parse(field.as_bytes(), place)).transpose()
}

/// Where a tag of the If field leads; `None` for what is not in the share.
fn tagged(
    tag: &str,
    shares: &SiteShares,
    slot: usize,
    own: Option<&str>,
) -> Result<Option<(RelPath, bool)>, Refusal> {
    let path = match fields::destination_path(tag.as_bytes(), own) {
        Ok(path) => path,
        Err(Refusal::Destination(what)) => return Err(Refusal::If(what)),
        Err(_) => return Ok(None),
    };
    match shares.locate(path)? {
        Located::Inside { slot: other, path, slash, .. }
            if other == slot && !shares.url(slot).hides(&path) =>
        {
            Ok(Some((path, slash)))
        }
        _ => Ok(None),
    }
}

/// The host and port under which the client knows this site: of an absolute-form target, else of
/// the Host field (RFC 9112 section 3.2.2).
fn own_authority(parts: &Parts) -> Option<&str> {
    let target = parts.uri.authority().map(|authority| authority.as_str());
    target.or_else(|| parts.headers.get(header::HOST)?.to_str().ok())
}

/// HTTP/1.1 wants a Host field that is a host and perhaps a port, and nothing else (RFC 9112 section 3.2).
fn check_host(parts: &Parts) -> Result<(), Refusal> {
    let Some(host) = parts.headers.get(header::HOST) else {
        return match parts.version == Version::HTTP_11 {
            true => Err(Refusal::Missing("Host field", "HTTP/1.1")),
            false => Ok(()),
        };
    };
    let text = host.to_str().unwrap_or("@");
    // Of what stands for nobody in particular it may be empty.
    match text.is_empty() || !text.contains('@') && text.parse::<Authority>().is_ok() {
        true => Ok(()),
        false => Err(Refusal::Host),
    }
}

/// Two framings are how requests are smuggled past a relay (RFC 9112 section 6.1); and of a field that
/// stands twice the server may obey the one that we did not look at.
fn refuse_ambiguous(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.contains_key(header::CONTENT_LENGTH) && headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Refusal::TwoLengths);
    }
    if headers.get(header::EXPECT).is_some_and(|field| !is_continue(field.as_bytes())) {
        return Err(Refusal::Expectation);
    }
    if headers.len() == headers.keys_len() {
        return Ok(());
    }
    let twice = |name: &&&str| headers.get_all(**name).iter().nth(1).is_some();
    match ONCE.iter().find(twice) {
        Some(name) => Err(Refusal::Twice(name)),
        None => Ok(()),
    }
}

/// What a request says once or not at all, and servers differ about when it comes twice.
const ONCE: [&str; 13] = [
    "authorization",
    "content-length",
    "content-range",
    "depth",
    "destination",
    "expect",
    "host",
    "if",
    "if-modified-since",
    "if-range",
    "if-unmodified-since",
    "overwrite",
    "range",
];

fn is_continue(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"100-continue")
}

#[cfg(test)]
mod tests;
