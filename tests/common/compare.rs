//! Compares whole directory trees: names, kinds, modes, owners, times to the nanosecond, contents,
//! symlink targets, extended attributes, and which names share an inode. `.nearshare` at the root is left
//! out.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;

/// Differences that are printed.
const SHOWN: usize = 12;

#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Entry {
    kind: char,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, i64),
    /// Bytes of a file; 0 of anything else.
    size: u64,
    rdev: u64,
    /// BLAKE3 of a file's content, a symlink's target.
    content: String,
    /// With their values, all but those of a site's security policy.
    xattrs: BTreeMap<String, String>,
    /// The first name, in order, of the same inode.
    same_as: Option<PathBuf>,
}

pub type Tree = BTreeMap<PathBuf, Entry>;

/// Reads a tree. Fails on anything that changes underneath.
pub fn read(root: &Path) -> io::Result<Tree> {
    let mut tree = Tree::new();
    let mut inodes = BTreeMap::new();
    walk(root, Path::new(""), &mut tree, &mut inodes)?;
    Ok(tree)
}

/// The first differences, one a line; empty when there are none.
pub fn differences(left: &Tree, right: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, entry) in left {
        let shown = path.display();
        match right.get(path) {
            None => found.push(format!("only at the first: /{shown}")),
            Some(other) if entry != other => {
                found.push(format!("/{shown}\n   first:  {entry:?}\n   second: {other:?}"));
            }
            Some(_) => {}
        }
    }
    let only = right.keys().filter(|path| !left.contains_key(*path));
    found.extend(only.map(|path| format!("only at the second: /{}", path.display())));
    let more = found.len().saturating_sub(SHOWN);
    found.truncate(SHOWN);
    if more > 0 {
        found.push(format!("... and {more} more"));
    }
    found
}

/// `Err` with the differences, or with why a tree could not be read.
pub fn same(left: &Path, right: &Path) -> Result<(), String> {
    let read = |root: &Path| read(root).map_err(|error| format!("{}: {error}", root.display()));
    let found = differences(&read(left)?, &read(right)?);
    if found.is_empty() {
        return Ok(());
    }
    Err(format!("{} and {}:\n{}", left.display(), right.display(), found.join("\n")))
}

/// Of all that is not zero and where it is: a hole is as good as zeros, and is not read.
fn content(path: &Path) -> io::Result<String> {
    const BLOCK: u64 = 64 << 10;
    let file = fs::File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK as usize];
    let mut at = 0;
    loop {
        at = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Err(rustix::io::Errno::NXIO) => return Ok(hasher.finalize().to_hex().to_string()),
            data => data? / BLOCK * BLOCK,
        };
        let mut filled = 0;
        while filled < block.len() {
            match file.read_at(&mut block[filled..], at + filled as u64)? {
                0 => break,
                len => filled += len,
            }
        }
        if block[..filled].iter().any(|byte| *byte != 0) {
            hasher.update(&at.to_le_bytes());
            hasher.update(&block[..filled]);
        }
        at += BLOCK;
    }
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut names = vec![0; 64 << 10];
    let len = match rustix::fs::llistxattr(path, &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        len => len?,
    };
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut found = BTreeMap::new();
    for name in names.filter(|name| *name != b"security.selinux") {
        let mut value = vec![0; 64 << 10];
        let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..])?;
        found.insert(name.escape_ascii().to_string(), value[..len].escape_ascii().to_string());
    }
    Ok(found)
}

fn walk(
    root: &Path,
    below: &Path,
    tree: &mut Tree,
    inodes: &mut BTreeMap<(u64, u64), PathBuf>,
) -> io::Result<()> {
    let path = root.join(below);
    let meta = fs::symlink_metadata(&path)?;
    let kind = meta.file_type();
    let (letter, content) = if kind.is_file() {
        ('f', content(&path)?)
    } else if kind.is_dir() {
        ('d', String::new())
    } else if kind.is_symlink() {
        ('l', fs::read_link(&path)?.as_os_str().as_bytes().escape_ascii().to_string())
    } else if kind.is_fifo() {
        ('p', String::new())
    } else if kind.is_socket() {
        ('s', String::new())
    } else if kind.is_block_device() {
        ('b', String::new())
    } else {
        ('c', String::new())
    };
    let first = inodes.entry((meta.dev(), meta.ino())).or_insert_with(|| below.to_owned());
    tree.insert(
        below.to_owned(),
        Entry {
            kind: letter,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            size: if letter == 'f' { meta.size() } else { 0 },
            rdev: if matches!(letter, 'b' | 'c') { meta.rdev() } else { 0 },
            content,
            xattrs: xattrs(&path)?,
            same_as: (first != below).then(|| first.clone()),
        },
    );
    if letter == 'd' {
        let mut names: Vec<_> =
            fs::read_dir(&path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            if below.as_os_str().is_empty() && name == ".nearshare" {
                continue;
            }
            walk(root, &below.join(name), tree, inodes)?;
        }
    }
    Ok(())
}
