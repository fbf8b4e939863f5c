//! Small real file systems: ext4 images on loop devices.

use std::path::{Path, PathBuf};

pub struct Disk {
    pub path: PathBuf,
    dir: tempfile::TempDir,
}

impl Disk {
    /// An empty ext4 of `mib` MiB, mounted.
    pub fn ext4(mib: u64) -> Self {
        Self::ext4_with(mib, &[])
    }

    /// And what else `mkfs.ext4` is to be told.
    pub fn ext4_with(mib: u64, options: &[&str]) -> Self {
        super::needs_root("a loop-mounted disk");
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let path = dir.path().join("disk");
        std::fs::create_dir(&path).unwrap();
        // No reserved blocks: root fills it to the last one, as everybody else would.
        let arguments = [&["-q", "-F", "-m", "0"], options, &[image.to_str().unwrap()]].concat();
        super::run("mkfs.ext4", &arguments);
        super::run("mount", &["-o", "loop", image.to_str().unwrap(), path.to_str().unwrap()]);
        Self { path, dir }
    }

    /// The disk goes bad: where it has `from` it has `to` from now on, and no file's times say so. Says how often.
    pub fn rot(&self, from: &[u8], to: &[u8]) -> usize {
        use std::os::unix::fs::FileExt;
        assert_eq!(from.len(), to.len());
        super::run("sync", &["-f", self.path.to_str().unwrap()]);
        let image = std::fs::File::options().read(true).write(true).open(self.dir.path().join("image"));
        let image = image.unwrap();
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut &image, &mut data).unwrap();
        let found = data.windows(from.len()).enumerate().filter(|(_, bytes)| *bytes == from);
        found.map(|(at, _)| image.write_all_at(to, at as u64).unwrap()).count()
    }

    /// Fills the disk to the last block with a file at `path`.
    pub fn fill(&self, path: &Path) {
        use std::io::Write;
        let mut file = std::fs::File::create(path).unwrap();
        for size in [1 << 20, 4096] {
            let block = vec![0x5a; size];
            while file.write_all(&block).is_ok() && file.sync_data().is_ok() {}
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let path = self.path.to_str().unwrap();
        let status = std::process::Command::new("umount").arg(path).status();
        if !status.is_ok_and(|status| status.success()) {
            // Somebody is still in there; the kernel finishes it when they leave.
            let _ = std::process::Command::new("umount").args(["-l", path]).status();
        }
    }
}
