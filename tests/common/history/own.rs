//! What a relaxed share promises: a site's own writes are seen there at once, and nothing is seen
//! that nobody wrote or that is written only later.

use super::names::{Entry, Name, Op, Seen};
use super::{Call, End};

/// What a change leaves at a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Directory,
    File {
        value: u64,
        size: u64,
    },
    /// What a MOVE or COPY brought: its content is another name's.
    Something,
    /// The same, or nothing.
    Any,
}

struct Write<'a> {
    call: &'a Call<Op>,
    left: Left,
}

/// Checks every read against every write of its name; says what is wrong with the first bad one.
pub fn check(calls: &[Call<Op>]) -> Result<(), String> {
    let names = calls.iter().flat_map(|call| changes(&call.op)).map(|(name, _)| name);
    let names = names.chain(calls.iter().flat_map(|call| sights(&call.op)).map(|(name, _)| name));
    for name in 0..names.max().map_or(0, |last| last + 1) {
        let of_name = |call| changes(call).into_iter().filter(|(of, _)| *of == name);
        let writes: Vec<Write<'_>> = calls
            .iter()
            .flat_map(|call| of_name(&call.op).map(move |(_, left)| Write { call, left }))
            .collect();
        for call in calls.iter().filter(|call| !call.exempt) {
            let End::Answered(answered) = call.end else { continue };
            for (_, seen) in sights(&call.op).into_iter().filter(|(of, _)| *of == name) {
                explain(call, answered, seen, &writes).map_err(|why| format!("name {name}: {why}"))?;
            }
        }
    }
    Ok(())
}

/// Some write must have left what was seen, and must not have been over before a later write of the
/// reader's own site began that was answered before the read.
fn explain(read: &Call<Op>, answered: u64, seen: Seen, writes: &[Write<'_>]) -> Result<(), String> {
    let own_before = writes.iter().map(|write| write.call).filter(|call| {
        call.site == read.site && matches!(call.end, End::Answered(at) if at < read.called)
    });
    let newest = own_before.max_by_key(|call| call.called);
    let fits = |write: &&Write<'_>| fits(seen, write.left) && write.call.called <= answered;
    let over = |call: &Call<Op>| match (call.end, newest) {
        (End::Answered(at), Some(newest)) => at < newest.called,
        _ => false,
    };
    let from_the_start = newest.is_none() && fits(&&Write { call: read, left: Left::Nothing });
    if from_the_start || writes.iter().filter(fits).any(|write| !over(write.call)) {
        return Ok(());
    }
    let newest = newest.map(|call| format!("{:?} answered before", call.op));
    let newest = newest.unwrap_or_else(|| "nothing that would explain it".to_owned());
    Err(format!("{} sees {seen:?} at {} ns, after its own {newest}", read.site, read.called))
}

fn fits(seen: Seen, left: Left) -> bool {
    match (seen, left) {
        (_, Left::Any) => true,
        (Seen::Absent, left) => left == Left::Nothing,
        (_, Left::Something) => true,
        (Seen::Present, left) => left != Left::Nothing,
        (Seen::Directory, left) => left == Left::Directory,
        (Seen::Value(seen), Left::File { value, .. }) => seen == value,
        (Seen::Size(seen), Left::File { size, .. }) => seen == size,
        (Seen::Value(_) | Seen::Size(_), _) => false,
    }
}

fn changes(op: &Op) -> Vec<(Name, Left)> {
    match *op {
        Op::Put { name, value, size } => vec![(name, Left::File { value, size })],
        Op::Delete { name } | Op::Rmdir { name, .. } | Op::Clear { name } => vec![(name, Left::Nothing)],
        Op::Move { from, to, .. } => vec![(from, Left::Nothing), (to, Left::Something)],
        Op::Copy { to, .. } => vec![(to, Left::Something)],
        Op::CopyTree { ref names } => {
            let mut left: Vec<(Name, Left)> = names.iter().map(|(_, to)| (*to, Left::Any)).collect();
            if let Some((_, left)) = left.first_mut() {
                *left = Left::Directory;
            }
            left
        }
        Op::MoveTree { ref names } => {
            let mut left: Vec<(Name, Left)> =
                names.iter().flat_map(|(from, to)| [(*from, Left::Nothing), (*to, Left::Any)]).collect();
            if let Some((_, left)) = left.get_mut(1) {
                *left = Left::Directory;
            }
            left
        }
        Op::Within { ref op, .. } => changes(op),
        Op::Mkcol { name } => vec![(name, Left::Directory)],
        Op::Restore { ref entries } => entries.iter().map(|entry| left(*entry)).enumerate().collect(),
        Op::Look { .. } | Op::List { .. } => Vec::new(),
    }
}

fn left(entry: Entry) -> Left {
    match entry {
        Entry::Absent => Left::Nothing,
        Entry::Directory => Left::Directory,
        Entry::File { value, size } => Left::File { value, size },
    }
}

fn sights(op: &Op) -> Vec<(Name, Seen)> {
    match op {
        Op::Look { name, seen } => vec![(*name, *seen)],
        Op::List { seen } => seen.clone(),
        Op::Within { op, .. } => sights(op),
        _ => Vec::new(),
    }
}
