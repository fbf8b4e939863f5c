//! What the order of the journal promises: no copy shows a later change without an earlier one (R20),
//! and an object is the same one for as long as it lives (R16).

use super::clients::Sight;
use super::faults::Left;
use super::history::names::{Name, Op};
use super::history::{Call, End};
use crate::catalog::{Change, Record, Shelf};
use crate::hash::{HashMap, HashSet};
use crate::id::{Hash, ObjectId, Seq};
use crate::object::Kind;
use crate::tree::content::hash_bytes;
use crate::tree::model::Model;

/// Records read from a journal at once.
const RECORDS: usize = 256;
const RECORD_BYTES: usize = 1 << 20;

/// A value that was put, and when.
struct Put {
    name: Name,
    called: u64,
    answered: u64,
}

/// Looks for a copy that showed a value, and then one that was replaced before that value was put.
pub fn check(calls: &[Call<Op>], sights: &[&Sight]) -> Result<(), String> {
    let mut puts: HashMap<u64, Put> = HashMap::default();
    let mut moves: Vec<(Name, u64)> = Vec::new();
    for call in calls {
        let op = match &call.op {
            Op::Within { op, .. } => &**op,
            op => op,
        };
        match (op, call.end) {
            (Op::Put { name, value, .. }, End::Answered(answered)) => {
                puts.insert(*value, Put { name: *name, called: call.called, answered });
            }
            (Op::Move { to, .. } | Op::Copy { to, .. }, _) => moves.push((*to, call.called)),
            (Op::MoveTree { names } | Op::CopyTree { names }, _) => {
                moves.extend(names.iter().map(|(_, to)| (*to, call.called)))
            }
            _ => {}
        }
    }
    for sight in sights {
        for (name, value) in &sight.seen {
            let Some(old) = puts.get(value).filter(|put| put.name == *name) else { continue };
            if moves.iter().any(|(to, called)| to == name && *called <= sight.ended) {
                continue;
            }
            let replaced = puts.values().filter(|put| put.name == *name && put.called > old.answered);
            let Some(since) = replaced.map(|put| put.answered).min() else { continue };
            // A listing is no picture of one moment at any server: what it shows at once says nothing.
            let before = sights.iter().filter(|before| {
                before.ended <= sight.called && before.near && before.site == sight.site
            });
            let mut later = before.flat_map(|before| &before.seen).filter_map(|(_, shown)| {
                let put = puts.get(shown)?;
                (put.called > since).then_some((shown, put))
            });
            if let Some((shown, put)) = later.next() {
                return Err(format!(
                    "{} shows value {shown} of name {}, which was put at {} ns, and then value {value} of \
                     name {name}, which was replaced by {since} ns, at {} ns",
                    sight.site, put.name, put.called, sight.called
                ));
            }
        }
    }
    Ok(())
}

/// What a lost primary had is in the history, or kept aside.
pub fn kept(left: &Left, disk: &Model, shelf: &Shelf) -> Result<(), String> {
    let mut known: HashSet<Hash> = HashSet::default();
    records(shelf, |record| {
        for change in &record.changes {
            if let Change::Put(object) = change {
                known.insert(object.root);
            }
        }
        Ok(())
    })?;
    known.extend(disk.kept().iter().map(|data| hash_bytes(data).root));
    match left.contents.iter().find(|data| !known.contains(&hash_bytes(data).root)) {
        Some(data) => {
            Err(format!("what {} had is lost: {}", left.site, String::from_utf8_lossy(data).trim()))
        }
        None => Ok(()),
    }
}

/// Every content was put once, so it is always of one object, if there are no `copies`; and no object
/// comes back that was gone.
pub fn identities(shelf: &Shelf, copies: bool) -> Result<(), String> {
    let mut gone: HashSet<ObjectId> = HashSet::default();
    let mut whose: HashMap<Hash, ObjectId> = HashMap::default();
    records(shelf, |record| {
        for change in &record.changes {
            match change {
                Change::Gone { id } => drop(gone.insert(*id)),
                Change::Put(object) if gone.contains(&object.id) => {
                    return Err(format!("{:?} is gone, and back in record {:?}", object.id, record.at));
                }
                Change::Put(object) if object.kind == Kind::File && !copies => {
                    let known = *whose.entry(object.root).or_insert(object.id);
                    if known != object.id {
                        let (id, at) = (object.id, record.at);
                        return Err(format!("what {known:?} was is {id:?} in record {at:?}"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    })
}

fn records(shelf: &Shelf, mut each: impl FnMut(&Record) -> Result<(), String>) -> Result<(), String> {
    let mut after = Seq(shelf.oldest().0.saturating_sub(1));
    loop {
        let records =
            shelf.records_after(after, RECORDS, RECORD_BYTES).map_err(|why| why.to_string())?;
        let Some(last) = records.last() else { return Ok(()) };
        after = last.at.seq;
        records.iter().try_for_each(&mut each)?;
    }
}
