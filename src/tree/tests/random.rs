//! Random operations: the real disk and the model in memory must give the same answers and hold the
//! same tree after every step.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};

use proptest::prelude::*;

use super::*;
use crate::tree::content::Sparse as _;
use crate::tree::model::Model;

/// Where an operation goes: a path of few names, or a spot of our own.
#[derive(Debug, Clone)]
enum Where {
    Entry(Vec<u8>, u8),
    Park(u8),
    Tmp(u8),
}

#[derive(Debug, Clone)]
enum Op {
    Stage(u8, Vec<Part>),
    Make(Where, Kind, u32, Vec<u8>, u8),
    Attrs(Where, u32, u32, u8),
    Rename(Where, Where, bool),
    Link(Where, Where),
    Remove(Where),
    Keep(Where),
    Resolve(Vec<u8>, bool),
}

/// Of a file's content.
#[derive(Debug, Clone)]
enum Part {
    Data(Vec<u8>),
    /// Blocks, from a block's beginning on, so that every file system can keep it.
    Hole(u8),
}

const BLOCK: usize = 4096;

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        3 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Part::Data),
        1 => any::<u8>().prop_map(|byte| Part::Data(vec![byte; BLOCK])),
        1 => (1u8..4).prop_map(Part::Hole),
    ]
}

/// One of few sets, those of users unless the file system has none.
fn set(n: u8, users: bool) -> Xattrs {
    let mut set = Xattrs::default();
    let mut put = |name: &str, value: &[u8]| {
        let trusted = name.starts_with("trusted.") || name.starts_with("security.");
        if if trusted { may_trusted() } else { users } {
            set.insert(name.into(), value.into());
        }
    };
    match n {
        1 => put("user.a", b""),
        2 => {
            put("user.a", b"a");
            put("user.b", &[7; 2000]);
        }
        3 => put("trusted.a", b"a"),
        4 => {
            put("user.a", b"b");
            put("security.NTACL", &[1; 300]);
        }
        _ => {}
    }
    set
}

fn place() -> impl Strategy<Value = Where> {
    prop_oneof![
        20 => (dirs(), 0u8..3).prop_map(|(dirs, n)| Where::Entry(dirs, n)),
        1 => Just(Where::Entry(vec![], 4)),
        3 => (0u8..2).prop_map(Where::Park),
        3 => (0u8..2).prop_map(Where::Tmp),
    ]
}

/// Mostly the root, so that operations meet.
fn dirs() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![3 => Just(vec![]), 2 => proptest::collection::vec(0u8..3, 1..3)]
}

fn target() -> impl Strategy<Value = Vec<u8>> {
    proptest::sample::select(vec![
        "0",
        "1/2",
        "../0",
        "../../1",
        "/0",
        "./1/",
        "..",
        "2/.nearshare",
        "3",
    ])
    .prop_map(|text| text.as_bytes().to_vec())
}

fn op() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![
        4 => Just(Kind::Directory),
        2 => Just(Kind::Symlink),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
        1 => Just(Kind::File),
    ];
    prop_oneof![
        3 => (0u8..2, proptest::collection::vec(part(), 0..4)).prop_map(|(n, parts)| Op::Stage(n, parts)),
        6 => (place(), kind, 0u32..0o7777, target(), 0u8..9).prop_map(|(at, k, m, t, x)| Op::Make(at, k, m, t, x)),
        4 => (place(), 0u32..0o7777, 0u32..3, 0u8..6).prop_map(|(at, m, uid, x)| Op::Attrs(at, m, uid, x)),
        6 => (place(), place(), proptest::bool::weighted(0.8)).prop_map(|(a, b, replace)| Op::Rename(a, b, replace)),
        4 => (place(), place()).prop_map(|(a, b)| Op::Link(a, b)),
        2 => place().prop_map(Op::Remove),
        1 => place().prop_map(Op::Keep),
        4 => (proptest::collection::vec(0u8..5, 0..5), any::<bool>()).prop_map(|(p, f)| Op::Resolve(p, f)),
    ]
}

fn digit(n: u8) -> Name {
    // One of them is ours, which both must hide.
    if n == 4 { name(".nearshare") } else { name(&n.to_string()) }
}

/// Only root may do without its rights.
fn usable(mode: u32) -> u32 {
    if is_root() { mode } else { mode | 0o700 }
}

/// What an operation said, but for handles and times, which are each tree's own.
#[derive(Debug, PartialEq)]
enum Said {
    Done(Option<Shape>),
    Refused(i32),
    Resolved(&'static str, Vec<Option<Shape>>, Option<Name>),
}

#[derive(Debug, Clone, PartialEq)]
struct Shape {
    kind: Kind,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    nlink: u64,
}

fn shape(found: &Found) -> Shape {
    // A directory's and a link's size are each file system's affair.
    let size = if found.kind == Kind::File { found.size } else { 0 };
    let Attrs { mode, uid, gid, .. } = found.attrs;
    Shape { kind: found.kind, mode, owner: (uid, gid), size, nlink: found.nlink }
}

/// Runs `f` with the spot, if the directories on the way to it are there.
fn with_spot<T: Tree, R>(
    tree: &T,
    at: &Where,
    f: impl FnOnce(Spot<'_, T::Dir>) -> Result<R>,
) -> Option<Result<R>> {
    match at {
        Where::Park(n) => Some(f(Spot::Park(id(*n)))),
        Where::Tmp(n) => Some(f(Spot::Tmp(id(*n)))),
        Where::Entry(dirs, n) => {
            let mut dir = tree.root().unwrap();
            for n in dirs {
                dir = tree.open_at(Spot::Entry(&dir, &digit(*n))).unwrap()?;
            }
            Some(f(Spot::Entry(&dir, &digit(*n))))
        }
    }
}

fn run<T: Tree>(tree: &T, op: &Op, users: bool) -> Option<Said> {
    let done = |result: Result<Option<Found>>| match result {
        Ok(found) => Said::Done(found.as_ref().map(shape)),
        Err(TreeError::Io { source, .. }) => Said::Refused(source.raw_os_error().unwrap()),
        Err(other) => panic!("{other}"),
    };
    match op {
        Op::Stage(n, parts) => Some(done(tree.stage(id(*n)).map(|mut stage| {
            let mut size = 0;
            for part in parts {
                match part {
                    Part::Data(data) => {
                        stage.write_all(data).unwrap();
                        size += data.len();
                    }
                    Part::Hole(blocks) => {
                        let edge = vec![b'e'; size.next_multiple_of(BLOCK) - size];
                        stage.write_all(&edge).unwrap();
                        let hole = usize::from(*blocks) * BLOCK;
                        tree.skip(&mut stage, hole as u64).unwrap();
                        size += edge.len() + hole;
                    }
                }
            }
            tree.staged(stage).unwrap();
            None
        }))),
        Op::Make(at, kind, mode, target, n) => {
            let (target, xattrs) = (target.clone(), set(*n, users).into());
            let object = Object { target, xattrs, ..object(*kind, attrs(usable(*mode))) };
            with_spot(tree, at, |spot| tree.make(spot, &object)).map(|r| done(r.map(Some)))
        }
        Op::Attrs(at, mode, uid, n) => {
            let uid = if is_root() { *uid } else { attrs(0).uid };
            let wanted = Attrs { uid, ..attrs(usable(*mode)) };
            with_spot(tree, at, |spot| tree.set_attrs(spot, &wanted, &set(*n, users)))
                .map(|r| done(r.map(Some)))
        }
        Op::Rename(from, to, replace) => with_spot(tree, from, |from| {
            with_spot(tree, to, |to| tree.rename(from, to, *replace)).transpose()
        })
        .map(|r| done(r.map(|_| None))),
        Op::Link(from, to) => {
            with_spot(tree, from, |from| with_spot(tree, to, |to| tree.link(from, to)).transpose())
                .map(|r| done(r.map(|_| None)))
        }
        Op::Remove(at) => with_spot(tree, at, |spot| tree.remove(spot)).map(|r| done(r.map(|()| None))),
        Op::Keep(at) => with_spot(tree, at, |spot| tree.keep(spot, &aside(&name("x"), None)))
            .map(|r| done(r.map(|_| None))),
        Op::Resolve(path, follow) => {
            let path = RelPath::new(path.iter().map(|n| digit(*n)).collect()).unwrap();
            assert_eq!(
                tree.contains(&path, false).unwrap() == Contains::Inside,
                matches!(
                    tree.resolve(&path, true),
                    Ok(Resolved::Root(_) | Resolved::Entry { found: Some(_), .. })
                )
            );
            Some(match tree.resolve(&path, *follow).unwrap() {
                Resolved::Root(found) => Said::Resolved("root", vec![Some(shape(&found))], None),
                Resolved::Entry { dir, name, found } => {
                    let shapes = vec![Some(shape(&dir)), found.as_ref().map(shape)];
                    Said::Resolved("entry", shapes, Some(name))
                }
                Resolved::NoParent { dir, name } => {
                    Said::Resolved("no parent", vec![Some(shape(&dir))], Some(name))
                }
                Resolved::NotADirectory { dir, name } => {
                    Said::Resolved("no directory", vec![Some(shape(&dir))], Some(name))
                }
                Resolved::Outside => Said::Resolved("outside", vec![], None),
            })
        }
    }
}

/// One row of a tree: path, shape, content or target, attributes, data between holes, and which earlier row
/// has the same handle.
type Row = (String, Shape, Vec<u8>, Xattrs, Vec<std::ops::Range<u64>>, usize);

fn rows<T: Tree>(tree: &T) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut seen = HashMap::new();
    walk(tree, &tree.root().unwrap(), "", &mut rows, &mut seen);
    for n in 0..2 {
        for (room, spot) in [("park", Spot::Park(id(n))), ("tmp", Spot::Tmp(id(n)))] {
            row(tree, spot, format!("{room}/{n}"), &mut rows, &mut seen);
        }
    }
    rows
}

fn walk<T: Tree>(
    tree: &T,
    dir: &T::Dir,
    path: &str,
    rows: &mut Vec<Row>,
    seen: &mut HashMap<LocalHandle, usize>,
) {
    let mut names = tree.list(dir).unwrap();
    names.sort();
    for n in names {
        row(tree, Spot::Entry(dir, &n), format!("{path}/{n}"), rows, seen);
    }
}

fn row<T: Tree>(
    tree: &T,
    spot: Spot<'_, T::Dir>,
    path: String,
    rows: &mut Vec<Row>,
    seen: &mut HashMap<LocalHandle, usize>,
) {
    let Some(found) = tree.look(spot).unwrap() else { return };
    let mut data = Vec::new();
    let mut ranges = Vec::new();
    let xattrs = tree.xattrs(spot).unwrap();
    match found.kind {
        Kind::File => {
            let mut file = tree.open_file(spot).unwrap().unwrap();
            file.read_to_end(&mut data).unwrap();
            while let Some(range) =
                file.data_from(ranges.last().map_or(0, |last: &std::ops::Range<u64>| last.end)).unwrap()
            {
                ranges.push(range);
            }
            assert_eq!(tree.file_xattrs(&file).unwrap(), xattrs);
            let size = found.size;
            let content = content::hash_sparse(&mut file, size, &mut [0; 1000]).unwrap();
            assert_eq!(content, content::hash_bytes(&data), "{path}");
            assert_eq!(tree.file_found(&file).unwrap(), found);
        }
        Kind::Symlink => data = tree.read_link(spot).unwrap(),
        _ => {}
    }
    let next = rows.len();
    let first = *seen.entry(found.handle.clone()).or_insert(next);
    rows.push((path.clone(), shape(&found), data, xattrs, ranges, first));
    match tree.alive(&found.handle).unwrap() {
        Alive::Yes(alive, _) => assert_eq!(alive, found),
        Alive::Unknown => {}
        Alive::Gone => panic!("{path} is there and gone"),
    }
    if found.kind == Kind::Directory {
        let dir = tree.open_at(spot).unwrap().unwrap();
        let again = tree.open_dir(&Place { handle: &found.handle, path: &|| None }).unwrap();
        if !tree.limits().no_handles {
            assert_eq!(tree.dir_found(&again.unwrap()).unwrap(), tree.dir_found(&dir).unwrap());
        }
        walk(tree, &dir, &path, rows, seen);
    }
}

/// Told once, not with every case.
static NO_USERS: std::sync::Once = std::sync::Once::new();

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, max_shrink_iters: 400, ..ProptestConfig::default() })]
    #[test]
    fn the_disk_agrees_with_the_model(ops in proptest::collection::vec(op(), 1..60), tmpfs in any::<bool>()) {
        let homes: Vec<_> = homes().collect();
        let f = Fixture::below(homes[usize::from(tmpfs) % homes.len()]);
        let model = Model::new(f.disk.marker());
        let users = has_users_attributes(&f);
        if !users {
            NO_USERS.call_once(|| skipped("attributes of users: the tmpfs of this kernel has none"));
        }
        for op in &ops {
            prop_assert_eq!(run(&f.disk, op, users), run(&model, op, users), "{:?}", op);
            prop_assert_eq!(rows(&f.disk), rows(&model), "after {:?}", op);
        }
        let mut left = [f.disk.leftovers().unwrap(), model.leftovers().unwrap()];
        left.iter_mut().for_each(|l| { l.park.sort(); l.tmp.sort(); });
        prop_assert_eq!(&left[0], &left[1]);
    }
}
