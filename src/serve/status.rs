//! What the site says of itself, put together from what each room says.

use std::collections::HashMap;

use futures_util::future::{BoxFuture, FutureExt};

use super::lead::Leading;
use super::share::{Part, Running, mended_elsewhere};
use super::{ServeError, Site};
use crate::admin::{
    CopyStatus, HttpStatus, MapStatus, NotTaken, ShareState, ShareStatus, Status, Steer,
};
use crate::catalog::{CatalogError, Change, Shelf};
use crate::follow::Progress;
use crate::id::{Epoch, Name, ObjectId, Seq, ShareId, SiteId};
use crate::map::{self, HttpServer};
use crate::notice;
use crate::object::Kind;
use crate::tree::kept::{KeptPage, Unkept};
use crate::tree::{Disk, Tree, TreeError};
use crate::verify::{Order, Report};

/// Longest map file, as for `check`.
const MAP_MAX: u64 = map::TEXT_MAX as u64;
/// Of what a verification found, so many are in a status.
const WRONG_MAX: usize = 5;
/// Records that a copy lacks whose contents are counted, and their bytes: a status takes milliseconds.
const BEHIND_RECORDS: usize = 1024;
const BEHIND_BYTES: usize = 1 << 20;

pub(super) fn status(site: &Site) -> Status {
    let map = site.map.load();
    let me = &site.options.site;
    let row = map.sites.get(me);
    let http =
        row.and_then(|row| row.http.as_ref()).zip(site.upstream.as_ref()).map(|(http, upstream)| {
            let health = upstream.health();
            HttpStatus {
                listen: http.listen,
                server: match &http.server {
                    HttpServer::Embedded => "embedded".to_owned(),
                    HttpServer::Url(at) => format!("http://{at}"),
                },
                asked: matches!(http.server, HttpServer::Embedded) || health.asked() > 0,
                up: health.up,
                last_error: health.last_error.map(|(_, what)| what),
                tls: http.tls.as_ref().map(|tls| tls.listen),
                connections: site.relay.as_ref().map_or(0, |relay| relay.connections()),
                turned_away: site.door.as_ref().map(|door| door.tally().counts()).unwrap_or_default(),
                changes_lost: site.relay.as_ref().map(|relay| relay.lost()).unwrap_or_default(),
            }
        });
    let at_unix_ms = site.clock.wall().0 / 1_000_000;
    let mut links = site.links.states();
    site.awaited.complete(&mut links, at_unix_ms);
    let running = site.shares();
    let shares = map.shares_at(me).map(|(share, at)| match running.get(&share.name) {
        Some(here) => held(site, &map, share, at, here),
        None => remote(share, at),
    });
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        site: me.clone(),
        pid: std::process::id(),
        at_unix_ms,
        since_unix_ms: site.began.0 / 1_000_000,
        stopping: site.stop.is_cancelled(),
        map: MapStatus {
            serial: map.serial,
            hash: map.hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            file: site.options.map_file.clone(),
        },
        certificate: site.validity,
        http,
        links,
        refused: site.links.refusals(),
        shares: shares.collect(),
    }
}

fn remote(share: &map::Share, at: &map::AtSite) -> ShareStatus {
    ShareStatus {
        share: share.name.clone(),
        role: at.role().as_str(),
        primary: share.primary().clone(),
        map_primary: Some(share.first_primary()).filter(|first| *first != share.primary()).cloned(),
        epoch: Epoch::default(),
        position: Seq::default(),
        objects: 0,
        bytes: 0,
        locks: None,
        state: ShareState::Remote,
        wrong: None,
        fix: None,
        home: None,
        copy: None,
        copies: Vec::new(),
        kept: 0,
        verify: None,
        limits: Vec::new(),
    }
}

fn held(
    site: &Site,
    map: &map::Map,
    share: &map::Share,
    at: &map::AtSite,
    here: &Running,
) -> ShareStatus {
    let head = here.shelf.head().at;
    let totals = here.shelf.totals();
    let mut status = ShareStatus {
        epoch: head.epoch,
        position: head.seq,
        objects: totals.objects,
        bytes: totals.bytes,
        locks: here.keeper.as_ref().filter(|_| map.keeps_locks(share)).map(|keeper| keeper.count()),
        kept: here.disk.kept_known(),
        verify: Some(here.desk.report().in_short(WRONG_MAX))
            .filter(|report| *report != Report::default()),
        limits: here.disk.left_out(),
        ..remote(share, at)
    };
    match &here.part {
        Part::Home(notice) => {
            let standing = notice.standing();
            status.state = match (&standing.stopped, &standing.scan) {
                (Some(_), _) => ShareState::Stopped,
                (None, Some(_)) => ShareState::Scanning,
                (None, None) => ShareState::Ok,
            };
            status.wrong = standing.stopped.clone();
            status.home = Some(standing);
            status.copies = copies(here, &notice.copies(), here.age_seconds(site.began.0));
        }
        Part::Copy(follow) => {
            let progress = follow.progress();
            let up = site.links.peer(follow.primary()).is_some_and(|peer| peer.up());
            status.state = state_of(&progress, up);
            status.wrong = progress.stopped.clone();
            status.copy = Some(progress);
        }
    }
    if let Some(broken) = site.catalog.broken() {
        status.state = ShareState::Stopped;
        status.wrong = Some(broken);
        let state = site.row().map(|row| row.cluster.state.display().to_string()).unwrap_or_default();
        status.fix = Some(format!(
            "make room on the file system of {state} or see to its disk; it goes on by itself"
        ));
    } else if let Some(wrong) = &status.wrong {
        status.fix = Some(fix_for(wrong, at));
    } else if let Some(degraded) = status.home.as_ref().and_then(|home| home.degraded.clone()) {
        status.wrong = Some(degraded);
        status.fix = Some("see to the links and sites that are down; it goes on by itself".to_owned());
    } else if let Some((wrong, fix)) = status.home.as_ref().and_then(unreadable) {
        (status.wrong, status.fix) = (Some(wrong), Some(fix));
    } else if let Some((wrong, fix)) = rotten(&status, here) {
        (status.wrong, status.fix) = (Some(wrong), Some(fix));
    }
    status
}

/// What the primary's disk does not give, and copies wait for.
fn unreadable(home: &notice::Standing) -> Option<(String, String)> {
    let first = home.unread_first.first()?;
    let what = match home.unreadable {
        0 => return None,
        1 => format!("{} cannot be read, and copies lack what it is now", first.place),
        many => format!(
            "{many} places cannot be read, and copies lack what they are now, such as {}",
            first.place
        ),
    };
    Some((format!("{what}: {}", first.why), first.fix.to_owned()))
}

/// What was found to be wrong on the disk, and is still.
fn rotten(status: &ShareStatus, here: &Running) -> Option<(String, String)> {
    let report = status.verify.as_ref()?;
    let such = report.wrong.first().map(|wrong| format!("{}: {}", wrong.path, wrong.why));
    let what = match (report.all_wrong(), such) {
        (0, _) => return None,
        (1, Some(it)) => format!("`nearshare verify` found one file wrong on this disk: {it}"),
        (many, such) => {
            let such = such.map(|such| format!(", such as {such}")).unwrap_or_default();
            format!("`nearshare verify` found {many} files wrong on this disk{such}")
        }
    };
    let share = &status.share;
    let fix = match &here.part {
        Part::Home(_) => mended_elsewhere(share),
        Part::Copy(_) => format!("`nearshare verify {share} --repair` puts it right from the primary"),
    };
    Some((what, fix))
}

fn state_of(progress: &Progress, up: bool) -> ShareState {
    match progress {
        Progress { stopped: Some(_), .. } => ShareState::Stopped,
        _ if !up => ShareState::CutOff,
        Progress { doing, .. } if doing.starts_with("comparing") => ShareState::Comparing,
        Progress { confirmed: false, debts: 1.., .. } => ShareState::Filling,
        Progress { confirmed: true, doing, .. } if *doing == "following" => ShareState::Following,
        _ => ShareState::Waiting,
    }
}

/// What an operator does about a share that stands still.
fn fix_for(wrong: &str, at: &map::AtSite) -> String {
    let path = at.path().map(|path| path.display().to_string()).unwrap_or_default();
    if wrong.contains("No space left") || wrong.contains("os error 28") {
        return format!(
            "make room on the file system of {path} or of the state directory; it goes on by itself"
        );
    }
    if wrong.contains("of extended attributes") {
        return format!(
            "give the file system of {path} room for them (ext4: `tune2fs -O ea_inode` on its device, or \
             `mkfs.ext4 -O ea_inode`), or take some away at the primary; until then reads of it go there"
        );
    }
    if wrong.contains("Read-only file system") {
        return format!("mount the file system of {path} read-write; it goes on by itself");
    }
    format!(
        "see that {path} is mounted, is the share's own directory and can be written; it goes on by itself"
    )
}

/// `up`: how long this process runs, in seconds.
fn copies(here: &Running, sites: &[crate::id::SiteId], up: f64) -> Vec<CopyStatus> {
    let head = here.shelf.head().at;
    let rows: std::collections::BTreeMap<_, _> =
        here.shelf.peers().unwrap_or_default().into_iter().collect();
    let copy = |site: &crate::id::SiteId| {
        let row = rows.get(site).copied().unwrap_or_default();
        let acked = if row.acked.epoch == head.epoch { row.acked.seq } else { Seq::default() };
        let behind = head.seq.0.saturating_sub(acked.0);
        let oldest = if behind > 0 { here.shelf.record(acked.next()).ok().flatten() } else { None };
        CopyStatus {
            site: site.clone(),
            lag_records: behind,
            lag_seconds: oldest.map_or(0.0, |record| {
                let age = here.age_seconds(record.wall);
                // The record may be older than the copy.
                if row.seen_wall > 0 { age } else { age.min(up) }
            }),
            lag_bytes: row.debt_bytes.saturating_add(bytes_behind(&here.shelf, acked).unwrap_or(0)),
            debts: row.debts,
            seen_unix_ms: (row.seen_wall > 0).then_some(row.seen_wall / 1_000_000),
        }
    };
    sites.iter().map(copy).collect()
}

/// Sizes of the files that records after `acked` put, each file once. A copy may turn out to have some.
fn bytes_behind(shelf: &Shelf, acked: Seq) -> Result<u64, CatalogError> {
    if acked == shelf.head().at.seq {
        return Ok(0);
    }
    let mut sizes: HashMap<ObjectId, u64> = HashMap::new();
    for record in shelf.records_after(acked, BEHIND_RECORDS, BEHIND_BYTES)? {
        for change in record.changes {
            match change {
                Change::Put(object) if object.kind == Kind::File => {
                    sizes.insert(object.id, object.size);
                }
                Change::Gone { id } => drop(sizes.remove(&id)),
                Change::Put(_) | Change::Link { .. } | Change::Unlink { .. } | Change::Move { .. } => {}
            }
        }
    }
    Ok(sizes.into_values().sum())
}

impl Site {
    fn of_share<V>(&self, share: &ShareId, ask: impl FnOnce(&Running) -> V) -> Result<V, String> {
        let shares = self.shares();
        let here = shares.get(share);
        here.map(ask).ok_or_else(|| format!("there is no copy of {share} at this site"))
    }

    /// Asks a share's directory here, where that may wait for the disk.
    fn of_disk<'a, V: Send + 'static>(
        &'a self,
        share: &'a ShareId,
        ask: impl FnOnce(&Disk) -> Result<V, TreeError> + Send + 'static,
    ) -> BoxFuture<'a, Result<V, String>> {
        let disk = self.of_share(share, |here| here.disk.clone());
        async move {
            let disk = disk?;
            super::blocking(move || Ok(ask(&disk)?)).await.map_err(said)
        }
        .boxed()
    }
}

impl Steer for Site {
    fn status(&self) -> Status {
        status(self)
    }

    fn promote<'a>(
        &'a self,
        share: &'a ShareId,
        to: &'a SiteId,
        accept_loss: bool,
    ) -> BoxFuture<'a, Result<String, String>> {
        // Seen through even if the command is broken off: halfway nobody is the primary.
        async move {
            let (site, share, to) = (self.this().map_err(said)?, share.clone(), to.clone());
            let done =
                tokio::spawn(async move { Leading(site).promote(&share, &to, accept_loss).await });
            done.await.map_err(said)?
        }
        .boxed()
    }

    fn kept<'a>(
        &'a self,
        share: &'a ShareId,
        after: Option<Name>,
    ) -> BoxFuture<'a, Result<KeptPage, String>> {
        self.of_disk(share, move |disk| disk.kept(after.as_ref()))
    }

    fn remove_kept<'a>(
        &'a self,
        share: &'a ShareId,
        which: Unkept,
    ) -> BoxFuture<'a, Result<u64, String>> {
        self.of_disk(share, move |disk| disk.remove_kept(&which))
    }

    fn verify(&self, share: &ShareId, order: Order) -> Result<bool, String> {
        self.of_share(share, |here| here.verify(order))?
    }

    fn end_verify(&self, share: &ShareId) -> Result<(), String> {
        self.of_share(share, |here| here.desk.stop())
    }

    fn verified(&self, share: &ShareId) -> Result<Report, String> {
        self.of_share(share, |here| here.desk.report())
    }

    fn metrics(&self) -> String {
        self.metrics.as_ref().map(|metrics| metrics.render()).unwrap_or_default()
    }

    fn reload(&self) -> BoxFuture<'_, Result<String, NotTaken>> {
        async move {
            let refused = |why: String| NotTaken::Refused(why);
            let file = self.options.map_file.clone();
            let read = super::blocking(move || read_map(&file)).await;
            let text = read.map_err(|error| NotTaken::Unread(error.to_string()))?;
            let map = map::parse(&text).map_err(|mistakes| {
                let file = self.options.map_file.display();
                let lines = mistakes.iter().map(|mistake| format!("{file}:{mistake}"));
                refused(lines.collect::<Vec<_>>().join("\n"))
            })?;
            let site = self.this().map_err(|error| refused(error.to_string()))?;
            site.reload(map).await.map_err(refused)
        }
        .boxed()
    }

    fn believe(&self, share: &ShareId) -> Result<usize, String> {
        match self.shares().get(share).map(|here| &here.part) {
            Some(Part::Home(notice)) => Ok(notice.believe()),
            Some(Part::Copy(follow)) => Ok(follow.believe()),
            None => {
                Err(format!("{share} has no copy at this site: changes are in doubt at its primary"))
            }
        }
    }

    fn rescan(&self, share: &ShareId) -> Result<(), String> {
        match self.shares().get(share).map(|here| &here.part) {
            Some(Part::Home(notice)) => {
                notice.rescan();
                Ok(())
            }
            Some(Part::Copy(follow)) => {
                let primary = follow.primary();
                Err(format!(
                    "this site has a copy of {share}; scan it at {primary}, which has the primary copy"
                ))
            }
            None => Err(format!("there is no copy of {share} at this site")),
        }
    }
}

fn read_map(file: &std::path::Path) -> Result<String, ServeError> {
    use std::io::Read;
    let failed = |source| ServeError::State { what: "read the map", path: file.into(), source };
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(failed)?;
    opened.take(MAP_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}
