//! What a copy knows of its disk when somebody verifies that, and how it puts right what is wrong: as if the
//! content had never come. The debt is durable before anything changes; the wrong version stays where it is until
//! the right one takes its place, and is kept aside then. Until then reads of it go home.

use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::applier::{Applier, Job};
use super::{Follow, FollowError, Result, lock};
use crate::catalog::{Debt, Touch};
use crate::id::{Gen, Name, ObjectId, Version};
use crate::object::{Kind, Local, Stamp};
use crate::tree::Tree;
use crate::verify::{Judge, VerifyError};
use crate::work;

impl<T: Tree> Judge for Follow<T> {
    fn is_busy(&self, id: ObjectId, (dir, name): &(ObjectId, Name)) -> Result<bool, VerifyError> {
        // A comparison looks at all of it.
        if !self.confirmed.load(Ordering::Acquire) || lock(&self.progress).comparing {
            return Ok(true);
        }
        Ok(lock(&self.owed).contains(id)
            || self.shelf.is_marked(&Touch::Object(id))?
            || self.shelf.is_marked(&Touch::Entry(*dir, name.clone()))?)
    }

    /// The catalog is right, whatever the file says of itself.
    fn claims(&self, _: &Local, _: &Stamp) -> bool {
        true
    }
    fn is_copy(&self) -> bool {
        true
    }

    fn mend(&self, id: ObjectId, version: Version) -> Result<bool, VerifyError> {
        let (done, mended) = oneshot::channel();
        let sent = work::block_on(self.jobs.send(Job::Mend(id, version, done)));
        sent.map_err(|_| VerifyError::Stopped)?;
        work::block_on(mended).map_err(|_| VerifyError::Stopped)
    }

    fn is_stopped(&self) -> bool {
        self.stopped()
    }
}

impl<T: Tree> Applier<T> {
    /// As [`Self::mend`], for who waits for it.
    pub(super) fn take_mend(
        &mut self,
        id: ObjectId,
        version: Version,
        done: oneshot::Sender<bool>,
    ) -> Result<(), (FollowError, Box<Job>)> {
        match self.mend(id, version) {
            Ok(mended) => {
                // Who has gone finds it busy the next time.
                let _ = done.send(mended);
                Ok(())
            }
            Err(error) => Err((error, Box::new(Job::Mend(id, version, done)))),
        }
    }

    /// The disk has nothing of this object that can be used.
    pub(super) fn mend(&mut self, id: ObjectId, version: Version) -> Result<bool> {
        let follow = self.follow.clone();
        let shelf = &follow.shelf;
        let Some(object) = shelf.object(id)?.filter(|object| object.version == version) else {
            return Ok(false);
        };
        let entries = shelf.links(id)?.into_iter().map(|(dir, name)| Touch::Entry(dir, name));
        for touch in entries.chain([Touch::Object(id)]) {
            if shelf.is_marked(&touch)? {
                return Ok(false);
            }
        }
        let Some(local) = shelf.local(id)? else { return Ok(false) };
        let epoch = shelf.head().at.epoch;
        let debt = Debt { id, version, size: object.size, seq: object.seq, epoch };
        let mut batch = shelf.batch();
        batch.set_local(id, None);
        let is_file = object.kind == Kind::File;
        if is_file {
            batch.owe(debt);
        }
        batch.mark(Touch::Object(id), Gen(0));
        shelf.commit(batch, true).wait()?;
        if is_file {
            lock(&follow.owed).add(&debt);
            self.count_owed();
        }
        self.stock.rotten.insert(local.handle);
        self.dirty([Touch::Object(id)]);
        Ok(true)
    }
}
