//! What a site's catalog becomes when the primary copy of a share moves (R33 to R35). Not here: who leads,
//! and how sites agree on it (`lead`).

use std::sync::Arc;

use super::ServeError;
use crate::catalog::{Batch, Change, Debt, Lead, Shelf, Touch};
use crate::id::{Epoch, Gen, ObjectId, Position, Seq, ShareId};
use crate::notice::GENS_BITS;
use crate::object::{Kind, Stamp};
use crate::plant::{self, Bug};

/// The last epoch that has generations of its own.
pub(super) const EPOCH_MAX: u32 = (1 << (u64::BITS - GENS_BITS)) - 1;
/// Nobody has missed so many promotions: what tells of more is no primary of the share.
const MISSED_MAX: u32 = 1024;
/// Rows read from the catalog at once.
const DEBTS: usize = 1000;
const RECORDS: usize = 64;
const RECORD_BYTES: usize = 1 << 20;

/// Objects that are named where there may be many.
const NAMED: usize = 20;

/// What a copy still awaited when it took over, and nobody has any more.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    contents: u64,
    /// Of objects whose content is here: extended attributes.
    attributes: u64,
    /// Of those: where an ACL was among them, and nobody but the owner is let in; the first of them by name.
    closed: u64,
    named: Vec<String>,
}

impl Lost {
    /// Counts what was awaited, where the disk is right from now on.
    fn add(&mut self, shelf: &Arc<Shelf>, debt: &Debt) -> Result<(), ServeError> {
        let here = shelf.local(debt.id)?;
        let only_attributes = shelf.object(debt.id)?.filter(|object| {
            let version = here.as_ref().map(|local| local.version);
            object.kind != Kind::File || version == Some(object.version)
        });
        let Some(object) = only_attributes else {
            self.contents += 1;
            return Ok(());
        };
        self.attributes += 1;
        if object.kind != Kind::Symlink && object.xattrs.may_restrict() {
            self.closed += 1;
            if self.named.len() < NAMED {
                self.named.extend(shelf.path_of(object.id)?.map(|path| path.to_string()));
            }
        }
        Ok(())
    }

    /// For whoever gave the command: a line for each kind.
    pub fn told(&self, share: &ShareId) -> String {
        let mut told = String::new();
        if self.contents > 0 {
            let many = self.contents;
            told += &format!("{many} files whose newest contents no site had are as they were before\n");
        }
        if self.attributes > 0 {
            let many = self.attributes;
            told += &format!("{many} objects lack extended attributes that no site had\n");
        }
        if self.closed > 0 {
            let (many, named) = (self.closed, self.named.join(" "));
            let more = if self.closed > self.named.len() as u64 { " and others" } else { "" };
            told += &format!(
                "{many} of them had an ACL among those, and let in nobody but their owners now; set mode and \
                 ACL in {share} of {named}{more}\n"
            );
        }
        told
    }
}

/// At the site that leads from now on.
pub(super) fn succeed(shelf: &Arc<Shelf>, lead: &Lead, wall: i64) -> Result<Lost, ServeError> {
    shelf.raise_gens(Gen(u64::from(lead.epoch.0) << GENS_BITS))?;
    let mut batch = shelf.batch();
    for (id, _) in shelf.ahead_notes()? {
        batch.drop_ahead(id);
    }
    // The disk is right from here on, also where a content never came: it is read again. Where only attributes
    // did not, it has the row's mode already, or is closed.
    let mut lost = Lost::default();
    let mut after = None;
    loop {
        let debts = shelf.debts(after, DEBTS)?;
        let Some(last) = debts.last() else { break };
        after = Some(last.id);
        for debt in debts {
            lost.add(shelf, &debt)?;
            distrust(shelf, debt.id, &mut batch)?;
            let generation = shelf.next_gen()?;
            batch.mark(Touch::Object(debt.id), generation);
            for (dir, name) in shelf.links(debt.id)? {
                batch.mark(Touch::Entry(dir, name), generation);
            }
            batch.paid(debt.id, debt.version);
        }
    }
    let noted = lead.clone();
    batch.set_meta(move |meta| {
        meta.epoch = noted.epoch;
        meta.lead = Some(noted);
        meta.scanned = true;
        // The primary before gave leases.
        meta.leased = true;
    });
    // An epoch begins with a record, so that every position tells which history it is of.
    batch.publish(wall, Vec::new(), Vec::new());
    shelf.commit(batch, true).wait()?;
    Ok(lost)
}

/// What this disk has of an object is taken for changed behind our back: it is read again, or kept aside.
fn distrust(shelf: &Arc<Shelf>, id: ObjectId, batch: &mut Batch) -> Result<(), ServeError> {
    if let Some(mut local) = shelf.local(id)? {
        local.stamp = Stamp::default();
        local.settled = false;
        batch.set_local(id, Some(local));
    }
    Ok(())
}

/// Contents that records after `base` put are in nobody's history any more.
fn distrust_behind(shelf: &Arc<Shelf>, base: Seq, batch: &mut Batch) -> Result<(), ServeError> {
    let mut after = base;
    if base.next() < shelf.oldest() {
        // Those records are not here any more, as after a comparison; their objects tell.
        after = shelf.head().at.seq;
        let snapshot = shelf.snapshot()?;
        for entry in snapshot.entries() {
            let (_, _, object) = entry?;
            if object.kind == Kind::File && object.seq > base {
                distrust(shelf, object.id, batch)?;
            }
        }
    }
    loop {
        let records = shelf.records_after(after, RECORDS, RECORD_BYTES)?;
        let Some(last) = records.last() else { return Ok(()) };
        after = last.at.seq;
        for change in records.iter().flat_map(|record| &record.changes) {
            if let Change::Put(object) = change
                && object.kind == Kind::File
            {
                distrust(shelf, object.id, batch)?;
            }
        }
    }
}

/// Whether `lead` comes after `known`. Two sites that were promoted apart from each other may have taken
/// one epoch: one of them must give way, and every site must see it alike.
pub(super) fn comes_after(lead: &Lead, known: &Lead) -> bool {
    (lead.epoch, &lead.site) > (known.epoch, &known.site)
}

/// Whether an epoch that another site tells of can be one of the share's, where `known` is the last one heard
/// of.
pub(super) fn may_follow(told: Epoch, known: Epoch) -> bool {
    told.0 <= EPOCH_MAX && told.0.saturating_sub(known.0) <= MISSED_MAX
}

/// The epoch of a new primary, `raise` above the last one known and what others tell of. `None` if that is
/// not believed, or there is none.
pub(super) fn epoch_after(known: Epoch, told: Epoch, raise: u32) -> Option<Epoch> {
    let next = known.max(told).0.checked_add(raise).filter(|next| *next <= EPOCH_MAX);
    next.filter(|_| may_follow(told, known)).map(Epoch)
}

/// Behind which record what is here may be in nobody's history, if anything is.
fn apart_from(head: Position, known: Option<&Lead>, lead: &Lead, was_primary: bool) -> Option<Seq> {
    let rival = known.is_some_and(|known| known.epoch == lead.epoch);
    if head.epoch >= lead.epoch && !rival {
        return None;
    }
    // The epoch that the new history took over is neither ours nor follows it as far as we know: one
    // that led at the same time, or while this site did.
    let elsewhere = head.epoch > lead.base.epoch || was_primary && head.epoch < lead.base.epoch;
    let begun = known.map_or(Seq(0), |known| known.base.seq);
    match elsewhere {
        true => Some(begun.min(lead.base.seq)),
        false => (head.seq > lead.base.seq).then_some(lead.base.seq),
    }
}

/// At every other site. `true`: what is here goes beyond what the new history took over, and is kept
/// aside.
pub(super) fn follow_on(shelf: &Arc<Shelf>, lead: &Lead, was_primary: bool) -> Result<bool, ServeError> {
    let apart = apart_from(shelf.head().at, shelf.meta().lead.as_ref(), lead, was_primary);
    let apart = apart.filter(|_| !plant::is(Bug::OverwriteForeign));
    let diverged = apart.is_some();
    let mut batch = shelf.batch();
    if let Some(since) = apart {
        distrust_behind(shelf, since, &mut batch)?;
    }
    if was_primary {
        // At a copy the catalog is right, and marks have no generations. What is in doubt stays so (R18).
        for (touch, generation) in shelf.marks()? {
            batch.clear_mark(&touch, generation);
            batch.mark(touch, Gen(0));
        }
        shelf.doubts()?.into_iter().for_each(|touch| batch.doubt(touch));
    }
    let noted = lead.clone();
    batch.set_meta(move |meta| {
        meta.epoch = noted.epoch;
        meta.lead = Some(noted);
        meta.confirmed = !diverged && (was_primary || meta.confirmed);
    });
    shelf.commit(batch, true).wait()?;
    Ok(diverged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Hash, Name, Version};
    use crate::object::{Attrs, Extra, Local, LocalHandle, Object};

    fn at(epoch: u32, seq: u64) -> Position {
        Position { epoch: Epoch(epoch), seq: Seq(seq) }
    }
    fn lead(epoch: u32, site: &str, base: Position) -> Lead {
        Lead { epoch: Epoch(epoch), site: site.parse().unwrap(), base, chain: Hash::default() }
    }

    fn object(n: u8, kind: Kind) -> Object {
        Object {
            id: id(n),
            kind,
            attrs: Attrs { mode: 0o644, uid: 0, gid: 0, mtime: Default::default() },
            xattrs: Extra::default(),
            size: 1,
            rdev: 0,
            target: Vec::new(),
            version: Version(1),
            root: Hash([n; 32]),
            ctime: Default::default(),
            seq: Seq(0),
        }
    }
    fn id(n: u8) -> ObjectId {
        ObjectId::from_bytes([n; 16])
    }
    /// A share's catalog with these objects in it, of which the disk has what they say first.
    fn shelf_with(objects: Vec<(Version, Object)>) -> Arc<Shelf> {
        let catalog = crate::catalog::Catalog::in_memory(&Default::default()).unwrap();
        let shelf = catalog.share(&"eng".parse().unwrap()).unwrap();
        let mut batch = shelf.batch();
        batch.new_incarnation(Epoch(1));
        for (version, object) in objects {
            let id = object.id;
            let name = Name::new(format!("of-{}", id.as_bytes()[0]).as_bytes()).unwrap();
            let handle = LocalHandle::from_bytes(id.as_bytes());
            let link = Change::Link { parent: ObjectId::ROOT, name, id };
            batch.publish(0, vec![Change::Put(object), link], Vec::new());
            let local = Local { handle, stamp: Stamp::default(), version, settled: true };
            batch.set_local(id, Some(local));
        }
        shelf.commit(batch, true).wait().unwrap();
        shelf
    }

    #[test]
    fn who_takes_over_tells_what_kind_of_thing_is_lost() {
        let apart = |n, kind, restrict| {
            let hash = Hash([7; 32]);
            Object { xattrs: Extra::Apart { hash, restrict }, ..object(n, kind) }
        };
        let objects = vec![
            (Version(0), object(1, Kind::File)),
            (Version(0), apart(2, Kind::File, true)),
            (Version(1), apart(3, Kind::File, false)),
            (Version(1), apart(4, Kind::File, true)),
            (Version(1), apart(5, Kind::Directory, true)),
            (Version(1), apart(6, Kind::Symlink, true)),
            (Version(1), object(7, Kind::File)),
        ];
        let shelf = shelf_with(objects);
        let mut batch = shelf.batch();
        for n in 1..=6 {
            batch.owe(Debt { id: id(n), version: Version(1), size: 0, seq: Seq(1), epoch: Epoch(1) });
        }
        shelf.commit(batch, true).wait().unwrap();
        let lost = succeed(&shelf, &lead(3, "osaka", at(1, 7)), 0).unwrap();
        let named = vec!["/of-4".to_owned(), "/of-5".to_owned()];
        assert_eq!(lost, Lost { contents: 2, attributes: 4, closed: 2, named });
        assert_eq!(shelf.debt_totals(), (0, 0));
        let told = lost.told(&"eng".parse().unwrap());
        assert!(told.contains("of /of-4 /of-5\n") && told.lines().count() == 3, "{told}");
        assert_eq!(Lost::default().told(&"eng".parse().unwrap()), "");
    }

    #[test]
    fn what_nobody_has_is_distrusted_also_where_its_record_is_kept_no_more() {
        let shelf = shelf_with((1..=3).map(|n| (Version(1), object(n, Kind::File))).collect());
        let mut batch = shelf.batch();
        batch.trim_journal(Seq(3));
        shelf.commit(batch, true).wait().unwrap();
        assert_eq!(shelf.oldest(), Seq(3));
        assert!(follow_on(&shelf, &lead(2, "osaka", at(1, 1)), false).unwrap());
        let trusted = [1, 2, 3].map(|n| shelf.local(id(n)).unwrap().unwrap().settled);
        assert_eq!(trusted, [true, false, false]);
    }

    #[test]
    fn of_two_that_took_one_epoch_every_site_follows_the_same() {
        let (lyon, osaka) = (lead(2, "lyon", at(1, 9)), lead(2, "osaka", at(1, 5)));
        assert!(comes_after(&osaka, &lyon) && !comes_after(&lyon, &osaka));
        assert!(!comes_after(&osaka, &osaka));
        assert!(comes_after(&lead(3, "hq", at(2, 7)), &osaka));
    }

    #[test]
    fn an_epoch_that_cannot_be_is_not_believed() {
        let max = EPOCH_MAX;
        for (known, told, raise, next) in [
            (1, 1, 1, Some(2)),
            // Of an empty journal; behind what is known.
            (3, 0, 1, Some(4)),
            (1, 1025, 2, Some(1027)),
            (1, 1026, 1, None),
            (1, u32::MAX, 1, None),
            (max - 1, max - 1, 1, Some(max)),
            (max - 1, max, 1, None),
            (max, max, 0, Some(max)),
            (u32::MAX, u32::MAX, 1, None),
        ] {
            let found = epoch_after(Epoch(known), Epoch(told), raise);
            assert_eq!(found, next.map(Epoch), "{known} {told} {raise}");
        }
        assert!(may_follow(Epoch(1025), Epoch(1)) && !may_follow(Epoch(1026), Epoch(1)));
        assert!(may_follow(Epoch(2), Epoch(9)) && !may_follow(Epoch(max + 1), Epoch(max)));
    }

    #[test]
    fn what_no_history_has_is_found() {
        let first = lead(1, "hq", at(0, 0));
        let (lyon, osaka) = (lead(2, "lyon", at(1, 50)), lead(2, "osaka", at(1, 40)));
        let back = lead(3, "hq", at(2, 60));
        for (head, known, new, was_primary, since) in [
            // Handed over, or behind.
            (at(1, 40), &first, &osaka, true, None),
            (at(1, 30), &first, &osaka, false, None),
            (at(2, 60), &osaka, &back, true, None),
            // Changed at the old primary, or heard of only by this copy.
            (at(1, 44), &first, &osaka, true, Some(Seq(40))),
            (at(1, 44), &first, &osaka, false, Some(Seq(40))),
            // Both took epoch 2: all of it at the one that gives way, however little it is.
            (at(2, 45), &lyon, &osaka, true, Some(Seq(40))),
            (at(2, 45), &lead(2, "lyon", at(1, 30)), &osaka, true, Some(Seq(30))),
            // Led while another did that this site never heard of.
            (at(2, 45), &osaka, &lead(3, "lyon", at(1, 50)), true, Some(Seq(40))),
            (at(1, 45), &first, &back, true, Some(Seq(0))),
            (at(1, 45), &first, &back, false, None),
            // The newest copy's records were taken, and then its lead is heard of.
            (at(2, 45), &first, &osaka, false, None),
        ] {
            let found = apart_from(head, Some(known), new, was_primary);
            assert_eq!(found, since, "{head:?} {known:?} {new:?}");
        }
    }
}
