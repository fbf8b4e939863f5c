//! Extended attributes and holes, from the disk into the journal and to a copy that asks.

use std::io::{Seek, SeekFrom, Write};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use super::contents::{ask, bytes, want};
use super::*;
use crate::catalog::{Change as Row, decode_xattrs};
use crate::link::share::{Content, ContentEnd, Extent, Supply, Want};
use crate::object::{Extra, Xattrs};
use crate::tree::tests::skipped;

fn put(site: &Site, path: &str, name: &str, value: &[u8]) {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(site.at(path), name, value, flags).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_alone_are_one_row_without_content() {
    let site = Site::with_files(&[("f", "content"), ("d/", "")]).await;
    let (version, head) = (site.object("f").version, site.head());
    granule().await;
    put(&site, "f", "user.small", b"1");
    put(&site, "d", "user.of-d", b"2");
    site.rescan().await;
    assert_eq!(site.object("f").xattrs, Extra::Here(Xattrs::of(&[("user.small", b"1")])));
    assert_eq!(site.object("d").xattrs, Extra::Here(Xattrs::of(&[("user.of-d", b"2")])));
    assert_eq!(site.object("f").version, version);
    let rows: Vec<Row> = site.records(head).into_iter().flat_map(|record| record.changes).collect();
    assert!(rows.len() == 2 && rows.iter().all(|row| matches!(row, Row::Put(_))), "{rows:?}");
    // Too much for a row, and back.
    granule().await;
    put(&site, "f", "user.large", &[3; 2000]);
    site.rescan().await;
    let large = Xattrs::of(&[("user.small", b"1"), ("user.large", &[3; 2000])]);
    assert_eq!(site.object("f").xattrs, Extra::Apart { hash: large.hash(), restrict: false });
    granule().await;
    rustix::fs::removexattr(site.at("f"), "user.large").unwrap();
    site.rescan().await;
    assert_eq!(site.object("f").xattrs, Extra::Here(Xattrs::of(&[("user.small", b"1")])));
    assert_eq!(site.object("f").version, version);
    site.agrees();
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_apart_from_the_row_come_with_the_content_or_alone() {
    let site = Site::with_files(&[("f", "content"), ("d/", "")]).await;
    granule().await;
    let sets = [("f", vec![1; 3000]), ("d", vec![2; 3500])];
    sets.iter().for_each(|(path, value)| put(&site, path, "user.large", value));
    site.rescan().await;
    let id = |path: &str| site.id(path).unwrap();
    let wants = vec![
        want(id("f")),
        Want { xattrs: true, ..want(id("f")) },
        Want { xattrs: true, only: true, ..want(id("f")) },
        Want { xattrs: true, only: true, ..want(id("d")) },
    ];
    let mut answers = ask(&site, wants).await;
    for (set_of, content) in [(None, "content"), (Some(0), "content"), (Some(0), ""), (Some(1), "")] {
        let head: Content = answers.next(1024).await.unwrap().unwrap();
        assert_eq!((head.supply, head.size), (Supply::Whole as i32, content.len() as u64));
        let bytes = bytes(&mut answers, u64::from(head.xattrs) + content.len() as u64).await;
        let expected =
            set_of.map(|n: usize| Xattrs::of(&[("user.large", &sets[n].1)])).unwrap_or_default();
        assert_eq!(decode_xattrs(&bytes[..head.xattrs as usize]).unwrap(), expected);
        assert_eq!(&bytes[head.xattrs as usize..], content.as_bytes());
        assert!(answers.next::<ContentEnd>(1024).await.unwrap().unwrap().whole);
    }
    // Others than the journal names are none.
    put(&site, "d", "user.large", &[4; 3500]);
    let mut answers = ask(&site, vec![Want { xattrs: true, only: true, ..want(id("d")) }]).await;
    let head: Content = answers.next(1024).await.unwrap().unwrap();
    assert_eq!(head.supply, Supply::Later as i32);
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_are_neither_read_nor_sent_to_who_understands_them() {
    const SIZE: u64 = 10 << 30;
    let site = Site::with(|root| {
        let mut file = fs::File::create(root.join("sparse")).unwrap();
        for at in [1 << 30, 5 << 30] {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&[b'x'; 100_000]).unwrap();
        }
        file.set_len(SIZE).unwrap();
        let file = fs::File::create(root.join("short")).unwrap();
        file.set_len(8192).unwrap();
    })
    .await;
    assert_eq!(site.object("sparse").size, SIZE);
    assert!(site.has("short", [0u8; 8192]));
    let id = |path: &str| site.id(path).unwrap();
    let holes = |path: &str| Want { holes: true, ..want(id(path)) };
    let mut answers = ask(&site, vec![holes("sparse"), holes("short"), want(id("short"))]).await;
    for (path, some) in [("sparse", 200_000..400_000), ("short", 0..1)] {
        let head: Content = answers.next(1024).await.unwrap().unwrap();
        assert!(head.sparse, "{path}");
        let (mut left, mut data) = (head.size, 0);
        while left > 0 {
            let extent: Extent = answers.next(1024).await.unwrap().unwrap();
            left -= extent.hole + extent.data;
            data += extent.data;
            bytes(&mut answers, extent.data).await;
        }
        assert!(some.contains(&data), "{path}: {data} bytes of data");
        assert!(answers.next::<ContentEnd>(1024).await.unwrap().unwrap().whole);
    }
    let head: Content = answers.next(1024).await.unwrap().unwrap();
    assert!(!head.sparse);
    assert_eq!(bytes(&mut answers, 8192).await, [0; 8192]);
}

/// It is looked at again and again, which must cost nothing, and nothing else waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_too_many_attributes_is_left_and_its_content_not_even_read() {
    // ext4 keeps 4 KiB of them.
    let large = |n: u8| (format!("user.{n}"), vec![n; Xattrs::VALUE_MAX]);
    let flags = rustix::fs::XattrFlags::empty();
    let dressed = |path: &Path, n| {
        let (name, value) = large(n);
        rustix::fs::lsetxattr(path, name, &value, flags)
    };
    let reads = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    let mut unfit = false;
    let site = Site::unscanned_in("/dev/shm", |root| {
        fs::write(root.join("good"), "good").unwrap();
        fs::write(root.join("bad"), "bad").unwrap();
        for n in 0..17 {
            match dressed(&root.join("bad"), n) {
                Err(Errno::OPNOTSUPP) => unfit = true,
                dressed => dressed.unwrap(),
            }
        }
        inotify::add_watch(&reads, root.join("bad"), WatchFlags::ACCESS).unwrap();
    });
    if unfit {
        return skipped("the tmpfs of this kernel has no attributes of users");
    }
    let name = |name: &str| Name::new(name.as_bytes()).unwrap();
    let child = |path: &str| site.shelf.child(ObjectId::ROOT, &name(path)).unwrap();
    site.until("the other is there", || child("good").is_some() && !site.scanning()).await;
    assert_eq!(child("bad"), None);
    let mut room = [0; 64];
    assert_eq!(rustix::io::read(&reads, &mut room), Err(Errno::AGAIN), "nobody has read it");
    // Others go on.
    site.relay(&["other"], |site| site.write("other", "other")).await;
    site.until("it is there as well", || child("other").is_some()).await;
    assert_eq!(child("bad"), None);
    for name in ["user.15", "user.16"] {
        rustix::fs::removexattr(site.at("bad"), name).unwrap();
    }
    site.until("it can be read now", || child("bad").is_some()).await;
    site.quiet().await;
    assert!(site.object("bad").xattrs.is_apart() && rustix::io::read(&reads, &mut room).is_ok());
    site.agrees();
}
