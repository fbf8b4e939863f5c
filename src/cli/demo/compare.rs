//! Compares whole directories: names, kinds, modes, owners, times to the nanosecond, contents, targets of
//! symbolic links, and which names are one file. `.nearshare` at the root is left out.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    /// Kind and permissions, as in `st_mode`.
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    /// A file's bytes, a symbolic link's target.
    content: Vec<u8>,
    /// The first name, in order, of the same file.
    same_as: Option<PathBuf>,
}

type Tree = BTreeMap<PathBuf, Entry>;

/// How many entries both directories have, or the first difference.
pub(super) fn same(first: &Path, second: &Path) -> Result<usize, String> {
    let read = |root: &Path| {
        let mut walk = Walk { root, tree: Tree::new(), inodes: BTreeMap::new() };
        walk.entry(Path::new("")).map_err(|error| format!("{}: {error}", root.display()))?;
        Ok::<_, String>(walk.tree)
    };
    let (left, right) = (read(first)?, read(second)?);
    for (path, entry) in &left {
        match right.get(path) {
            None => return Err(format!("{} is not in {}", path.display(), second.display())),
            Some(other) if other != entry => {
                let what = difference(entry, other);
                return Err(format!("{} differs in {}: {what}", path.display(), second.display()));
            }
            Some(_) => {}
        }
    }
    match right.keys().find(|path| !left.contains_key(*path)) {
        Some(path) => Err(format!("{} is only in {}", path.display(), second.display())),
        None => Ok(left.len()),
    }
}

fn difference(first: &Entry, second: &Entry) -> String {
    let Entry { mode, owner, mtime, content, same_as } = first;
    if *mode != second.mode {
        return format!("mode {mode:o} and {:o}", second.mode);
    }
    if *owner != second.owner {
        return format!("owner {owner:?} and {:?}", second.owner);
    }
    if *mtime != second.mtime {
        return format!("time {mtime:?} and {:?}", second.mtime);
    }
    if *same_as != second.same_as {
        return format!("linked with {same_as:?} and {:?}", second.same_as);
    }
    format!("content, {} and {} bytes", content.len(), second.content.len())
}

struct Walk<'r> {
    root: &'r Path,
    tree: Tree,
    inodes: BTreeMap<u64, PathBuf>,
}

impl Walk<'_> {
    fn entry(&mut self, below: &Path) -> io::Result<()> {
        let path = self.root.join(below);
        let found = fs::symlink_metadata(&path)?;
        let content = if found.is_file() {
            fs::read(&path)?
        } else if found.is_symlink() {
            fs::read_link(&path)?.into_os_string().into_vec()
        } else {
            Vec::new()
        };
        let first = self.inodes.entry(found.ino()).or_insert_with(|| below.to_owned());
        let entry = Entry {
            mode: found.mode(),
            owner: (found.uid(), found.gid()),
            mtime: (found.mtime(), found.mtime_nsec()),
            content,
            same_as: (first != below).then(|| first.clone()),
        };
        self.tree.insert(below.to_owned(), entry);
        if found.is_dir() {
            let mut names = fs::read_dir(&path)?
                .map(|entry| Ok(entry?.file_name()))
                .collect::<io::Result<Vec<_>>>()?;
            names.sort();
            for name in names {
                if !(below.as_os_str().is_empty() && name == ".nearshare") {
                    self.entry(&below.join(name))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{FileTimes, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    /// The same file with the same times at every call.
    fn lay(root: &Path) {
        fs::write(root.join("a"), "one").unwrap();
        fs::set_permissions(root.join("a"), Permissions::from_mode(0o640)).unwrap();
        fs::create_dir_all(root.join(".nearshare/tmp")).unwrap();
        fs::write(root.join(".nearshare/tmp/x"), root.as_os_str().as_encoded_bytes()).unwrap();
        for path in [root.join("a"), root.to_owned()] {
            let times = FileTimes::new().set_modified(UNIX_EPOCH + Duration::new(1_000, 7));
            fs::File::open(path).unwrap().set_times(times).unwrap();
        }
    }

    #[test]
    fn one_difference_of_each_kind_is_found() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        lay(first.path());
        lay(second.path());
        assert_eq!(same(first.path(), second.path()), Ok(2));

        let file = second.path().join("a");
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        assert!(same(first.path(), second.path()).unwrap_err().contains("mode"));
        lay(second.path());
        let later = FileTimes::new().set_modified(UNIX_EPOCH + Duration::new(1_000, 8));
        fs::File::open(&file).unwrap().set_times(later).unwrap();
        assert!(same(first.path(), second.path()).unwrap_err().contains("time"));
        fs::write(&file, "two").unwrap();
        lay(first.path());
        let same_times = FileTimes::new().set_modified(UNIX_EPOCH + Duration::new(1_000, 7));
        fs::File::open(&file).unwrap().set_times(same_times).unwrap();
        assert!(same(first.path(), second.path()).unwrap_err().contains("content"));
        fs::rename(&file, second.path().join("b")).unwrap();
        lay(second.path());
        assert!(same(first.path(), second.path()).unwrap_err().contains("b is only in"));
        assert!(same(second.path(), first.path()).unwrap_err().contains("b is not in"));
    }
}
