//! The lines between sites: what `link` makes of TLS and HTTP/2, as queues that keep their order, take
//! their time, and may stop in one direction or both. What is in a queue when a line breaks is lost to
//! the side that knows of it; the other side may go on hearing for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::clock::note;
use super::split::Takeover;
use crate::body::{Body, BoxError};
use crate::id::{ShareId, SiteId};
use crate::link::{self, Caller, Class, Inbound, Remote, SendError, Session, Up};
use crate::work::single::{Group, outside, pick};

/// A line on which nothing comes is given up after this, plus up to as much again.
pub const SILENCE: Duration = Duration::from_secs(3);

#[derive(Clone)]
pub struct Net(Arc<Inner>);

struct Inner {
    silence: Duration,
    ports: Mutex<BTreeMap<SiteId, Port>>,
    /// How often each way is blocked.
    blocked: Mutex<BTreeMap<(SiteId, SiteId), u32>>,
    changed: Notify,
    sessions: AtomicU64,
    /// The newest epoch in which a site leads.
    epoch: AtomicU32,
    /// The newest that each site has heard of.
    heard_of: Mutex<BTreeMap<SiteId, u32>>,
    /// Those that came to lead, in their order.
    takeovers: Mutex<Vec<Takeover>>,
    /// When each site last had a line to another, as it knows; none while it has one.
    down: Mutex<BTreeMap<(SiteId, SiteId), Option<Instant>>>,
    /// When a line last came back, and how long it had been away.
    ended: Mutex<BTreeMap<(SiteId, SiteId), (Instant, Duration)>>,
    /// What each site's map makes of the share, and what one last heard of another's.
    maps: Mutex<BTreeMap<SiteId, [u8; 32]>>,
    heard: Mutex<BTreeMap<(SiteId, SiteId), [u8; 32]>>,
}

/// A running site.
struct Port {
    group: Arc<Group>,
    inbound: Arc<dyn Inbound>,
    /// Those who dialled it, and the first session of each.
    lines: BTreeMap<SiteId, Arc<Line>>,
    first: BTreeMap<SiteId, Session>,
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn millis(from: u64, below: u64) -> Duration {
    Duration::from_millis(from + pick(below - from))
}

impl Net {
    pub fn new(silence: Duration) -> Self {
        Self(Arc::new(Inner {
            silence,
            ports: Mutex::default(),
            blocked: Mutex::default(),
            changed: Notify::new(),
            sessions: AtomicU64::new(0),
            epoch: AtomicU32::new(0),
            heard_of: Mutex::default(),
            takeovers: Mutex::default(),
            down: Mutex::default(),
            ended: Mutex::default(),
            maps: Mutex::default(),
            heard: Mutex::default(),
        }))
    }

    /// A site listens, and dials nobody yet.
    pub fn open(&self, site: &SiteId, group: &Arc<Group>, inbound: Arc<dyn Inbound>) -> Arc<Dialled> {
        let (lines, first) = (BTreeMap::new(), BTreeMap::new());
        let port = Port { group: group.clone(), inbound, lines, first };
        lock(&self.0.ports).insert(site.clone(), port);
        let (net, from, group) = (self.clone(), site.clone(), group.clone());
        Arc::new(Dialled { net, from, group, pairs: Mutex::default() })
    }

    /// A site leads; with what, if it is the first to do so in this epoch.
    pub fn leads(&self, epoch: u32, with: impl FnOnce() -> Takeover) {
        if self.0.epoch.fetch_max(epoch, Ordering::SeqCst) < epoch && epoch > 1 {
            lock(&self.0.takeovers).push(with());
        }
    }
    pub fn takeovers(&self) -> Vec<Takeover> {
        std::mem::take(&mut lock(&self.0.takeovers))
    }
    pub fn epoch(&self) -> u32 {
        self.0.epoch.load(Ordering::SeqCst)
    }

    /// Says whether this site has heard of no newer epoch (R33).
    pub fn hears_of(&self, site: &SiteId, epoch: u32) -> bool {
        let mut all = lock(&self.0.heard_of);
        let newest = all.entry(site.clone()).or_default();
        *newest = epoch.max(*newest);
        *newest == epoch
    }

    /// A site's map makes this of the share from now on.
    pub fn says(&self, site: &SiteId, digest: [u8; 32]) {
        lock(&self.0.maps).insert(site.clone(), digest);
    }
    /// Two sites say hello: each hears of the other's map.
    fn greet(&self, one: &SiteId, other: &SiteId) {
        let maps = lock(&self.0.maps);
        for (who, whom) in [(one, other), (other, one)] {
            if let Some(digest) = maps.get(whom) {
                lock(&self.0.heard).insert((who.clone(), whom.clone()), *digest);
            }
        }
    }
    fn disagree(&self, who: &SiteId, whom: &SiteId) -> bool {
        let heard = lock(&self.0.heard).get(&(who.clone(), whom.clone())).copied();
        heard.is_some_and(|heard| lock(&self.0.maps).get(who) != Some(&heard))
    }

    /// Its process has ended.
    pub fn close(&self, site: &SiteId) {
        lock(&self.0.heard).retain(|(who, _), _| who != site);
        let mut ports = lock(&self.0.ports);
        if let Some(port) = ports.remove(site) {
            port.lines.values().for_each(|line| line.far.cancel());
        }
        for port in ports.values_mut() {
            if let Some(line) = port.lines.get(site) {
                line.near.cancel();
                line.end_far();
            }
        }
    }

    pub fn set_blocked(&self, from: &SiteId, to: &SiteId, blocked: bool) {
        let pair = (from.clone(), to.clone());
        let mut times = lock(&self.0.blocked);
        let of_pair = times.entry(pair).or_default();
        *of_pair = if blocked { *of_pair + 1 } else { of_pair.saturating_sub(1) };
        drop(times);
        self.0.changed.notify_waiters();
    }
    pub fn heal(&self) {
        lock(&self.0.blocked).clear();
        self.0.changed.notify_waiters();
    }

    /// Breaks the line that a site dialled.
    pub fn reset(&self, site: &SiteId) {
        for port in lock(&self.0.ports).values() {
            if let Some(line) = port.lines.get(site) {
                line.near.cancel();
                line.end_far();
            }
        }
    }

    /// How long a site has known that it has no line to another.
    pub fn down_for(&self, from: &SiteId, to: &SiteId) -> Duration {
        let down = lock(&self.0.down).get(&(from.clone(), to.clone())).copied().flatten();
        down.map_or(Duration::ZERO, |since| since.elapsed())
    }
    /// As [`Self::down_for`]; or how long it had been so when the line came back, if that was after `called`.
    pub fn down_lately(&self, from: &SiteId, to: &SiteId, called: Instant) -> Duration {
        let ended = lock(&self.0.ended).get(&(from.clone(), to.clone())).copied();
        let lasted = ended.filter(|(back, _)| *back >= called).map(|(_, lasted)| lasted);
        self.down_for(from, to).max(lasted.unwrap_or_default())
    }
    fn set_down(&self, from: &SiteId, to: &SiteId, since: Option<Instant>) {
        let pair = (from.clone(), to.clone());
        if let (None, Some(Some(before))) = (since, lock(&self.0.down).insert(pair.clone(), since)) {
            lock(&self.0.ended).insert(pair, (Instant::now(), before.elapsed()));
        }
    }

    fn is_blocked(&self, from: &SiteId, to: &SiteId) -> bool {
        lock(&self.0.blocked).get(&(from.clone(), to.clone())).is_some_and(|times| *times > 0)
    }
    async fn pass(&self, from: &SiteId, to: &SiteId) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.is_blocked(from, to) {
                return;
            }
            changed.await;
        }
    }
}

/// What a site can ask.
pub struct Dialled {
    net: Net,
    from: SiteId,
    group: Arc<Group>,
    pairs: Mutex<BTreeMap<SiteId, Arc<Pair>>>,
}

impl Dialled {
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// These and no others from now on.
    pub fn dial(&self, sites: &BTreeSet<SiteId>) {
        let mut pairs = lock(&self.pairs);
        pairs.retain(|site, pair| {
            let stays = sites.contains(site);
            if !stays {
                pair.over.cancel();
            }
            stays
        });
        for to in sites {
            if pairs.contains_key(to) {
                continue;
            }
            self.net.set_down(&self.from, to, Some(Instant::now()));
            let pair = Arc::new(Pair {
                net: self.net.clone(),
                from: self.from.clone(),
                to: to.clone(),
                up: watch::Sender::default(),
                line: Mutex::default(),
                over: CancellationToken::new(),
            });
            pairs.insert(to.clone(), pair.clone());
            self.group.spawn(pair.dial());
        }
    }
}

impl link::Net for Dialled {
    fn peer(&self, site: &SiteId) -> Option<Arc<dyn Remote>> {
        lock(&self.pairs).get(site).map(|pair| pair.clone() as Arc<dyn Remote>)
    }
    fn disagrees(&self, site: &SiteId, _: &ShareId) -> bool {
        self.net.disagree(&self.from, site)
    }
}

/// A site and the one it dials.
struct Pair {
    net: Net,
    from: SiteId,
    to: SiteId,
    up: watch::Sender<Up>,
    line: Mutex<Option<Arc<Line>>>,
    /// It is not dialled any more.
    over: CancellationToken,
}

type Parcel = (Instant, Box<dyn FnOnce() + Send>);

/// One session: a queue for each connection in each direction.
struct Line {
    session: Session,
    since: Session,
    out: [mpsc::UnboundedSender<Parcel>; 2],
    back: [mpsc::UnboundedSender<Parcel>; 2],
    /// It has ended for the dialler; for the other side.
    near: CancellationToken,
    far: CancellationToken,
    group: Arc<Group>,
    inbound: Arc<dyn Inbound>,
}

impl Line {
    /// The other side hears of the end sooner or later.
    fn end_far(self: &Arc<Self>) {
        let line = self.clone();
        let after = if pick(2) == 0 { millis(0, 50) } else { millis(0, 6000) };
        outside(async move {
            sleep(after).await;
            line.far.cancel();
        });
    }
}

fn slot(class: Class) -> usize {
    match class {
        Class::Control => 0,
        Class::Bulk => 1,
    }
}

/// Carries parcels in their order, each after its time, while the way is open.
fn queue(
    net: &Net,
    from: &SiteId,
    to: &SiteId,
    ended: &CancellationToken,
) -> mpsc::UnboundedSender<Parcel> {
    let (sender, mut parcels) = mpsc::unbounded_channel::<Parcel>();
    let (net, from, to, ended) = (net.clone(), from.clone(), to.clone(), ended.clone());
    outside(async move {
        let carry = async {
            while let Some((due, deliver)) = parcels.recv().await {
                if due > Instant::now() {
                    sleep_until(due).await;
                }
                net.pass(&from, &to).await;
                if !ended.is_cancelled() {
                    deliver();
                }
            }
        };
        tokio::select! {
            biased;
            () = ended.cancelled() => {}
            () = carry => {}
        }
    });
    sender
}

fn send(queue: &mpsc::UnboundedSender<Parcel>, deliver: impl FnOnce() + Send + 'static) {
    let due = Instant::now() + millis(2, 30);
    // A line that has ended takes nothing.
    let _ = queue.send((due, Box::new(deliver)));
}

impl Pair {
    async fn dial(self: Arc<Self>) {
        while !self.over.is_cancelled() {
            sleep(millis(20, 300)).await;
            let reach = async {
                self.net.pass(&self.from, &self.to).await;
                sleep(millis(2, 60)).await;
                self.net.pass(&self.to, &self.from).await;
            };
            if tokio::time::timeout(Duration::from_secs(2), reach).await.is_err() {
                continue;
            }
            let Some(line) = self.connect() else { continue };
            note(|| format!("{} has a line to {}", self.from, self.to));
            self.net.greet(&self.from, &self.to);
            *lock(&self.line) = Some(line.clone());
            let up = Up { up: true, bulk: true, session: Some(line.session) };
            self.net.set_down(&self.from, &self.to, None);
            self.up.send_replace(up);
            self.watch_over(&line).await;
            note(|| format!("{} has lost its line to {}", self.from, self.to));
            *lock(&self.line) = None;
            self.net.set_down(&self.from, &self.to, Some(Instant::now()));
            self.up.send_replace(Up { up: false, bulk: false, ..up });
            line.near.cancel();
            line.end_far();
        }
    }

    fn connect(&self) -> Option<Arc<Line>> {
        let mut ports = lock(&self.net.0.ports);
        let port = ports.get_mut(&self.to)?;
        let number = self.net.0.sessions.fetch_add(1, Ordering::SeqCst) + 1;
        let (near, far) = (CancellationToken::new(), CancellationToken::new());
        let out = || queue(&self.net, &self.from, &self.to, &far);
        let back = || queue(&self.net, &self.to, &self.from, &near);
        let session = Session(1, number);
        let since = *port.first.entry(self.from.clone()).or_insert(session);
        let line = Arc::new(Line {
            session,
            since,
            out: [out(), out()],
            back: [back(), back()],
            near,
            far,
            group: port.group.clone(),
            inbound: port.inbound.clone(),
        });
        if let Some(old) = port.lines.insert(self.from.clone(), line.clone()) {
            old.far.cancel();
        }
        Some(line)
    }

    /// Until the line has ended, or nothing came back for long enough.
    async fn watch_over(&self, line: &Arc<Line>) {
        let silence = self.net.0.silence;
        let limit = silence + millis(0, silence.as_millis() as u64);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = line.near.cancelled() => return,
                () = self.over.cancelled() => return,
                () = sleep(Duration::from_millis(500)) => {}
            }
            let there = self.net.is_blocked(&self.from, &self.to);
            let back = self.net.is_blocked(&self.to, &self.from);
            if line.far.is_cancelled() && !back {
                return;
            }
            if !there && !back {
                heard = Instant::now();
                // And again when a map is new.
                self.net.greet(&self.from, &self.to);
            }
            if heard.elapsed() >= limit {
                return;
            }
        }
    }
}

impl Remote for Pair {
    fn up(&self) -> bool {
        self.up.borrow().up
    }
    fn watch(&self) -> watch::Receiver<Up> {
        self.up.subscribe()
    }
    fn send(
        &self,
        class: Class,
        request: Request<Body>,
    ) -> BoxFuture<'_, Result<Response<Body>, SendError>> {
        let site = self.to.clone();
        let line = lock(&self.line).clone().filter(|line| !line.near.is_cancelled());
        Box::pin(async move {
            let Some(line) = line else {
                return Err(SendError::NotSent { site, class, why: "is down" });
            };
            let answer = carry(&line, self.from.clone(), class, request);
            let dropped = CancellationToken::new();
            let _guard = dropped.clone().drop_guard();
            tokio::select! {
                biased;
                () = line.near.cancelled() => {}
                answer = answer => if let Ok(answer) = answer { return Ok(answer) },
            }
            let session = line.session;
            Err(SendError::Lost { site, class, session, source: "the line broke".into() })
        })
    }
}

/// Puts a request on the line. The answer may never come.
fn carry(
    line: &Arc<Line>,
    from: SiteId,
    class: Class,
    request: Request<Body>,
) -> oneshot::Receiver<Response<Body>> {
    let (reply, answer) = oneshot::channel();
    let (parts, body) = request.into_parts();
    let (body, coming) = halves(body, line.far.clone());
    let there = line.clone();
    let deliver = move || {
        let addr = ([10, 0, 0, 1], 7400).into();
        let Line { session, since, .. } = *there;
        let caller = Caller { site: from, class, session, since, addr };
        let request = Request::from_parts(parts, coming);
        let line = there.clone();
        // Of a change, which may come out of a session that ends just then: how long the site takes to it, and
        // drains the session.
        let reads = ["GET", "HEAD", "PROPFIND"].contains(&request.method().as_str());
        let change = !reads && request.uri().path().contains("/http");
        let late = if change && pick(4) == 0 { millis(0, 1000) } else { Duration::ZERO };
        let drain = if change { millis(0, 1000) } else { Duration::ZERO };
        there.group.spawn(async move {
            let far = line.far.clone();
            let serve = async {
                if !late.is_zero() {
                    sleep(late).await;
                }
                let response = line.inbound.call(caller, request).await;
                let (parts, body) = response.into_parts();
                let (body, coming) = halves(body, line.near.clone());
                let response = Response::from_parts(parts, coming);
                let answer = move || drop(reply.send(response));
                send(&line.back[slot(class)], answer);
                if let Some((body, sink)) = body {
                    pour(body, &line.back[slot(class)], sink).await;
                }
            };
            let over = async {
                far.cancelled().await;
                if !drain.is_zero() {
                    sleep(drain).await;
                }
            };
            tokio::select! {
                biased;
                () = over => {}
                () = serve => {}
            }
        });
    };
    send(&line.out[slot(class)], deliver);
    if let Some((body, sink)) = body {
        let line = line.clone();
        crate::work::single::spawn(async move {
            let near = line.near.clone();
            near.run_until_cancelled(pour(body, &line.out[slot(class)], sink)).await;
        });
    }
    answer
}

type Sink = mpsc::UnboundedSender<Option<Bytes>>;

/// A body as it is on this side, and as the other side gets it.
fn halves(body: Body, ended: CancellationToken) -> (Option<(Body, Sink)>, Body) {
    match body {
        Body::Empty => (None, Body::Empty),
        Body::Full(bytes) => (None, Body::Full(bytes)),
        body if body.is_end_stream() => (None, Body::Empty),
        body => {
            let (sink, parts) = mpsc::unbounded_channel();
            let ended = Box::pin(ended.cancelled_owned());
            (Some((body, sink)), Body::boxed(Coming { parts, ended, over: false }))
        }
    }
}

/// Sends a body on as it comes, until nobody takes it any more.
async fn pour(mut body: Body, queue: &mpsc::UnboundedSender<Parcel>, sink: Sink) {
    loop {
        let frame = tokio::select! {
            biased;
            () = sink.closed() => return,
            frame = body.frame() => frame,
        };
        let sink = sink.clone();
        match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(bytes))) => send(queue, move || drop(sink.send(Some(bytes)))),
            Some(Ok(Err(_))) => {}
            None => return send(queue, move || drop(sink.send(None))),
            // The end that is missing tells.
            Some(Err(_)) => return send(queue, move || drop(sink)),
        }
    }
}

struct Coming {
    parts: mpsc::UnboundedReceiver<Option<Bytes>>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    over: bool,
}

impl http_body::Body for Coming {
    type Data = Bytes;
    type Error = BoxError;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if self.ended.as_mut().poll(cx).is_ready() {
            self.over = true;
            return Poll::Ready(Some(Err("the line broke".into())));
        }
        match std::task::ready!(self.parts.poll_recv(cx)) {
            Some(Some(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(None) => {
                self.over = true;
                Poll::Ready(None)
            }
            None => {
                self.over = true;
                Poll::Ready(Some(Err("the stream broke off".into())))
            }
        }
    }
    fn is_end_stream(&self) -> bool {
        self.over
    }
}
