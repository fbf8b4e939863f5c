//! Seeded storms: changes of all kinds through requests and behind nearshare's back, while scans and
//! looks go on. Afterwards catalog, journal and disk must say the same. `NEARSHARE_SEEDS=N` runs more.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::seeds::{Again, seeds};

const SEEDS: u64 = 24;
const STEPS: usize = 60;
/// Storms at once: most of their time they wait for time stamps to pass.
const AT_ONCE: usize = 8;

#[test]
fn catalog_and_journal_follow_any_storm() {
    let base = TempDir::with_prefix("storm-").unwrap();
    let catalog = Catalog::open(&base.path().join("state"), &Options::default()).unwrap();
    let seeds = Mutex::new(seeds(SEEDS).collect::<Vec<u64>>().into_iter());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(seed) = lock(&seeds).next() else { return };
                    let _again = Again(seed);
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                    runtime.unwrap().block_on(storm(seed, base.path(), catalog.clone()));
                }
            });
        }
    });
}

async fn storm(seed: u64, base: &Path, catalog: Arc<Catalog>) {
    let mut random = StdRng::seed_from_u64(seed);
    let root = base.join(format!("root-{seed}"));
    let outside = base.join(format!("outside-{seed}"));
    fs::create_dir(&root).unwrap();
    fs::create_dir(&outside).unwrap();
    for _ in 0..random.random_range(0..30) {
        act(&mut random, &root, &outside).run();
    }
    let share = format!("s{seed}");
    let spec_share = share.clone();
    let site = Site::on(None, catalog, &spec_share, Some(root.clone()), "boot 1");
    for _ in 0..STEPS {
        let act = act(&mut random, &root, &outside);
        match random.random_range(0..10) {
            // Behind nearshare's back.
            0..3 => act.run(),
            // Without a hint to be had in time: only the scan tells.
            3 => {
                act.run();
                site.notice.rescan();
            }
            _ => {
                let paths: Vec<&str> = act.paths.iter().map(String::as_str).collect();
                let ticket = match site.notice.begin(&site.change(&paths), None).await {
                    Ok(ticket) => ticket,
                    // A symbolic link that leads in circles.
                    Err(NoticeError::Outside { .. }) => continue,
                    Err(error) => panic!("{error}"),
                };
                act.run();
                match random.random_range(0..8) {
                    0 => drop(ticket.refused()),
                    _ => match ticket.answered(false).await {
                        Ok(_) | Err(NoticeError::Outside { .. }) => {}
                        Err(error) => panic!("{error}"),
                    },
                }
            }
        }
        if random.random_ratio(1, 8) {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..30))).await;
        }
    }
    site.rescan().await;
    // What was moved out and in while the last scan went on is settled by another.
    site.rescan().await;
    site.agrees();
    drop(site);
    fs::remove_dir_all(&root).unwrap();
}

struct Act {
    paths: Vec<String>,
    what: Box<dyn FnOnce()>,
}
impl Act {
    fn run(self) {
        (self.what)();
    }
}

/// Few names in few directories, so that everything happens to the same ones.
fn place(random: &mut StdRng) -> String {
    let depth = random.random_range(1..4);
    let names: Vec<&str> = (0..depth).map(|_| ["a", "b", "c"][random.random_range(0..3)]).collect();
    names.join("/")
}

/// Any change. One that cannot be carried out does nothing, as with a server that refuses it.
fn act(random: &mut StdRng, root: &Path, outside: &Path) -> Act {
    let one = place(random);
    let two = place(random);
    let (from, to) = (root.join(&one), root.join(&two));
    let size = random.random_range(0..3) * 3000;
    let data = vec![random.random::<u8>(); size];
    let kept = outside.join(["x", "y"][random.random_range(0..2)]);
    let mode = 0o600 + random.random_range(0..0o100);
    let single = |what: Box<dyn FnOnce()>| Act { paths: vec![one.clone()], what };
    let both = |what: Box<dyn FnOnce()>| Act { paths: vec![one.clone(), two.clone()], what };
    match random.random_range(0..16) {
        0..3 => single(Box::new(move || drop(fs::write(from, data)))),
        3..6 => single(Box::new(move || drop(fs::create_dir(from)))),
        6 => single(Box::new(move || drop(fs::remove_file(from)))),
        7 => single(Box::new(move || drop(fs::remove_dir_all(from)))),
        8..11 => both(Box::new(move || drop(fs::rename(from, to)))),
        11 => both(Box::new(move || drop(fs::hard_link(from, to)))),
        12 => single(Box::new(move || drop(std::os::unix::fs::symlink("b", from)))),
        13 => single(Box::new(move || {
            if fs::symlink_metadata(&from).is_ok_and(|found| !found.is_symlink()) {
                drop(fs::set_permissions(from, fs::Permissions::from_mode(mode | 0o100)));
            }
        })),
        14 => both(Box::new(move || {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            let _ = rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, flags);
        })),
        _ if random.random() => single(Box::new(move || drop(fs::rename(from, kept)))),
        _ => single(Box::new(move || drop(fs::rename(kept, from)))),
    }
}
