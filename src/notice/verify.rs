//! What the primary knows of its disk when somebody verifies that. The disk is what counts here: only a file that
//! says of itself that nobody has changed it, and whose content is another all the same, is wrong. It cannot be
//! put right here, for all copies have from here what they have: another site must lead first.

use std::sync::atomic::Ordering;

use super::{Notice, lock};
use crate::catalog::Touch;
use crate::id::{Name, ObjectId, Version};
use crate::object::{Local, Stamp};
use crate::tree::Tree;
use crate::verify::{Judge, VerifyError};

impl<T: Tree> Judge for Notice<T> {
    fn is_busy(&self, id: ObjectId, (dir, name): &(ObjectId, Name)) -> Result<bool, VerifyError> {
        let table = lock(&self.table);
        Ok(table.is_marked(&Touch::Object(id)) || table.is_marked(&Touch::Entry(*dir, name.clone())))
    }

    fn claims(&self, local: &Local, now: &Stamp) -> bool {
        local.settled && local.stamp == *now
    }
    fn is_copy(&self) -> bool {
        false
    }
    fn mend(&self, _: ObjectId, _: Version) -> Result<bool, VerifyError> {
        Ok(false)
    }
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}
