//! Entity tags and the conditions that name them. The server has tags of its own, or none that means anything
//! elsewhere: it is asked with those, and for them the client gets ours, if it is proven which version the
//! answer is of. That is so if the path led to the same file with the same stamp before and after (R17).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;

use super::answer::{self, Early};
use super::seam::{Fenced, HomeTicket};
use super::{HttpSite, ShareHttp, Taken, near, steady};
use crate::body::Body;
use crate::id::RelPath;
use crate::object::{Found, Kind};
use crate::route::Role;
use crate::server::ServerError;
use crate::wire::http::condition::{
    Current, Fitted, Unproven, Verdict, drop_conditions, fit, full_answer_will_do, judge, names_ours,
};
use crate::wire::http::etag::{EntityTag, Tag};
use crate::wire::http::multistatus::{Getetag, Tagger};
use crate::wire::http::{Classified, List, Located, State};
use crate::work;

/// How often a file that does not hold still is asked for again before it is sent as it is.
const TRIES: usize = 3;
/// What was changed just now is proven a little later (R17).
const SETTLE: Duration = Duration::from_millis(25);
const SETTLE_TRIES: usize = 40;
/// A change waits no longer for what came before it to be looked at: a large file is read for that.
const RECONCILE_MAX: Duration = Duration::from_secs(20);

/// Where the path leads, and the file there. Asks the disk only if the kernel does not have it in memory.
pub async fn reach(share: &ShareHttp, path: &RelPath) -> (Fenced, Option<Found>) {
    let Some(fence) = &share.fence else { return (Fenced::Inside, None) };
    let mut reached = fence.reaches(path, true);
    if reached.0 == Fenced::Unknown {
        let (fence, path) = (fence.clone(), path.clone());
        let looked = work::blocking(move || fence.reaches(&path, false)).await;
        // Only a panic or the end of the runtime makes no answer.
        reached = looked.unwrap_or((Fenced::Gone, None));
    }
    (reached.0, reached.1.filter(|found| found.kind == Kind::File))
}

/// The file that a read asks for, as it was before its server is asked.
pub struct Seen {
    found: Found,
    /// Known if it is proven which version that is.
    tag: Option<Tag>,
    /// By [`proven`](super::seam::Fence::proven): the next look may be as cheap.
    cheap: bool,
}

impl Seen {
    fn of(share: &ShareHttp, found: Found) -> Self {
        Self { tag: version(share, &found), found, cheap: false }
    }
    fn current(&self) -> Current {
        Current { stamp: self.found.stamp, tag: self.tag }
    }
}

/// As [`reach`], the cheap way first: what the catalog knows of a file that a server comes to by its name alone
/// proves as much.
pub async fn see(share: &ShareHttp, path: &RelPath) -> (Fenced, Option<Seen>) {
    if let Some((found, tag)) = share.fence.as_ref().and_then(|fence| fence.proven(path)) {
        return (Fenced::Inside, Some(Seen { found, tag: Some(tag), cheap: true }));
    }
    let (fenced, file) = reach(share, path).await;
    (fenced, file.map(|found| Seen::of(share, found)))
}

/// Whether a read's conditions name tags of ours, and this site cannot tell whether they hold.
pub async fn is_unproven(share: &ShareHttp, path: &RelPath, headers: &HeaderMap) -> bool {
    if !names_ours(headers) {
        return false;
    }
    let (_, file) = reach(share, path).await;
    file.is_some_and(|file| version(share, &file).is_none())
}

fn version(share: &ShareHttp, file: &Found) -> Option<Tag> {
    share.fence.as_ref().and_then(|fence| fence.version(file))
}

/// A GET or HEAD, asked of this site's server. `file`: what its path led to.
pub async fn read(taken: Box<Taken>, mut file: Option<Seen>) -> Result<Response<Body>, Unread> {
    let (site, slot, path) = (taken.site.clone(), taken.slot, taken.classified.path().clone());
    let client = taken.client;
    let share = &site.slots[slot];
    let (mut parts, body) = near::to_server(taken)?.into_parts();
    let host = parts.headers.get(header::HOST).cloned();
    let keep = share.role() == Role::Local;
    let named = names_ours(&parts.headers);
    // Nothing is kept of a body, so such a request can be sent only once.
    let kept = (named && body.is_end_stream()).then(|| parts.clone());
    let mut body = Some(body);
    let (mut tries, mut settling) = (0, 0);
    loop {
        // What the answer may still be of, if something else is there by now.
        let mut was = None;
        let tag = file.as_ref().and_then(|file| file.tag);
        let at = file.as_ref().map(Seen::current);
        let fitted = match fit(&mut parts.headers, at.as_ref(), keep) {
            Ok(fitted) => fitted,
            Err(Unproven) if settling < SETTLE_TRIES => {
                settling += 1;
                tokio::time::sleep(SETTLE).await;
                file = see(share, &path).await.1;
                continue;
            }
            Err(Unproven) => return Err(moving(share)),
        };
        let asked = Request::from_parts(parts, body.take().unwrap_or(Body::Empty));
        let mut response = site.upstream.clone().serve(asked).await?;
        let mut said = Said::of(&response, at.as_ref());
        let mut proven = None;
        if tag.is_some_and(|tag| said == Said::Ours(tag)) {
            // A server that speaks as we do has looked itself.
            proven = tag;
        } else if fitted.rests() || said.is_file() || said == Said::Other && keep {
            match look_again(share, client, &path, &mut file).await? {
                Still::Same => {
                    proven = tag.or_else(|| file.as_ref().and_then(|seen| version(share, &seen.found)));
                }
                Still::NoFile => {}
                Still::Changed(before) => {
                    let now = file.as_ref().map(Seen::current);
                    if !Said::of(&response, now.as_ref()).is_file() {
                        was = before;
                    }
                    if said == Said::Other {
                        // It says something of a file that was there for a moment.
                        said = Said::File { weak: false };
                    }
                }
            }
        } else if file.as_ref().is_some_and(|seen| seen.cheap) {
            // The answer is not known to be of the file that was there before.
            near::within(share, client, &path, reach(share, &path).await.0)?;
        }
        if holds(&response, &fitted, said, proven) {
            name(&mut response, &fitted, said, proven);
            let response = near::mend(&site, slot, host.as_ref(), !keep, response);
            let moved = was.is_some();
            return Ok(match (was.or(file), &share.fence) {
                (Some(seen), Some(fence)) if response.status().is_success() => {
                    let seen = (seen.found, proven);
                    response.map(|body| steady::watched(fence, &path, seen, moved, body))
                }
                _ => response,
            });
        }
        tries += 1;
        let Some(kept) = &kept else { return Err(moving(share)) };
        parts = kept.clone();
        if tries >= TRIES {
            if !full_answer_will_do(&parts.headers) {
                return Err(moving(share));
            }
            drop_conditions(&mut parts.headers);
        }
    }
}

/// What has become of the file that a read asked for.
enum Still {
    Same,
    /// There was none, and is none.
    NoFile,
    /// From what was there before, if there was any.
    Changed(Option<Seen>),
}

/// The second look. What is there now is what is there before the next try.
///
/// # Errors
/// The answer if the path leads out of the share by now.
async fn look_again(
    share: &ShareHttp,
    client: SocketAddr,
    path: &RelPath,
    file: &mut Option<Seen>,
) -> Result<Still, Early> {
    if let (Some(seen), Some(fence)) = (&*file, &share.fence)
        && seen.cheap
        && fence.is_still(path, &seen.found)
    {
        return Ok(Still::Same);
    }
    let (fenced, after) = reach(share, path).await;
    near::within(share, client, path, fenced)?;
    let before = std::mem::replace(file, after.map(|found| Seen::of(share, found)));
    Ok(match (before, &*file) {
        (Some(Seen { found: before, .. }), Some(Seen { found: after, .. }))
            if before.stamp == after.stamp && before.handle == after.handle =>
        {
            Still::Same
        }
        (None, None) if fenced != Fenced::Missing => Still::NoFile,
        (before, _) => Still::Changed(before),
    })
}

/// Why a read has no answer of the server.
pub enum Unread {
    Early(Early),
    Server(ServerError),
}

impl From<Early> for Unread {
    fn from(early: Early) -> Self {
        Self::Early(early)
    }
}
impl From<ServerError> for Unread {
    fn from(error: ServerError) -> Self {
        Self::Server(error)
    }
}

fn moving(share: &ShareHttp) -> Unread {
    let text = format!("{}: the file is being changed; try again", share.share);
    Unread::Early(Box::new(answer::retry(text)))
}

/// What an answer's own tag is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    /// One of something else than the file.
    Other,
    Ours(Tag),
    /// A server's, of the file that was found.
    File {
        weak: bool,
    },
}

impl Said {
    fn of(response: &Response<Body>, at: Option<&Current>) -> Self {
        let Some(field) = response.headers().get(header::ETAG) else { return Self::Nothing };
        let Some(tag) = EntityTag::parse(field.as_bytes()) else { return Self::Other };
        match (tag.ours(), at) {
            (Some((ours, None)), _) if !tag.weak => Self::Ours(ours),
            (_, Some(at)) if tag.is_of(&at.stamp) => Self::File { weak: tag.weak || tag.is_coded() },
            _ => Self::Other,
        }
    }
    fn is_file(self) -> bool {
        matches!(self, Self::File { .. })
    }
}

/// Whether an answer may be given that was asked for because conditions of the client held.
fn holds(response: &Response<Body>, fitted: &Fitted, said: Said, proven: Option<Tag>) -> bool {
    let ours = proven.is_some_and(|tag| said == Said::Ours(tag) || said.is_file());
    match response.status() {
        _ if !fitted.rests() => true,
        StatusCode::OK => !fitted.required || ours,
        StatusCode::NOT_MODIFIED => ours,
        // A part of a form that is made anew each time fits nothing.
        StatusCode::PARTIAL_CONTENT => ours && !(fitted.ranged && said == Said::File { weak: true }),
        StatusCode::RANGE_NOT_SATISFIABLE => proven.is_some(),
        _ => true,
    }
}

/// Puts our tag in the place of the server's.
fn name(response: &mut Response<Body>, fitted: &Fitted, said: Said, proven: Option<Tag>) {
    let field = match (said, proven) {
        (Said::Nothing | Said::Other, _) => return,
        (Said::Ours(_) | Said::File { .. }, Some(_))
            if response.status() == StatusCode::NOT_MODIFIED && fitted.matched.is_some() =>
        {
            fitted.matched.clone()
        }
        (Said::Ours(_), _) => return,
        (Said::File { .. }, None) => None,
        (Said::File { weak: false }, Some(tag)) => Some(tag.field()),
        (Said::File { weak: true }, Some(tag)) => {
            let coding = response.headers().get(header::CONTENT_ENCODING);
            Some(tag.weak_field(coding.map(HeaderValue::as_bytes)))
        }
    };
    match field {
        Some(field) => response.headers_mut().insert(header::ETAG, field),
        None => response.headers_mut().remove(header::ETAG),
    };
}

/// A change's conditions, under its locks: what they hold for stays so until it has ended. `change`: as this
/// site's server is to hear of it.
///
/// # Errors
/// The answer if it may not be made.
pub async fn judged(
    site: &HttpSite,
    slot: usize,
    path: &RelPath,
    ticket: &mut Box<dyn HomeTicket>,
    conditions: &HeaderMap,
    change: &Parts,
) -> Result<(), Early> {
    let share = &site.slots[slot];
    for _ in 0..SETTLE_TRIES {
        let (fenced, file) = reach(share, path).await;
        let at = file.as_ref().map(|file| Current { stamp: file.stamp, tag: version(share, file) });
        match judge(conditions, fenced == Fenced::Inside, at.as_ref()) {
            Verdict::Holds => return Ok(()),
            Verdict::Fails => return Err(Box::new(failed(site, change).await)),
            Verdict::Unproven => {}
        }
        reconcile(share, ticket).await?;
    }
    Err(undecided(share))
}

async fn reconcile(share: &ShareHttp, ticket: &mut Box<dyn HomeTicket>) -> Result<(), Early> {
    match tokio::time::timeout(RECONCILE_MAX, ticket.reconcile()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(Box::new(answer::home_error(&share.share, &error))),
        Err(_) => return Err(undecided(share)),
    }
    // Too new for its stamp to prove anything: the next look will do.
    tokio::time::sleep(SETTLE).await;
    Ok(())
}

fn undecided(share: &ShareHttp) -> Early {
    let share = &share.share;
    let text = format!("{share}: the file is being changed; nothing was done; try again");
    Box::new(answer::retry(text))
}

/// What an If field says of our tags is found out here, and told in words that every server knows: no place
/// has a `DAV:no-lock` (RFC 4918 section 10.4.8). `ticket`: of a change, under whose locks it stays so. Says
/// whether there was any.
///
/// # Errors
/// The answer if that cannot be known.
pub async fn fit_if(
    share: &ShareHttp,
    classified: &mut Classified,
    mut ticket: Option<&mut Box<dyn HomeTicket>>,
) -> Result<bool, Early> {
    let mut any = false;
    let Some(mut field) = classified.place.as_mut().and_then(|place| place.conditions.take()) else {
        return Ok(false);
    };
    let own = classified.path();
    for List { place, conditions } in &mut field.lists {
        let at = place.as_ref().map_or(own, |(path, _)| path);
        let mut current = None;
        for condition in conditions {
            let State::Etag(tag) = &condition.state else { continue };
            let Some((named, _)) = EntityTag::parse(tag.as_bytes()).and_then(|tag| tag.ours()) else {
                continue;
            };
            let current = match current {
                Some(known) => known,
                None => *current.insert(proven(share, at, ticket.as_deref_mut()).await?),
            };
            condition.not ^= current == Some(named);
            condition.state = State::Token("DAV:no-lock".into());
            any = true;
        }
    }
    if let Some(place) = &mut classified.place {
        place.conditions = Some(field);
    }
    Ok(any)
}

/// The tag of the file that is there, if one is.
async fn proven(
    share: &ShareHttp,
    path: &RelPath,
    mut ticket: Option<&mut Box<dyn HomeTicket>>,
) -> Result<Option<Tag>, Early> {
    for _ in 0..SETTLE_TRIES {
        let Some(file) = reach(share, path).await.1 else { return Ok(None) };
        if let Some(tag) = version(share, &file) {
            return Ok(Some(tag));
        }
        match &mut ticket {
            Some(ticket) => reconcile(share, ticket).await?,
            None => tokio::time::sleep(SETTLE).await,
        }
    }
    Err(undecided(share))
}

/// Who may not look at what is there is told that instead (RFC 9110 section 13.2.1).
async fn failed(site: &HttpSite, change: &Parts) -> Response<Body> {
    let seen = site.upstream.clone().serve(near::instead(near::Asker::of(change), Method::HEAD)).await;
    match seen {
        Ok(seen) if matches!(seen.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            let mut refused = answer::text(seen.status(), "the file server refuses");
            let challenges = seen.headers().get_all(header::WWW_AUTHENTICATE);
            for challenge in challenges {
                refused.headers_mut().append(header::WWW_AUTHENTICATE, challenge.clone());
            }
            refused
        }
        _ => answer::text(StatusCode::PRECONDITION_FAILED, "a condition of the request does not hold"),
    }
}

/// For the tags in a multistatus of this site's server: those of files become ours. What is no file keeps
/// its own where the primary is.
pub fn tagger(site: &Arc<HttpSite>, slot: usize) -> Tagger {
    let site = site.clone();
    Tagger::new(move |url, tag| {
        if tag.ours().is_some() {
            return Getetag::Keep;
        }
        let share = &site.slots[slot];
        let path = url.and_then(|url| site.shares.url(slot).stay().apply(url));
        let located = path.map(|path| site.shares.locate(path.split(['?', '#']).next().unwrap_or("/")));
        let reached = match (located, &share.fence) {
            (Some(Ok(Located::Inside { slot: other, path, .. })), Some(fence)) if other == slot => {
                fence.reaches(&path, true)
            }
            _ => (Fenced::Outside, None),
        };
        match reached {
            // The server has just looked at it: what is not in memory any more is left out.
            (Fenced::Unknown, _) => Getetag::Drop,
            (_, Some(file)) if file.kind == Kind::File && tag.is_of(&file.stamp) => {
                version(share, &file).map_or(Getetag::Drop, |ours| {
                    Getetag::Say(if tag.weak { ours.weak_field(None) } else { ours.field() })
                })
            }
            _ if share.role() == Role::Local => Getetag::Keep,
            _ => Getetag::Drop,
        }
    })
}
