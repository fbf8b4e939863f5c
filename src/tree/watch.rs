//! What the kernel tells of changes on a share's file system, whoever makes them: a shell, a cron job, another
//! protocol's server. Only hints, and of the whole file system: which of them are of the share, and what is so
//! there, is found out by `notice`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::fanotify;
use super::handle::Handle;
use crate::id::Name;
use crate::object::LocalHandle;

/// Bytes of events that are read at once: some hundreds of events.
const BUFFER: usize = 64 * 1024;
/// Length of `struct fanotify_event_metadata`, and of the three parts in front of a handle's own bytes: the head of an
/// info record, the file system's id, the handle's length and type.
const EVENT: usize = 24;
const INFO: usize = 4;
const FSID: usize = 8;

/// One thing that the kernel told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Of an entry, or of what it is.
    Entry { dir: LocalHandle, name: Name },
    /// Of an object: a directory's own attributes, or a file that was opened without a name.
    Object(LocalHandle),
    /// From one entry to another one; from an unknown one where the kernel says nothing of it.
    Moved { from: Option<(LocalHandle, Name)>, to: (LocalHandle, Name), directory: bool },
    /// More happened than the kernel keeps for who is slow to ask: anything may have changed.
    Lost,
}

/// Why nothing tells of changes, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Unwatched {
    #[error(
        "the kernel tells of changes on a whole file system only to root, or to who has CAP_SYS_ADMIN and \
         CAP_DAC_READ_SEARCH outside of any user namespace; give nearshare that, or run `nearshare scan`"
    )]
    NotPermitted,
    #[error("the kernel is older than Linux 5.17; take a newer one, or run `nearshare scan`")]
    TooOld,
    #[error(
        "the kernel will not tell of changes on this file system ({0}); use ext4, xfs, btrfs or tmpfs, see that \
         fs.fanotify.max_user_groups is not reached, or run `nearshare scan`"
    )]
    Refused(io::Error),
    #[error("nothing tells of changes there; run `nearshare scan`")]
    Untold,
}

impl From<io::Error> for Unwatched {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM) => Self::NotPermitted,
            Some(libc::EINVAL | libc::ENOSYS) => Self::TooOld,
            _ => Self::Refused(error),
        }
    }
}

/// Hears of changes for as long as it is there.
pub struct Watcher {
    group: OwnedFd,
    bell: Arc<OwnedFd>,
    buffer: Vec<u8>,
}

/// Ends a [`Watcher`]'s wait.
pub struct Ringer(Arc<OwnedFd>);

impl Ringer {
    /// Every wait ends at once from now on.
    pub fn ring(&self) {
        // A counter that is full has been rung.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

impl Watcher {
    /// Of the file system that `dir` is of.
    pub(super) fn of(dir: BorrowedFd<'_>) -> Result<Self, Unwatched> {
        let group = fanotify::group()?;
        fanotify::mark(group.as_fd(), dir)?;
        let bell =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
        Ok(Self { group, bell: Arc::new(bell), buffer: vec![0; BUFFER] })
    }

    pub fn ringer(&self) -> Ringer {
        Ringer(self.bell.clone())
    }

    /// What has happened since the last call; waits for it at most so long, and for no longer than until somebody
    /// rings. Nothing of what this process did itself.
    pub fn next(&mut self, most: Option<Duration>) -> io::Result<Vec<Heard>> {
        let most = most.map(|most| Timespec {
            tv_sec: i64::try_from(most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: most.subsec_nanos().into(),
        });
        let mut waits =
            [PollFd::new(&self.group, PollFlags::IN), PollFd::new(&*self.bell, PollFlags::IN)];
        match poll(&mut waits, most.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let read = match rustix::io::read(&self.group, &mut *self.buffer) {
            Ok(read) => read,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut heard = Vec::new();
        read_events(&self.buffer[..read], std::process::id(), &mut heard);
        Ok(heard)
    }
}

/// What the kernel wrote. What cannot be read is lost.
fn read_events(mut bytes: &[u8], own: u32, heard: &mut Vec<Heard>) {
    while !bytes.is_empty() {
        let Some((event, rest)) = Event::split(bytes) else {
            heard.push(Heard::Lost);
            return;
        };
        bytes = rest;
        if event.mask & libc::FAN_Q_OVERFLOW != 0 {
            heard.push(Heard::Lost);
        } else if event.process != own {
            heard.push(event.told().unwrap_or(Heard::Lost));
        }
    }
}

struct Event<'a> {
    mask: u64,
    process: u32,
    infos: &'a [u8],
}

impl<'a> Event<'a> {
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, _) = bytes.split_first_chunk::<EVENT>()?;
        let [l0, l1, l2, l3, version, _, m0, m1, mask @ .., _, _, _, _, p0, p1, p2, p3] = *head;
        let len = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let infos = usize::from(u16::from_ne_bytes([m0, m1]));
        if version != libc::FANOTIFY_METADATA_VERSION || infos < EVENT {
            return None;
        }
        let (event, rest) = bytes.split_at_checked(len)?;
        let event = Self {
            mask: u64::from_ne_bytes(mask),
            process: u32::from_ne_bytes([p0, p1, p2, p3]),
            infos: event.get(infos..)?,
        };
        Some((event, rest))
    }

    fn told(&self) -> Option<Heard> {
        let (mut entry, mut object, mut from, mut to) = (None, None, None, None);
        let mut infos = self.infos;
        while let Some((&[kind, _, l0, l1], _)) = infos.split_first_chunk::<INFO>() {
            let (info, rest) = infos.split_at_checked(usize::from(u16::from_ne_bytes([l0, l1])))?;
            let (handle, name) = named(info.get(INFO + FSID..)?)?;
            match kind {
                libc::FAN_EVENT_INFO_TYPE_FID | libc::FAN_EVENT_INFO_TYPE_DFID => object = Some(handle),
                libc::FAN_EVENT_INFO_TYPE_DFID_NAME => entry = Some((handle, name)),
                libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => from = Some((handle, name)),
                libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => to = Some((handle, name)),
                _ => {}
            }
            infos = rest;
        }
        let directory = self.mask & libc::FAN_ONDIR != 0;
        match (entry, to, object) {
            (_, Some((dir, name)), _) => {
                let from = from.and_then(|(dir, name)| Some((dir, Name::new(name).ok()?)));
                Some(Heard::Moved { from, to: (dir, Name::new(name).ok()?), directory })
            }
            // A directory of itself.
            (Some((dir, b".")), ..) => Some(Heard::Object(dir)),
            (Some((dir, name)), ..) => Some(Heard::Entry { dir, name: Name::new(name).ok()? }),
            (None, None, Some(object)) => Some(Heard::Object(object)),
            // Moved to where nobody is told of.
            (None, None, None) => {
                let (dir, name) = from?;
                Some(Heard::Entry { dir, name: Name::new(name).ok()? })
            }
        }
    }
}

/// A handle, and the name behind it, which is empty if there is none.
fn named(bytes: &[u8]) -> Option<(LocalHandle, &[u8])> {
    let (len, bytes) = bytes.split_first_chunk::<4>()?;
    let (kind, bytes) = bytes.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_ne_bytes(*len)).ok()?;
    let (raw, name) = bytes.split_at_checked(len)?;
    let handle = Handle::from_parts(i32::from_ne_bytes(*kind), raw)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Some((handle.to_local(), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(mask: u64, process: u32, infos: &[u8]) -> Vec<u8> {
        let len = u32::try_from(EVENT + infos.len()).unwrap();
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend([libc::FANOTIFY_METADATA_VERSION, 0]);
        bytes.extend((EVENT as u16).to_ne_bytes());
        bytes.extend(mask.to_ne_bytes());
        bytes.extend(libc::FAN_NOFD.to_ne_bytes());
        bytes.extend(process.to_ne_bytes());
        bytes.extend(infos);
        bytes
    }

    fn info(kind: u8, raw: &[u8], name: &[u8]) -> Vec<u8> {
        let len = u16::try_from(INFO + FSID + 8 + raw.len() + name.len()).unwrap();
        let mut bytes = vec![kind, 0];
        bytes.extend(len.to_ne_bytes());
        bytes.extend([7; FSID]);
        bytes.extend((raw.len() as u32).to_ne_bytes());
        bytes.extend(1_i32.to_ne_bytes());
        bytes.extend(raw);
        bytes.extend(name);
        bytes
    }

    fn read(bytes: &[u8]) -> Vec<Heard> {
        let mut heard = Vec::new();
        read_events(bytes, 42, &mut heard);
        heard
    }

    /// Whatever is cut off or damaged is lost, which is told, and nothing is read beyond it.
    #[test]
    fn what_cannot_be_read_is_lost_and_told() {
        let entry = info(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, b"dir-hand", b"name\0\0");
        let whole = event(libc::FAN_CREATE, 1, &entry);
        let handle = Handle::from_parts(1, b"dir-hand").unwrap().to_local();
        let told = Heard::Entry { dir: handle.clone(), name: Name::new(b"name").unwrap() };
        assert_eq!(read(&whole), std::slice::from_ref(&told));
        assert_eq!(read(&whole.repeat(3)), [told.clone(), told.clone(), told.clone()]);
        for cut in 1..whole.len() {
            assert_eq!(read(&whole[..cut]), [Heard::Lost], "{cut}");
            assert_eq!(
                read(&[&whole[..], &whole[..cut]].concat()),
                [told.clone(), Heard::Lost],
                "{cut}"
            );
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bent = whole.clone();
                bent[at] = value;
                read(&bent);
            }
        }
        // A name that is none, a handle that is longer than any.
        let slash = info(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, b"dir-hand", b"a/b\0");
        let long = info(libc::FAN_EVENT_INFO_TYPE_FID, &[1; 129], b"");
        for infos in [&slash, &long, &Vec::new()] {
            assert_eq!(read(&event(libc::FAN_MODIFY, 1, infos)), [Heard::Lost]);
        }
        assert_eq!(read(&event(libc::FAN_Q_OVERFLOW, 0, &[])), [Heard::Lost]);
        // What this process did itself is not told.
        assert_eq!(read(&event(libc::FAN_CREATE, 42, &entry)), []);
        let itself = info(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, b"dir-hand", b".\0");
        assert_eq!(read(&event(libc::FAN_ATTRIB, 1, &itself)), [Heard::Object(handle)]);
    }
}
