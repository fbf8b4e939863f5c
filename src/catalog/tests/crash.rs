//! Restarts and crashes of the real store, and how commits share syncs.

use std::io::{BufRead, Read, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::*;

#[test]
fn one_process_at_a_time_and_only_the_owner_may_look() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state").join("catalog");
    let shelf = shelf(&state);
    let error = Catalog::open(&state, &Options::default()).err().unwrap();
    assert!(matches!(error, CatalogError::Locked { .. }));
    assert!(error.to_string().contains("another nearshare has it open"));
    let mode = std::fs::metadata(&state).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    drop(shelf);
    open(&state);
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    drop(shelf(dir.path()));
    {
        let disk = Disk::open(dir.path(), &Options::default()).unwrap();
        let row = rows::encode_database(&DatabaseRow { format: FORMAT + 1, next_index: 9 });
        let (space, key, value) = (Space::Notes, keys::database(), Some(row.into()));
        disk.apply(vec![Write { space, key, value }]).unwrap();
    }
    let error = Catalog::open(dir.path(), &Options::default()).err().unwrap();
    assert!(matches!(error, CatalogError::Newer { found: 2, known: 1, .. }));
    assert!(error.to_string().contains("install that version"), "{error}");
}

#[test]
fn a_damaged_row_is_named_and_harms_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    let (good, bad) = (id(1), id(2));
    commit(&shelf, |batch| {
        batch.publish(1, vec![Change::Put(file(good, 1)), Change::Put(file(bad, 1))], vec![]);
    })
    .unwrap();
    let rows = shelf.core.state().rows;
    let (space, key) = (Space::Rows, keys::object(rows, bad));
    let value = Some(bytes::Bytes::from_static(&[0x10, 99]));
    shelf.catalog.shared.store.apply(vec![Write { space, key, value }]).unwrap();
    let error = shelf.object(bad).unwrap_err();
    assert!(error.to_string().contains("object.kind 99 is not known"), "{error}");
    let refused = commit(&shelf, |batch| batch.publish(1, vec![Change::Gone { id: bad }], vec![]));
    assert!(matches!(refused, Err(CatalogError::Damaged { .. })));
    assert!(shelf.object(good).unwrap().is_some());
    commit(&shelf, |batch| batch.publish(1, vec![Change::Gone { id: good }], vec![])).unwrap();
}

#[test]
fn closed_means_closed_for_writes_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    {
        let catalog = open(dir.path());
        let shelf = catalog.share(&"eng".parse().unwrap()).unwrap();
        let mut commits = Vec::new();
        for number in 0..200 {
            let mut batch = shelf.batch();
            batch.mark(Touch::Object(id(number)), Gen(1));
            commits.push(shelf.commit(batch, false));
        }
        catalog.close().unwrap();
        commits.into_iter().for_each(|commit| commit.wait().unwrap());
        let late = commit(&shelf, |batch| batch.mark(Touch::Object(id(1)), Gen(2)));
        assert!(matches!(late, Err(CatalogError::Closed)));
        assert_eq!(shelf.marks().unwrap().len(), 200);
        catalog.close().unwrap();
    }
    assert_eq!(shelf(dir.path()).marks().unwrap().len(), 200);
}

#[test]
fn a_panic_in_a_closure_leaves_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = shelf(dir.path());
    let mut batch = shelf.batch();
    batch.set_meta(|_| panic!("a defect of the caller's"));
    let first = shelf.commit(batch, false);
    assert!(first.wait().is_err());
    assert!(commit(&shelf, |batch| batch.mark(Touch::Object(id(1)), Gen(1))).is_err());
}

#[test]
fn durable_commits_of_many_threads_are_all_kept() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let shelf = catalog.share(&"eng".parse().unwrap()).unwrap();
    let (commits, syncs) = catalog.counts();
    let barrier = std::sync::Barrier::new(100);
    std::thread::scope(|scope| {
        for thread in 0..100u64 {
            let (shelf, barrier) = (&shelf, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for round in 0..10 {
                    let mut batch = shelf.batch();
                    batch.mark(Touch::Object(id(thread * 10 + round)), Gen(1));
                    shelf.commit(batch, true).wait().unwrap();
                }
            });
        }
    });
    let (commits, syncs) = (catalog.counts().0 - commits, catalog.counts().1 - syncs);
    assert_eq!(commits, 1000);
    assert!((1..=1000).contains(&syncs));
    assert_eq!(shelf.marks().unwrap().len(), 1000);
}

#[test]
fn what_is_synced_already_is_not_synced_again() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let shelf = catalog.share(&"eng".parse().unwrap()).unwrap();
    let before = catalog.counts().1;
    for _ in 0..5 {
        shelf.commit(shelf.batch(), true).wait().unwrap();
    }
    assert_eq!(catalog.counts().1, before);
    commit(&shelf, |batch| batch.mark(Touch::Object(id(1)), Gen(1))).unwrap();
    assert_eq!(catalog.counts().1, before, "not durable, not synced");
    shelf.commit(shelf.batch(), true).wait().unwrap();
    assert_eq!(catalog.counts().1, before + 1, "an empty durable commit covers those before it");
}

#[tokio::test]
async fn a_task_may_wait_for_a_commit_and_for_the_durable_head() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    let mut head = shelf.durable_head();
    assert_eq!(head.borrow_and_update().at.seq, Seq(1));
    let mut batch = shelf.batch();
    batch.publish(1, vec![], vec![]);
    let records = shelf.commit_records(batch, false).await.unwrap();
    assert_eq!(records[0].at.seq, Seq(2));
    assert!(!head.has_changed().unwrap(), "not synced yet");
    let mut batch = shelf.batch();
    batch.publish(1, vec![], vec![]);
    shelf.commit(batch, true).await.unwrap();
    head.changed().await.unwrap();
    assert_eq!(head.borrow().at.seq, Seq(3));
}

/// The log that is being written, and how many bytes of it are used (it is made 64 MiB of zeros).
fn log(dir: &Path) -> (PathBuf, usize) {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    let number = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    let path = logs.max_by_key(number).unwrap();
    let used = read_used(&path).0.len();
    (path, used)
}

/// A file's content without the zeros behind it, and its length with them.
fn read_used(path: &Path) -> (Vec<u8>, u64) {
    let mut file = std::fs::File::open(path).unwrap();
    let len = file.metadata().unwrap().len();
    let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).unwrap_or(len);
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).unwrap();
    let mut bytes = Vec::new();
    Read::by_ref(&mut file).take(hole).read_to_end(&mut bytes).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(used);
    (bytes, len)
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            // Sparse, as the log is.
            let (bytes, len) = read_used(&entry.path());
            std::fs::write(&target, bytes).unwrap();
            let file = std::fs::File::options().write(true).open(&target).unwrap();
            file.set_len(len).unwrap();
        }
    }
}

#[test]
fn a_cut_log_is_a_prefix_of_the_commits_and_holds_all_that_was_durable() {
    let dir = tempfile::tempdir().unwrap();
    let crashed = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let shelf = primary(&live);
    // How long the log was when so many records were durable.
    let mut durable = vec![(log(&live).1, 1)];
    for number in 2..=64u64 {
        let mut batch = shelf.batch();
        let mut changes = create(ObjectId::ROOT, &format!("f{number}"), file(id(number), number));
        if number % 5 == 0 {
            changes.push(Change::Gone { id: id(number - 1) });
        }
        batch.publish(1, changes, vec![]);
        batch.mark(Touch::Object(id(number)), Gen(number));
        let sync = number % 16 == 0;
        shelf.commit(batch, sync).wait().unwrap();
        if sync {
            durable.push((log(&live).1, number));
        }
    }
    // The process is still running: what it leaves is what a kill or a power cut finds.
    let (path, used) = log(&live);
    let cuts = (0..=64).map(|part| used * part / 64).chain(used - 40..=used);
    for (round, cut) in cuts.enumerate() {
        let at = crashed.path().join(round.to_string());
        copy_tree(&live, &at);
        let cut_log =
            std::fs::File::options().write(true).open(at.join(path.file_name().unwrap())).unwrap();
        cut_log.set_len(cut as u64).unwrap();
        if round % 2 == 0 {
            // The file's length was there before its content.
            cut_log.set_len(1 << 20).unwrap();
        }
        let least = durable.iter().rev().find(|(len, _)| *len <= cut).map_or(0, |(_, seq)| *seq);
        let found = super::shelf(&at);
        let head = found.head().at.seq.0;
        assert!(head >= least, "cut at {cut} of {used}: {head} records, {least} were durable");
        assert_eq!(found.marks().unwrap().len() as u64, head.saturating_sub(1));
        if head > 0 {
            model::consistent(&found);
            assert_eq!(Some(found.head().chain), shelf.chain_at(found.head().at).unwrap());
            commit(&found, |batch| batch.publish(1, vec![Change::Put(file(id(999), 1))], vec![]))
                .unwrap();
        }
        drop(found);
        std::fs::remove_dir_all(&at).unwrap();
    }
}

/// Names the store that this process, a child of the test below, is to write to until it is killed.
const VICTIM: &str = "NEARSHARE_TEST_CATALOG_VICTIM";

/// Publishes records one by one, and says so of each when it is answered.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(VICTIM) else { return };
    let shelf = shelf(Path::new(&dir));
    for number in shelf.head().at.seq.0 + 1..1_000_000 {
        let changes = create(ObjectId::ROOT, &format!("f{number}"), file(id(number), number));
        commit(&shelf, |batch| batch.publish(1, changes, vec![])).unwrap();
        writeln!(std::io::stderr(), "{number}").unwrap();
    }
}

#[test]
fn a_kill_at_any_time_loses_nothing_that_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    drop(primary(dir.path()));
    for round in 0..8u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "catalog::tests::crash::victim"])
            .env(VICTIM, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut answers =
            std::io::BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        // How long it lives is counted in answers: no machine is too slow for that.
        let enough = 1 + round * 97;
        let answered: Vec<u64> = Iterator::by_ref(&mut answers)
            .take(enough as usize)
            .map(|line| line.parse().unwrap())
            .collect();
        child.kill().unwrap();
        let later: Vec<u64> = answers.filter_map(|line| line.parse().ok()).collect();
        child.wait().unwrap();
        assert_eq!(answered.len() as u64, enough);
        let last = *later.last().or(answered.last()).unwrap();
        let found = shelf(dir.path());
        assert!(found.head().at.seq.0 >= last, "{last} was answered");
        model::consistent(&found);
    }
}

#[test]
fn a_log_with_a_hole_is_cut_and_the_share_counts_as_not_cleanly_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let shelf = primary(&live);
    commit(&shelf, |batch| {
        batch.set_meta(|meta| {
            meta.clean = true;
            meta.boot_id = "0b9e".to_owned();
        });
    })
    .unwrap();
    shelf.commit(shelf.batch(), true).wait().unwrap();
    let durable = log(&live).1;
    for number in 2..=9u64 {
        // 40 KB in one row: most pages are within it.
        let symlink = |n| Object { kind: Kind::Symlink, target: vec![b'x'; 4000], ..file(id(n), 0) };
        let changes = (0..10).map(|n| Change::Put(symlink(number * 10 + n))).collect();
        commit(&shelf, |batch| batch.publish(1, changes, vec![])).unwrap();
    }
    let (path, used) = log(&live);
    let mut holes = 0;
    for (round, page) in (durable..used - 4096).step_by(16384).enumerate() {
        let at = dir.path().join(round.to_string());
        copy_tree(&live, &at);
        let target = at.join(path.file_name().unwrap());
        let hole = std::fs::File::options().write(true).open(&target).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&hole, &[0; 4096], page as u64).unwrap();
        let found = super::shelf(&at);
        let head = found.head().at.seq.0;
        assert!((1..9).contains(&head));
        model::consistent(&found);
        if found.catalog.shared.store.repaired() {
            holes += 1;
            let meta = found.meta();
            assert_eq!((meta.clean, meta.boot_id.as_str()), (false, ""));
        }
        commit(&found, |batch| batch.publish(1, vec![Change::Put(file(id(999), 1))], vec![])).unwrap();
        drop(found);
        // It stays repaired.
        assert_eq!(super::shelf(&at).head().at.seq.0, head + 1);
        std::fs::remove_dir_all(&at).unwrap();
    }
    assert!(holes >= 3, "{holes} holes that fjall alone does not open with");
}
