//! A store without a disk that can lose what was not synced, checked against the real one; and the
//! catalog on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use proptest::prelude::*;

use super::super::error::Result;
use super::super::store::{Disk, Options, Rows, Space, Store, View, Write};
use super::*;

type Tables = BTreeMap<(Space, Vec<u8>), Bytes>;

/// What a crash keeps of a [`Model`] is up to whoever crashes it.
#[derive(Clone, Default)]
pub struct Model(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    synced: Tables,
    /// Batches since the last sync, oldest first.
    unsynced: Vec<Vec<Write>>,
    now: Tables,
    syncs: u64,
}

impl Model {
    /// The store after a crash that kept the first `keep` unsynced batches.
    pub fn crash(&self, keep: usize) -> Self {
        let inner = self.0.lock().unwrap();
        let mut tables = inner.synced.clone();
        inner.unsynced.iter().take(keep).for_each(|batch| write(&mut tables, batch));
        Self(Arc::new(Mutex::new(Inner { synced: tables.clone(), now: tables, ..Inner::default() })))
    }
    pub fn unsynced(&self) -> usize {
        self.0.lock().unwrap().unsynced.len()
    }
}

fn write(tables: &mut Tables, batch: &[Write]) {
    for Write { space, key, value } in batch {
        match value {
            Some(value) => tables.insert((*space, key.clone()), value.clone()),
            None => tables.remove(&(*space, key.clone())),
        };
    }
}

fn scan(tables: &Tables, space: Space, prefix: &[u8], from: &[u8]) -> Rows<'static> {
    let first = (space, prefix.max(from).to_vec());
    let rows: Vec<_> = tables
        .range(first..)
        .take_while(|((at, key), _)| *at == space && key.starts_with(prefix))
        .map(|((_, key), value)| Ok((Bytes::copy_from_slice(key), value.clone())))
        .collect();
    Box::new(rows.into_iter())
}

impl View for Model {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0.lock().unwrap().now.get(&(space, key.to_vec())).cloned())
    }
    fn scan(&self, space: Space, prefix: &[u8], from: &[u8]) -> Rows<'_> {
        scan(&self.0.lock().unwrap().now, space, prefix, from)
    }
}

impl Store for Model {
    fn apply(&self, writes: Vec<Write>) -> Result<()> {
        let mut inner = self.0.lock().unwrap();
        write(&mut inner.now, &writes);
        inner.unsynced.push(writes);
        Ok(())
    }
    fn persist(&self, sync: bool) -> Result<()> {
        let mut inner = self.0.lock().unwrap();
        if sync {
            inner.synced = inner.now.clone();
            inner.unsynced.clear();
            inner.syncs += 1;
        }
        Ok(())
    }
    fn snapshot(&self) -> Box<dyn View> {
        Box::new(ModelSnapshot(self.0.lock().unwrap().now.clone()))
    }
    fn repaired(&self) -> bool {
        false
    }
}

struct ModelSnapshot(Tables);

impl View for ModelSnapshot {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0.get(&(space, key.to_vec())).cloned())
    }
    fn scan(&self, space: Space, prefix: &[u8], from: &[u8]) -> Rows<'_> {
        scan(&self.0, space, prefix, from)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Apply(Vec<(Space, Vec<u8>, Option<Vec<u8>>)>),
    Get(Space, Vec<u8>),
    Scan(Space, Vec<u8>, Vec<u8>),
    Snapshot,
    Persist(bool),
    Reopen,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    // Few and short keys, so that they meet, with the bytes where a prefix's end is difficult.
    let byte = prop_oneof![Just(0u8), Just(1), Just(0xfe), Just(0xff)];
    proptest::collection::vec(byte, 1..5)
}

fn space() -> impl Strategy<Value = Space> {
    proptest::sample::select(Space::ALL.to_vec())
}

fn step() -> impl Strategy<Value = Step> {
    let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40));
    let writes = proptest::collection::vec((space(), key(), value), 0..30);
    let prefix = || prop_oneof![1 => Just(Vec::new()), 4 => key()];
    prop_oneof![
        8 => writes.prop_map(Step::Apply),
        4 => (space(), key()).prop_map(|(space, key)| Step::Get(space, key)),
        6 => (space(), prefix(), prefix()).prop_map(|(space, a, b)| Step::Scan(space, a, b)),
        1 => Just(Step::Snapshot),
        1 => any::<bool>().prop_map(Step::Persist),
        1 => Just(Step::Reopen),
    ]
}

fn all(view: &dyn View) -> Vec<(Space, Bytes, Bytes)> {
    let rows = |space| view.scan(space, b"", b"").map(move |row| row.map(|(k, v)| (space, k, v)));
    Space::ALL.into_iter().flat_map(rows).map(Result::unwrap).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_disk_does_what_the_model_does(steps in proptest::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        // So small that tables are written and merged within a case.
        let options = Options { memtable_bytes: 2048, ..Options::default() };
        let open = || Disk::open(dir.path(), &options).unwrap();
        let (mut disk, model) = (Some(open()), Model::default());
        let mut snapshots = Vec::new();
        for step in steps {
            let real = disk.as_ref().unwrap();
            match step {
                Step::Apply(writes) => {
                    // The last of one key counts; the tables never write one twice.
                    let write = |(space, key, value): (_, _, Option<Vec<u8>>)| ((space, key), value);
                    let writes: BTreeMap<_, _> = writes.into_iter().map(write).collect();
                    let write = |((space, key), value): (_, Option<Vec<u8>>)| {
                        Write { space, key, value: value.map(Bytes::from) }
                    };
                    let writes: Vec<Write> = writes.into_iter().map(write).collect();
                    real.apply(writes.clone()).unwrap();
                    model.apply(writes).unwrap();
                }
                Step::Get(space, key) => {
                    prop_assert_eq!(real.get(space, &key).unwrap(), model.get(space, &key).unwrap());
                }
                Step::Scan(space, prefix, from) => {
                    let rows = |view: &dyn View| {
                        view.scan(space, &prefix, &from).map(Result::unwrap).collect::<Vec<_>>()
                    };
                    prop_assert_eq!(rows(real), rows(&model));
                }
                Step::Snapshot => snapshots.push((real.snapshot(), model.snapshot())),
                Step::Persist(sync) => {
                    real.persist(sync).unwrap();
                    model.persist(sync).unwrap();
                }
                Step::Reopen => {
                    for (real, model) in snapshots.drain(..) {
                        prop_assert_eq!(all(&*real), all(&*model));
                    }
                    drop(disk.take());
                    disk = Some(open());
                }
            }
        }
        for (real, model) in snapshots {
            prop_assert_eq!(all(&*real), all(&*model));
        }
        prop_assert_eq!(all(disk.as_ref().unwrap()), all(&model));
    }
}

/// What the journal tells must be what the tables say, or the two are not in step.
pub fn consistent(shelf: &Shelf) {
    let head = shelf.head();
    let records = shelf.records_after(Seq(0), usize::MAX, usize::MAX).unwrap();
    assert_eq!(records.len() as u64, head.at.seq.0);
    let mut prev = head.incarnation;
    let mut files = BTreeMap::new();
    for record in &records {
        assert_eq!(record.prev, prev);
        prev = record.chain;
        for change in &record.changes {
            match change {
                Change::Put(object) => drop(files.insert(object.id, object.clone())),
                Change::Gone { id } => drop(files.remove(id)),
                _ => {}
            }
        }
    }
    assert_eq!(prev, head.chain);
    assert_eq!(shelf.totals().objects, files.len() as u64);
    for (id, object) in files {
        assert_eq!(shelf.object(id).unwrap(), Some(object));
    }
}

#[test]
fn whatever_suffix_a_crash_takes_the_catalog_is_consistent_and_keeps_what_is_durable() {
    let store = Model::default();
    let dir = Path::new("model");
    let share: crate::id::ShareId = "eng".parse().unwrap();
    let catalog = Catalog::with_store(dir, Box::new(store.clone())).unwrap();
    let shelf = catalog.share(&share).unwrap();
    commit(&shelf, |batch| batch.new_incarnation(Epoch(1))).unwrap();
    let mut durable = 0;
    for number in 1..=60u64 {
        let sync = number % 13 == 0;
        let mut batch = shelf.batch();
        let change = match number % 4 {
            0 => Change::Gone { id: id(number - 1) },
            _ => Change::Put(file(id(number), number)),
        };
        let highest = shelf.next_gen().unwrap();
        batch.mark(Touch::Object(id(number)), highest);
        batch.publish(1, vec![change], vec![]);
        shelf.commit(batch, sync).wait().unwrap();
        if sync {
            durable = number;
            assert_eq!(shelf.durable_head().borrow().at.seq, Seq(durable));
        }
        for keep in 0..=store.unsynced() {
            let crashed = Catalog::with_store(dir, Box::new(store.crash(keep))).unwrap();
            let crashed = crashed.share(&share).unwrap();
            consistent(&crashed);
            assert!(crashed.head().at.seq.0 >= durable);
            assert_eq!(crashed.marks().unwrap().len() as u64, crashed.head().at.seq.0);
            assert!(crashed.next_gen().unwrap() > highest, "reserved before it was handed out");
        }
    }
}

/// A disk that begins to fail, and whose syncs wait for the gate.
struct Failing {
    model: Model,
    gate: Arc<Mutex<()>>,
    apply: bool,
    persist: bool,
    armed: Arc<std::sync::atomic::AtomicBool>,
}

impl Failing {
    fn fails(&self, which: bool) -> Result<()> {
        if which && self.armed.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(CatalogError::Store { what: "write", why: "no space left".to_owned() });
        }
        Ok(())
    }
}

impl View for Failing {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        self.model.get(space, key)
    }
    fn scan(&self, space: Space, prefix: &[u8], from: &[u8]) -> Rows<'_> {
        self.model.scan(space, prefix, from)
    }
}

impl Store for Failing {
    fn apply(&self, writes: Vec<Write>) -> Result<()> {
        self.fails(self.apply)?;
        self.model.apply(writes)
    }
    fn persist(&self, sync: bool) -> Result<()> {
        let _open = sync.then(|| self.gate.lock().unwrap());
        self.fails(self.persist)?;
        self.model.persist(sync)
    }
    fn snapshot(&self) -> Box<dyn View> {
        self.model.snapshot()
    }
    fn repaired(&self) -> bool {
        false
    }
}

#[test]
fn after_a_failed_write_or_sync_nothing_more_is_promised() {
    for (apply, persist) in [(true, false), (false, true)] {
        let armed = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (model, gate) = (Model::default(), Arc::default());
        let store = Failing { model, gate, apply, persist, armed: armed.clone() };
        let catalog = Catalog::with_store(Path::new("failing"), Box::new(store)).unwrap();
        let shelf = catalog.share(&"eng".parse().unwrap()).unwrap();
        let mark = |durable| {
            let mut batch = shelf.batch();
            batch.mark(Touch::Object(id(1)), Gen(1));
            shelf.commit(batch, durable).wait()
        };
        mark(true).unwrap();
        armed.store(true, std::sync::atomic::Ordering::SeqCst);
        let mut batch = shelf.batch();
        batch.mark(Touch::Object(id(2)), Gen(1));
        assert!(matches!(shelf.commit(batch, true).wait(), Err(CatalogError::Store { .. })));
        // The disk works again, but what it holds is not known any more.
        armed.store(false, std::sync::atomic::Ordering::SeqCst);
        for durable in [true, false] {
            assert!(matches!(mark(durable), Err(CatalogError::Broken { .. })));
        }
        assert_eq!(shelf.marks().unwrap()[0], (Touch::Object(id(1)), Gen(1)), "reads go on");
        shelf.next_gen().unwrap();
        assert!(matches!(catalog.close(), Err(CatalogError::Broken { .. })));
    }
}

#[test]
fn what_arrives_during_a_sync_shares_the_next_one() {
    let (model, gate, armed) = (Model::default(), Arc::new(Mutex::new(())), Arc::default());
    let store = Failing { model, gate: gate.clone(), apply: false, persist: false, armed };
    let catalog = Catalog::with_store(Path::new("gated"), Box::new(store)).unwrap();
    let shelf = catalog.share(&"eng".parse().unwrap()).unwrap();
    let (commits, syncs) = catalog.counts();
    let closed = gate.lock().unwrap();
    let submit = |thread: u64| {
        let shelf = &shelf;
        let mark = move |round: u64| {
            let mut batch = shelf.batch();
            batch.mark(Touch::Object(id(thread * 5 + round)), Gen(1));
            shelf.commit(batch, true)
        };
        (0..5).map(mark).collect::<Vec<Commit>>()
    };
    let waiting: Vec<Commit> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..100).map(|thread| scope.spawn(move || submit(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    drop(closed);
    assert_eq!(waiting.len(), 500);
    waiting.into_iter().for_each(|commit| commit.wait().unwrap());
    let (commits, syncs) = (catalog.counts().0 - commits, catalog.counts().1 - syncs);
    assert_eq!(commits, 500);
    assert!((1..=2).contains(&syncs), "{syncs} syncs");
}
