//! The locks of a share, where nearshare keeps them and not its server: the server hears of no lock, and of
//! a change only when the locks let it by. They are kept at the site with the primary copy, durably, and end
//! with their time; where the primary copy moves to they do not follow.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use quick_xml::escape::escape;

use super::answer::{self, Early};
use super::fair::Room;
use super::home::{Ahead, Ended};
use super::seam::{Fenced, Home, HomeTicket, LockRows, Outcome};
use super::{Caller, HttpSite, ShareHttp, Taken, near, tags};
use crate::body::{Body, CollectError, collect};
use crate::clock::{BootTime, Clock};
use crate::effect::Change;
use crate::id::{RelPath, ShareId};
use crate::wire::http::condition::{drop_judged, is_judged};
use crate::wire::http::lock::{self, Denied, Judged, Lock, Locks, Use};
use crate::wire::http::multistatus::Tell;
use crate::wire::http::xml::{self, LockInfo};
use crate::wire::http::{Classified, IfField, ShareUrl, SiteShares, Touches, depth, encode, propfind};
use crate::work;

/// Who keeps a share's locks.
#[derive(Clone)]
pub enum KeptBy {
    /// Whoever serves it.
    Server,
    /// nearshare, at another site.
    Elsewhere,
    Here(Arc<Keeper>),
}

impl KeptBy {
    pub fn here(&self) -> Option<&Arc<Keeper>> {
        match self {
            Self::Here(keeper) => Some(keeper),
            Self::Server | Self::Elsewhere => None,
        }
    }
}

/// Keeps the locks of one share.
pub struct Keeper {
    share: ShareId,
    table: Mutex<Locks>,
    rows: Arc<dyn LockRows>,
    clock: Arc<dyn Clock>,
}

impl Keeper {
    /// With those that an earlier run has left.
    pub fn new(share: ShareId, left: Vec<Lock>, rows: Arc<dyn LockRows>, clock: Arc<dyn Clock>) -> Self {
        let table = Mutex::new(Locks::new(left, clock.boot()));
        Self { share, table, rows, clock }
    }

    /// How many are in force.
    pub fn count(&self) -> usize {
        self.now().0.count()
    }

    /// Those that are in force, and the time that it is.
    fn now(&self) -> (MutexGuard<'_, Locks>, BootTime) {
        let now = self.clock.boot();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let over = table.expire(now);
        if !over.is_empty() {
            let (rows, share) = (self.rows.clone(), self.share.clone());
            drop(work::spawn(async move { forget(&share, &*rows, over).await }));
        }
        (table, now)
    }

    async fn grant(&self, lock: &Lock, url: &ShareUrl) -> Result<(), Early> {
        let granted = {
            let (mut table, now) = self.now();
            table.grant(lock.clone(), now)
        };
        match granted {
            Ok(()) => {}
            Err(Denied::Locked(other)) => return Err(locked(&other, "no-conflicting-lock", url)),
            Err(Denied::TooMany) => return Err(too_many(&self.share)),
        }
        let saved = self.rows.save(Some(lock), Vec::new()).await;
        if let Err(error) = saved {
            self.now().0.release(&lock.path, &lock.token);
            return Err(unsaved(&self.share, &error));
        }
        Ok(())
    }

    async fn release(&self, path: &RelPath, token: &str) -> Result<bool, Early> {
        let Some(lock) = self.now().0.release(path, token) else { return Ok(false) };
        let saved = self.rows.save(None, vec![token.to_owned()]).await;
        if let Err(error) = saved {
            let (mut table, now) = self.now();
            // It is there again, unless somebody else was faster.
            let _ = table.grant(lock, now);
            return Err(unsaved(&self.share, &error));
        }
        Ok(true)
    }

    /// What was at the place or below it is no more.
    pub async fn gone(&self, path: &RelPath) {
        let gone = self.now().0.gone(path);
        if !gone.is_empty() {
            forget(&self.share, &*self.rows, gone).await;
        }
    }

    /// What is left of an If field for the server to judge.
    fn judge(&self, field: &IfField, own: &RelPath) -> Result<Option<IfField>, Early> {
        match self.now().0.judge(field, own) {
            Judged::Holds => Ok(None),
            Judged::Rests(rest) => Ok(Some(rest)),
            Judged::Fails => {
                let text = "no list of the If field holds";
                Err(Box::new(answer::text(StatusCode::PRECONDITION_FAILED, text)))
            }
        }
    }

    /// What a multistatus is to say of locks at the URLs in it.
    pub fn tell(self: &Arc<Self>, shares: &SiteShares, slot: usize) -> Tell {
        let (keeper, shares) = (self.clone(), shares.clone());
        Tell::new(move |path| {
            let path = shares.inside(slot, path)?;
            let (table, now) = keeper.now();
            Some(table.discovery(&path, now, |path| written(shares.url(slot), path)))
        })
    }
}

/// Locks that are over go from the catalog. One that comes back after a crash lasts once more, and no longer.
async fn forget(share: &ShareId, rows: &dyn LockRows, over: Vec<String>) {
    let many = over.len();
    if let Err(error) = rows.save(None, over).await {
        tracing::warn!(
            %share,
            many,
            "locks that are over stay written down, and last once more after a restart: {error}"
        );
    }
}

fn unsaved(share: &ShareId, error: &str) -> Early {
    tracing::error!(
        %share,
        "what becomes of a lock cannot be written down, and is refused: {error}; make room in the state \
         directory, or see to its disk"
    );
    let text = format!(
        "the locks of {share} cannot be written down at the primary's site; nothing was changed; try again"
    );
    Box::new(answer::retry(text))
}

/// Waiting alone need not help (RFC 4918 section 11.5): who holds so many may hold them for as long as it likes.
fn too_many(share: &ShareId) -> Early {
    let most = lock::LOCKS_MAX;
    tracing::debug!(%share, most, "a lock is refused: there are as many as may be");
    let text = format!(
        "{share} has {most} locks, as many as there may be; nothing was locked: end locks that nobody needs \
         (UNLOCK), or let them run out, which takes an hour at most"
    );
    Box::new(answer::text(StatusCode::INSUFFICIENT_STORAGE, text))
}

fn written(url: &ShareUrl, path: &RelPath) -> String {
    escape(encode(url.encoded(), path, false)).into_owned()
}

fn locked(lock: &Lock, condition: &str, url: &ShareUrl) -> Early {
    let root = written(url, &lock.path);
    Box::new(xml_answer(StatusCode::LOCKED, lock::refused(&[&root], condition)))
}

fn xml_answer(status: StatusCode, xml: String) -> Response<Body> {
    let mut response = Response::new(Body::text(xml));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/xml; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A read that has an If field: whether it holds.
pub fn read(keeper: &Keeper, classified: &mut Classified, headers: &mut HeaderMap) -> Result<(), Early> {
    let own = classified.path().clone();
    let Some(place) = &mut classified.place else { return Ok(()) };
    if let Some(field) = place.conditions.take() {
        headers.remove("if");
        place.conditions = keeper.judge(&field, &own)?;
    }
    Ok(())
}

/// Whether a change whose turn it is may be made; of its If field is left what the server is to judge.
pub async fn admit(
    site: &HttpSite,
    slot: usize,
    keeper: &Keeper,
    classified: &Classified,
    request: &mut Request<Body>,
) -> Result<(), Early> {
    let uses = uses(&site.slots[slot], classified).await;
    let url = site.shares.url(slot);
    let field = classified.conditions();
    let rest = field.map(|field| keeper.judge(field, classified.path())).transpose()?.flatten();
    let tokens: Vec<&str> = field.iter().flat_map(|field| field.tokens()).collect();
    if let Some(lock) = keeper.now().0.bars(&uses, &tokens) {
        return Err(locked(lock, "lock-token-submitted", url));
    }
    request.headers_mut().remove("if");
    match rest {
        Some(rest) => near::write_if(request.headers_mut(), url, &rest),
        None => Ok(()),
    }
}

/// What a change needs to be let by locks.
async fn uses(share: &ShareHttp, classified: &Classified) -> Vec<Use> {
    let path = classified.path();
    let mut uses = match classified.row.touches {
        Touches::About => vec![Use::Entry(path.clone())],
        Touches::Entry if classified.row.name != "DELETE" => {
            let mut uses = vec![Use::Entry(path.clone())];
            if is_missing(share, path).await {
                uses.extend(Use::member(path));
            }
            uses
        }
        Touches::Copy => Vec::new(),
        _ => std::iter::once(Use::Tree(path.clone())).chain(Use::member(path)).collect(),
    };
    if let Some((to, _)) = classified.place.as_ref().and_then(|place| place.destination.as_ref()) {
        uses.push(Use::Tree(to.clone()));
        if classified.row.touches == Touches::Both || is_missing(share, to).await {
            uses.extend(Use::member(to));
        }
    }
    uses
}

async fn is_missing(share: &ShareHttp, path: &RelPath) -> bool {
    match &share.fence {
        Some(fence) => near::look(fence, path, true).await == Fenced::Missing,
        None => false,
    }
}

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
    pub fn new(taken: Taken) -> (Self, Body) {
        let Taken { site, slot, client, classified, parts, body, from, room } = taken;
        (Self { site, slot, client, classified, parts, from, room }, body)
    }
    fn share(&self) -> &ShareId {
        &self.site.slots[self.slot].share
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
pub async fn wish(taken: Taken) -> Result<(Asked, Wish), Early> {
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
    let info = xml::lockinfo(&xml).ok_or_else(|| bad("the body of a LOCK is a lockinfo (RFC 4918)"))?;
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
    let Wish::New { info, deep } = wish else { return not_begun(refresh(&asked, keeper).await) };
    let mut ticket = match home.begin(change, asked.from.as_ref()).await {
        Ok(ticket) => ticket,
        Err(error) => return not_begun(answer::home_error(share, &error)),
    };
    if let Err(early) = judge(&mut asked, &mut ticket).await {
        return Ended { response: *early, ahead: Ahead::Awaits(ticket.refused()) };
    }
    let made = begin(&asked, keeper, info, deep).await;
    let (created, response) = match made {
        Ok((lock, created)) => (created, granted(&asked, &lock, created)),
        Err(Fell::Refused(early)) => (false, *early),
        // Dropped without a word: whether the file was made is not known.
        Err(Fell::Doubt(early)) => return Ended { response: *early, ahead: Ahead::Unknown },
    };
    if !created {
        return Ended { response, ahead: Ahead::Awaits(ticket.refused()) };
    }
    match ticket.answered(Outcome::Done).await {
        Ok(awaits) => Ended { response, ahead: Ahead::Awaits(awaits) },
        Err(error) => Ended { response: answer::not_synced(share, &error), ahead: Ahead::Unknown },
    }
}

/// What a LOCK's conditions say of tags, while nobody else can change what is there.
async fn judge(asked: &mut Asked, ticket: &mut Box<dyn HomeTicket>) -> Result<(), Early> {
    tags::fit_if(&asked.site.slots[asked.slot], &mut asked.classified, Some(&mut *ticket)).await?;
    if is_judged(&asked.parts.headers, true) {
        let (parts, _) = instead(asked, Method::PUT)?.into_parts();
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
    let timeout = lock::timeout(&asked.parts.headers);
    let refreshed = {
        let (mut table, now) = keeper.now();
        table.refresh(asked.classified.path(), field.tokens(), timeout, now)
    };
    let Some(lock) = refreshed else {
        let text = "there is no lock here of a token in the If field";
        return answer::text(StatusCode::PRECONDITION_FAILED, text);
    };
    let mut saved = keeper.rows.save(Some(&lock), Vec::new()).await;
    if !keeper.now().0.holds(&lock.token) {
        // Somebody ended it meanwhile, perhaps before it was written down.
        saved = keeper.rows.save(None, vec![lock.token.clone()]).await;
    }
    match saved {
        Ok(()) => granted(asked, &lock, false),
        Err(error) => *unsaved(&keeper.share, &error),
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
    let (site, slot, path) = (&asked.site, asked.slot, asked.classified.path());
    let url = asked.url();
    let field = asked.conditions();
    field.map(|field| keeper.judge(field, path)).transpose()?;
    let missing = is_unmapped(asked).await?;
    if missing {
        let tokens: Vec<&str> = field.iter().flat_map(|field| field.tokens()).collect();
        let member: Vec<Use> = Use::member(path).into_iter().collect();
        if let Some(lock) = keeper.now().0.bars(&member, &tokens) {
            return Err(locked(lock, "lock-token-submitted", url).into());
        }
    }
    if missing
        && let Some((above, _)) = path.split_last()
        && is_missing(&site.slots[slot], &above).await
    {
        let text = "there is no collection that it would be in";
        return Err(Fell::Refused(Box::new(answer::text(StatusCode::CONFLICT, text))));
    }
    let timeout = lock::timeout(&asked.parts.headers);
    let LockInfo { shared, owner } = info;
    let lock = Lock { token: token(), path: path.clone(), deep, shared, owner, timeout };
    keeper.grant(&lock, url).await?;
    if missing {
        let put = near::ask(site, slot, true, instead(asked, Method::PUT)?).await;
        if put.as_ref().is_ok_and(|response| response.status().is_success()) {
            return Ok((lock, true));
        }
        keeper.release(path, &lock.token).await?;
        return Err(match put {
            Ok(response) => Fell::Refused(Box::new(response)),
            Err(error) if error.nothing_done() => {
                Fell::Refused(Box::new(answer::no_answer(&error, true)))
            }
            Err(error) => Fell::Doubt(Box::new(answer::no_answer(&error, true))),
        });
    }
    Ok((lock, false))
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

/// Another request for the same place by the same client.
fn instead(asked: &Asked, method: Method) -> Result<Request<Body>, Early> {
    let (mut parts, body) = near::instead(&asked.parts, method).into_parts();
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    if parts.method != Method::PUT {
        parts.headers.insert("depth", HeaderValue::from_static("0"));
    }
    let mut classified = asked.classified.clone();
    if let Some(place) = &mut classified.place {
        place.conditions = None;
    }
    let (site, room) = (asked.site.clone(), asked.room.clone());
    let Asked { slot, client, .. } = *asked;
    near::to_server(Taken { site, slot, client, classified, parts, body, from: None, room })
}

/// `urn:uuid:` and a random UUID (RFC 9562 section 5.4).
fn token() -> String {
    let mut bytes = [0; 16];
    work::random(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = super::forward::hex(&bytes);
    format!("urn:uuid:{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Ends a lock.
pub async fn unlock(asked: &Asked, keeper: &Keeper) -> Response<Body> {
    let field = asked.parts.headers.get("lock-token").and_then(|field| field.to_str().ok());
    let token = field.map(str::trim).and_then(|field| field.strip_prefix('<')?.strip_suffix('>'));
    let Some(token) = token else {
        return answer::text(StatusCode::BAD_REQUEST, "an UNLOCK names its lock: Lock-Token: <...>");
    };
    match keeper.release(asked.classified.path(), token).await {
        Ok(true) => {
            let mut response = Response::new(Body::Empty);
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Ok(false) => {
            let xml = lock::refused(&[], "lock-token-matches-request-uri");
            xml_answer(StatusCode::CONFLICT, xml)
        }
        Err(early) => *early,
    }
}
