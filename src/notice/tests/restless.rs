//! Files that do not hold still, or that the disk does not give: what is journalled of them, what waits for
//! that, and what a barrier says of them. On a model of the disk, which takes its time and is written to
//! whenever that hurts.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::tree::Spot;
use crate::tree::model::Model;

/// Read in three pieces.
const LENGTH: usize = 600_000;

pub(super) struct Share {
    pub(super) tree: Arc<Model>,
    pub(super) shelf: Arc<Shelf>,
    pub(super) notice: Arc<Notice<Model>>,
    _catalog: Arc<Catalog>,
    _base: Option<TempDir>,
}

impl Share {
    /// With `f` and `g`, once they are journalled.
    pub(super) async fn new() -> Self {
        let base = TempDir::with_prefix("restless-").unwrap();
        let catalog = Catalog::open(base.path(), &Options::default()).unwrap();
        let mut share = Self::on(catalog).await;
        share._base = Some(base);
        share
    }

    /// On a new catalog.
    pub(super) async fn on(catalog: Arc<Catalog>) -> Self {
        Self::with(catalog, Model::new([7; 16])).await
    }

    /// And on this disk, which has nothing on it yet.
    pub(super) async fn with(catalog: Arc<Catalog>, tree: Model) -> Self {
        let shelf = catalog.share(&"eng".parse().unwrap()).unwrap();
        let tree = Arc::new(tree);
        let root = tree.dir_found(&tree.root().unwrap()).unwrap();
        let mut batch = shelf.batch();
        batch.new_incarnation(Epoch(1));
        let local =
            Local { handle: root.handle, stamp: root.stamp, version: Version(1), settled: false };
        batch.set_local(ObjectId::ROOT, Some(local));
        shelf.commit(batch, true).await.unwrap();
        let (share, boot_id, kept) = ("eng".parse().unwrap(), "boot".to_owned(), Kept::default());
        let config = Config { share, key: [7; 32], boot_id, kept };
        let clock = Arc::new(TestClock::default());
        let (to_shelf, to_tree) = (shelf.clone(), tree.clone());
        write(&tree, "f", 0);
        write(&tree, "g", 0);
        let terms = Terms { strict: true, ..Terms::default() };
        let notice = Notice::start(config, terms, to_shelf, to_tree, clock).unwrap();
        let share = Self { tree, shelf, notice, _catalog: catalog, _base: None };
        share
            .until("all is looked at", || {
                share.shelf.meta().scanned && share.notice.standing().marks == 0
            })
            .await;
        share
    }

    pub(super) async fn until(&self, what: &str, done: impl Fn() -> bool) {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < PATIENCE, "waited for: {what}; {:?}", self.notice.standing());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// As a server changes a file where it is, for another site or for nobody else.
    pub(super) async fn relay(&self, name: &str, round: u32, from: Option<&Origin>) {
        let ticket = self.begin(name, Reach::Entry, from).await;
        write(&self.tree, name, round);
        ticket.answered(false).await.unwrap();
    }

    pub(super) async fn begin(&self, path: &str, reach: Reach, from: Option<&Origin>) -> Ticket<Model> {
        let path = RelPath::parse(path.as_bytes()).unwrap();
        let change = Change { share: "eng".parse().unwrap(), targets: vec![Target { path, reach }] };
        self.notice.begin(&change, from.cloned()).await.unwrap()
    }

    /// From now on whoever reads the file at `path` stays there until the gate opens.
    pub(super) fn gate(&self, path: &'static str) -> Gate {
        let gate = Gate::default();
        self.tree.on_read({
            let (reached, open) = (gate.reached.clone(), gate.open.clone());
            move |read| {
                while read == path && !open.load(Ordering::SeqCst) {
                    reached.store(true, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            }
        });
        gate
    }

    pub(super) fn scanning(&self) -> bool {
        self.notice.scan_wanted.load(Ordering::SeqCst) || lock(&self.notice.standing).scan.is_some()
    }

    /// Waits until nothing is left to look at.
    pub(super) async fn quiet(&self) {
        self.until("all is looked at", || !self.scanning() && self.notice.standing().marks == 0).await;
    }

    fn entry(&self, text: &str) -> Touch {
        Touch::Entry(ObjectId::ROOT, name(text))
    }
    pub(super) fn object(&self, text: &str) -> Object {
        let id = self.shelf.child(ObjectId::ROOT, &name(text)).unwrap().unwrap();
        self.shelf.object(id).unwrap().unwrap()
    }
    fn has(&self, name: &str, round: u32) -> bool {
        self.object(name).root == hash_bytes(&data(round)).root
    }
    pub(super) fn news(&self, after: Seq) -> Vec<Row> {
        let records = self.shelf.records_after(after, usize::MAX, usize::MAX).unwrap();
        records.into_iter().flat_map(|record| record.changes).collect()
    }
    /// Every content that the journal ever told of `f`.
    fn told(&self) -> Vec<Hash> {
        let id = self.object("f").id;
        let rows = self.news(Seq(0)).into_iter();
        rows.filter_map(|row| match row {
            Row::Put(object) if object.id == id => Some(object.root),
            _ => None,
        })
        .collect()
    }
    async fn open(&self, from: &Origin) -> BTreeSet<Touch> {
        let barrier = tokio::time::timeout(PATIENCE, self.notice.barrier(from));
        let (head, open) = barrier.await.expect("a barrier ends").unwrap();
        assert!(head.at.seq <= self.shelf.head().at.seq);
        open.into_iter().map(|(touch, _)| touch).collect()
    }
}

/// Where a read of one file waits.
#[derive(Default)]
pub(super) struct Gate {
    reached: Arc<AtomicBool>,
    open: Arc<AtomicBool>,
}

impl Gate {
    pub(super) fn is_reached(&self) -> bool {
        self.reached.load(Ordering::SeqCst)
    }
    pub(super) fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // The share's end waits for whoever reads.
        self.open();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.notice.stop();
        self.notice.join();
    }
}

pub(super) fn data(round: u32) -> Vec<u8> {
    round.to_be_bytes().repeat(LENGTH / 4)
}

pub(super) fn write(tree: &Model, text: &str, round: u32) {
    tree.write(&tree.root().unwrap(), &name(text), &data(round), true).unwrap();
}

fn session(site: &str, number: u64) -> Origin {
    Origin { site: site.parse().unwrap(), session: Session(1, number) }
}

/// R8: it takes longer to be read than it rests, and every write is answered all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_written_all_the_time_is_journalled_all_the_same() {
    let share = Arc::new(Share::new().await);
    share.tree.on_read(|path| {
        if path == "/f" {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    });
    let over = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (share, over) = (share.clone(), over.clone());
        async move {
            let (mut round, mut longest) = (0, Duration::ZERO);
            while !over.load(Ordering::SeqCst) {
                round += 1;
                let began = Instant::now();
                share.relay("f", round, None).await;
                longest = longest.max(began.elapsed());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            (round, longest)
        }
    });
    share.until("it is journalled twice", || share.object("f").version >= Version(3)).await;
    assert!(!writer.is_finished(), "it was written all the time");
    let in_force = lock(&share.notice.table).in_force(usize::MAX);
    assert!(in_force.iter().any(|(touch, _)| *touch == share.entry("f")), "still held");
    over.store(true, Ordering::SeqCst);
    let (last, longest) = writer.await.unwrap();
    let written: BTreeSet<[u8; 32]> = (0..=last).map(|round| hash_bytes(&data(round)).root.0).collect();
    assert!(share.told().iter().all(|root| written.contains(&root.0)), "what it never was");
    assert!(longest < Duration::from_secs(5), "{longest:?}: a read takes 80 ms");
    share.until("it is released", || share.notice.standing().marks == 0).await;
    assert!(share.has("f", last));
}

/// Behind nearshare's back nobody can be kept waiting: what the file never was is told to nobody, and nothing
/// else waits for it. R9: a barrier says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_others_write_all_the_time_holds_up_nothing_and_a_barrier_tells_it() {
    let share = Share::new().await;
    let (restless, reads) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    share.tree.on_read({
        let (tree, restless, reads) = (share.tree.clone(), restless.clone(), reads.clone());
        move |path| {
            if path == "/f" && restless.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(10));
                let reads = reads.fetch_add(1, Ordering::SeqCst);
                write(&tree, "f", 1000 + reads as u32);
            }
            Ok(())
        }
    });
    let began = Instant::now();
    let mut rounds = 0;
    while began.elapsed() < Duration::from_secs(2) {
        rounds += 1;
        share.relay("f", rounds, Some(&session("osaka", 1))).await;
        share.relay("g", rounds, Some(&session("osaka", 1))).await;
        share.notice.flush().await.unwrap();
        assert!(share.has("g", rounds), "{rounds}");
    }
    let open = share.open(&session("osaka", 2)).await;
    let f = Touch::Object(share.object("f").id);
    assert_eq!(open, BTreeSet::from([f, share.entry("f")]));
    assert_eq!(share.open(&session("lyon", 1)).await, BTreeSet::new(), "it asked for none of that");
    assert_eq!(share.told(), [hash_bytes(&data(0)).root]);
    assert!(share.notice.standing().marks > 0, "and it is held");
    // A fifth of the time may go into reading it, 10 ms at a time, and a look is twelve reads at most.
    let (reads, most) = (reads.load(Ordering::SeqCst), began.elapsed().as_millis() / 50 + 36);
    assert!((reads as u128) < most, "{rounds} rounds, {reads} reads of {most}");
    // Nobody has to do anything about that; `status` tells it all the same.
    let standing = share.notice.standing();
    assert_eq!((standing.unread, standing.unreadable), (1, 0), "{standing:?}");
    let told = &standing.unread_first[0];
    assert!(told.place == "/f" && told.seconds >= 1.0 && told.fix.contains("rename it"), "{told:?}");
    restless.store(false, Ordering::SeqCst);
    share.until("it is journalled", || share.notice.standing().marks == 0).await;
    assert_eq!(share.notice.standing().unread, 0);
    assert_eq!(share.open(&session("osaka", 3)).await, BTreeSet::new());
    assert_eq!(share.told().len(), 2);
}

/// R9: one bad block does not keep a barrier waiting, and is not passed over in silence either.
#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_tells_what_could_not_be_read_until_it_could() {
    let share = Share::new().await;
    let bad = Arc::new(AtomicBool::new(true));
    share.tree.on_read({
        let bad = bad.clone();
        move |path| match path == "/f" && bad.load(Ordering::SeqCst) {
            true => Err(io::Error::from_raw_os_error(libc::EIO)),
            false => Ok(()),
        }
    });
    share.relay("f", 1, Some(&session("osaka", 1))).await;
    share.relay("g", 1, Some(&session("osaka", 1))).await;
    for number in 2..5 {
        let open = share.open(&session("osaka", number)).await;
        assert!(open.contains(&share.entry("f")) && !open.contains(&share.entry("g")), "{open:?}");
        assert!(share.has("g", 1));
    }
    share.until("status tells it", || share.notice.standing().unreadable == 1).await;
    let standing = share.notice.standing();
    let told = &standing.unread_first[0];
    assert!(told.place == "/f" && told.why.contains("os error 5"), "{told:?}");
    assert!(standing.unread == 1 && told.fix.contains("see to the disk"), "{standing:?}");
    bad.store(false, Ordering::SeqCst);
    share.until("it is journalled", || share.notice.standing().marks == 0).await;
    assert!(share.has("f", 1));
    assert_eq!(share.notice.standing().unread, 0);
    assert_eq!(share.open(&session("osaka", 5)).await, BTreeSet::new());
}

/// R18: the server may still carry out what it never answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_tells_what_is_in_doubt_until_somebody_believes_it() {
    let share = Share::new().await;
    drop(share.begin("g", Reach::Entry, Some(&session("osaka", 1))).await);
    let open = share.open(&session("osaka", 2)).await;
    assert!(open.contains(&share.entry("g")), "{open:?}");
    let there = share.tree.look(Spot::Entry(&share.tree.root().unwrap(), &name("g"))).unwrap();
    assert!(there.is_some());
    share.notice.believe();
    share.until("it is believed", || share.notice.standing().marks == 0).await;
    assert_eq!(share.open(&session("osaka", 3)).await, BTreeSet::new());
}

/// R20: each `f` depends on the `g` that was answered before it, and both are written faster than `f` is read.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_all_the_time_is_journalled_in_the_order_of_the_answers() {
    let share = Share::new().await;
    share.tree.on_read(|path| {
        if path == "/f" {
            std::thread::sleep(Duration::from_millis(3));
        }
        Ok(())
    });
    let mut rounds = vec![hash_bytes(&data(0)).root];
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        let round = rounds.len() as u32;
        rounds.push(hash_bytes(&data(round)).root);
        share.relay("g", round, None).await;
        share.relay("f", round, None).await;
        tokio::time::sleep(Duration::from_millis(u64::from(round % 8) * 3)).await;
    }
    share.until("it is released", || share.notice.standing().marks == 0).await;
    let (f, g) = (share.object("f").id, share.object("g").id);
    let (mut shown_f, mut shown_g, mut many) = (0, 0, 0);
    for record in share.shelf.records_after(Seq(0), usize::MAX, usize::MAX).unwrap() {
        for change in &record.changes {
            let Row::Put(object) = change else { continue };
            let round = rounds.iter().rposition(|root| *root == object.root);
            match round {
                Some(round) if object.id == f => (shown_f, many) = (round, many + 1),
                Some(round) if object.id == g => shown_g = round,
                _ => {}
            }
        }
        assert!(shown_f <= shown_g, "f of round {shown_f} before g of it, at {shown_g}");
    }
    assert!(many > 1 && shown_f + 1 == rounds.len(), "{many}, {shown_f} of {}", rounds.len());
}
