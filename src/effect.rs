//! The waist: what a request touches, whatever protocol it came in. `wire` makes an [`Effect`] of a
//! message, `route` decides by it, `notice` holds and marks by it; none of them needs the message.
//!
//! A protocol of paths (HTTP) names places by a [`RelPath`], which is resolved before anything is marked; one of
//! handles (NFS) names them as what they are already, a [`Touch`].

use crate::id::{Name, ObjectId, RelPath, ShareId};

/// What a mark, hold or release is about: an object, or one entry of a directory. Never a path (R15).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Touch {
    Object(ObjectId),
    /// The entry, the object at it, and everything below.
    Entry(ObjectId, Name),
}

/// What a request touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect<P = RelPath> {
    /// Nothing of any share: it passes to the local server untouched.
    Outside,
    Read(Read<P>),
    Change(Change<P>),
}

/// A read, and all it depends on (R1): every entry of the walk to `path`, the object there, and
/// below it as far as `depth` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read<P = RelPath> {
    pub share: ShareId,
    pub path: P,
    pub depth: Depth,
    /// The answer depends on something a copy cannot know (`If`, entity tags of what is no object) or not
    /// yet (which version it has): only the primary's site may answer.
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
pub struct Change<P = RelPath> {
    pub share: ShareId,
    /// In the order in which the change touches them: a move names its source first.
    pub targets: Vec<Target<P>>,
}

/// One entry that a change may add, remove, replace or rewrite, or one object by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<P = RelPath> {
    /// Never the share's root for a change of names; the root for a change of the root itself.
    pub path: P,
    pub reach: Reach,
}

/// What a change may change at its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The entry, the object at it, and what it replaces; of an object that one alone. Trees that appear
    /// or vanish with the entry are found out by looking.
    Entry,
    /// Anything at or below it (a method we do not know, a COPY onto a tree).
    Below,
}
