//! The waist: what a request touches, whatever protocol it came in. `wire` makes an [`Effect`] of a
//! message, `route` decides by it, `notice` holds and marks by it; none of them needs the message.

use crate::id::{RelPath, ShareId};

/// What a request touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Nothing of any share: it passes to the local server untouched.
    Outside,
    Read(Read),
    Change(Change),
}

/// A read, and all it depends on (R1): every entry of the walk to `path`, the object there, and
/// below it as far as `depth` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub share: ShareId,
    pub path: RelPath,
    pub depth: Depth,
    /// The answer depends on something a copy cannot know yet (`If*` fields, lock discovery): only
    /// the primary's site may answer.
    pub home_only: bool,
}

/// How far below its object a read looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The object alone.
    Object,
    /// A directory's names and its children's attributes.
    Children,
    /// Every descendant.
    Tree,
}

/// A change, and all it may change (R2), as places to be resolved on the primary's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub share: ShareId,
    /// In the order in which the change touches them: a move names its source first.
    pub targets: Vec<Target>,
}

/// One entry that a change may add, remove, replace or rewrite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Never the share's root for a change of names; the root for a change of the root itself.
    pub path: RelPath,
    pub reach: Reach,
}

/// What a change may change at its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The entry, the object at it, and what it replaces. Trees that appear or vanish with the entry
    /// are found out by looking.
    Entry,
    /// Anything at or below it (a method we do not know, a COPY onto a tree).
    Below,
}
