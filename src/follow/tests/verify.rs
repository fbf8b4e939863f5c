//! What a disk changed by itself is found and put right, beside all that goes on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use super::faulty::Faulty;
use super::rig::Rig;
use super::share::Share;
use crate::effect::{Depth, Read};
use crate::follow::Follow;
use crate::id::{Name, ObjectId, RelPath, Version};
use crate::object::{Kind, Local, Stamp};
use crate::route::Standing;
use crate::tree::{Spot, Tree};
use crate::verify::{Desk, Judge, Order, Report, Subject, VerifyError};

const REPAIR: Order = Order { repair: true, rate: None, anew: false };
const LOOK: Order = Order { repair: false, rate: None, anew: false };

fn pair() -> (Share, Rig) {
    let mut share = Share::new();
    let mut rig = Rig::new(&mut share);
    share.file("a", b"ours");
    share.dir("dir");
    share.file("dir/x", &[7; 300_000]);
    share.link("dir/x", "dir/y");
    share.make("link", Kind::Symlink, |object| object.target = b"a".to_vec());
    rig.follow_all(&mut share);
    rig.idle();
    (share, rig)
}

/// Other bytes, under the times of before; and what the catalog knows of the file is made to fit, as it would if
/// the disk had changed them by itself.
fn rot(rig: &mut Rig, share: &Share, path: &str, data: &[u8]) {
    let found = fs::metadata(rig.path(path)).unwrap();
    assert_eq!(found.len(), data.len() as u64);
    fs::write(rig.path(path), data).unwrap();
    let time = |sec, nsec| Timespec { tv_sec: sec, tv_nsec: nsec };
    let times = Timestamps {
        last_access: time(found.atime(), found.atime_nsec()),
        last_modification: time(found.mtime(), found.mtime_nsec()),
    };
    rustix::fs::utimensat(CWD, rig.path(path), &times, AtFlags::empty()).unwrap();
    let id = share.at(path);
    let root = rig.tree().root().unwrap();
    let (parent, name) =
        RelPath::parse(path.as_bytes()).unwrap().split_last().map(|(p, n)| (p, n.clone())).unwrap();
    let mut dir = root;
    for step in parent.names() {
        dir = rig.tree().open_at(Spot::Entry(&dir, step)).unwrap().unwrap();
    }
    let stamp = rig.tree().look(Spot::Entry(&dir, &name)).unwrap().unwrap().stamp;
    let local = rig.shelf().local(id).unwrap().unwrap();
    let mut batch = rig.shelf().batch();
    batch.set_local(id, Some(Local { stamp, ..local }));
    rig.shelf().commit(batch, true).wait().unwrap();
}

fn begin(rig: &Rig, judge: Arc<dyn Judge>, desk: &Arc<Desk>, order: Order) {
    let follow: &Arc<Follow<Faulty>> = rig.follow();
    let subject = Subject {
        share: "eng".parse().unwrap(),
        shelf: follow.shelf.clone(),
        tree: follow.tree.clone(),
        clock: rig.clock.clone(),
        judge,
    };
    assert!(desk.begin(subject, order).unwrap());
}

/// Goes on with all else meanwhile.
fn end(rig: &mut Rig, share: &Share, desk: &Desk) -> Report {
    while desk.report().running {
        rig.pump();
        rig.pay_all(share);
        rig.idle();
        std::thread::sleep(Duration::from_millis(20));
    }
    desk.join();
    desk.report()
}

fn verified(rig: &mut Rig, share: &Share, order: Order) -> Report {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let desk = Desk::open(rig.state.join("verify.json"));
    begin(rig, rig.follow().clone(), &desk, order);
    end(rig, share, &desk)
}

fn paths(report: &Report) -> Vec<&str> {
    report.wrong.iter().map(|wrong| wrong.path.as_str()).collect()
}

#[test]
fn what_the_disk_changed_by_itself_is_found_mended_and_kept() {
    let (share, mut rig) = pair();
    let well = verified(&mut rig, &share, LOOK);
    assert_eq!((well.complete, well.all_wrong(), well.objects, well.bytes), (true, 0, 5, 300_004));
    rot(&mut rig, &share, "a", b"ourz");
    let mut rotten = vec![7; 300_000];
    rotten[290_000] = 8;
    rot(&mut rig, &share, "dir/x", &rotten);
    // Nothing but its content tells.
    let seen = verified(&mut rig, &share, LOOK);
    assert_eq!((seen.complete, seen.repaired, seen.all_wrong()), (true, 0, 2), "{seen:?}");
    let mut found = paths(&seen);
    found.sort_unstable();
    assert_eq!(found, ["/a", "/dir/x"]);
    assert_eq!(rig.read("a"), "ourz");
    assert_eq!(rig.kept(), [""; 0]);
    let mended = verified(&mut rig, &share, REPAIR);
    assert_eq!(
        (mended.complete, mended.repaired, mended.all_wrong(), mended.skipped),
        (true, 2, 0, 0),
        "{mended:?}"
    );
    rig.assert_settled(&share);
    // One of each of its two names.
    assert_eq!(rig.kept().len(), 3);
    assert!(rig.kept().contains(&"ourz".to_owned()));
    let reasons = fs::read_dir(rig.path(".nearshare/kept"))
        .unwrap()
        .map(|dir| fs::read_to_string(dir.unwrap().path().join("note")).unwrap());
    assert!(
        reasons
            .into_iter()
            .any(|note| note.contains("path /a\n") && note.contains("`nearshare verify` found"))
    );
    assert_eq!(verified(&mut rig, &share, LOOK).all_wrong(), 0);
}

#[test]
fn what_is_missing_or_replaced_is_wrong_as_well() {
    let (share, mut rig) = pair();
    fs::remove_file(rig.path("a")).unwrap();
    fs::remove_file(rig.path("link")).unwrap();
    std::os::unix::fs::symlink("elsewhere", rig.path("link")).unwrap();
    let seen = verified(&mut rig, &share, LOOK);
    let mut found: Vec<_> =
        seen.wrong.iter().map(|wrong| (wrong.path.as_str(), wrong.why.as_str())).collect();
    found.sort_unstable();
    assert_eq!(found, [("/a", "it is missing"), ("/link", "something else is in its place")]);
    let mended = verified(&mut rig, &share, REPAIR);
    assert_eq!((mended.repaired, mended.all_wrong()), (2, 0), "{mended:?}");
    rig.assert_settled(&share);
}

/// Until the right content is here, reads go home; and a crash in between changes nothing of that.
#[test]
fn a_crash_before_the_right_content_is_here_loses_neither() {
    let (share, mut rig) = pair();
    rot(&mut rig, &share, "a", b"ourz");
    let (id, read) = (
        share.at("a"),
        Read {
            share: "eng".parse().unwrap(),
            path: RelPath::parse(b"a").unwrap(),
            depth: Depth::Object,
            home_only: false,
        },
    );
    rig.in_force();
    assert_eq!(rig.follow().standing(&read), Standing::Current);
    let version = rig.shelf().object(id).unwrap().unwrap().version;
    assert!(!rig.applier().mend(id, version.next()).unwrap(), "of another version nothing is known");
    assert!(rig.applier().mend(id, version).unwrap());
    assert!(!rig.applier().mend(id, version).unwrap(), "it is on its way");
    assert_eq!(rig.follow().standing(&read), Standing::Behind);
    rig.restart();
    rig.in_force();
    assert_eq!((rig.follow().standing(&read), rig.read("a").as_str()), (Standing::Behind, "ourz"));
    rig.pay_all(&share);
    assert_eq!((rig.follow().standing(&read), rig.read("a").as_str()), (Standing::Current, "ours"));
    assert_eq!(rig.kept(), ["ourz"]);
    rig.assert_settled(&share);
}

/// A copy's judge with something more to say.
struct Odd {
    follow: Arc<Follow<Faulty>>,
    looked: Mutex<Vec<ObjectId>>,
    /// The share stops after so many looks.
    most: AtomicUsize,
    /// This is under way.
    busy: Mutex<Option<ObjectId>>,
    was_busy: AtomicBool,
}

impl Odd {
    fn new(rig: &Rig, most: usize, busy: Option<ObjectId>) -> Arc<Self> {
        Arc::new(Self {
            follow: rig.follow().clone(),
            looked: Mutex::default(),
            most: AtomicUsize::new(most),
            busy: Mutex::new(busy),
            was_busy: AtomicBool::new(false),
        })
    }
}

impl Judge for Odd {
    fn is_busy(&self, id: ObjectId, entry: &(ObjectId, Name)) -> Result<bool, VerifyError> {
        if *self.busy.lock().unwrap() == Some(id) {
            self.was_busy.store(true, Ordering::SeqCst);
            return Ok(true);
        }
        let mut looked = self.looked.lock().unwrap();
        if !looked.contains(&id) {
            looked.push(id);
        }
        Judge::is_busy(&*self.follow, id, entry)
    }
    fn claims(&self, local: &Local, now: &Stamp) -> bool {
        self.follow.claims(local, now)
    }
    fn is_copy(&self) -> bool {
        true
    }
    fn mend(&self, id: ObjectId, version: Version) -> Result<bool, VerifyError> {
        Judge::mend(&*self.follow, id, version)
    }
    fn is_stopped(&self) -> bool {
        self.looked.lock().unwrap().len() >= self.most.load(Ordering::SeqCst)
    }
}

#[test]
fn one_that_was_broken_off_goes_on_where_it_was() {
    let (mut share, mut rig) = pair();
    for n in 0..40 {
        share.file(&format!("f{n}"), format!("{n:0>4}").as_bytes());
    }
    rig.follow_all(&mut share);
    rig.idle();
    (0..40).for_each(|n| rot(&mut rig, &share, &format!("f{n}"), b"rot!"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let file = rig.state.join("verify.json");
    let (mut all, mut runs) = (Vec::new(), 0);
    let report = loop {
        runs += 1;
        let judge = Odd::new(&rig, 10, None);
        let desk = Desk::open(file.clone());
        begin(&rig, judge.clone(), &desk, LOOK);
        let report = end(&mut rig, &share, &desk);
        let looked = judge.looked.lock().unwrap().clone();
        if report.after.is_some() && report.objects == 45 {
            // And then at what was found before.
            all.extend(looked.into_iter().filter(|id| !all.contains(id)).collect::<Vec<_>>());
            break report;
        }
        all.extend(looked);
        assert!(!report.complete && report.stopped.is_some(), "{report:?}");
    };
    assert!(runs >= 4, "{runs}");
    assert_eq!(report.all_wrong(), 40, "{report:?}");
    let looked = all.len();
    all.sort_unstable();
    all.dedup();
    // The last of each is looked at once more.
    assert!(all.len() == 43 && looked <= 43 + runs, "{looked} looks at {} in {runs} runs", all.len());
    // The file that says how far it was is damaged: all is looked at anew.
    fs::write(&file, "{").unwrap();
    assert_eq!(verified(&mut rig, &share, LOOK).objects, 45);
}

#[test]
fn what_is_under_way_is_looked_at_again_and_what_goes_on_is_no_mistake() {
    let (share, mut rig) = pair();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    rot(&mut rig, &share, "a", b"ourz");
    let judge = Odd::new(&rig, usize::MAX, Some(share.at("a")));
    let desk = Desk::open(rig.state.join("verify.json"));
    begin(&rig, judge.clone(), &desk, LOOK);
    while !judge.was_busy.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(desk.report().all_wrong(), 0);
    *judge.busy.lock().unwrap() = None;
    let report = end(&mut rig, &share, &desk);
    assert_eq!((paths(&report), report.skipped, report.complete), (vec!["/a"], 0, true));
    // One that never ends is counted, and is not wrong.
    let judge = Odd::new(&rig, usize::MAX, Some(share.at("dir/x")));
    begin(&rig, judge, &desk, LOOK);
    let report = end(&mut rig, &share, &desk);
    assert_eq!((paths(&report), report.skipped, report.complete), (vec!["/a"], 1, true));
}
