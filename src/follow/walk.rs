//! Where a path leads by the catalog: what a read at a copy is about. While something is held, every read
//! asks; walks are remembered until the next change of names.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::{Result, lock};
use crate::catalog::Shelf;
use crate::hash::HashMap;
use crate::id::{Name, ObjectId, PATH_MAX, RelPath};
use crate::object::Kind;
use crate::plant::{self, Bug};

/// Symbolic links followed on one walk, as the kernel does.
const LINKS_MAX: usize = 40;
/// Names of all paths and walks that are remembered, 50 bytes each and up to 300.
const STEPS_MAX: usize = 16_384;

/// Walks that are remembered, each with the state of the names that it saw (R21).
#[derive(Default)]
pub(super) struct Walks {
    /// Odd while names are being changed, and never twice the same otherwise.
    state: AtomicU64,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    state: u64,
    walks: HashMap<RelPath, Arc<Walk>>,
    steps: usize,
}

/// Names are being changed until this is dropped.
pub(super) struct Changing<'a>(&'a AtomicU64);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(u64::from(!plant::is(Bug::KeepWalks)), Ordering::SeqCst);
    }
}

impl Walks {
    /// Around every change of the catalog's names and of where links lead. One at a time: by the applier.
    pub fn changing(&self) -> Changing<'_> {
        self.state.fetch_add(u64::from(!plant::is(Bug::KeepWalks)), Ordering::SeqCst);
        Changing(&self.state)
    }

    /// The walk of a path, by `walk` unless it is remembered.
    pub fn get_or(&self, path: &RelPath, walk: impl FnOnce() -> Result<Walk>) -> Result<Arc<Walk>> {
        let state = self.state.load(Ordering::SeqCst);
        {
            let known = lock(&self.known);
            if known.state == state
                && let Some(walk) = known.walks.get(path)
            {
                return Ok(walk.clone());
            }
        }
        let walk = Arc::new(walk()?);
        // What may have seen a change half done is told this once.
        if state.is_multiple_of(2) && self.state.load(Ordering::SeqCst) == state {
            let mut known = lock(&self.known);
            let steps = path.names().len() + walk.steps.len() + 1;
            if known.state != state || known.steps + steps > STEPS_MAX {
                *known = Known { state, ..Known::default() };
            }
            known.steps += steps;
            if let Some(old) = known.walks.insert(path.clone(), walk.clone()) {
                known.steps -= path.names().len() + old.steps.len() + 1;
            }
        }
        Ok(walk)
    }
}

/// Resolves a path by the catalog, symbolic links followed (R1).
pub(super) fn by_catalog(shelf: &Shelf, path: &RelPath) -> Result<Walk> {
    let mut walk = Walk::default();
    let mut names: Vec<_> = path.names().iter().rev().cloned().collect();
    let mut above = vec![ObjectId::ROOT];
    let mut links = 0;
    while let Some(name) = names.pop() {
        let dir = *above.last().unwrap_or(&ObjectId::ROOT);
        walk.steps.push((dir, name.clone()));
        if names.is_empty() && walk.last.is_none() {
            walk.last = Some(walk.steps.len() - 1);
        }
        let Some(id) = shelf.child(dir, &name)? else { return Ok(walk) };
        let Some(object) = shelf.object(id)? else { return Ok(walk) };
        match object.kind {
            Kind::Directory => above.push(id),
            Kind::Symlink => {
                links += 1;
                if links > LINKS_MAX || !follow_link(&object.target, &mut names, &mut above) {
                    walk.lost = true;
                    return Ok(walk);
                }
            }
            _ if names.is_empty() => {
                walk.found = Some(id);
                return Ok(walk);
            }
            _ => return Ok(walk),
        }
    }
    walk.found = above.last().copied();
    Ok(walk)
}

/// A walk by the catalog.
#[derive(Default)]
pub(super) struct Walk {
    /// Every entry looked up on the way.
    pub steps: Vec<(ObjectId, Name)>,
    /// Which of them is the last one of the path itself; those after it are where a symbolic link leads.
    pub last: Option<usize>,
    pub found: Option<ObjectId>,
    /// It cannot be told where this leads.
    pub lost: bool,
}

/// Puts a symlink's own path before the names that are still to be walked. `false`: it leaves the share.
fn follow_link(target: &[u8], names: &mut Vec<Name>, above: &mut Vec<ObjectId>) -> bool {
    if target.first().is_none_or(|first| *first == b'/') {
        return false;
    }
    let parts: Vec<&[u8]> = target.split(|byte| *byte == b'/').collect();
    let mut down = Vec::new();
    for part in parts {
        match part {
            b"" | b"." => {}
            b".." if down.is_empty() => {
                above.pop();
                if above.is_empty() {
                    return false;
                }
            }
            // What lies behind a name and `..` depends on where that name leads.
            b".." => return false,
            name => match Name::new(name) {
                Ok(name) => down.push(name),
                Err(_) => return false,
            },
        }
    }
    names.extend(down.into_iter().rev());
    names.len() <= PATH_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }
    fn walked(steps: usize) -> Result<Walk> {
        let steps = (0..steps).map(|_| (ObjectId::ROOT, Name::new(b"n").unwrap())).collect();
        Ok(Walk { steps, ..Walk::default() })
    }
    fn steps(walks: &Walks, at: &str, else_: usize) -> usize {
        walks.get_or(&path(at), || walked(else_)).unwrap().steps.len()
    }

    #[test]
    fn a_walk_is_remembered_until_names_change() {
        let walks = Walks::default();
        assert_eq!([steps(&walks, "a", 1), steps(&walks, "a", 2), steps(&walks, "b", 3)], [1, 1, 3]);
        drop(walks.changing());
        assert_eq!([steps(&walks, "a", 4), steps(&walks, "a", 5)], [4, 4]);
    }

    #[test]
    fn nothing_is_remembered_of_a_walk_during_which_names_changed() {
        let walks = Walks::default();
        let changing = walks.changing();
        assert_eq!([steps(&walks, "a", 1), steps(&walks, "a", 2)], [1, 2]);
        drop(changing);
        let begun_before = walks.get_or(&path("a"), || {
            drop(walks.changing());
            walked(3)
        });
        assert_eq!(begun_before.unwrap().steps.len(), 3);
        let mut changing = None;
        let ended_after = walks.get_or(&path("a"), || {
            let whole = walked(4);
            changing = Some(walks.changing());
            whole
        });
        assert_eq!(ended_after.unwrap().steps.len(), 4);
        drop(changing);
        assert_eq!(steps(&walks, "a", 5), 5);
    }

    #[test]
    fn what_is_remembered_is_bounded_however_long_the_paths_are() {
        let walks = Walks::default();
        for n in 0..100 {
            steps(&walks, &format!("{n}"), STEPS_MAX / 10);
            assert!(lock(&walks.known).steps <= STEPS_MAX);
        }
        assert_eq!(steps(&walks, "99", 1), STEPS_MAX / 10);
        assert!(lock(&walks.known).walks.len() <= 10);
        // A long path that ends at its first name takes room as well.
        let long = vec!["a"; 2000].join("/");
        for n in 0..100 {
            steps(&walks, &format!("{n}/{long}"), 1);
        }
        assert!(lock(&walks.known).walks.len() <= 10);
        // Larger than all of it: told, and not kept for long.
        assert_eq!(steps(&walks, "long", STEPS_MAX * 2), STEPS_MAX * 2);
        steps(&walks, "short", 1);
        assert_eq!(lock(&walks.known).walks.len(), 1);
    }
}
