//! Leases of a strict share's copies, and what they are asked to hold (R5, R6, R10, R11). What is
//! decided is `hold`'s; here are the connections.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tokio::sync::{Notify, mpsc};

use super::feed::answer;
use super::table::{Ask, Held, Table};
use super::{IN_FORCE_MAX, Notice, Result, lock};
use crate::body::Body;
use crate::catalog;
use crate::clock::{BootTime, Clock};
use crate::hash::HashMap;
use crate::hold::{Giver, LEASE, Question, Refused, Renewal, Stream};
use crate::id::SiteId;
use crate::link::frames::{FrameReader, sender};
use crate::link::share::{
    Fresh, Grant, HoldAsk, LeaseAsk, LeaseSay, MESSAGE_MAX, Renew, lease_ask, lease_say,
};
use crate::plant::{self, Bug};
use crate::tree::Tree;
use crate::work;

/// Messages that wait for a copy to take them; one that is further behind is cut off and loses its lease.
const QUEUE: usize = 1024;
/// Between two looks at leases that nobody is told the end of.
const AGAIN: Duration = Duration::from_millis(100);
/// Longest message of a copy.
const ASK_MAX: usize = 256;

/// Locked after the table, and `streams` after `giver`.
pub(super) struct Leases {
    giver: Mutex<Giver>,
    streams: Mutex<HashMap<SiteId, (Stream, mpsc::Sender<LeaseSay>)>>,
    /// So many ask that nobody gets a lease, or a longer one. Changed under `giver`.
    withheld: AtomicU32,
    /// Some question was answered, or some copy said hello.
    stirred: Notify,
    /// Who may have a lease is being noted.
    noting: tokio::sync::Mutex<()>,
}

impl Leases {
    /// `given`: an earlier process gave leases, to `sites`.
    pub fn new(given: bool, sites: BTreeSet<SiteId>, now: BootTime) -> Self {
        Self {
            giver: Mutex::new(Giver::new(LEASE, given, sites, now)),
            streams: Mutex::default(),
            withheld: AtomicU32::new(0),
            stirred: Notify::new(),
            noting: tokio::sync::Mutex::default(),
        }
    }

    /// Whatever was given counts no more, and is waited out.
    pub fn begin_anew(&self, copies: &[SiteId], now: BootTime) {
        let mut giver = lock(&self.giver);
        giver.begin_anew(copies, now);
        lock(&self.streams).clear();
    }

    /// Who has a lease, and whether old ones are waited for.
    pub fn standing(&self, now: BootTime) -> (Vec<SiteId>, bool) {
        let giver = lock(&self.giver);
        (giver.leased(now).cloned().collect(), giver.quiet_until(now).is_some())
    }

    /// From now on nobody gets a lease, until [`Self::give_again`]. Says since when.
    pub fn withhold(&self, clock: &dyn Clock) -> BootTime {
        let _giver = lock(&self.giver);
        self.withheld.fetch_add(1, Ordering::SeqCst);
        clock.boot()
    }

    pub fn give_again(&self) {
        let _giver = lock(&self.giver);
        self.withheld.fetch_sub(1, Ordering::SeqCst);
    }

    /// In the order of the calls, as grants must not overtake questions.
    fn tell(&self, site: &SiteId, kind: lease_say::Kind) {
        let mut streams = lock(&self.streams);
        if let Some((_, queue)) = streams.get(site)
            && queue.try_send(LeaseSay { kind: Some(kind) }).is_err()
        {
            // It comes again, and has dropped its lease when it does.
            tracing::warn!(%site, "takes no questions; its lease is left to run out");
            streams.remove(site);
        }
    }
}

impl<T: Tree> Notice<T> {
    /// What a change that has begun touches is held at the copies before it goes on: says what must be
    /// waited for. Under the table's lock, so that no lease is given between.
    pub(super) fn hold(&self, table: &mut Table, held: &[Held]) -> Vec<Question> {
        if !self.is_strict() || plant::is(Bug::SkipHold) {
            return Vec::new();
        }
        let (waits, ask) = table.hold(held, &mut lock(&self.leases.giver), self.clock.boot());
        if let Some(Ask { question, sites, touches }) = ask {
            let touches = catalog::encode_touch_gens(&touches);
            for site in &sites {
                let ask = HoldAsk { question: question.0, touches: touches.clone() };
                self.leases.tell(site, lease_say::Kind::Ask(ask));
            }
        }
        waits
    }

    /// Until every copy has answered, or has lost its lease.
    pub(super) async fn held(&self, questions: Vec<Question>) {
        self.answered(questions).await;
        // If the share was relaxed for a moment, nobody answers any more.
        self.old_leases().await;
    }

    async fn answered(&self, mut questions: Vec<Question>) {
        loop {
            let stirred = self.leases.stirred.notified();
            tokio::pin!(stirred);
            stirred.as_mut().enable();
            let now = self.clock.boot();
            let due = {
                let mut giver = lock(&self.leases.giver);
                if giver.expire(now) {
                    self.leases.stirred.notify_waiters();
                }
                questions.retain(|question| giver.is_open(*question));
                questions.iter().filter_map(|question| giver.due(*question)).max()
            };
            let Some(due) = due else { return };
            tokio::select! {
                biased;
                () = stirred => {}
                () = tokio::time::sleep(due.since(now)) => {}
            }
        }
    }

    /// Until no lease of an earlier process can be in force (R11).
    pub(super) async fn old_leases(&self) {
        while self.is_strict() {
            let stirred = self.leases.stirred.notified();
            tokio::pin!(stirred);
            stirred.as_mut().enable();
            let now = self.clock.boot();
            let Some(until) = lock(&self.leases.giver).quiet_until(now) else { return };
            tokio::select! {
                biased;
                () = stirred => {}
                () = tokio::time::sleep(until.since(now)) => {}
            }
        }
    }

    /// Whoever led before has given none since then.
    pub fn none_given_since(&self, since: BootTime) {
        lock(&self.leases.giver).none_given_since(since);
        self.leases.stirred.notify_waiters();
    }

    /// Until nobody can have a lease whose copy is not in the map: who leads next knows nothing of it (R11).
    pub(super) async fn leases_of_strangers(&self) {
        let stranger = || {
            let (copies, now) = (self.copies(), self.clock.boot());
            let giver = lock(&self.leases.giver);
            giver.perhaps_leased(now).any(|site| !copies.contains(site))
        };
        while stranger() && !plant::is(Bug::ForgetStrangers) {
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// A copy's connection for leases.
    pub(super) async fn lease(self: Arc<Self>, site: SiteId, request: Request<Body>) -> Response<Body> {
        if !self.is_strict() {
            return answer(StatusCode::CONFLICT, "the share is relaxed: nobody needs a lease");
        }
        if let Err(error) = self.note_leases(Some(&site)).await {
            return answer(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
        }
        let (queue, mut waiting) = mpsc::channel(QUEUE);
        let stream = {
            let mut giver = lock(&self.leases.giver);
            let stream = giver.join(&site);
            lock(&self.leases.streams).insert(site.clone(), (stream, queue));
            stream
        };
        self.leases.stirred.notify_waiters();
        work::spawn(self.hear(site, stream, FrameReader::new(request.into_body())));
        let (says, body) = sender(MESSAGE_MAX);
        work::spawn(async move {
            while let Some(say) = waiting.recv().await {
                if says.send(&say).await.is_err() {
                    return;
                }
            }
        });
        Response::new(body)
    }

    /// Whoever comes after this process must know that there may be leases, and whose. A copy that a map no
    /// longer has is known for as long as it may have one.
    async fn note_leases(&self, site: Option<&SiteId>) -> Result<()> {
        let _one_at_a_time = self.leases.noting.lock().await;
        let now = self.clock.boot();
        let mut sites: BTreeSet<SiteId> = self.copies().into_iter().collect();
        sites.extend(site.cloned());
        sites.extend(lock(&self.leases.giver).perhaps_leased(now).cloned());
        let meta = self.shelf.meta();
        if meta.leased && meta.leased_to == sites {
            return Ok(());
        }
        let mut batch = self.shelf.batch();
        batch.set_meta(move |meta| {
            meta.leased = true;
            meta.leased_to = sites;
        });
        Ok(self.shelf.commit(batch, true).await?)
    }

    /// Once those can have no lease any more whose copies are not in the map, no start waits for them.
    pub(super) fn forget_strangers(self: &Arc<Self>) {
        let copies = self.copies();
        if self.shelf.meta().leased_to.iter().all(|site| copies.contains(site)) {
            return;
        }
        let notice = self.clone();
        drop(work::spawn(async move {
            notice.leases_of_strangers().await;
            if !notice.stop.load(Ordering::SeqCst)
                && let Err(error) = notice.note_leases(None).await
            {
                tracing::warn!(share = %notice.config.share, %error, "the next start waits for old leases");
            }
        }));
    }

    async fn hear(self: Arc<Self>, site: SiteId, stream: Stream, mut asks: FrameReader) {
        while let Ok(Some(ask)) = asks.next::<LeaseAsk>(ASK_MAX).await {
            match ask.kind {
                Some(lease_ask::Kind::Renew(renew)) => self.renew(&site, stream, renew),
                Some(lease_ask::Kind::Held(question)) => {
                    let question = Question(question);
                    if let Err(why) = lock(&self.leases.giver).answered(&site, stream, question) {
                        tracing::trace!(share = %self.config.share, %site, ?question, ?why, "no answer");
                    }
                    self.leases.stirred.notify_waiters();
                }
                // A newer copy may say more.
                None => {}
            }
        }
        lock(&self.leases.streams).retain(|known, (of, _)| *known != site || *of != stream);
    }

    fn renew(&self, site: &SiteId, stream: Stream, renew: Renew) {
        let may_have_one = {
            let terms = lock(&self.terms);
            terms.strict && terms.copies.contains(site)
        };
        if !may_have_one || self.stop.load(Ordering::SeqCst) {
            return;
        }
        let now = self.clock.boot();
        // Nothing begins and nothing is released meanwhile.
        let table = lock(&self.table);
        let mut giver = lock(&self.leases.giver);
        if giver.expire(now) {
            self.leases.stirred.notify_waiters();
        }
        if self.leases.withheld.load(Ordering::SeqCst) > 0 {
            return;
        }
        let head = self.durable().at;
        let refused = |why: Refused| {
            tracing::trace!(share = %self.config.share, %site, number = renew.number, ?why, "no lease");
        };
        let fresh = match giver.renew(site, stream, renew.applied >= head.seq.0, now) {
            Err(why) => return refused(why),
            Ok(Renewal::Again) => None,
            Ok(Renewal::Fresh) => {
                let Some(mut in_force) = table.to_hold(IN_FORCE_MAX) else {
                    tracing::trace!(share = %self.config.share, %site, "too much is in force for a lease");
                    return giver.revoke(site, stream).unwrap_or_else(refused);
                };
                if plant::is(Bug::GrantWithoutHolds) {
                    in_force.clear();
                }
                Some(Fresh {
                    epoch: head.epoch.0,
                    seq: head.seq.0,
                    in_force: catalog::encode_touch_gens(&in_force),
                    generation: table.newest().0,
                })
            }
        };
        let lease_ms = u32::try_from(LEASE.as_millis()).unwrap_or(u32::MAX);
        let grant = Grant { number: renew.number, lease_ms, fresh };
        self.leases.tell(site, lease_say::Kind::Grant(grant));
    }
}
