//! What a forced promotion does to a history (R34): from then on all is as the new primary has it, and what it
//! had must be what there was at some moment before, save for contents that it was said not to have.

use super::NAMES;
use super::clients::{content, value_of};
use super::history::names::{Entry, Name, Op, Seen};
use super::history::{Call, End};
use crate::catalog::Shelf;
use crate::hash::HashMap;
use crate::id::{Hash, ObjectId};
use crate::object::Kind;
use crate::tree::content::hash_bytes;
use crate::tree::model::Model;

/// A site begins to lead.
pub struct Takeover {
    pub epoch: u32,
    pub at: u64,
    /// What its disk has at each name, and what its journal says.
    disk: Vec<Entry>,
    journal: Vec<Option<(Kind, Hash)>>,
}

/// A history with its breaks.
pub struct Split {
    pub calls: Vec<Call<Op>>,
    pub takeovers: Vec<Takeover>,
    /// For each takeover, all up to it and what those went on to do who had not heard: that is right for itself.
    pub sides: Vec<Vec<Call<Op>>>,
}

/// The site that answered a call took itself for the primary's, in this epoch.
pub type Led = Option<u32>;

impl Takeover {
    pub fn of(epoch: u32, at: u64, disk: &Model, shelf: &Shelf) -> Self {
        let tree = disk.tree();
        let entry = |(name, _): &(&str, _)| match tree.get(&format!("/{name}")) {
            None => Entry::Absent,
            Some(None) => Entry::Directory,
            Some(Some(data)) => Entry::File { value: value_of(data), size: data.len() as u64 },
        };
        let snapshot = shelf.snapshot().expect("a catalog in memory can be read");
        let mut paths: HashMap<ObjectId, String> = HashMap::default();
        let mut journal = vec![None; NAMES.len()];
        for found in snapshot.entries() {
            let (dir, name, object) = found.expect("a catalog in memory can be read");
            let above = paths.get(&dir).map_or(String::new(), |above| format!("{above}/"));
            let path = format!("{above}{name}");
            if let Some(known) = NAMES.iter().position(|(known, _)| *known == path) {
                journal[known] = Some((object.kind, object.root));
            }
            paths.insert(object.id, path);
        }
        Self { epoch, at, disk: NAMES.iter().map(entry).collect(), journal }
    }

    /// What its journal says, as a listing of everything; how many contents its disk has not.
    fn listed(&self, values: &HashMap<Hash, u64>) -> Result<(Op, usize), String> {
        let (mut seen, mut lacks) = (Vec::new(), 0);
        for (name, (journal, disk)) in self.journal.iter().zip(&self.disk).enumerate() {
            let said = match journal {
                None => Seen::Absent,
                Some((Kind::Directory, _)) => Seen::Directory,
                Some((_, root)) => match values.get(root) {
                    Some(value) => Seen::Value(*value),
                    None => return Err(format!("{} has what nobody put, in a journal", NAMES[name].0)),
                },
            };
            if !said.fits(*disk) {
                if !matches!((said, disk), (Seen::Value(_), Entry::Absent | Entry::File { .. })) {
                    return Err(format!("{}: {said:?} in the journal, {disk:?}", NAMES[name].0));
                }
                lacks += 1;
            }
            seen.push((name as Name, said));
        }
        Ok((Op::List { seen }, lacks))
    }

    /// A call as it is for those who have not heard of this.
    fn on_the_old_side(&self, mut call: Call<Op>, led: Led) -> Option<Call<Op>> {
        let before = matches!(call.end, End::Answered(answered) if answered < self.at);
        if before || led.is_some_and(|led| led < self.epoch) {
            return Some(call);
        }
        // Whatever else was under way then, or sent to nobody knows whom, may have been done there.
        let there = call.called < self.at || led.is_none();
        call.end = End::Unknown { until: u64::MAX };
        (there && !matches!(call.op, Op::Look { .. } | Op::List { .. })).then_some(call)
    }
}

/// The history with its breaks. `lost`: so many contents were said to be lost by whoever began an epoch.
pub fn at_takeovers(
    calls: &[Call<Op>],
    led: &[Led],
    takeovers: Vec<Takeover>,
    lost: impl Fn(u32) -> Option<usize>,
) -> Result<Split, String> {
    let most = calls.iter().filter_map(|call| put(&call.op)).max().unwrap_or(0);
    let values = (1..=most).map(|value| (hash_bytes(&content(value)).root, value)).collect();
    let mut breaks: Vec<[Call<Op>; 2]> = Vec::new();
    for takeover in &takeovers {
        let Takeover { epoch, at, disk, .. } = takeover;
        let (listed, lacks) = takeover.listed(&values)?;
        if lost(*epoch).is_some_and(|lost| lacks > lost) {
            return Err(format!("{lacks} contents were lost at the begin of epoch {epoch}, untold"));
        }
        let before = breaks.last().map_or(0, |[_, restore]| restore.called + 1);
        let call = |called, answered, op| Call {
            site: "split",
            client: 0,
            called,
            end: End::Answered(answered),
            op,
            exempt: false,
        };
        let restore = Op::Restore { entries: disk.clone() };
        breaks.push([call(before, *at, listed), call(at + 1, at + 2, restore)]);
    }
    let known = || calls.iter().zip(led.iter().copied());
    let after = |number: usize| {
        let (earlier, next) = takeovers.split_at(number);
        let side = known().filter_map(|(call, led)| {
            let call = on_this_side(call, led, earlier)?;
            next.first().map_or(Some(call.clone()), |next| next.on_the_old_side(call, led))
        });
        side.chain(breaks[..number].iter().flatten().cloned()).collect()
    };
    let calls = after(takeovers.len());
    let sides = (0..takeovers.len()).map(after).collect();
    Ok(Split { calls, takeovers, sides })
}

/// What a site did that led, and did not know of its successor, is in the history if it was before that.
fn on_this_side(call: &Call<Op>, led: Led, takeovers: &[Takeover]) -> Option<Call<Op>> {
    let after = led.and_then(|led| takeovers.iter().find(|takeover| takeover.epoch > led));
    let mut call = call.clone();
    let Some(Takeover { at, .. }) = after else { return Some(call) };
    if call.called >= *at {
        return None;
    }
    if !matches!(call.end, End::Answered(answered) if answered < *at) {
        call.end = End::Unknown { until: *at };
    }
    Some(call)
}

/// Each part of a history between two breaks, for what is promised to each site alone: what was done before
/// it counts for nobody's own.
pub fn parts(split: &[Call<Op>], takeovers: &[Takeover]) -> Vec<Vec<Call<Op>>> {
    let starts = || std::iter::once(0).chain(takeovers.iter().map(|takeover| takeover.at));
    let ends = takeovers.iter().map(|takeover| takeover.at).chain([u64::MAX]);
    let part = |(from, to): (u64, u64)| {
        let calls = split.iter().filter(|call| call.called < to);
        let part = calls.map(|call| {
            let mut call = call.clone();
            if call.called < from || call.site == "split" {
                (call.site, call.exempt) = ("before", true);
            }
            call.exempt |= !matches!(call.end, End::Answered(answered) if answered < to);
            call
        });
        part.collect()
    };
    starts().zip(ends).map(part).collect()
}

fn put(op: &Op) -> Option<u64> {
    match op {
        Op::Put { value, .. } => Some(*value),
        Op::Within { op, .. } => put(op),
        _ => None,
    }
}
