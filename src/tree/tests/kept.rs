//! What is kept aside, as it is listed and removed, whatever else lies there.

use std::os::unix::ffi::OsStrExt;

use super::*;
use crate::tree::kept::{COUNTED_MAX, Kept, KeptPage, PAGE, Unkept, name_of};

impl Fixture {
    fn all_kept(&self) -> Vec<Kept> {
        let KeptPage { kept, more } = self.disk.kept(None).unwrap();
        assert_eq!(more, None);
        kept
    }
    fn unkeep(&self, id: &str) -> u64 {
        self.disk.remove_kept(&Unkept::One(name_of(id).unwrap())).unwrap()
    }
}

#[test]
fn what_is_kept_is_listed_with_where_it_was() {
    everywhere(|f| {
        let root = f.root_dir();
        let odd = Name::new(b"\xff '\\\n").unwrap();
        fs::write(f.path("").join(odd.as_os_str()), "odd").unwrap();
        f.mkdir("tree/sub");
        f.symlink("nowhere", "link");
        let was = rel("docs").join(odd.clone());
        f.disk.keep(Spot::Entry(&root, &odd), &aside(&odd, Some(&was))).unwrap();
        for n in ["tree", "link"] {
            f.disk.keep(Spot::Entry(&root, &name(n)), &aside(&name(n), None)).unwrap();
        }
        assert_eq!(f.disk.kept_known(), 3);
        let kept = f.all_kept();
        let told = |kept: &Kept| (kept.name.clone().unwrap(), kept.kind.clone().unwrap(), kept.size);
        let want = [
            ("\\xff \\'\\\\\\n", "file", Some(3)),
            ("link", "symlink", None),
            ("tree", "directory", None),
        ];
        assert_eq!(
            kept.iter().map(told).collect::<Vec<_>>(),
            want.map(|(name, kind, size)| (name.to_owned(), kind.to_owned(), size))
        );
        assert_eq!(kept[0].path.as_deref(), Some("/docs/\\xff \\'\\\\\\n"));
        assert_eq!((&kept[1].path, &kept[2].path), (&None, &None));
        assert_eq!(kept[0].time.as_deref(), Some("2026-11-21T12:00:00Z"));
        assert_eq!(kept[0].reason.as_deref(), Some("changed behind the proxy"));
        assert_eq!(fs::read_to_string(&kept[0].data).unwrap(), "odd");
        assert_eq!((f.unkeep(&kept[2].id), f.unkeep(&kept[2].id)), (1, 0));
        assert!(!f.path(".nearshare/kept").join(&kept[2].id).exists());
        assert_eq!((f.all_kept(), f.disk.kept_known()), (kept[..2].to_vec(), 2));
        // What is removed without nearshare is seen too.
        fs::remove_dir_all(f.path(".nearshare/kept").join(&kept[1].id)).unwrap();
        f.disk.count_kept().unwrap();
        assert_eq!((f.all_kept().len(), f.disk.kept_known()), (1, 1));
    });
}

#[test]
fn notes_of_the_first_release_are_read() {
    everywhere(|f| {
        let put = |n: &str, note: String| {
            f.mkdir(&format!(".nearshare/kept/20261103T010203Z-{n}-1"));
            f.write(&format!(".nearshare/kept/20261103T010203Z-{n}-1/note"), &note);
            f.write(&format!(".nearshare/kept/20261103T010203Z-{n}-1/data"), "old");
        };
        let root = f.path("").as_os_str().as_bytes().escape_ascii().to_string();
        put("a", format!("20261103T010203Z\nit was changed\nwas {root}docs/r\\xc3\\xa9\n"));
        put("b", format!("20261103T010203Z\nit was changed\nwas {root}.nearshare/park/00\n"));
        put("c", "20261103T010203Z\nit was changed\nwas /elsewhere/b\n".to_owned());
        put("d", "nearshare kept 2\ncolour red\n".to_owned());
        let told: Vec<_> =
            f.all_kept().into_iter().map(|kept| (kept.reason, kept.path, kept.size)).collect();
        let changed = || Some("it was changed".to_owned());
        let path = Some("/docs/r\\xc3\\xa9".to_owned());
        let want = [(changed(), path, Some(3)), (changed(), None, Some(3)), (changed(), None, Some(3))];
        assert_eq!(told[..3], want);
        assert_eq!(told[3], (None, None, Some(3)), "of a later release");
    });
}

#[test]
fn whatever_lies_among_what_is_kept_hides_nothing() {
    everywhere(|f| {
        let kept = f.path(".nearshare/kept");
        f.write("file", "x");
        let file = name("file");
        f.disk.keep(Spot::Entry(&f.root_dir(), &file), &aside(&file, Some(&rel("file")))).unwrap();
        // A crash before the note, and one before the data.
        fs::create_dir(kept.join("20261121T120001Z-crash-1")).unwrap();
        fs::create_dir(kept.join("20261121T120001Z-crash-2")).unwrap();
        fs::write(kept.join("20261121T120001Z-crash-2/note"), "nearshare kept 1\nti").unwrap();
        // Garbage, nothing at all but a byte a line, a file that never ends, a link out, a pipe.
        for n in ["garbage", "huge", "link", "pipe"] {
            fs::create_dir(kept.join(n)).unwrap();
            fs::write(kept.join(n).join("data"), "x").unwrap();
        }
        fs::write(kept.join("garbage/note"), b"\xff\0\n\npath \nname ../x\n").unwrap();
        fs::File::create(kept.join("huge/note")).unwrap().set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink(f.outside().join("secret"), kept.join("link/note")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            kept.join("pipe/note"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        fs::write(kept.join("a file"), "x").unwrap();
        std::os::unix::fs::symlink(f.outside(), kept.join("out")).unwrap();
        let all = f.all_kept();
        let told: Vec<_> = all
            .iter()
            .map(|kept| (kept.id.as_str(), kept.kind.as_deref(), kept.path.as_deref()))
            .collect();
        let file = Some("file");
        assert_eq!(
            told,
            [
                ("20261121T120000Z-file-1", file, Some("/file")),
                ("20261121T120001Z-crash-1", None, None),
                ("20261121T120001Z-crash-2", None, None),
                ("a file", None, None),
                ("garbage", file, None),
                ("huge", file, None),
                ("link", file, None),
                ("out", None, None),
                ("pipe", file, None),
            ]
        );
        assert!(all[4..].iter().all(|kept| kept.reason.is_none() && kept.time.is_none()), "{all:?}");
        f.disk.count_kept().unwrap();
        assert_eq!(f.disk.kept_known(), 9);
        // By age goes only what tells it, and what is linked to stays.
        let older = |seconds| f.disk.remove_kept(&Unkept::OlderThan(seconds)).unwrap();
        assert_eq!((older(1), older(u64::MAX), older(0)), (0, 0, 1));
        assert_eq!((f.unkeep("out"), f.unkeep("a file"), f.unkeep("pipe")), (1, 1, 1));
        assert_eq!(fs::read_to_string(f.outside().join("secret")).unwrap(), "secret");
        assert_eq!(f.all_kept().len(), 5);
    });
}

#[test]
fn very_many_are_listed_in_pages_and_in_order() {
    let f = Fixture::new();
    let kept = f.path(".nearshare/kept");
    let many = 2 * PAGE + 3;
    (0..many)
        .for_each(|n| fs::create_dir(kept.join(format!("20261121T1200{:02}Z-{n}-1", n % 60))).unwrap());
    f.disk.count_kept().unwrap();
    assert_eq!(f.disk.kept_known(), (many as u64).min(COUNTED_MAX));
    let (mut ids, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let KeptPage { kept, more } = f.disk.kept(after.as_ref()).unwrap();
        assert!(kept.len() <= PAGE);
        ids.extend(kept.into_iter().map(|kept| kept.id));
        pages += 1;
        let Some(more) = more else { break };
        after = name_of(&more);
    }
    assert_eq!((ids.len(), pages), (many, 3));
    assert!(ids.is_sorted());
    assert_eq!(f.disk.remove_kept(&Unkept::OlderThan(0)).unwrap(), (many as u64).div_ceil(60));
}

#[test]
fn a_tree_deeper_than_there_are_descriptors_is_removed() {
    everywhere(|f| {
        let top = name("deep");
        f.mkdir("deep");
        let mut dir = f.dir("deep");
        for n in 0..3000 {
            let below = name(&"d".repeat(100 + n % 3));
            f.disk.make(Spot::Entry(&dir, &below), &object(Kind::Directory, attrs(0o755))).unwrap();
            dir = f.disk.open_at(Spot::Entry(&dir, &below)).unwrap().unwrap();
        }
        drop(dir);
        // Names that it gives on the way up, and ours.
        for n in ["deep/1", "deep/2/1", "deep/.nearshare/x"] {
            f.mkdir(n);
        }
        f.disk.keep(Spot::Entry(&f.root_dir(), &top), &aside(&top, None)).unwrap();
        assert_eq!(f.unkeep("20261121T120000Z-deep-1"), 1);
        assert_eq!(fs::read_dir(f.path(".nearshare/kept")).unwrap().count(), 0);
    });
}
