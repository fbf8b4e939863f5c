//! Which site has the primary copy of a share, and how that changes (R33 to R35).
//!
//! ```text
//!  the copy that is promoted                         the primary until now
//!    step-down ------------------------------------>  no change begins; all is in the journal
//!    level: every record and content is here  <-----  where the journal ends
//!    locks, page by page -------------------------->  those that nearshare keeps
//!    hand-over ------------------------------------>  (1) notes the new epoch, is a copy
//!    (2) notes it too, is the primary        <------
//!    lead: to every other site, again and again until each has heard of it
//! ```
//!
//! Killed before (1): nothing has changed, changes begin again. Between (1) and (2): nobody is the primary,
//! nothing can be changed, and nothing is lost: the old primary tells the new one of it until it has taken
//! over. After (2): who was away hears of it when it is back.

mod asked;
mod locks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::{Method, Request, Response, StatusCode};
use tokio_util::sync::CancellationToken;

use super::history::{EPOCH_MAX, Lost, comes_after, epoch_after, follow_on, may_follow, succeed};
use super::inbound::Leader;
use super::{ServeError, blocking};
use crate::body::{Body, collect};
use crate::catalog::{Catalog, Head, Lead, Shelf};
use crate::clock::{BootTime, Clock};
use crate::follow::{FENCE, Follow};
use crate::id::{Epoch, Hash, Position, Seq, ShareId, SiteId};
use crate::link::share as said;
use crate::link::{Class, Net};
use crate::map::{Map, Place};
use crate::notice::{Notice, Resigning, Turns};
use crate::plant::{self, Bug};
use crate::tree::Tree;
use crate::wire::http::lock::Lock;
use crate::work;

/// Once all that began has ended, the primary lets no change begin for at most so long.
const PAUSE: Duration = Duration::from_secs(4);
/// The copy that is promoted must have everything after so much of that.
const LEVEL: Duration = Duration::from_secs(3);
/// As much where no change waits for it.
const LEVEL_AT_LEISURE: Duration = Duration::from_secs(10);
/// What is on its way before the pause begins may take so long.
const CATCH_UP: Duration = Duration::from_secs(20);
/// Sites that are dialled to be asked must be there after this.
const DIAL: Duration = Duration::from_secs(4);
/// Sites that have not heard are told this often.
const TELL: Duration = Duration::from_millis(250);
/// A site that has not answered by then is not waited for.
const ANSWER: Duration = Duration::from_secs(30);
/// Longest message between sites here, and longest answer: a page of locks.
const MESSAGE_MAX: usize = 4096;
const ANSWER_MAX: usize = 2 << 20;

/// What other copies promise when they are asked holds for longer than this by their clocks.
const PROMISED: Duration = Duration::from_secs(FENCE.as_secs() * 2 / 3);
/// Times that the others may turn out to have more, or that it takes longer than that to go by what they said.
const ROUNDS: usize = 5;

/// Why a site takes up a newer epoch.
enum Grounds {
    /// Its primary says so, or had stepped down before.
    Heard,
    /// To hand over: nothing may have happened here since the pause began.
    Handed,
    /// Without the old primary: what the other copies promised holds until then.
    Forced(BootTime),
}

/// A pause of one share, which ends by itself.
struct Pause {
    token: u64,
    resigning: Resigning,
}

/// What must not happen twice at once at a site, and what waits there.
#[derive(Default)]
pub(crate) struct Moving {
    promoting: tokio::sync::Mutex<()>,
    /// Whatever changes what runs at the site.
    pub reloading: tokio::sync::Mutex<()>,
    /// What other copies ask of the ones here.
    contents: Turns,
    /// Shares that are about to be led from elsewhere.
    pauses: Mutex<BTreeMap<ShareId, Pause>>,
}

/// Ends a share that was taken out of its site, down to the disk. Blocks.
pub(crate) type End = Box<dyn FnOnce() -> Result<(), ServeError> + Send>;

/// A site, as far as it matters who leads.
pub(crate) trait Host: Send + Sync + 'static {
    type Tree: Tree;

    fn me(&self) -> &SiteId;
    /// With each primary where this site's catalog knows it to be.
    fn map(&self) -> Arc<Map>;
    fn shelf(&self, share: &ShareId) -> Result<Arc<Shelf>, ServeError>;
    fn clock(&self) -> &Arc<dyn Clock>;
    fn links(&self) -> Arc<dyn Net>;
    /// When the line to a site came or went, in milliseconds since 1970; 0 if it is not dialled.
    fn contact(&self, site: &SiteId) -> i64;
    /// Dials these too, until the next [`install`](Self::install).
    fn dial_too(&self, sites: BTreeSet<SiteId>);
    fn home(&self, share: &ShareId) -> Option<Arc<Notice<Self::Tree>>>;
    fn copy(&self, share: &ShareId) -> Option<Arc<Follow<Self::Tree>>>;
    fn disk(&self, share: &ShareId) -> Option<Arc<Self::Tree>>;
    /// The locks that nearshare keeps of a share here.
    fn locks(&self, share: &ShareId) -> Vec<Lock>;
    /// Takes a share out of what runs here. Says whether it was the primary copy.
    fn take_out(&self, share: &ShareId) -> Option<(bool, End)>;
    /// Makes everything as the catalog says who leads.
    fn install(&self) -> Result<(), ServeError>;
    fn moving(&self) -> &Moving;
    /// Cancelled when the site stops.
    fn stopping(&self) -> &CancellationToken;
}

/// What a site does about who leads its shares.
pub(crate) struct Leading<H: Host>(pub Arc<H>);

impl<H: Host> Clone for Leading<H> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
impl<H: Host> std::ops::Deref for Leading<H> {
    type Target = H;
    fn deref(&self) -> &H {
        &self.0
    }
}

/// What other sites ask of whoever leads, or is to lead.
impl<H: Host> Leader for H {
    fn knows(&self, what: &str) -> bool {
        ["lead", "who", "step-down", "locks", "step-on", "hand-over", "report", "records", "content"]
            .contains(&what)
    }
    fn inbound(
        self: Arc<Self>,
        from: SiteId,
        share: ShareId,
        what: String,
        request: Request<Body>,
    ) -> BoxFuture<'static, Response<Body>> {
        async move { Leading(self).answer(&from, &share, &what, request).await }.boxed()
    }
}

/// The map, with each primary where this site's catalog knows it to be.
pub(crate) fn led(catalog: &Arc<Catalog>, me: &SiteId, text: &Map) -> Result<Map, ServeError> {
    let mut map = text.clone();
    for (share, _) in text.shares_at(me) {
        let shelf = catalog.share(&share.name)?;
        let lead = lead_of(&shelf, share.first_primary())?;
        if !map.led_by(&share.name, &lead.site, lead.epoch.0) {
            return Err(ServeError::NoCopy { share: share.name.clone(), site: lead.site });
        }
    }
    Ok(map)
}

/// Who leads as far as is known here. What the map says counts once.
fn lead_of(shelf: &Arc<Shelf>, first: &SiteId) -> Result<Lead, ServeError> {
    if let Some(lead) = shelf.meta().lead {
        return Ok(lead);
    }
    let (base, chain) = (Position::default(), Hash::default());
    let lead = Lead { epoch: Epoch(1), site: first.clone(), base, chain };
    let mut batch = shelf.batch();
    let noted = lead.clone();
    batch.set_meta(move |meta| meta.lead = Some(noted));
    shelf.commit(batch, true).wait()?;
    Ok(lead)
}

fn to_wire(lead: &Lead) -> said::Lead {
    said::Lead {
        epoch: lead.epoch.0,
        site: lead.site.as_str().to_owned(),
        base_epoch: lead.base.epoch.0,
        base_seq: lead.base.seq.0,
        chain: bytes::Bytes::copy_from_slice(&lead.chain.0),
    }
}

fn from_wire(lead: &said::Lead) -> Option<Lead> {
    (lead.epoch <= EPOCH_MAX).then_some(())?;
    Some(Lead {
        epoch: Epoch(lead.epoch),
        site: lead.site.parse().ok()?,
        base: Position { epoch: Epoch(lead.base_epoch), seq: Seq(lead.base_seq) },
        chain: Hash::try_from(&lead.chain[..]).ok()?,
    })
}

/// Asks another site one thing of a share.
async fn ask<M: prost::Message + Default>(
    links: &dyn Net,
    site: &SiteId,
    share: &ShareId,
    what: &str,
    message: &impl prost::Message,
) -> Result<M, String> {
    let peer = links.peer(site).filter(|peer| peer.up());
    let peer = peer.ok_or_else(|| format!("{site} cannot be reached"))?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("/v1/share/{share}/{what}"))
        .body(Body::Full(message.encode_to_vec().into()))
        .map_err(|error| error.to_string())?;
    let answered = async {
        let response = peer.send(Class::Control, request).await;
        let response = response.map_err(|error| format!("{site}: {error}"))?;
        let status = response.status();
        let body = collect(response.into_body(), ANSWER_MAX).await;
        body.map(|body| (status, body)).map_err(|error| format!("{site}: {error}"))
    };
    let answered = tokio::time::timeout(ANSWER, answered).await;
    let (status, body) = answered.map_err(|_| format!("{site} gives no answer to `{what}`"))??;
    if status != StatusCode::OK {
        return Err(format!("{site} says: {}", String::from_utf8_lossy(&body).trim_end()));
    }
    M::decode(body).map_err(|error| format!("{site}: {error}"))
}

fn refuse(status: StatusCode, why: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::text(why));
    *response.status_mut() = status;
    response
}

fn reply(message: &impl prost::Message) -> Response<Body> {
    Response::new(Body::Full(message.encode_to_vec().into()))
}

impl<H: Host> Leading<H> {
    /// Moves the primary copy of a share to this site. Says what was done, a line each.
    pub async fn promote(
        &self,
        share: &ShareId,
        to: &SiteId,
        accept_loss: bool,
    ) -> Result<String, String> {
        let _one_at_a_time = self.moving().promoting.lock().await;
        let map = self.map();
        let row = map.shares.get(share).ok_or_else(|| format!("there is no share {share}"))?;
        if !row.at(to).is_some_and(|at| !matches!(at.place, Place::Remote)) {
            return Err(format!("{to} has no copy of {share} that could be the primary one"));
        }
        if row.primary() == to {
            return Err(format!("{to} has the primary copy of {share} already"));
        }
        if to != self.me() {
            return Err(format!(
                "give the command at {to}, which must see for itself that it has everything: \
                 `nearshare promote {share} --to {to}`"
            ));
        }
        let Some(follow) = self.copy(share) else {
            return Err(format!("the copy of {share} is not running here"));
        };
        let primary = row.primary().clone();
        let reached = self.links().peer(&primary).is_some_and(|peer| peer.up());
        match (reached, accept_loss) {
            (true, false) => self.promote_planned(share, &primary, &follow).await,
            (true, true) => self.promote_planned(share, &primary, &follow).await.map_err(|error| {
                format!("{error}\nto go on without {primary}, stop nearshare there first")
            }),
            (false, true) => self.promote_forced(share, &primary, &follow).await,
            (false, false) => Err(format!(
                "{primary} cannot be reached, so it cannot step down: what it has and nobody else would \
                 be lost, and it may go on serving its own side until it hears of the change.\n{}If it \
                 will not come back, or that may be: add --accept-loss",
                self.what_is_known(share, &follow, &[])
            )),
        }
    }

    async fn promote_planned(
        &self,
        share: &ShareId,
        primary: &SiteId,
        follow: &Follow<H::Tree>,
    ) -> Result<String, String> {
        if let Some(lacks) = follow.level(None, CATCH_UP).await {
            return Err(format!(
                "{lacks}; nothing has changed, try again when `nearshare status` shows no lag"
            ));
        }
        if let Some(newer) = self.newer(share, primary).await? {
            return self.take_over(share, primary, follow, newer).await;
        }
        let pause: said::Stepping = ask(&*self.links(), primary, share, "step-down", &()).await?;
        let chain = Hash::try_from(&pause.chain[..]).map_err(|error| error.to_string())?;
        let at = Position { epoch: Epoch(pause.epoch), seq: Seq(pause.seq) };
        let known = lead_of(&self.shelf(share).map_err(text)?, primary).map_err(text)?;
        let raise = u32::from(!plant::is(Bug::ReuseEpoch));
        let Some(epoch) = epoch_after(known.epoch, at.epoch, raise) else {
            self.step_on_there(share, primary, pause.token).await;
            return Err(no_epoch(share, primary, pause.epoch, known.epoch));
        };
        let incarnation = follow.head().incarnation;
        let head = Head { at, chain, incarnation };
        let level = follow.level(Some(&head), LEVEL);
        let lacks = if plant::is(Bug::PromoteBehind) { None } else { level.await };
        if let Some(lacks) = lacks {
            self.step_on_there(share, primary, pause.token).await;
            return Err(format!("{lacks}; {primary} goes on as the primary, nothing has changed"));
        }
        let locks = match self.bring_locks(share, primary, pause.token, epoch).await {
            Ok(told) => told,
            Err(why) => {
                self.step_on_there(share, primary, pause.token).await;
                return Err(format!(
                    "the locks of {share} cannot be taken along: {why}; {primary} goes on as the primary, \
                     nothing has changed"
                ));
            }
        };
        let lead = Lead { epoch, site: self.me().clone(), base: at, chain };
        let hand_over = said::HandOver { token: pause.token, lead: to_wire(&lead) };
        let handed: Result<said::HandedOver, String> =
            ask(&*self.links(), primary, share, "hand-over", &hand_over).await;
        let handed = handed.map_err(|error| {
            format!(
                "{error}\nit is not known whether {primary} has stepped down; give the command again"
            )
        })?;
        let heard = self.clock().boot();
        self.assume(share, lead.clone(), Grounds::Heard).await.map_err(text)?;
        self.must_lead(share, &lead)?;
        if let Some(notice) = self.home(share) {
            // Counted from when that was heard, however long it was on its way: no clock is compared (R12).
            let withheld = Duration::from_millis(handed.withheld_ms);
            notice.none_given_since(BootTime(heard.0.saturating_sub(withheld)));
        }
        Ok(format!(
            "{} has the primary copy of {share} since record {} (epoch {epoch}); {primary} follows it, \
             nothing was lost{locks}",
            self.me(),
            at.seq.0
        ))
    }

    /// The primary need not step down after all. If it does not hear of that, its pause ends by itself.
    async fn step_on_there(&self, share: &ShareId, primary: &SiteId, token: u64) {
        let token = said::Stepping { token, ..said::Stepping::default() };
        let _ended: Result<said::Lead, String> =
            ask(&*self.links(), primary, share, "step-on", &token).await;
    }

    /// Who leads by what another site knows, if that comes after what is known here.
    async fn newer(&self, share: &ShareId, site: &SiteId) -> Result<Option<Lead>, String> {
        let theirs: said::Lead = ask(&*self.links(), site, share, "who", &()).await?;
        let theirs = from_wire(&theirs).ok_or_else(|| format!("{site} tells of no primary"))?;
        let known = lead_of(&self.shelf(share).map_err(text)?, site).map_err(text)?;
        Ok(comes_after(&theirs, &known).then_some(theirs))
    }

    /// Takes up what an earlier command began: the old primary has stepped down already.
    async fn take_over(
        &self,
        share: &ShareId,
        primary: &SiteId,
        follow: &Follow<H::Tree>,
        lead: Lead,
    ) -> Result<String, String> {
        if lead.site == *self.me() {
            let head = Head { at: lead.base, chain: lead.chain, ..follow.head() };
            if let Some(lacks) = follow.level(Some(&head), LEVEL_AT_LEISURE).await {
                return Err(format!(
                    "{lacks}, which has stepped down: see why this copy lags, and try again"
                ));
            }
        }
        let site = lead.site.clone();
        self.assume(share, lead, Grounds::Heard).await.map_err(text)?;
        Ok(format!("{site} has the primary copy of {share}: {primary} had stepped down before"))
    }

    async fn promote_forced(
        &self,
        share: &ShareId,
        primary: &SiteId,
        follow: &Arc<Follow<H::Tree>>,
    ) -> Result<String, String> {
        let whole = follow.progress();
        if !whole.confirmed || whole.comparing {
            return Err(format!(
                "the copy here has not been compared and filled yet: what it lacks would be deleted at the \
                 other copies of {share} too; give the command at a site whose copy is whole"
            ));
        }
        let known = lead_of(&self.shelf(share).map_err(text)?, primary).map_err(text)?;
        let (reports, until) = self.gather(share, primary, follow, &known).await?;
        let newest = reports.iter().map(|(_, report)| report.epoch).max().unwrap_or(0);
        let mut told = self.what_is_known(share, follow, &reports);
        let head = follow.head();
        // The next one may have been given to a site that has not taken it up: nobody could know here.
        let raise = 2 * u32::from(!plant::is(Bug::ReuseEpoch));
        let latest = head.at.epoch.max(Epoch(newest));
        let Some(epoch) = epoch_after(known.epoch, latest, raise) else {
            return Err(no_epoch(share, self.me(), latest.0, known.epoch));
        };
        self.keep_locks(share, epoch, Vec::new()).await?;
        let lead = Lead { epoch, site: self.me().clone(), base: head.at, chain: head.chain };
        let lost = self.assume(share, lead.clone(), Grounds::Forced(until)).await.map_err(text)?;
        self.must_lead(share, &lead)?;
        told += &lost.told(share);
        let map = self.map();
        if map.shares.get(share).is_some_and(|row| map.keeps_locks(row)) {
            told += &format!("WebDAV locks that {primary} kept are over\n");
        }
        Ok(format!(
            "{told}{} has the primary copy of {share} since record {} (epoch {epoch}); what only \
             {primary} has will be kept aside there when it returns",
            self.me(),
            head.at.seq.0
        ))
    }

    /// Brings here what the other copies have, and says until when none of them keeps anything more for the old
    /// primary. What takes longer than that is done again: they may have gone on meanwhile. A content that a site
    /// could not give is not waited for there once more.
    async fn gather(
        &self,
        share: &ShareId,
        primary: &SiteId,
        follow: &Arc<Follow<H::Tree>>,
        known: &Lead,
    ) -> Result<(Vec<(SiteId, said::Report)>, BootTime), String> {
        let (mut apart, mut gave) = (BTreeSet::new(), BTreeMap::new());
        for _ in 0..ROUNDS {
            let until = BootTime(self.clock().boot().0 + PROMISED);
            let mut reports = self.ask_others(share, primary).await?;
            if let Some((site, report)) =
                reports.iter().find(|(_, report)| !may_follow(Epoch(report.epoch), known.epoch))
            {
                return Err(no_epoch(share, site, report.epoch, known.epoch));
            }
            if plant::is(Bug::PromoteAlone) {
                reports.clear();
            }
            loop {
                let here = follow.head();
                let on_our_way = reports.iter().filter(|(site, _)| !apart.contains(site));
                let more = furthest(&here, on_our_way, known);
                let holder = || follow.newest_debt().and_then(|owed| unasked(&reports, &gave, owed));
                let Some((site, report)) = more.or_else(holder) else { break };
                let last = counts_to(report, known);
                tracing::warn!(%share, %site, record = last.0, "taking what this copy lacks");
                follow.take_from(&*self.links(), site, last).await.map_err(text)?;
                if more.is_some() && follow.head().at == here.at {
                    apart.insert(site.clone());
                }
                gave.insert(site.clone(), follow.head().at.seq);
            }
            // The disk is right from here on: it must be as the journal says.
            if !follow.settled(LEVEL_AT_LEISURE).await {
                let why = follow.progress().stopped.unwrap_or_else(|| "try again".to_owned());
                return Err(format!("the disk here is not yet as the journal says: {why}"));
            }
            if self.clock().boot() < until || plant::is(Bug::TrustOldReports) {
                return Ok((reports, until));
            }
            tracing::info!(%share, "what this copy lacked took long to come; the others are asked again");
        }
        Err(format!(
            "bringing here what the other copies have takes too long each time; nothing has changed, try again, \
             with {primary} stopped if it still runs"
        ))
    }

    /// What the other copies say of themselves, as far as they can be reached within a moment. An error
    /// if one of them knows of a later primary than this site: that one is followed.
    async fn ask_others(
        &self,
        share: &ShareId,
        primary: &SiteId,
    ) -> Result<Vec<(SiteId, said::Report)>, String> {
        let map = self.map();
        let others: BTreeSet<SiteId> = map.shares[share]
            .sites()
            .filter(|(site, at)| {
                *site != self.me() && *site != primary && !matches!(at.place, Place::Remote)
            })
            .map(|(site, _)| site.clone())
            .collect();
        self.dial_too(others.clone());
        let asked = others.into_iter().map(|site| async move {
            let answered = tokio::time::timeout(DIAL, async {
                loop {
                    match self.newer(share, &site).await {
                        Ok(Some(newer)) => return Err(newer),
                        Ok(None) => {
                            let report = ask(&*self.links(), &site, share, "report", &()).await;
                            if let Ok(report) = report {
                                return Ok(report);
                            }
                        }
                        Err(_) => {}
                    }
                    tokio::time::sleep(TELL).await;
                }
            });
            answered.await.ok().map(|answer| (site, answer))
        });
        let mut reports = Vec::new();
        for (site, answer) in futures_util::future::join_all(asked).await.into_iter().flatten() {
            match answer {
                Ok(report) => reports.push((site, report)),
                Err(newer) => {
                    let leads = newer.site.clone();
                    self.assume(share, newer, Grounds::Heard).await.map_err(text)?;
                    return Err(format!(
                        "{site} knows that {leads} was promoted while this site was away, which follows it \
                         from now on; if {leads} is lost as well, give the command again"
                    ));
                }
            }
        }
        Ok(reports)
    }

    /// What is lost, or may be, when the primary's site does not take part (R34).
    fn what_is_known(
        &self,
        share: &ShareId,
        follow: &Follow<H::Tree>,
        reports: &[(SiteId, said::Report)],
    ) -> String {
        let primary = follow.primary().clone();
        let here = follow.report();
        let mut text = String::new();
        let since = self.contact(&primary);
        let ago = (self.clock().wall().0 / 1_000_000).saturating_sub(since).max(0) / 1000;
        text += &format!("last contact with {primary}: {ago} s ago\n");
        let mine = (self.me().clone(), here);
        for (site, report) in std::iter::once(&mine).chain(reports) {
            text += &format!(
                "{site} has {share} up to record {}, {} of its own changes under way, {} places held for \
                 changes at {primary}, {} contents awaited\n",
                report.seq, report.ahead, report.held, report.debts
            );
        }
        text
    }

    /// Takes a newer epoch: becomes the primary, or follows it. Says what is lost. It is done whole
    /// even if whoever asked goes away.
    async fn assume(&self, share: &ShareId, lead: Lead, grounds: Grounds) -> Result<Lost, ServeError> {
        let (site, share) = (self.clone(), share.clone());
        let done = work::spawn(async move { site.take_lead(&share, lead, grounds).await });
        done.await.map_err(|_| ServeError::Task)?
    }

    async fn take_lead(
        &self,
        share: &ShareId,
        lead: Lead,
        grounds: Grounds,
    ) -> Result<Lost, ServeError> {
        let _one_at_a_time = self.moving().reloading.lock().await;
        if !self.may_lead(share, &lead.site) {
            return Err(ServeError::NoCopy { share: share.clone(), site: lead.site });
        }
        let shelf = self.shelf(share)?;
        let known = shelf.meta().lead;
        let older = |known: &Lead| lead != *known && plant::is(Bug::FollowOlder);
        if known.as_ref().is_some_and(|known| !comes_after(&lead, known) && !older(known)) {
            return Ok(Lost::default());
        }
        let (epoch, known) = (lead.epoch, known.map_or(Epoch(1), |known| known.epoch));
        if !may_follow(epoch, known) {
            return Err(ServeError::NoEpoch { share: share.clone(), site: lead.site, epoch, known });
        }
        let before = self.home(share);
        let running = self.take_out(share);
        let mine = lead.site == *self.me();
        let wall = self.clock().wall().0;
        let (new, held, clock) = (lead.clone(), shelf.clone(), self.clock().clone());
        let noted = blocking(move || {
            let was_primary = running.as_ref().is_some_and(|(primary, _)| *primary);
            if let Some((_, end)) = running {
                end()?;
            }
            let (head, share) = (held.head(), || held.share().clone());
            match grounds {
                Grounds::Handed | Grounds::Forced(_)
                    if (head.at, head.chain) != (new.base, new.chain) =>
                {
                    return Err(ServeError::WentOn { share: share() });
                }
                Grounds::Forced(until) if clock.boot() >= until && !plant::is(Bug::TrustOldReports) => {
                    return Err(ServeError::TooLate { share: share() });
                }
                _ => {}
            }
            if mine {
                return succeed(&held, &new, wall);
            }
            if follow_on(&held, &new, was_primary)? {
                tracing::warn!(
                    share = %held.share(), primary = %new.site, from = new.base.seq.0 + 1,
                    "what is here and in nobody's history is kept in .nearshare/kept"
                );
            }
            Ok(Lost::default())
        })
        .await;
        // Also if that failed: the share goes on as the catalog says, or is forwarded.
        let host = self.clone();
        blocking(move || host.install()).await?;
        self.pauses().remove(share);
        if let Some(before) = before {
            work::spawn(self.clone().hear_out(share.clone(), before));
        }
        let lost = noted?;
        tracing::warn!(%share, primary = %lead.site, epoch = lead.epoch.0, "the primary copy has moved");
        Ok(lost)
    }

    /// The copy here is told when this site's server has ended what it was at while this site led.
    async fn hear_out(self, share: ShareId, before: Arc<Notice<H::Tree>>) {
        let unknown = before.ended().await;
        if let Some(follow) = self.copy(&share) {
            follow.server_has_ended(unknown);
        }
    }

    fn may_lead(&self, share: &ShareId, site: &SiteId) -> bool {
        let map = self.map();
        let at = map.shares.get(share).and_then(|row| row.at(site));
        at.is_some_and(|at| !matches!(at.place, Place::Remote))
    }

    /// Another may have been promoted at the same time.
    fn must_lead(&self, share: &ShareId, lead: &Lead) -> Result<(), String> {
        match self.shelf(share).map_err(text)?.meta().lead {
            Some(known) if known != *lead => Err(format!(
                "{} was promoted meanwhile (epoch {}) and has the primary copy of {share}",
                known.site, known.epoch
            )),
            _ => Ok(()),
        }
    }

    fn pauses(&self) -> std::sync::MutexGuard<'_, BTreeMap<ShareId, Pause>> {
        self.moving().pauses.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Tells every other site of the shares that this one leads in a later epoch than the first, until
    /// each has heard of it; again when it comes back. The new primary is told by all, so that one that was
    /// killed before it knew takes over.
    pub async fn tell_others(self) {
        let mut told: BTreeMap<(ShareId, SiteId), u32> = BTreeMap::new();
        let mut asked: BTreeSet<(ShareId, SiteId)> = BTreeSet::new();
        // One that does not answer keeps no other waiting.
        let mut telling = FuturesUnordered::new();
        while !self.stopping().is_cancelled() {
            for (share, site, epoch) in self.to_tell() {
                let key = (share, site);
                if !self.links().peer(&key.1).is_some_and(|peer| peer.up()) {
                    told.remove(&key);
                } else if told.get(&key) != Some(&epoch) && asked.insert(key.clone()) {
                    let this = &self;
                    telling.push(async move {
                        let heard = this.tell(&key.0, &key.1).await;
                        (key, heard.then_some(epoch))
                    });
                }
            }
            let again = tokio::time::sleep(TELL);
            tokio::pin!(again);
            loop {
                tokio::select! {
                    biased;
                    () = self.stopping().cancelled() => return,
                    Some((key, heard)) = telling.next(), if !telling.is_empty() => {
                        asked.remove(&key);
                        heard.map(|epoch| told.insert(key, epoch));
                    }
                    () = &mut again => break,
                }
            }
        }
    }

    /// Who is to hear who leads, and in which epoch.
    fn to_tell(&self) -> Vec<(ShareId, SiteId, u32)> {
        let (map, me) = (self.map(), self.me());
        let mut all = Vec::new();
        for share in map.shares.values().filter(|share| share.epoch() > 1) {
            let hears = |site: &SiteId| site != me && (share.primary() == me || share.primary() == site);
            let sites = share.sites().map(|(site, _)| site).filter(|site| hears(site));
            all.extend(sites.map(|site| (share.name.clone(), site.clone(), share.epoch())));
        }
        all
    }

    async fn tell(&self, share: &ShareId, site: &SiteId) -> bool {
        let lead = self.shelf(share).ok().and_then(|shelf| shelf.meta().lead);
        let Some(lead) = lead.filter(|lead| lead.site == *self.me() || lead.site == *site) else {
            return false;
        };
        match ask::<said::Lead>(&*self.links(), site, share, "lead", &to_wire(&lead)).await {
            Ok(theirs) => {
                // Another was promoted meanwhile, and this site was not there.
                if let Some(newer) = from_wire(&theirs).filter(|theirs| comes_after(theirs, &lead)) {
                    self.heard_of(share, site, newer).await;
                }
                true
            }
            Err(error) => {
                tracing::debug!(%share, %site, error, "has not heard of this primary yet");
                false
            }
        }
    }

    /// A site that was told who leads knows of a later primary. That is believed of itself alone: another
    /// tells of its lead as soon as it can reach this site.
    async fn heard_of(&self, share: &ShareId, from: &SiteId, newer: Lead) {
        let (primary, epoch) = (newer.site.clone(), newer.epoch.0);
        if primary != *from {
            tracing::warn!(
                %share, %from, %primary, epoch,
                "another site says that the primary copy has moved; not followed before {primary} says so"
            );
        } else if let Err(error) = self.assume(share, newer, Grounds::Heard).await {
            tracing::error!(%share, %primary, epoch, %error, "the newer primary cannot be followed");
        }
    }
}

/// Why an epoch that a site tells of is not gone beyond.
fn no_epoch(share: &ShareId, site: &SiteId, told: u32, known: Epoch) -> String {
    format!(
        "{site} tells of epoch {told} of {share}, and this site knows of epoch {known}: so many promotions \
         cannot have been missed, see what runs at {site}; nothing has changed"
    )
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The last record of a copy that is in the history that goes on, 0 if that cannot be told. Who went on under a
/// primary whose epoch has ended may not have heard that, or not have put it aside yet (R33).
fn counts_to(report: &said::Report, known: &Lead) -> Seq {
    let (epoch, seq) = (Epoch(report.epoch), Seq(report.seq));
    // Under that lead, or a later one, all that it has was taken for the beginning of the history.
    let accepted = report.confirmed && report.accepted >= known.epoch.0;
    if epoch >= known.epoch || accepted || plant::is(Bug::TakeEnded) {
        seq
    } else if epoch == known.base.epoch {
        known.base.seq.min(seq)
    } else {
        // Where an epoch ended before that one began, only who was there knows.
        Seq(0)
    }
}

/// The next whole copy that has not been asked for all contents up to the record `owed`. `gave`: who has been asked
/// for those up to which record.
fn unasked<'a>(
    reports: &'a [(SiteId, said::Report)],
    gave: &BTreeMap<SiteId, Seq>,
    owed: Seq,
) -> Option<&'a (SiteId, said::Report)> {
    let asked = |site| gave.get(site).is_some_and(|up_to| *up_to >= owed);
    reports.iter().find(|(site, report)| report.confirmed && !asked(site))
}

/// The copy of the same history that has most, if it has more than this one.
fn furthest<'a>(
    here: &Head,
    reports: impl Iterator<Item = &'a (SiteId, said::Report)>,
    known: &Lead,
) -> Option<&'a (SiteId, said::Report)> {
    let further = reports.filter(|(_, report)| {
        let same = report.incarnation == here.incarnation.0[..] && report.epoch >= here.at.epoch.0;
        same && counts_to(report, known) > here.at.seq
    });
    further.max_by_key(|(_, report)| (report.epoch, counts_to(report, known)))
}

#[cfg(test)]
mod tests;
