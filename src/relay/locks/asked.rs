//! LOCK and UNLOCK, where nearshare keeps the locks: the server is asked who may, and makes the file that is
//! locked before it is there.

use std::net::SocketAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};

use super::places::{Places, is_missing, straight};
use super::{Admitted, Keeper, knows, locked, not_yours, written, xml_answer};
use crate::body::{Body, CollectError, collect};
use crate::effect::{Change, Depth};
use crate::id::{RelPath, ShareId};
use crate::relay::answer::{self, Early};
use crate::relay::fair::{Room, host};
use crate::relay::home::{Ahead, Ended, refuse, settle};
use crate::relay::seam::{Home, HomeTicket};
use crate::relay::{Caller, HttpSite, ShareHttp, Taken, forward, near, tags};
use crate::wire::http::condition::{drop_judged, is_judged};
use crate::wire::http::lock::{self, Barred, Lock, Maker, NotYours, Principal, Use};
use crate::wire::http::xml::{self, BadLock, LockInfo};
use crate::wire::http::{Classified, IfField, ShareUrl, depth, propfind};
use crate::work;

/// A LOCK or UNLOCK whose body has been read.
pub struct Asked {
    site: Arc<HttpSite>,
    slot: usize,
    client: SocketAddr,
    classified: Classified,
    parts: Parts,
    from: Option<Caller>,
    room: Arc<Room>,
}

impl Asked {
    /// And its body.
    pub fn new(taken: Box<Taken>) -> (Self, Body) {
        let Taken { site, slot, client, classified, parts, body, from, room } = *taken;
        (Self { site, slot, client, classified, parts, from, room }, body)
    }
    fn share(&self) -> &ShareId {
        &self.here().share
    }
    fn here(&self) -> &ShareHttp {
        &self.site.slots[self.slot]
    }
    fn who(&self) -> Option<Principal> {
        Principal::of(&self.parts.headers)
    }
    /// What is locked, or is to be.
    async fn place(&self) -> RelPath {
        straight(self.here(), self.classified.path(), true).await
    }
    fn url(&self) -> &ShareUrl {
        self.site.shares.url(self.slot)
    }
    fn conditions(&self) -> Option<&IfField> {
        self.classified.conditions()
    }
}

/// What a LOCK is for.
pub enum Wish {
    Refresh,
    New { info: LockInfo, deep: bool },
}

/// Reads a LOCK.
pub async fn wish(taken: Box<Taken>) -> Result<(Asked, Wish), Early> {
    let bad = |text: &str| Box::new(answer::text(StatusCode::BAD_REQUEST, text));
    let (asked, body) = Asked::new(taken);
    let xml = match collect(body, xml::BODY_MAX).await {
        Ok(xml) => xml,
        Err(error @ CollectError::TooLong { .. }) => {
            return Err(Box::new(answer::text(StatusCode::PAYLOAD_TOO_LARGE, error.to_string())));
        }
        Err(error) => return Err(bad(&error.to_string())),
    };
    if xml.trim_ascii().is_empty() {
        return Ok((asked, Wish::Refresh));
    }
    let info = xml::lockinfo(&xml).map_err(|error| match error {
        BadLock::NoLockInfo => bad(&error.to_string()),
        BadLock::LongOwner => Box::new(answer::text(StatusCode::PAYLOAD_TOO_LARGE, error.to_string())),
    })?;
    let deep = depth(&asked.parts.headers).ok().and_then(lock::deep);
    let deep = deep.ok_or_else(|| bad("the Depth field of a LOCK is 0 or infinity"))?;
    Ok((asked, Wish::New { info, deep }))
}

/// Locks what is there, or a file that is made.
pub async fn lock(
    mut asked: Asked,
    wish: Wish,
    keeper: &Keeper,
    home: &Arc<dyn Home>,
    change: &Change,
) -> Ended {
    let share = &asked.share().clone();
    let not_begun = |response| Ended { response, ahead: Ahead::NotBegun };
    let Wish::New { info, deep } = wish else {
        return not_begun(match home.stay().await {
            Ok(_stays) => refresh(&asked, keeper).await,
            Err(error) => answer::home_error(share, &error),
        });
    };
    let mut ticket = match home.begin(change, asked.from.as_ref()).await {
        Ok(ticket) => ticket,
        Err(error) => return not_begun(answer::home_error(share, &error)),
    };
    if let Err(early) = judge(&mut asked, &mut ticket).await {
        return refuse(ticket, share, *early, Depth::Object).await;
    }
    let made = begin(&asked, keeper, info, deep).await;
    let (put, response) = match made {
        Ok((lock, created)) => (created.then_some(StatusCode::CREATED), granted(&asked, &lock, created)),
        Err(Fell::Refused(early)) => (None, *early),
        Err(Fell::Answered(status, early)) => (Some(status), *early),
        // Dropped without a word: whether the file was made is not known.
        Err(Fell::Doubt(early)) => return Ended { response: *early, ahead: Ahead::Unknown },
    };
    let Some(status) = put else {
        return refuse(ticket, share, response, Depth::Object).await;
    };
    settle(ticket, share, status, response, Depth::Object).await
}

/// What a LOCK's conditions say of tags, while nobody else can change what is there.
async fn judge(asked: &mut Asked, ticket: &mut Box<dyn HomeTicket>) -> Result<(), Early> {
    tags::fit_if(&asked.site.slots[asked.slot], &mut asked.classified, Some(&mut *ticket)).await?;
    if is_judged(&asked.parts.headers, true) {
        let (parts, _) = instead(asked, Method::HEAD)?.into_parts();
        let (path, conditions) = (asked.classified.path(), &asked.parts.headers);
        tags::judged(&asked.site, asked.slot, path, ticket, conditions, &parts).await?;
        drop_judged(&mut asked.parts.headers);
    }
    Ok(())
}

async fn refresh(asked: &Asked, keeper: &Keeper) -> Response<Body> {
    let field = asked.conditions();
    let Some(field) = field else {
        let text = "a LOCK without a body refreshes the lock that its If field names, and it has none";
        return answer::text(StatusCode::BAD_REQUEST, text);
    };
    if let Err(early) = permitted(asked).await {
        return *early;
    }
    let place = asked.place().await;
    let timeout = lock::timeout(&asked.parts.headers);
    let refreshed = match keeper.refresh(&place, field.tokens(), timeout, asked.who()).await {
        Ok(refreshed) => refreshed,
        Err(early) => return *early,
    };
    match refreshed {
        Ok(lock) => granted(asked, &lock, false),
        Err(NotYours::Others) => *not_yours(),
        Err(NotYours::Missing) => {
            let text = "there is no lock here of a token in the If field";
            answer::text(StatusCode::PRECONDITION_FAILED, text)
        }
    }
}

fn granted(asked: &Asked, lock: &Lock, created: bool) -> Response<Body> {
    let url = asked.url();
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = xml_answer(status, lock::granted(lock, |path| written(url, path)));
    if let Ok(token) = HeaderValue::try_from(format!("<{}>", lock.token)) {
        response.headers_mut().insert("lock-token", token);
    }
    response
}

/// Why there is no lock.
enum Fell {
    Refused(Early),
    /// The server did not make its file, and said so with this status.
    Answered(StatusCode, Early),
    /// The server may have made a file for it.
    Doubt(Early),
}

impl From<Early> for Fell {
    fn from(early: Early) -> Self {
        Self::Refused(early)
    }
}

/// The lock, and whether a file was made for it.
async fn begin(
    asked: &Asked,
    keeper: &Keeper,
    info: LockInfo,
    deep: bool,
) -> Result<(Lock, bool), Fell> {
    let (share, url, own) = (asked.share(), asked.url(), asked.classified.path());
    let field = asked.conditions();
    let places = Places::look(asked.here(), keeper, field, own).await;
    field.map(|field| keeper.judge(field, own, &places)).transpose()?;
    let missing = is_unmapped(asked).await?;
    let place = asked.place().await;
    let put = match missing {
        true => Some((may_be_made(asked, keeper, &place).await?, instead(asked, Method::PUT)?)),
        false => None,
    };
    if put.is_none() {
        // Who may only read must not keep the others from writing.
        known(asked).await?;
    }
    let timeout = lock::timeout(&asked.parts.headers);
    let LockInfo { shared, owner } = info;
    let maker = Maker { principal: asked.who(), client: Some(host(asked.client.ip())) };
    let lock = Lock { token: token(), path: place, deep, shared, owner, timeout, maker };
    if keeper.grant(&lock, url).await?
        && let Err(early) = is_still(asked, missing).await
    {
        keeper.take_back(&lock.token).await;
        return Err(early.into());
    }
    let Some((_admitted, put)) = put else { return Ok((lock, false)) };
    let put = near::ask(&asked.site, asked.slot, true, put).await;
    if put.as_ref().is_ok_and(|response| response.status().is_success()) {
        return Ok((lock, true));
    }
    keeper.take_back(&lock.token).await;
    Err(match put {
        Ok(response) => match response.status() {
            status @ StatusCode::PRECONDITION_FAILED => Fell::Answered(status, changed(share)),
            status => Fell::Answered(status, Box::new(response)),
        },
        Err(error) if error.nothing_done() => Fell::Refused(Box::new(answer::no_answer(&error, true))),
        Err(error) => Fell::Doubt(Box::new(answer::no_answer(&error, true))),
    })
}

/// After a wait: what was there or not may have been made, or removed, and who might change it may do so no more.
async fn is_still(asked: &Asked, missing: bool) -> Result<(), Early> {
    if is_unmapped(asked).await? != missing {
        return Err(changed(asked.share()));
    }
    // The server says it of a file that is to be made when it makes it.
    if missing { Ok(()) } else { known(asked).await }
}

fn changed(share: &ShareId) -> Early {
    let text = "something has just appeared there, or gone; nothing was done; try again";
    Box::new(answer::retry(format!("{share}: {text}")))
}

/// Whether a file may appear at the place: its collection is there, and locks let it by. To be held until it has.
async fn may_be_made(asked: &Asked, keeper: &Keeper, place: &RelPath) -> Result<Admitted, Early> {
    let tokens: Vec<&str> = asked.conditions().iter().flat_map(|field| field.tokens()).collect();
    let member: Vec<Use> = Use::member(place).into_iter().collect();
    let admitted = match keeper.admit(member, &tokens, asked.who()) {
        Ok(admitted) => admitted,
        Err(Barred::Locked(lock)) => return Err(locked(&lock, "lock-token-submitted", asked.url())),
        Err(Barred::NotYours) => {
            known(asked).await?;
            return Err(not_yours());
        }
    };
    match place.split_last() {
        Some((above, _)) if is_missing(asked.here(), &above).await => {
            let text = "there is no collection that it would be in";
            Err(Box::new(answer::text(StatusCode::CONFLICT, text)))
        }
        _ => Ok(admitted),
    }
}

/// Whether the server takes who asks for somebody who may change something.
async fn known(asked: &Asked) -> Result<(), Early> {
    let (parts, _) = instead(asked, Method::HEAD)?.into_parts();
    knows(&asked.site, asked.slot, &asked.parts.method, near::Asker::of(&parts)).await
}

/// Whether the server lets who asks change locks: it is not told of them, but knows who may be there.
async fn permitted(asked: &Asked) -> Result<(), Early> {
    known(asked).await?;
    is_unmapped(asked).await.map(drop)
}

/// Whether nothing is there, by the server's word: it says as well who may look.
async fn is_unmapped(asked: &Asked) -> Result<bool, Early> {
    let (site, slot) = (&asked.site, asked.slot);
    let find = instead(asked, propfind())?;
    let response = near::ask(site, slot, true, find)
        .await
        .map_err(|error| Box::new(answer::no_answer(&error, false)))?;
    match response.status() {
        StatusCode::NOT_FOUND => Ok(true),
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
            Ok(is_missing(&site.slots[slot], asked.classified.path()).await)
        }
        status if status.is_success() => Ok(false),
        _ => Err(Box::new(response)),
    }
}

/// Another request for the same place by the same client. A PUT makes a file and never empties one: somebody else
/// may just have made it.
fn instead(asked: &Asked, method: Method) -> Result<Request<Body>, Early> {
    let (mut parts, body) = near::instead(near::Asker::of(&asked.parts), method).into_parts();
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    if parts.method == Method::PUT {
        parts.headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
    } else {
        parts.headers.insert("depth", HeaderValue::from_static("0"));
    }
    let mut classified = asked.classified.clone();
    if let Some(place) = &mut classified.place {
        place.conditions = None;
    }
    let (site, room) = (asked.site.clone(), asked.room.clone());
    let Asked { slot, client, .. } = *asked;
    near::to_server(Box::new(Taken { site, slot, client, classified, parts, body, from: None, room }))
}

/// `urn:uuid:` and a random UUID (RFC 9562 section 5.4).
pub fn token() -> String {
    let mut bytes = [0; 16];
    work::random(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = forward::hex(&bytes);
    format!("urn:uuid:{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Ends a lock.
pub async fn unlock(asked: &Asked, keeper: &Keeper) -> Response<Body> {
    let field = asked.parts.headers.get("lock-token").and_then(|field| field.to_str().ok());
    let token = field.map(str::trim).and_then(|field| field.strip_prefix('<')?.strip_suffix('>'));
    let Some(token) = token else {
        return answer::text(StatusCode::BAD_REQUEST, "an UNLOCK names its lock: Lock-Token: <...>");
    };
    if let Err(early) = permitted(asked).await {
        return *early;
    }
    match keeper.release(&asked.place().await, token, asked.who()).await {
        Ok(Ok(())) => {
            let mut response = Response::new(Body::Empty);
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        // RFC 4918 section 9.11.1.
        Ok(Err(NotYours::Others)) => *not_yours(),
        Ok(Err(NotYours::Missing)) => {
            let xml = lock::refused(&[], "lock-token-matches-request-uri");
            xml_answer(StatusCode::CONFLICT, xml)
        }
        Err(early) => *early,
    }
}
