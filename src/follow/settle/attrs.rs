//! Modes, owners, times and extended attributes of what is in place, and what is owed of it.

use std::borrow::Cow;
use std::io;

use super::{Result, Settler};
use crate::catalog::Debt;
use crate::object::{Extra, Found, Kind, Object, Timespec, Xattrs};
use crate::plant::{self, Bug};
use crate::tree::{Spot, Tree, TreeError};

impl<T: Tree> Settler<'_, T> {
    /// Gives what is at `spot` the object's attributes. Those that are apart from its row and have not come
    /// are owed, and as they were until then, with a mode that may be [closed](Object::closed): says whether
    /// there are none.
    pub(super) fn carry(
        &mut self,
        spot: Spot<'_, T::Dir>,
        object: &Object,
        found: Found,
    ) -> Result<(Found, bool)> {
        if plant::is(Bug::LeaveAttributes) {
            return Ok((found, true));
        }
        let have = self.tree.xattrs(spot)?;
        let wanted = match &object.xattrs {
            Extra::Here(xattrs) => Some(Cow::Borrowed(xattrs)),
            Extra::Apart { hash, .. } if have.hash() == *hash => Some(Cow::Borrowed(&have)),
            Extra::Apart { .. } => self.stock.xattrs_of(object).cloned().map(Cow::Owned),
        };
        let whole = wanted.is_some();
        if !whole && self.shelf.debt(object.id)?.is_none() {
            self.out.lost.push(self.debt(object, 0));
        }
        let attrs = if whole { object.attrs } else { object.closed() };
        let wanted = wanted.unwrap_or_else(|| match object.xattrs.may_restrict() {
            true => Cow::Borrowed(&have),
            // An ACL of before, whose mask is the mode's, would let in more than it and the mode ever did.
            false => Cow::Owned(have.unrestricted()),
        });
        if found.attrs == attrs && *wanted == have {
            return Ok((found, whole));
        }
        Ok((self.tree.set_attrs(spot, &attrs, &wanted)?, whole))
    }

    /// Gives verified content its attributes. `None`: somebody removed it, it is asked for again.
    pub(super) fn dress(&mut self, object: &Object) -> Result<Option<Found>> {
        let xattrs = match &object.xattrs {
            Extra::Here(xattrs) => xattrs,
            Extra::Apart { .. } => match self.stock.xattrs_of(object) {
                Some(xattrs) => xattrs,
                None => return Ok(None),
            },
        };
        let (mut attrs, bare) = (object.attrs, Xattrs::default());
        if plant::is(Bug::LeaveTimes) {
            attrs.mtime = Timespec::default();
        }
        let xattrs = if plant::is(Bug::LeaveAttributes) { &bare } else { xattrs };
        match self.tree.set_attrs(Spot::Tmp(object.id), &attrs, xattrs) {
            Ok(found) => Ok(Some(found)),
            Err(TreeError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.stock.ready.remove(&object.id);
                Ok(None)
            }
            Err(other) => Err(other.into()),
        }
    }

    pub(super) fn debt(&self, object: &Object, size: u64) -> Debt {
        let epoch = self.shelf.head().at.epoch;
        Debt { id: object.id, version: object.version, size, seq: object.seq, epoch }
    }

    /// Everything of the object is in place. If it was missed a moment ago, it was found.
    pub(super) fn pay(&mut self, object: &Object) {
        self.out.lost.retain(|debt| debt.id != object.id);
        self.out.paid.push((object.id, object.version));
    }

    /// The same, where there may be no debt.
    pub(super) fn pay_if_owed(&mut self, object: &Object) -> Result<()> {
        if self.shelf.debt_totals().0 > 0 && self.shelf.debt(object.id)?.is_some() {
            self.pay(object);
        }
        Ok(())
    }

    /// Whether only extended attributes may be missing of what the disk has of the object.
    pub(super) fn has_content(&self, object: &Object) -> Result<bool> {
        let local = self.local(object.id)?;
        Ok(object.kind != Kind::File || local.is_some_and(|local| local.version == object.version))
    }
}
