//! A site whose catalog could not be written, as on a full disk: when it is time to start anew. Until
//! then it goes on answering reads. Not here: how a process starts anew (see `cli::run`).

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use super::Site;

/// The catalog and, if that is broken, its directory are looked at this often.
const LOOK: Duration = Duration::from_secs(2);
/// Half of what must be free in the state directory before a start is worth it, in bytes: the rows in
/// memory and what a merge of the smallest tables takes. So much is written to see that it works.
const ROOM: usize = 16 << 20;
/// Written at once while that is tried.
const BLOCK: usize = 1 << 20;
/// The file it is tried with.
const TRIAL: &str = "room.tmp";

impl Site {
    /// Returns when the catalog takes no more writes, and a new process could write it again.
    pub async fn until_anew(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.catalog.broken().is_none() {
                continue;
            }
            let Some(row) = self.row() else { continue };
            let state = row.cluster.state.clone();
            let tried = tokio::task::spawn_blocking(move || has_room(&state)).await;
            if matches!(tried, Ok(Ok(()))) {
                return;
            }
        }
    }
}

/// Fails unless [`ROOM`] bytes can be written to `dir`, down to the disk. Leaves nothing behind, and
/// takes nothing from others on a disk that says itself that it is full.
fn has_room(dir: &Path) -> io::Result<()> {
    let disk = rustix::fs::statvfs(dir)?;
    if disk.f_bavail.saturating_mul(disk.f_frsize) < 2 * ROOM as u64 {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let path = dir.join(TRIAL);
    let mut file = File::create(&path)?;
    // Without a name it goes with this process, however that ends.
    std::fs::remove_file(&path)?;
    let block = vec![0x5a; BLOCK];
    for _ in 0..ROOM / BLOCK {
        file.write_all(&block)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        has_room(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(has_room(&dir.path().join("missing")).is_err());
    }
}
