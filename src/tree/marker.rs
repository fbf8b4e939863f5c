//! `.nearshare` at the root: the marker that says whose directory this is, and the rooms beside it.
//! Not here: what is put into the rooms (see `apply`).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::{Result, RootSpec, TreeError, look};
use crate::id::{ShareId, SiteId};

/// What is being moved, made whole, and kept from being destroyed (R16, R25, R32).
pub(super) const ROOMS: [&std::ffi::CStr; 3] = [c"park", c"tmp", c"kept"];

/// First line of a marker. 1: share, site and id, one a line.
const VERSION: &str = "nearshare marker 1";
/// Longest marker file: three names of 63 bytes and their words fit four times.
const BYTES_MAX: u64 = 1024;

/// Whose directory it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) share: ShareId,
    pub(super) site: SiteId,
    pub(super) id: [u8; 16],
}

/// Opens `.nearshare` below `root`, checks or makes marker and rooms, durably.
pub(super) fn open(root: BorrowedFd<'_>, spec: &RootSpec) -> Result<(OwnedFd, [u8; 16])> {
    let marker = match (read(root, &spec.path)?, spec.marker) {
        (found, Some(id)) => judge(root, spec, id, found)?,
        (Some(found), None) => {
            owner(spec, &found)?;
            found
        }
        (None, None) => make(root, spec).map_err(|e| io_error("make the marker of", &spec.path, e))?,
    };
    let ours = ours(root, spec)?;
    for room in ROOMS {
        self::room(ours.as_fd(), room).map_err(|e| io_error("make .nearshare in", &spec.path, e))?;
    }
    Ok((ours, marker.id))
}

/// Fails with why `root` is not the directory that carries marker `id` of this share and site.
pub(super) fn judge(
    root: BorrowedFd<'_>,
    spec: &RootSpec,
    id: [u8; 16],
    found: Option<Marker>,
) -> Result<Marker> {
    let Some(found) = found else {
        let names = look::names(root).map_err(|e| io_error("list", &spec.path, e))?;
        return Err(not(
            spec,
            match names.is_empty() {
                true => "it is empty where the share was: its file system is not mounted".into(),
                false => "it has files but no .nearshare/marker: it is another directory".into(),
            },
        ));
    };
    owner(spec, &found)?;
    if found.id != id {
        let (found, id) = (hex(&found.id), hex(&id));
        let why = format!("its marker is {found}, the catalog knows {id}: it is another directory");
        return Err(not(spec, why));
    }
    Ok(found)
}

fn owner(spec: &RootSpec, found: &Marker) -> Result<()> {
    if found.share == spec.share && found.site == spec.site {
        return Ok(());
    }
    let Marker { share, site, .. } = found;
    let why =
        format!("its marker is of share {share} at site {site}, not of {} at {}", spec.share, spec.site);
    Err(not(spec, why))
}

/// `None` when there is no marker.
pub(super) fn read(root: BorrowedFd<'_>, path: &Path) -> Result<Option<Marker>> {
    let what = "read the marker of";
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let fd = look::open(root, c".nearshare/marker", flags);
    let Some(fd) = look::absent(fd).map_err(|e| io_error(what, path, e))? else { return Ok(None) };
    let mut text = Vec::new();
    File::from(fd).take(BYTES_MAX).read_to_end(&mut text).map_err(|e| io_error(what, path, e))?;
    match parse(&text) {
        Some(marker) => Ok(Some(marker)),
        None => Err(TreeError::NotTheShare {
            path: path.into(),
            why: "its .nearshare/marker is damaged or of a newer nearshare".into(),
        }),
    }
}

fn parse(text: &[u8]) -> Option<Marker> {
    let mut lines = std::str::from_utf8(text).ok()?.lines();
    if lines.next()? != VERSION {
        return None;
    }
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
    let share = field("share")?.parse().ok()?;
    let site = field("site")?.parse().ok()?;
    let id = unhex(field("id")?.as_bytes())?;
    Some(Marker { share, site, id })
}

fn print(marker: &Marker) -> String {
    let Marker { share, site, id } = marker;
    format!("{VERSION}\nshare {share}\nsite {site}\nid {}\n", hex(id))
}

/// Written aside, synced, renamed in, and the directories synced: after a crash it is whole or not
/// there.
fn make(root: BorrowedFd<'_>, spec: &RootSpec) -> io::Result<Marker> {
    let marker = Marker { share: spec.share.clone(), site: spec.site.clone(), id: rand::random() };
    room(root, c".nearshare")?;
    let ours = look::open(root, c".nearshare", OFlags::RDONLY | OFlags::DIRECTORY)?;
    match rustix::fs::unlinkat(&ours, c"marker.new", AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&ours, c"marker.new", flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = File::from(fd);
    file.write_all(print(&marker).as_bytes())?;
    file.sync_all()?;
    rustix::fs::renameat(&ours, c"marker.new", &ours, c"marker")?;
    rustix::fs::fsync(&ours)?;
    rustix::fs::fsync(look::open(root, c".", OFlags::RDONLY | OFlags::DIRECTORY)?)?;
    Ok(marker)
}

/// `.nearshare` itself, which must be ours alone: whoever owns it could hand us their own marker.
fn ours(root: BorrowedFd<'_>, spec: &RootSpec) -> Result<OwnedFd> {
    let what = "open .nearshare of";
    let fd = look::open(root, c".nearshare", OFlags::PATH | OFlags::DIRECTORY)
        .map_err(|e| io_error(what, &spec.path, e))?;
    let stat = look::stat(fd.as_fd(), c"").map_err(|e| io_error(what, &spec.path, e))?;
    let me = rustix::process::geteuid().as_raw();
    if stat.stx_uid == me && stat.stx_mode & 0o077 == 0 {
        return Ok(fd);
    }
    let mode = u32::from(stat.stx_mode & 0o7777);
    Err(TreeError::NotOurs { path: spec.path.clone(), uid: stat.stx_uid, mode, me })
}

/// Makes sure of a directory of ours, mode 0700.
pub(super) fn room(dir: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<()> {
    match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
        Ok(()) => Ok(()),
        // ENOTDIR if somebody put something else there.
        Err(rustix::io::Errno::EXIST) => {
            look::open(dir, name, OFlags::PATH | OFlags::DIRECTORY).map(drop)
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) fn hex(bytes: &[u8; 16]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `None` unless exactly 32 lower-case digits.
pub(super) fn unhex(text: &[u8]) -> Option<[u8; 16]> {
    let text: &[u8; 32] = text.try_into().ok()?;
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut out = [0; 16];
    for (byte, pair) in out.iter_mut().zip(text.as_chunks::<2>().0) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

pub(super) fn not(spec: &RootSpec, why: String) -> TreeError {
    TreeError::NotTheShare { path: spec.path.clone(), why }
}

pub(super) fn io_error(what: &'static str, path: &Path, source: io::Error) -> TreeError {
    TreeError::Io { what, path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> Marker {
        Marker { share: "eng".parse().unwrap(), site: "hq".parse().unwrap(), id: *b"0123456789abcdef" }
    }

    #[test]
    fn a_marker_is_plain_text() {
        let want = "nearshare marker 1\nshare eng\nsite hq\nid 30313233343536373839616263646566\n";
        assert_eq!(print(&example()), want);
        assert_eq!(parse(want.as_bytes()), Some(example()));
    }

    #[test]
    fn a_marker_cut_anywhere_is_damaged() {
        let text = print(&example());
        for end in 0..text.len() - 1 {
            assert_eq!(parse(&text.as_bytes()[..end]), None, "{end}");
        }
    }

    proptest! {
        #[test]
        fn ids_round_trip(id in any::<[u8; 16]>()) {
            prop_assert_eq!(unhex(hex(&id).as_bytes()), Some(id));
        }
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
