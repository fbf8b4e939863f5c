//! The locks of a share, where nearshare keeps them and not its server: the server hears of no lock, and of
//! a change only when the locks let it by. They are kept at the site with the primary copy, durably, and end
//! with their time. When the primary copy is handed over they go along (`serve::lead`).

mod asked;
mod places;
mod under_way;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use quick_xml::escape::escape;

pub use self::asked::{Asked, lock, unlock, wish};
pub use self::places::straight;
use self::places::{Places, uses};
pub use self::under_way::Admitted;
use self::under_way::{Ends, UnderWay};
use super::answer::{self, Early};
use super::near::Asker;
use super::seam::{Fence, LockRows};
use super::{HttpSite, ShareHttp, near};
use crate::body::Body;
use crate::clock::{BootTime, Clock};
use crate::hash::HashSet;
use crate::id::{RelPath, ShareId};
use crate::server::ServerError;
use crate::wire::http::lock::{
    self, Barred, Denied, Judged, Lock, Locks, NotYours, OWNERS_MAX, Principal, Use,
};
use crate::wire::http::multistatus::Tell;
use crate::wire::http::{self as wire, Classified, IfField, ShareUrl, SiteShares, encode};
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
    table: Arc<Mutex<Table>>,
    under_way: UnderWay,
    rows: Arc<dyn LockRows>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Table {
    locks: Locks,
    /// Tokens of locks that are over and may be written down still. They are put out with whatever is written
    /// next: after a crash none bars who has taken its place. Every lock that is given empties this.
    over: HashSet<String>,
}

/// How long a LOCK waits for changes that were let by before it: most have ended by then, and a client waits
/// longer for an answer.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// Why a lock has ended before anybody was told of it.
const ENDED: &str = "something there has just been removed or moved, or its time is over";

impl Keeper {
    /// With those that an earlier run has left.
    pub fn new(share: ShareId, left: Vec<Lock>, rows: Arc<dyn LockRows>, clock: Arc<dyn Clock>) -> Self {
        let table = Table { locks: Locks::new(left, clock.boot()), over: HashSet::default() };
        let table = Arc::new(Mutex::new(table));
        Self { share, table, under_way: UnderWay::default(), rows, clock }
    }

    /// How many are in force.
    pub fn count(&self) -> usize {
        self.now().0.locks.count()
    }

    /// Those that are in force.
    pub fn all(&self) -> Vec<Lock> {
        self.now().0.locks.all()
    }

    /// Those that are in force, and the time that it is.
    fn now(&self) -> (MutexGuard<'_, Table>, BootTime) {
        let now = self.clock.boot();
        let mut table = held(&self.table);
        let over = table.locks.expire(now);
        if !over.is_empty() {
            table.over.extend(over);
            let (table, rows, share) = (self.table.clone(), self.rows.clone(), self.share.clone());
            drop(work::spawn(async move { forget(&share, &table, &*rows).await }));
        }
        (table, now)
    }

    async fn save(&self, put: Option<&Lock>) -> Result<(), String> {
        save(&self.table, &*self.rows, put).await
    }

    /// Lets a change by, unless a lock bars it: one that is granted from now on waits for it.
    fn admit(
        &self,
        uses: Vec<Use>,
        tokens: &[&str],
        who: Option<Principal>,
    ) -> Result<Admitted, Barred> {
        let (table, _) = self.now();
        match table.locks.bars(&uses, tokens, who) {
            Some(barred) => Err(barred),
            None => Ok(self.under_way.begin(uses)),
        }
    }

    /// Says whether it had to wait: what is at the place may have changed meanwhile.
    async fn grant(&self, lock: &Lock, url: &ShareUrl) -> Result<bool, Early> {
        let (granted, before) = {
            let (mut table, now) = self.now();
            (table.locks.grant(lock.clone(), now), self.under_way.barred_by(lock))
        };
        match granted {
            Ok(()) => {}
            Err(Denied::Locked(other)) => return Err(locked(&other, "no-conflicting-lock", url)),
            Err(denied) => return Err(too_many(&self.share, &denied)),
        }
        let waits = !before.is_empty();
        if waits {
            self.wait(lock, before).await?;
        }
        let (is_there, saved) = self.write(lock).await;
        if let Err(error) = saved {
            self.now().0.locks.take(&lock.token);
            return Err(unsaved(&self.share, &error));
        }
        if is_there { Ok(waits) } else { Err(self.not_locked(ENDED)) }
    }

    fn not_locked(&self, why: &str) -> Early {
        Box::new(answer::retry(format!("{}: {why}; nothing was locked; try again", self.share)))
    }

    /// Writes a lock down, and says whether it is there still: it may have ended meanwhile, perhaps before it was
    /// written down, and is put out again then.
    async fn write(&self, lock: &Lock) -> (bool, Result<(), String>) {
        let mut saved = self.save(Some(lock)).await;
        let is_there = {
            let (mut table, _) = self.now();
            let is_there = table.locks.holds(&lock.token);
            table.over.extend((!is_there).then(|| lock.token.clone()));
            is_there
        };
        if !is_there {
            saved = self.save(None).await;
        }
        (is_there, saved)
    }

    /// For changes that were let by before the lock; its time begins when they have ended.
    async fn wait(&self, lock: &Lock, before: Vec<Ends>) -> Result<(), Early> {
        let ended = tokio::time::timeout(PATIENCE, under_way::ended(before)).await;
        let (mut table, now) = self.now();
        let (path, token) = (&lock.path, lock.token.as_str());
        let is_there =
            table.locks.refresh(path, [token], lock.timeout, lock.maker.principal, now).is_ok();
        if ended.is_ok() && is_there {
            return Ok(());
        }
        table.locks.take(token);
        let why = match ended {
            Ok(()) => ENDED.to_owned(),
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                format!(
                    "changes of what it would be on began before it and have not ended in {seconds} s"
                )
            }
        };
        Err(self.not_locked(&why))
    }

    /// Ends one that is `who`'s.
    async fn release(
        &self,
        path: &RelPath,
        token: &str,
        who: Option<Principal>,
    ) -> Result<Result<(), NotYours>, Early> {
        let released = {
            let (mut table, _) = self.now();
            let released = table.locks.release(path, token, who);
            table.over.extend(released.is_ok().then(|| token.to_owned()));
            released
        };
        let lock = match released {
            Ok(lock) => lock,
            Err(why) => return Ok(Err(why)),
        };
        if let Err(error) = self.save(None).await {
            let (mut table, now) = self.now();
            // It is there again, unless somebody else was faster.
            if table.locks.grant(lock, now).is_ok() {
                table.over.remove(token);
            }
            return Err(unsaved(&self.share, &error));
        }
        Ok(Ok(()))
    }

    /// Ends one that nobody has been told of, and that nobody misses.
    async fn take_back(&self, token: &str) {
        {
            let (mut table, _) = self.now();
            table.locks.take(token);
            table.over.insert(token.to_owned());
        }
        forget(&self.share, &self.table, &*self.rows).await;
    }

    /// Gives the first lock of `tokens` that covers the place and is `who`'s its time anew.
    async fn refresh(
        &self,
        path: &RelPath,
        tokens: impl Iterator<Item = &str>,
        timeout: Duration,
        who: Option<Principal>,
    ) -> Result<Result<Lock, NotYours>, Early> {
        let refreshed = {
            let (mut table, now) = self.now();
            table.locks.refresh(path, tokens, timeout, who, now)
        };
        let lock = match refreshed {
            Ok(lock) => lock,
            Err(why) => return Ok(Err(why)),
        };
        match self.write(&lock).await {
            (_, Err(error)) => Err(unsaved(&self.share, &error)),
            // It has ended while it was written.
            (false, Ok(())) => Ok(Err(NotYours::Missing)),
            (true, Ok(())) => Ok(Ok(lock)),
        }
    }

    /// Nobody has to know where paths lead while there is no lock.
    fn has_any(&self) -> bool {
        self.count() > 0
    }

    /// What was at the place or below it is no more.
    pub async fn gone(&self, share: &ShareHttp, path: &RelPath) {
        if !self.has_any() {
            return;
        }
        // What it was is not there to be followed.
        let place = straight(share, path, false).await;
        let any = {
            let (mut table, _) = self.now();
            let gone = table.locks.gone(&place);
            let any = !gone.is_empty();
            table.over.extend(gone);
            any
        };
        if any {
            forget(&self.share, &self.table, &*self.rows).await;
        }
    }

    /// What is left of an If field for the server to judge.
    fn judge(&self, field: &IfField, own: &RelPath, places: &Places) -> Result<Option<IfField>, Early> {
        match self.now().0.locks.judge(field, own, |path| places.of(path)) {
            Judged::Holds => Ok(None),
            Judged::Rests(rest) => Ok(Some(rest)),
            Judged::Fails => {
                let text = "no list of the If field holds";
                Err(Box::new(answer::text(StatusCode::PRECONDITION_FAILED, text)))
            }
        }
    }

    /// What a multistatus is to say of locks at the URLs in it.
    pub fn tell(
        self: &Arc<Self>,
        shares: &SiteShares,
        slot: usize,
        fence: Option<Arc<dyn Fence>>,
    ) -> Tell {
        let (keeper, shares) = (self.clone(), shares.clone());
        let owners = AtomicUsize::new(OWNERS_MAX);
        Tell::new(move |path| {
            let path = shares.inside(slot, path)?;
            if !keeper.has_any() {
                return Some(String::new());
            }
            // The server has just looked at it: the kernel has it in memory.
            let place = fence.as_ref().and_then(|fence| fence.straight(&path, true)).unwrap_or(path);
            let (table, now) = keeper.now();
            let mut left = owners.load(Ordering::Relaxed);
            let told =
                table.locks.discovery(&place, now, &mut left, |path| written(shares.url(slot), path));
            owners.store(left, Ordering::Relaxed);
            Some(told)
        })
    }
}

fn held(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a lock down, and that others are over.
async fn save(table: &Mutex<Table>, rows: &dyn LockRows, put: Option<&Lock>) -> Result<(), String> {
    // What is written down is taken out again by a write of its own, if it has ended meanwhile.
    let is_other = |token: &&String| put.is_none_or(|lock| lock.token != **token);
    let over: Vec<String> = held(table).over.iter().filter(is_other).cloned().collect();
    if put.is_none() && over.is_empty() {
        // It went with another.
        return Ok(());
    }
    rows.save(put, over.clone()).await?;
    let mut table = held(table);
    for token in &over {
        table.over.remove(token);
    }
    Ok(())
}

/// Locks that are over go from the catalog. One that comes back after a crash lasts once more, and no longer.
async fn forget(share: &ShareId, table: &Mutex<Table>, rows: &dyn LockRows) {
    if let Err(error) = save(table, rows, None).await {
        let many = held(table).over.len();
        tracing::warn!(
            %share,
            many,
            "locks that are over stay written down, and last once more after a restart: {error}"
        );
    }
}

fn too_many(share: &ShareId, denied: &Denied) -> Early {
    let client = lock::CLIENT_MAX;
    tracing::debug!(%share, "a lock is refused: there are as many as may be");
    Box::new(match denied {
        Denied::TooManyOfClient => answer::text(
            StatusCode::FORBIDDEN,
            format!(
                "this client has {client} locks in {share}, as many as it may: it must end some first"
            ),
        ),
        // Waiting alone need not help (RFC 4918 section 11.5): who holds so many may hold them for as long as it
        // likes.
        Denied::TooManyHere => answer::text(
            StatusCode::INSUFFICIENT_STORAGE,
            format!(
                "something there is under {} shared locks, as many as may be; nothing was locked: end locks \
                 that nobody needs (UNLOCK), or let them run out, which takes an hour at most",
                lock::SHARED_MAX
            ),
        ),
        Denied::TooMany | Denied::Locked(_) => answer::text(
            StatusCode::INSUFFICIENT_STORAGE,
            format!(
                "{share} has {} locks, as many as there may be; nothing was locked: end locks that nobody \
                 needs (UNLOCK), or let them run out, which takes an hour at most",
                lock::LOCKS_MAX
            ),
        ),
    })
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
pub async fn read(
    share: &ShareHttp,
    keeper: &Keeper,
    classified: &mut Classified,
    headers: &mut HeaderMap,
) -> Result<(), Early> {
    let own = classified.path().clone();
    let Some(place) = &mut classified.place else { return Ok(()) };
    if let Some(field) = place.conditions.take() {
        headers.remove("if");
        let places = Places::look(share, keeper, Some(&field), &own).await;
        place.conditions = keeper.judge(&field, &own, &places)?;
    }
    Ok(())
}

/// Whether a change whose turn it is may be made; of its If field is left what the server is to judge. To be held
/// until the change has ended.
pub async fn admit(
    site: &Arc<HttpSite>,
    slot: usize,
    keeper: &Keeper,
    classified: &Classified,
    request: &mut Request<Body>,
) -> Result<Admitted, Early> {
    let (share, url, own) = (&site.slots[slot], site.shares.url(slot), classified.path());
    let field = classified.conditions();
    let places = Places::look(share, keeper, field, own).await;
    let rest = field.map(|field| keeper.judge(field, own, &places)).transpose()?.flatten();
    // Also while there is no lock: who gets one must know what it has to wait for.
    let uses = uses(share, classified).await;
    let tokens: Vec<&str> = field.iter().flat_map(|field| field.tokens()).collect();
    let admitted = match keeper.admit(uses, &tokens, Principal::of(request.headers())) {
        Ok(admitted) => admitted,
        Err(Barred::Locked(lock)) => return Err(locked(&lock, "lock-token-submitted", url)),
        Err(Barred::NotYours) => {
            let (headers, uri, extensions) = (request.headers(), request.uri(), request.extensions());
            knows(site, slot, request.method(), Asker { headers, uri, extensions }).await?;
            return Err(not_yours());
        }
    };
    request.headers_mut().remove("if");
    if let Some(rest) = rest {
        near::write_if(request.headers_mut(), url, &rest)?;
    }
    Ok(admitted)
}

/// RFC 4918 section 6.4: a token is of use to who made the lock.
fn not_yours() -> Early {
    let text = "somebody else has made the lock of this token; nothing was done";
    Box::new(answer::text(StatusCode::FORBIDDEN, text))
}

/// Whether the server lets who asks change anything there. `method`: what his credentials came with.
///
/// # Errors
/// Its challenge, for who is to try again with credentials, or its refusal.
async fn knows(
    site: &Arc<HttpSite>,
    slot: usize,
    method: &Method,
    asker: Asker<'_>,
) -> Result<(), Early> {
    let ask = |asker, method| near::ask(site, slot, true, question(asker, method));
    let (unlock, lock) = (wire::unlock(), wire::lock_method());
    if *method == unlock || !Principal::is_proven_for_one_method(asker.headers) {
        return may(ask(asker, unlock).await);
    }
    if *method != lock {
        // Of a change that is refused in any case, and whose proof fits no question.
        return Ok(());
    }
    let mut nobody = asker.headers.clone();
    nobody.remove(header::AUTHORIZATION);
    let nobody = Asker { headers: &nobody, ..asker };
    let Err(challenge) = may(ask(nobody, unlock).await) else { return Ok(()) };
    // A question that anybody may ask proves nothing.
    match may(ask(nobody, lock.clone()).await) {
        Ok(()) => Err(challenge),
        Err(_) => may(ask(asker, lock).await),
    }
}

/// What changes nothing whoever asks it: to end a lock that the server cannot have, or to refresh one, and with a
/// depth that no LOCK has, so that none is made where that is taken for a new one.
fn question(asker: Asker<'_>, method: Method) -> Request<Body> {
    let mut question = near::instead(asker, method);
    let nobodys = asked::token();
    let (name, field) = match question.method() == wire::unlock() {
        true => ("lock-token", format!("<{nobodys}>")),
        false => ("if", format!("(<{nobodys}>)")),
    };
    let fields = question.headers_mut();
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    if let Ok(field) = HeaderValue::try_from(field) {
        fields.insert(name, field);
    }
    if name == "if" {
        fields.insert("depth", HeaderValue::from_static("1"));
    }
    question
}

/// What the server's answer to a question says of who asked. 403 is for somebody whom it knows and who may not
/// (RFC 9110 section 15.5.4): nginx and Apache answer who may with 405 or 400, others with 409, 412 or 501.
fn may(answer: Result<Response<Body>, ServerError>) -> Result<(), Early> {
    match answer {
        Ok(response)
            if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) =>
        {
            Err(Box::new(response))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(Box::new(answer::no_answer(&error, false))),
    }
}
