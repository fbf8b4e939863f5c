//! What a call touches, as an [`Effect`] on objects and entries.

use super::{About, Args, EntryAt, Fh, Row, Status};
use crate::effect::{Change, Depth, Effect, Reach, Read, Target, Touch};
use crate::id::{IdError, Name, ObjectId, ShareId};

/// What a procedure touches of what its arguments name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touches {
    Nothing,
    /// Reads the object.
    Object,
    /// Reads an entry and the object there.
    Entry,
    /// Reads a directory's names, and perhaps what they lead to.
    Lists,
    ChangesObject,
    /// Makes an entry, or takes the one that is there.
    Makes,
    Removes,
    /// Changes both entries.
    Moves,
    /// Changes the object and makes the entry.
    Links,
}

impl Touches {
    pub fn changes(self) -> bool {
        !matches!(self, Self::Nothing | Self::Object | Self::Entry | Self::Lists)
    }
}

/// Whose handle it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Of no share.
    Outside,
    Share(ShareId, ObjectId),
}

/// A call that is not carried out, and why. Nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0} works within one share only")]
    AcrossTheEdge(&'static str),
    #[error("{0} is refused: {1}")]
    Name(&'static str, IdError),
    #[error("there is nothing of that name")]
    OursRead,
    #[error(".nearshare is not for clients to change")]
    OursChanged,
}

impl Refusal {
    pub fn status(&self) -> Status {
        match self {
            Self::AcrossTheEdge(_) => Status::XDEV,
            Self::Name(_, IdError::NameTooLong { .. }) => Status::NAMETOOLONG,
            // RFC 1813 sections 3.3.8 to 15 have both for "." and ".."; Linux says this for what is made.
            Self::Name("CREATE" | "MKDIR" | "SYMLINK" | "MKNOD" | "LINK", IdError::NameDots) => {
                Status::EXIST
            }
            Self::Name(..) => Status::INVAL,
            Self::OursRead => Status::NOENT,
            Self::OursChanged => Status::ACCES,
        }
    }
}

/// What a call touches. `owner` knows the handles.
pub fn effect(
    row: &Row,
    args: &Args,
    mut owner: impl FnMut(&Fh) -> Owner,
) -> Result<Effect<Touch>, Refusal> {
    let (first, second) = match &args.about {
        About::Nothing => return Ok(Effect::Outside),
        About::Object(fh) => (Spot::Object(fh), None),
        About::Entry(entry) => (Spot::Entry(entry), None),
        About::Two(from, to) => (Spot::Entry(from), Some(Spot::Entry(to))),
        About::Link(object, entry) => (Spot::Object(object), Some(Spot::Entry(entry))),
    };
    let (share, object) = match (owner(first.handle()), second.as_ref().map(|to| owner(to.handle()))) {
        (Owner::Outside, None | Some(Owner::Outside)) => return Ok(Effect::Outside),
        (Owner::Share(share, object), None) => (share, (object, None)),
        (Owner::Share(share, object), Some(Owner::Share(other, to))) if share == other => {
            (share, (object, Some(to)))
        }
        _ => return Err(Refusal::AcrossTheEdge(row.name)),
    };
    if !row.writes() {
        return read(row, share, &first, object.0);
    }
    let mut targets = vec![first.target(row, object.0)?];
    if let (Some(second), Some(object)) = (second, object.1) {
        targets.push(second.target(row, object)?);
    }
    Ok(Effect::Change(Change { share, targets }))
}

/// One place that arguments name.
enum Spot<'a> {
    Object(&'a Fh),
    Entry(&'a EntryAt),
}

impl<'a> Spot<'a> {
    fn handle(&self) -> &'a Fh {
        match self {
            Self::Object(fh) => fh,
            Self::Entry(entry) => &entry.dir,
        }
    }

    /// What a change may change here; `object` is what the handle stands for.
    fn target(&self, row: &Row, object: ObjectId) -> Result<Target<Touch>, Refusal> {
        let path = match self {
            Self::Object(_) => Touch::Object(object),
            Self::Entry(entry) => {
                let name = Name::new(&entry.name).map_err(|error| Refusal::Name(row.name, error))?;
                if name.is_ours() {
                    return Err(Refusal::OursChanged);
                }
                Touch::Entry(object, name)
            }
        };
        Ok(Target { path, reach: Reach::Entry })
    }
}

fn read(row: &Row, share: ShareId, spot: &Spot<'_>, object: ObjectId) -> Result<Effect<Touch>, Refusal> {
    let depth = match row.touches {
        Touches::Lists => Depth::Children,
        _ => Depth::Object,
    };
    let (path, home_only) = match spot {
        Spot::Object(_) => (Touch::Object(object), false),
        Spot::Entry(entry) => match &entry.name[..] {
            b"." => (Touch::Object(object), false),
            // Which directory that is depends on the entry that leads here, and no copy of a handle
            // knows when that one moves.
            b".." => (Touch::Object(object), true),
            name => {
                let name = Name::new(name).map_err(|error| Refusal::Name(row.name, error))?;
                if name.is_ours() {
                    return Err(Refusal::OursRead);
                }
                (Touch::Entry(object, name), false)
            }
        },
    };
    Ok(Effect::Read(Read { share, path, depth, home_only }))
}
