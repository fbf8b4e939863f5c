//! What waits at a copy until something is on its disk: releases, barriers, pledges.

use std::sync::atomic::Ordering;

use super::applier::Applier;
use super::owed::Owed;
use super::{Result, lock};
use crate::catalog::Touch;
use crate::id::{Gen, ObjectId, Seq};
use crate::object::Kind;
use crate::tree::Tree;

/// Releases that wait for content. Beyond it all are forgotten, and a barrier or a fresh lease ends what
/// awaits them.
const WAITING_MAX: usize = 65_536;

/// A release that waits for content.
pub(super) struct Waiting {
    pub touch: Touch,
    pub through: Gen,
    pub until: Until,
}

pub(super) enum Until {
    Now,
    Paid(ObjectId),
    /// Every content of records up to here has come, as far as no later record names it.
    PaidTo(Seq),
    /// Also what a later record names, as that has it: for a pledge the disk must have some of it.
    PaidSince(Seq),
}

impl Until {
    fn is_here(&self, owed: &Owed) -> bool {
        match self {
            Self::Now => true,
            Self::Paid(id) => !owed.contains(*id),
            Self::PaidTo(seq) => owed.oldest().is_none_or(|oldest| oldest > *seq),
            Self::PaidSince(seq) => owed.oldest_since().is_none_or(|oldest| oldest > *seq),
        }
    }
}

impl<T: Tree> Applier<T> {
    /// A release counts here when what it is about is on the disk, content included. Most are of changes
    /// that nobody here awaits.
    pub(super) fn wait_for(&mut self, mut releases: Vec<(Touch, Gen)>) {
        let follow = self.follow.clone();
        {
            let ahead = lock(&follow.ahead);
            releases.retain(|(touch, _)| ahead.cares(touch));
        }
        if releases.len() + self.waiting.len() > WAITING_MAX {
            let waiting: Vec<Touch> = self.waiting.drain(..).map(|waiting| waiting.touch).collect();
            let forgotten = waiting.iter().chain(releases.iter().map(|(touch, _)| touch));
            let held = {
                let mut ahead = lock(&follow.ahead);
                ahead.forget_recent();
                ahead.doubt_all(forgotten)
            };
            if held {
                follow.renounce();
            }
            return;
        }
        let head = follow.shelf.head().at.seq;
        for (touch, through) in releases {
            let id = match &touch {
                Touch::Object(id) => Ok(Some(*id)),
                Touch::Entry(dir, name) => follow.shelf.child(*dir, name),
            };
            let object = id.and_then(|id| id.map_or(Ok(None), |id| follow.shelf.object(id)));
            let until = match object {
                Ok(Some(object)) if object.kind == Kind::File => Until::Paid(object.id),
                Ok(Some(object)) if object.kind != Kind::Directory => Until::Now,
                Ok(None) => Until::Now,
                // A directory that came with what is in it. What cannot be told is waited for.
                Ok(Some(_)) | Err(_) => Until::PaidTo(head),
            };
            self.waiting.push(Waiting { touch, through, until });
        }
    }

    /// A barrier ends these notes. What this site asked for and the primary could not look at yet, or is in
    /// doubt of, gets notes of its own, so that it may end all of them (R9).
    pub(super) fn stay_ahead(&mut self, open: &[(Touch, Gen)], ids: Vec<u64>, seq: Seq) -> Result<()> {
        let follow = self.follow.clone();
        let mut notes = Vec::new();
        let mut batch = follow.shelf.batch();
        for (touch, generation) in open {
            if !lock(&follow.ahead).awaits(touch, *generation) {
                let id = follow.next_note.fetch_add(1, Ordering::Relaxed);
                batch.note_ahead(id, vec![touch.clone()]);
                notes.push((id, touch.clone(), *generation));
            }
        }
        if !notes.is_empty() {
            follow.shelf.commit(batch, true).wait()?;
            follow.with_ahead(|ahead| {
                for (id, touch, generation) in notes {
                    ahead.stays(id, touch, generation);
                }
            });
            follow.place_notes();
        }
        self.barriers.push((ids, seq));
        Ok(())
    }

    /// Lets releases and barriers take effect whose changes are here.
    pub(super) fn let_go(&mut self) -> Result<()> {
        let follow = self.follow.clone();
        let applied = follow.shelf.head().at.seq;
        if self.compare.is_none() {
            follow.lease.set_applied(applied);
        }
        for waiting in &mut self.waiting {
            if let (Until::Paid(id), Touch::Entry(dir, name)) = (&waiting.until, &waiting.touch)
                && !lock(&follow.owed).contains(*id)
                && let Some(now) = follow.shelf.child(*dir, name)?
            {
                // It was replaced before it came: what is there instead has to come.
                waiting.until = Until::Paid(now);
            }
        }
        let oldest = {
            let owed = lock(&follow.owed);
            let oldest = owed.oldest();
            let mut released = Vec::new();
            self.waiting.retain(|waiting| {
                let here = waiting.until.is_here(&owed);
                if here {
                    released.push((waiting.touch.clone(), waiting.through));
                }
                !here
            });
            drop(owed);
            if !released.is_empty() {
                tracing::trace!(share = %follow.config.share, ?released, "released");
                let done = follow.with_ahead(|ahead| ahead.released(&released));
                follow.forget(&done);
            }
            oldest
        };
        let here = |seq: Seq| applied >= seq && oldest.is_none_or(|oldest| oldest > seq);
        let (ended, left) =
            std::mem::take(&mut self.barriers).into_iter().partition(|(_, seq)| here(*seq));
        self.barriers = left;
        for (ids, _) in ended {
            follow.with_ahead(|ahead| {
                for id in &ids {
                    ahead.remove(*id);
                }
            });
            follow.forget(&ids);
        }
        if self.fill_to.is_some_and(here) {
            self.fill_to = None;
            follow.tree.sync()?;
            let mut batch = follow.shelf.batch();
            let epoch = self.epoch;
            batch.set_meta(move |meta| {
                meta.confirmed = true;
                meta.accepted = epoch;
            });
            follow.shelf.commit(batch, true).wait()?;
            follow.confirmed.store(true, Ordering::Release);
            tracing::info!(share = %follow.config.share, "the copy is filled and answers from now on");
        }
        Ok(())
    }

    /// Tells the primary what has come to this disk, once it is sure to stay there.
    pub(super) fn keep(&mut self) -> Result<()> {
        if self.follow.is_fenced()? {
            return Ok(());
        }
        let mut kept = Vec::new();
        {
            let owed = lock(&self.follow.owed);
            for (number, until) in &mut self.pledges {
                until.retain(|until| !until.is_here(&owed));
                if until.is_empty() {
                    kept.push(*number);
                }
            }
        }
        if kept.is_empty() {
            return Ok(());
        }
        if !self.settled.is_empty() {
            self.follow.tree.sync()?;
        }
        for number in &kept {
            self.pledges.remove(number);
        }
        lock(&self.follow.kept).extend(kept);
        self.follow.keeping.notify_one();
        Ok(())
    }
}
