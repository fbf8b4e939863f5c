//! What is kept aside instead of destroyed, under `.nearshare/kept/`: putting it there, listing it, removing it
//! when an operator says so. Not here: deciding what is foreign (see `follow`).
//!
//! One directory each, `<UTC time>-<name>-<n>`, with `note` and `data`. The note is synced before the data is
//! moved in, so a crash leaves a directory without data at worst. Whatever else is in there (a note of an
//! earlier or later release, one that somebody wrote, none) is listed as far as it can be told.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::apply::sync_dir;
use super::disk::{At, Dir, Disk, invalid};
use super::look::{self, Leaf, absent};
use super::{Result, Spot, marker};
use crate::id::{Name, RelPath};
use crate::object::Kind;

/// Entries of one answer to [`Disk::kept`].
pub const PAGE: usize = 1000;
/// What is kept is counted up to here.
pub const COUNTED_MAX: u64 = 100_000;
/// First line of a note. 1: time, reason, name and path, one a line; no path where none is known.
const VERSION: &str = "nearshare kept 1";
/// The first lines of notes of all releases but the first, which had no such line.
const VERSIONS: &str = "nearshare kept ";
/// Longest note: a path of 4096 bytes and a name of 255, four characters a byte, and their words.
const NOTE_MAX: u64 = 32 << 10;
/// Tries for a free name: so many things of one label in one second.
const TRIES: u32 = 100_000;
/// Longest part of a name in a kept directory's own, in bytes.
const LABEL_MAX: usize = 100;
/// Digits of a time, as in `20261121T074600Z`.
const UTC_LEN: usize = 16;
const DIRENT_BUFFER: usize = 32 << 10;

/// Why something is kept aside, and where it was.
#[derive(Debug, Clone, Copy)]
pub struct Aside<'a> {
    pub name: &'a Name,
    /// In the share; `None` where that is not known any more.
    pub path: Option<&'a RelPath>,
    pub reason: &'a str,
}

/// One thing that is kept. Names and paths are escaped as in the log, so that any bytes are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// What [`Disk::remove_kept`] takes.
    pub id: String,
    /// When it was moved here, such as `2026-11-21T07:46:00Z`.
    pub time: Option<String>,
    pub reason: Option<String>,
    /// Where it was in the share, such as `/docs/a.txt`.
    pub path: Option<String>,
    /// The last name of that.
    pub name: Option<String>,
    /// `None`: nothing is here, a crash came first.
    pub kind: Option<String>,
    /// Bytes of a file.
    pub size: Option<u64>,
    /// Where it is now.
    pub data: String,
}

/// Some of what is kept, in the order of time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptPage {
    pub kept: Vec<Kept>,
    /// There may be more behind the one with this id.
    pub more: Option<String>,
}

/// What is to be kept no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unkept {
    One(Name),
    /// For so many seconds at least. What does not tell since when it is kept stays.
    OlderThan(u64),
}

/// What a note says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Note {
    reason: Option<String>,
    name: Option<Name>,
    path: Option<RelPath>,
}

impl Disk {
    /// `kept/<UTC time>-<name>-<n>/` with `note` and `data`; all of it on disk when this returns.
    pub(super) fn keep_aside(&self, spot: Spot<'_, Dir>, aside: &Aside<'_>) -> io::Result<PathBuf> {
        let at = self.at(spot).ok_or_else(|| io::Error::from_raw_os_error(libc::EPERM))?;
        look::stat(at.dir, at.leaf.as_c_str())?;
        marker::room(self.ours.as_fd(), c"kept")?;
        let kept = look::open(self.ours.as_fd(), c"kept", OFlags::RDONLY | OFlags::DIRECTORY)?;
        let (name, dir) = self.kept_dir(&kept, aside.name)?;
        if let Err(error) = fill(&at, &dir, &write_note(&self.utc()?, aside)) {
            // The full disk needs the room; what stays of these two does no harm.
            let _ = rustix::fs::unlinkat(&dir, c"note", AtFlags::empty());
            let _ = rustix::fs::unlinkat(&kept, &name, AtFlags::REMOVEDIR);
            return Err(error);
        }
        self.kept_count.fetch_add(1, Relaxed);
        rustix::fs::fsync(&kept)?;
        match spot {
            Spot::Entry(from, _) | Spot::Itself(from) => sync_dir(from.0.as_fd(), c".")?,
            Spot::Park(_) => sync_dir(self.ours.as_fd(), c"park")?,
            Spot::Tmp(_) => sync_dir(self.ours.as_fd(), c"tmp")?,
        }
        Ok(self.spec.path.join(".nearshare/kept").join(name).join("data"))
    }

    /// A directory that nobody has used yet.
    fn kept_dir(&self, kept: &OwnedFd, name: &Name) -> io::Result<(String, OwnedFd)> {
        let fit =
            |byte: u8| if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) { byte } else { b'_' };
        let label = name.as_bytes().iter().take(LABEL_MAX);
        let label: String = label.map(|byte| char::from(fit(*byte))).collect();
        let utc = self.utc()?;
        for n in 1..=TRIES {
            let name = format!("{utc}-{label}-{n}");
            match rustix::fs::mkdirat(kept, &name, Mode::RWXU) {
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
                Ok(()) => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let dir = rustix::fs::openat(kept, &name, flags, Mode::empty())?;
                    return Ok((name, dir));
                }
            }
        }
        Err(io::Error::from_raw_os_error(libc::EEXIST))
    }

    /// `20261121T074600Z`.
    fn utc(&self) -> io::Result<String> {
        utc(self.clock.wall().0.div_euclid(1_000_000_000))
    }

    /// How many things are kept, counted up to [`COUNTED_MAX`], as far as [`Self::count_kept`] has seen and this
    /// process has put there since. Never waits for the disk.
    pub fn kept_known(&self) -> u64 {
        self.kept_count.load(Relaxed).min(COUNTED_MAX)
    }

    /// Counts what is kept: an operator may have moved some away.
    pub fn count_kept(&self) -> Result<()> {
        let count = || -> io::Result<u64> {
            let mut count = 0;
            self.each_kept(|_| {
                count += 1;
                count < COUNTED_MAX
            })?;
            Ok(count)
        };
        let count = count().map_err(|error| self.fail_root("count what is kept in", error))?;
        self.kept_count.store(count, Relaxed);
        Ok(())
    }

    /// The first [`PAGE`] things behind `after`.
    pub fn kept(&self, after: Option<&Name>) -> Result<KeptPage> {
        self.page(after).map_err(|error| self.fail_root("list what is kept in", error))
    }

    fn page(&self, after: Option<&Name>) -> io::Result<KeptPage> {
        let names = self.kept_names(after)?;
        let more = names.last().filter(|_| names.len() == PAGE).map(ToString::to_string);
        let Some(room) = self.kept_room()? else { return Ok(KeptPage::default()) };
        let kept = names.iter().map(|name| self.describe(&room, name)).collect();
        Ok(KeptPage { kept, more })
    }

    /// The first names of what is kept behind `after`: each takes one pass over the directory, which has no
    /// order, and none takes more memory than they do.
    fn kept_names(&self, after: Option<&Name>) -> io::Result<BTreeSet<Name>> {
        let mut first = BTreeSet::new();
        self.each_kept(|name| {
            let behind = after.is_none_or(|after| name > after.as_bytes());
            let room =
                first.len() < PAGE || first.last().is_some_and(|last: &Name| name < last.as_bytes());
            if behind
                && room
                && let Ok(name) = Name::new(name)
            {
                first.insert(name);
                if first.len() > PAGE {
                    first.pop_last();
                }
            }
            true
        })?;
        Ok(first)
    }

    /// Until `take` says `false`.
    fn each_kept(&self, mut take: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
        let Some(room) = self.kept_room()? else { return Ok(()) };
        let mut buffer = [MaybeUninit::uninit(); DIRENT_BUFFER];
        let mut entries = RawDir::new(room, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." && !take(name) {
                break;
            }
        }
        Ok(())
    }

    fn kept_room(&self) -> io::Result<Option<OwnedFd>> {
        absent(look::open(self.ours.as_fd(), c"kept", OFlags::RDONLY | OFlags::DIRECTORY))
    }

    /// As far as it can be told: one that cannot be read must not hide the others.
    fn describe(&self, room: &OwnedFd, name: &Name) -> Kept {
        let leaf = Leaf::of(name);
        let dir = look::open(room.as_fd(), leaf.as_c_str(), OFlags::PATH | OFlags::DIRECTORY).ok();
        let note = dir.as_ref().and_then(|dir| read_note(dir).ok().flatten());
        let note = note.map(|text| self.parse_note(&text)).unwrap_or_default();
        let data = dir.as_ref().and_then(|dir| look::stat(dir.as_fd(), c"data").ok());
        let kind = data.as_ref().map(|data| FileType::from_raw_mode(u32::from(data.stx_mode)));
        let size = data.filter(|_| kind == Some(FileType::RegularFile)).map(|data| data.stx_size);
        let path = self.spec.path.join(".nearshare/kept").join(name.as_os_str()).join("data");
        Kept {
            id: name.to_string(),
            time: time_of(name).map(|time| time.text()),
            reason: note.reason,
            path: note.path.map(|path| path.to_string()),
            name: note.name.map(|name| name.to_string()),
            kind: kind.map(|kind| word(kind).to_owned()),
            size,
            data: path.as_os_str().as_encoded_bytes().escape_ascii().to_string(),
        }
    }

    /// What is not understood is left out.
    fn parse_note(&self, text: &str) -> Note {
        let mut lines = text.lines();
        match lines.next() {
            Some(VERSION) => {}
            Some(newer) if newer.starts_with(VERSIONS) => return Note::default(),
            Some(time) if Time::parse(time.as_bytes()).is_some() => return self.parse_first(lines),
            _ => return Note::default(),
        }
        let mut note = Note::default();
        for (key, value) in lines.filter_map(|line| line.split_once(' ')) {
            match key {
                "reason" => note.reason = Some(value.to_owned()),
                "name" => note.name = unescape(value).and_then(|bytes| Name::new(&bytes).ok()),
                "path" => note.path = unescape(value).and_then(|bytes| RelPath::parse(&bytes).ok()),
                _ => {}
            }
        }
        note
    }

    /// Notes of the first release: the reason, and a path from `/` that may be in the park.
    fn parse_first<'t>(&self, mut lines: impl Iterator<Item = &'t str>) -> Note {
        let reason = lines.next().map(str::to_owned);
        let was = lines.next().and_then(|line| unescape(line.strip_prefix("was ")?));
        let below = was.as_ref().and_then(|was| {
            let rest = was.strip_prefix(self.root_path.as_slice());
            rest.or_else(|| was.strip_prefix(self.spec.path.as_os_str().as_encoded_bytes()))
        });
        let path = below.filter(|below| below.starts_with(b"/"));
        let path = path.and_then(|below| RelPath::parse(below).ok()).filter(|path| !path.has_ours());
        let name = path.as_ref().and_then(|path| Some(path.split_last()?.1.clone()));
        Note { reason, name, path }
    }

    /// Removes for ever. Says how many things that were.
    pub fn remove_kept(&self, which: &Unkept) -> Result<u64> {
        match which {
            Unkept::One(name) => self.remove_one(name).map(u64::from),
            Unkept::OlderThan(seconds) => self.remove_older(*seconds),
        }
    }

    /// `false`: there is no such thing.
    fn remove_one(&self, name: &Name) -> Result<bool> {
        let removed = self.kept_room().and_then(|room| match room {
            Some(room) => remove_tree(&room, name),
            None => Ok(false),
        });
        let removed = removed.map_err(|error| self.fail_root("remove what is kept in", error))?;
        if removed {
            // Another may have counted anew meanwhile.
            let _ = self.kept_count.try_update(Relaxed, Relaxed, |count| count.checked_sub(1));
        }
        Ok(removed)
    }

    fn remove_older(&self, seconds: u64) -> Result<u64> {
        let now = self.clock.wall().0.div_euclid(1_000_000_000);
        let since = now.saturating_sub(i64::try_from(seconds).unwrap_or(i64::MAX));
        let (mut after, mut removed, mut failed) = (None, 0, None);
        loop {
            let names = self.kept_names(after.as_ref());
            let names = names.map_err(|error| self.fail_root("list what is kept in", error))?;
            for name in &names {
                if time_of(name).and_then(|time| time.unix()).is_some_and(|time| time <= since) {
                    match self.remove_one(name) {
                        Ok(gone) => removed += u64::from(gone),
                        // The others can go all the same.
                        Err(error) => _ = failed.get_or_insert(error),
                    }
                }
            }
            match names.last().filter(|_| names.len() == PAGE) {
                Some(last) => after = Some(last.clone()),
                None => return failed.map_or(Ok(removed), Err),
            }
        }
    }
}

/// The name of a kept directory, as a listing tells it.
pub fn name_of(id: &str) -> Option<Name> {
    unescape(id).and_then(|bytes| Name::new(&bytes).ok())
}

/// Writes the note, moves the data in, and syncs both.
fn fill(at: &At<'_>, dir: &OwnedFd, note: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, c"note", flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = File::from(fd);
    file.write_all(note.as_bytes())?;
    file.sync_all()?;
    rustix::fs::renameat_with(at.dir, at.leaf.as_c_str(), dir, c"data", RenameFlags::NOREPLACE)?;
    Ok(rustix::fs::fsync(dir)?)
}

fn write_note(utc: &str, aside: &Aside<'_>) -> String {
    let Aside { name, path, reason } = aside;
    let mut note = format!("{VERSION}\ntime {utc}\nreason {}\nname {name}\n", reason.replace('\n', " "));
    if let Some(path) = path {
        note += &format!("path {path}\n");
    }
    note
}

/// `None`: there is none, or no text.
fn read_note(dir: &OwnedFd) -> io::Result<Option<String>> {
    let Some(file) = look::file(dir.as_fd(), c"note")? else { return Ok(None) };
    let mut text = Vec::new();
    file.take(NOTE_MAX).read_to_end(&mut text)?;
    Ok(String::from_utf8(text).ok())
}

/// The bytes that `escape_ascii` made a text of.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit =
        |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next()? {
                b't' => b'\t',
                b'r' => b'\r',
                b'n' => b'\n',
                b'x' => digit(rest.next())? << 4 | digit(rest.next())?,
                quoted @ (b'\\' | b'\'' | b'"') => quoted,
                _ => return None,
            },
            b' '..=b'~' => byte,
            _ => return None,
        });
    }
    Some(bytes)
}

/// A second of UTC, as a kept directory's name begins.
struct Time(time::PrimitiveDateTime);

impl Time {
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let fits = text.len() == UTC_LEN && text.is_ascii() && &text[8..9] == "T" && text.ends_with('Z');
        let number = |from: usize, to: usize| {
            let digits =
                text.get(from..to).filter(|digits| digits.bytes().all(|it| it.is_ascii_digit()));
            digits.and_then(|digits| digits.parse::<u16>().ok())
        };
        let small = |from, to| number(from, to).and_then(|number| u8::try_from(number).ok());
        if !fits {
            return None;
        }
        let month = time::Month::try_from(small(4, 6)?).ok()?;
        let date = time::Date::from_calendar_date(number(0, 4)?.into(), month, small(6, 8)?).ok()?;
        let time = time::Time::from_hms(small(9, 11)?, small(11, 13)?, small(13, 15)?).ok()?;
        Some(Self(time::PrimitiveDateTime::new(date, time)))
    }
    fn text(&self) -> String {
        format!("{}T{}Z", self.0.date(), clock_text(self.0.time(), ":"))
    }
    fn unix(&self) -> Option<i64> {
        Some(self.0.assume_utc().unix_timestamp())
    }
}

fn time_of(name: &Name) -> Option<Time> {
    Time::parse(name.as_bytes().get(..UTC_LEN)?)
}

/// `20261121T074600Z`.
fn utc(seconds: i64) -> io::Result<String> {
    let now = time::OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| invalid())?;
    let (date, time) = (now.date(), now.time());
    let date = format!("{:04}{:02}{:02}", date.year(), u8::from(date.month()), date.day());
    Ok(format!("{date}T{}Z", clock_text(time, "")))
}

fn clock_text(time: time::Time, between: &str) -> String {
    format!("{:02}{between}{:02}{between}{:02}", time.hour(), time.minute(), time.second())
}

fn word(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => Kind::File.word(),
        FileType::Directory => Kind::Directory.word(),
        FileType::Symlink => Kind::Symlink.word(),
        FileType::Fifo => Kind::Fifo.word(),
        FileType::Socket => Kind::Socket.word(),
        FileType::BlockDevice => Kind::Block.word(),
        FileType::CharacterDevice => Kind::Char.word(),
        FileType::Unknown => "unknown",
    }
}

/// Removes an entry and all that is below it, but nothing that is mounted there. Directories are moved up next
/// to each other first, so that none is too deep. `false`: there is no such entry.
fn remove_tree(room: &OwnedFd, name: &Name) -> io::Result<bool> {
    let leaf = Leaf::of(name);
    match rustix::fs::unlinkat(room, leaf.as_c_str(), AtFlags::empty()) {
        Ok(()) => return Ok(true),
        Err(Errno::NOENT) => return Ok(false),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let top = look::open(room.as_fd(), leaf.as_c_str(), flags)?;
    let mut raised = 0u64;
    loop {
        let below = some_names(&top)?;
        if below.is_empty() {
            break;
        }
        for name in below {
            let leaf = Leaf::of(&name);
            if !unlink_file(&top, &leaf)? {
                continue;
            }
            let dir = look::open(top.as_fd(), leaf.as_c_str(), flags)?;
            loop {
                let inner = some_names(&dir)?;
                if inner.is_empty() {
                    break;
                }
                for inner in inner {
                    let inner = Leaf::of(&inner);
                    if unlink_file(&dir, &inner)? {
                        raise(&dir, &inner, &top, &mut raised)?;
                    }
                }
            }
            rustix::fs::unlinkat(&top, leaf.as_c_str(), AtFlags::REMOVEDIR)?;
        }
    }
    rustix::fs::unlinkat(room, leaf.as_c_str(), AtFlags::REMOVEDIR)?;
    rustix::fs::fsync(room)?;
    Ok(true)
}

/// Moves a directory up into `top`, under a name that nothing there has.
fn raise(dir: &OwnedFd, leaf: &Leaf, top: &OwnedFd, raised: &mut u64) -> io::Result<()> {
    loop {
        *raised += 1;
        let name = format!("{raised}");
        match rustix::fs::renameat_with(dir, leaf.as_c_str(), top, &name, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return Ok(other?),
        }
    }
}

/// Says whether it is a directory, which stays.
fn unlink_file(dir: &OwnedFd, leaf: &Leaf) -> io::Result<bool> {
    match rustix::fs::unlinkat(dir, leaf.as_c_str(), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(false),
        Err(Errno::ISDIR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Up to [`PAGE`] names of a directory, in no order, `.nearshare` included: none only if it is empty.
fn some_names(dir: &OwnedFd) -> io::Result<Vec<Name>> {
    let fd = look::open(dir.as_fd(), c".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut buffer = [MaybeUninit::uninit(); DIRENT_BUFFER];
    let mut entries = RawDir::new(fd, &mut buffer);
    let mut names = Vec::new();
    while names.len() < PAGE
        && let Some(entry) = entries.next()
    {
        // A name that is no `Name` is one of the two dots.
        names.extend(Name::new(entry?.file_name().to_bytes()));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_of_any_bytes_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(unescape(&bytes.escape_ascii().to_string()), Some(bytes));
        }
        #[test]
        fn no_text_makes_the_reader_panic(text in any::<String>()) {
            let _ = (unescape(&text), Time::parse(text.as_bytes()));
        }
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        let text = utc(1_795_262_400).unwrap();
        assert_eq!(text, "20261121T120000Z");
        let time = Time::parse(text.as_bytes()).unwrap();
        assert_eq!((time.text().as_str(), time.unix()), ("2026-11-21T12:00:00Z", Some(1_795_262_400)));
        for bad in ["20261121T120000", "20261321T120000Z", "2026112xT120000Z", "20261121 120000Z"] {
            assert!(Time::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
