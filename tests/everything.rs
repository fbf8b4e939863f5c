//! Everything about a file arrives, and whatever happens in one burst ends right: on real disks, through a
//! primary and a copy, with the tools of the system as judges.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::cluster::{Cluster, Plan, Server, SitePlan};
use common::daemon::Daemon;
use common::disk::Disk;
use common::{needs_root, run, wait_for, wait_until};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, XattrFlags};

/// HQ and one copy.
fn pair() -> Plan {
    let sites = vec![SitePlan::new("hq", "local"), SitePlan::new("osaka", "broadcast")];
    Plan { server: Server::Embedded, sites, keys: String::new() }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn put(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
        .unwrap_or_else(|error| panic!("{name} of {path:?}: {error}"));
}

/// What `getfattr` and `getfacl` say of everything below, without where it is and what is ours.
fn judged(root: &Path) -> String {
    let shell = "cd \"$0\" && find . -path ./.nearshare -prune -o -print0 | LC_ALL=C sort -z \
                 | xargs -0 -n 2000 getfattr -h -d -m - -e hex -- \
                 && find . -path ./.nearshare -prune -o ! -type l -print0 | LC_ALL=C sort -z \
                 | xargs -0 -n 2000 getfacl -n -- ";
    run("sh", &["-c", shell, text(root)])
}

/// What was changed on the primary's disk behind nearshare is found now.
fn scanned(cluster: &Cluster) {
    let hq = cluster.primary();
    // Later than the file system's clock ticks.
    std::thread::sleep(Duration::from_millis(50));
    run(common::NEARSHARE, &["scan", "docs", "--socket", text(&hq.state().join("control.sock"))]);
    wait_until("the scan to end", Duration::from_secs(300), || {
        let home = hq.status()?["shares"][0]["home"].clone();
        let over = home["scan"].is_null() && home["marks"] == 0;
        if over { Ok(()) } else { Err(home.to_string()) }
    });
    cluster.settle();
    let [hq, osaka] = ["hq", "osaka"].map(|name| judged(&cluster.site(name).share()));
    assert!(hq == osaka, "at hq:\n{hq}\nat osaka:\n{osaka}");
}

fn records(cluster: &Cluster) -> u64 {
    let status = cluster.primary().status().unwrap();
    status["shares"][0]["position"].as_u64().unwrap_or_else(|| panic!("{status}"))
}

fn set_mtime(path: &Path, nanos: u32) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, nanos);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// An NT ACL as Samba 4 writes it: version 4, an offset, SHA-256 of the POSIX ACL beneath, a descriptor.
fn nt_acl(fill: u8, len: usize) -> Vec<u8> {
    let mut value = b"\x04\x00\x04\x00\x00\x00\x02\x00\x04\x00\x02\x00\x01\x00".to_vec();
    value.resize(len, fill);
    value
}

fn fill(root: &Path) {
    let at = |path: &str| root.join(path);
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("dir/plain"), "plain").unwrap();
    fs::write(at("setuid"), "setuid").unwrap();
    chown(at("setuid"), Some(12), Some(34)).unwrap();
    fs::set_permissions(at("setuid"), fs::Permissions::from_mode(0o4711)).unwrap();
    set_mtime(&at("setuid"), 987_654_321);
    fs::write(at("empty"), "").unwrap();
    fs::write(at("large"), vec![b'l'; 300_000]).unwrap();
    symlink("../nowhere\u{1}", at("link")).unwrap();
    put(&at("link"), "trusted.of-a-link", b"1");
    for name in ["hard", "dir/hard"] {
        fs::hard_link(at("large"), at(name)).unwrap();
    }
    let make = |path: &str, kind, (major, minor)| {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, at(path), kind, Mode::from_raw_mode(0o640), device).unwrap();
    };
    make("fifo", FileType::Fifo, (0, 0));
    make("socket", FileType::Socket, (0, 0));
    make("null", FileType::CharacterDevice, (1, 3));
    make("disk", FileType::BlockDevice, (259, 1_048_575));
    put(&at("fifo"), "trusted.of-a-fifo", &[0, 1, 2]);
    for name in [&b"not \xff\xfe utf-8"[..], b"new\nline", b"Case", b"case", b" ", b"\\", b"%2e%2e"] {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }

    fs::write(at("dressed"), "dressed").unwrap();
    put(&at("dressed"), "user.empty", b"");
    put(&at("dressed"), "user.\u{e4}", &[0, 255]);
    put(&at("dressed"), "user.DOSATTRIB", &[5; 56]);
    put(&at("dressed"), "security.NTACL", &nt_acl(7, 300));
    // Too much for a row.
    put(&at("dir/plain"), "security.NTACL", &nt_acl(8, 3000));
    put(&at("dir"), "user.big", &[9; 2500]);
    run("setfacl", &["-m", "u:1234:rwx,g:77:r,m:rwx,o::-", text(&at("large"))]);
    run("setfacl", &["-m", "u:1234:rx,d:u:1234:rwx,d:g::-,d:o::-", text(&at("dir"))]);
    fs::create_dir(at("dir/inherits")).unwrap();
    fs::write(at("dir/inherits/too"), "x").unwrap();
    let mut caps = 0x0200_0001u32.to_le_bytes().to_vec();
    caps.extend([0x2000u32, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()));
    put(&at("empty"), "security.capability", &caps);
}

fn sparse(path: &Path, size: u64, data: &[u64]) {
    let mut file = fs::File::create(path).unwrap();
    for at in data {
        file.seek(SeekFrom::Start(*at)).unwrap();
        file.write_all(&vec![b'd'; 70_000]).unwrap();
    }
    file.set_len(size).unwrap();
    file.sync_all().unwrap();
}

fn blocks(path: &Path) -> u64 {
    path.metadata().unwrap().blocks()
}

#[test]
fn everything_about_a_file_arrives_and_follows() {
    needs_root("owners and devices");
    let mut cluster = pair().prepare();
    fill(&cluster.primary().share());
    cluster.start_all();
    scanned(&cluster);

    // Attributes alone.
    let hq = cluster.site("hq").share();
    let osaka = cluster.site("osaka").share();
    let inode = |path: &str| osaka.join(path).symlink_metadata().unwrap().ino();
    let before = ["dressed", "large", "dir", "dir/plain", "link"].map(inode);
    let passed = cluster.cable("osaka").passed();
    put(&hq.join("dressed"), "user.empty", b"no more");
    rustix::fs::lremovexattr(hq.join("dressed"), "security.NTACL").unwrap();
    put(&hq.join("dir/plain"), "security.NTACL", &nt_acl(10, 2900));
    put(&hq.join("dir"), "user.big", &[10; 2400]);
    put(&hq.join("link"), "trusted.of-a-link", b"2");
    run("setfacl", &["-b", text(&hq.join("large"))]);
    run("setfacl", &["-k", text(&hq.join("dir"))]);
    scanned(&cluster);
    assert_eq!(["dressed", "large", "dir", "dir/plain", "link"].map(inode), before);
    let passed = cluster.cable("osaka").passed() - passed;
    assert!(passed < 100_000, "{passed} bytes, and the large file has 300,000");
    // Apart and back again, and with another content.
    rustix::fs::lremovexattr(hq.join("dir"), "user.big").unwrap();
    put(&hq.join("large"), "user.big", &[11; 3000]);
    fs::write(hq.join("large"), vec![b'm'; 310_000]).unwrap();
    fs::write(hq.join("dir/plain"), "small, with large attributes").unwrap();
    scanned(&cluster);

    // While the copy is killed, and in the journal only.
    cluster.site_mut("osaka").kill();
    put(&hq.join("dir"), "user.big", &[12; 2600]);
    put(&hq.join("null"), "trusted.null", b"0");
    cluster.start("osaka");
    scanned(&cluster);
}

#[test]
fn a_sparse_file_of_100_gib_stays_sparse_and_its_holes_are_neither_read_nor_sent() {
    needs_root("a primary and a copy");
    let cluster = pair().start();
    let [hq, osaka] = ["hq", "osaka"].map(|name| cluster.site(name).share());
    let gib = 1 << 30;
    sparse(&hq.join("huge"), 100 * gib, &[0, 37 * gib + 4096, 99 * gib]);
    sparse(&hq.join("all hole"), 10 * gib, &[]);
    sparse(&hq.join("small"), 200_000, &[100_000]);
    // Of 110 GiB few are data: a site reads these, and of its catalog what it needs.
    let daemons = ["hq", "osaka"].map(|name| cluster.site(name).daemon.as_ref().unwrap());
    let moved = || (daemons.map(Daemon::has_read), cluster.cable("osaka").passed());
    let costs_little = |before: ([u64; 2], u64), what: &str| {
        let now = moved();
        let (passed, read) = (now.1 - before.1, [0, 1].map(|n| now.0[n] - before.0[n]));
        println!("{what}: hq and osaka read {read:?} bytes, {passed} passed");
        assert!(read.iter().all(|read| *read < 4 << 20), "{what}: {read:?} bytes read");
        assert!(passed < 1 << 20, "{what}: {passed} bytes passed");
    };
    let before = moved();
    scanned(&cluster);
    costs_little(before, "four pieces of data");
    for name in ["huge", "all hole", "small"] {
        assert_eq!(blocks(&osaka.join(name)), blocks(&hq.join(name)), "{name}");
    }
    // A part of it becomes data, another part a hole.
    let mut file = fs::OpenOptions::new().write(true).open(hq.join("huge")).unwrap();
    file.seek(SeekFrom::Start(50 * gib)).unwrap();
    file.write_all(&[b'e'; 10_000]).unwrap();
    let (keep, punch) = (rustix::fs::FallocateFlags::KEEP_SIZE, rustix::fs::FallocateFlags::PUNCH_HOLE);
    rustix::fs::fallocate(&file, keep | punch, 99 * gib, 65_536).unwrap();
    file.sync_all().unwrap();
    let before = moved();
    scanned(&cluster);
    costs_little(before, "one piece more and one less");
    assert_eq!(blocks(&osaka.join("huge")), blocks(&hq.join("huge")));
}

fn exchange(one: &Path, other: &Path) {
    rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
}

#[test]
fn bursts_of_renames_end_right_and_move_the_same_inodes() {
    needs_root("a primary and a copy");
    let mut cluster = pair().prepare();
    let hq = cluster.site("hq").share();
    for name in ["a", "b", "c", "one", "two", "Name", "again", "d1/x", "d2/y", "gone"] {
        let path = hq.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    put(&hq.join("one"), "user.of", b"one");
    cluster.start_all();
    scanned(&cluster);
    let osaka = cluster.site("osaka").share();
    let inode = |path: &str| osaka.join(path).metadata().unwrap().ino();
    let moved = ["one", "two", "a", "b", "Name", "d1", "d2", "d1/x"].map(inode);

    // A swap, a chain, a case-only rename, two directories that change places, deleted and made again.
    exchange(&hq.join("one"), &hq.join("two"));
    for (from, to) in [("c", "d"), ("b", "c"), ("a", "b"), ("Name", "name"), ("d", "e")] {
        fs::rename(hq.join(from), hq.join(to)).unwrap();
    }
    exchange(&hq.join("d1"), &hq.join("d2"));
    for round in 0..5 {
        fs::remove_file(hq.join("again")).unwrap();
        fs::write(hq.join("again"), format!("round {round}")).unwrap();
    }
    fs::remove_file(hq.join("gone")).unwrap();
    fs::create_dir(hq.join("gone")).unwrap();
    fs::write(hq.join("gone/below"), "x").unwrap();
    scanned(&cluster);
    assert_eq!(["two", "one", "b", "c", "name", "d2", "d1", "d2/x"].map(inode), moved);
    let kept = osaka.join(".nearshare/kept");
    assert_eq!(fs::read_dir(kept).map(Iterator::count).unwrap_or(0), 0, "nothing was foreign");

    // The same again, through the door, in one burst.
    let mut client = cluster.site("osaka").client();
    let mut mv = |from: &str, to: &str| {
        let (from, to) = (format!("/docs/{from}"), format!("/docs/{to}"));
        client.transfer("MOVE", &from, &to).unwrap().expect(&[201, 204]);
    };
    for (from, to) in [("one", "tmp"), ("two", "one"), ("tmp", "two"), ("d1", "d3"), ("name", "NAME")] {
        mv(from, to);
    }
    client.delete("/docs/again").unwrap().expect(&[204]);
    client.put("/docs/again", b"made again").unwrap().expect(&[201]);
    scanned(&cluster);
    assert_eq!(
        ["one", "two", "NAME", "d2", "d3"].map(inode),
        [moved[0], moved[1], moved[4], moved[5], moved[6]]
    );
}

/// Entries of one directory.
const MANY: usize = 100_000;

#[test]
fn a_directory_of_100_000_entries_arrives_and_is_renamed_with_one_record() {
    needs_root("a primary and a copy");
    // Of their own, and dropped after the cluster: to unmount them is quicker than to remove all that.
    let disks = [Disk::ext4(2048), Disk::ext4(2048)];
    let mut plan = pair();
    for (site, disk) in plan.sites.iter_mut().zip(&disks) {
        site.disk = Some(disk.path.join("www"));
    }
    let mut cluster = plan.prepare();
    let hq = cluster.site("hq").share();
    let many = hq.join("up/many");
    fs::create_dir_all(&many).unwrap();
    for n in 0..MANY {
        fs::write(many.join(format!("{n:06}")), n.to_string()).unwrap();
    }
    cluster.start_all();
    let osaka = cluster.site("osaka").share();
    wait_until("all entries to be there", Duration::from_secs(300), || {
        let there = fs::read_dir(osaka.join("up/many")).map(Iterator::count).unwrap_or(0);
        if there == MANY { Ok(()) } else { Err(format!("{there} of them")) }
    });
    cluster.settle_within(Duration::from_secs(300));
    let inode = |path: PathBuf| path.metadata().unwrap().ino();
    let before = [inode(osaka.join("up")), inode(osaka.join("up/many/007777"))];

    let head = records(&cluster);
    let mut client = cluster.site("osaka").client();
    client.transfer("MOVE", "/docs/up", "/docs/down").unwrap().expect(&[201, 204]);
    wait_for("the new name at the copy", || osaka.join("down/many/007777").exists());
    let through_the_door = records(&cluster) - head;
    assert!(through_the_door <= 3, "{through_the_door} records of one rename");

    // Behind nearshare, found by a scan.
    fs::rename(hq.join("down"), hq.join("side")).unwrap();
    let head = records(&cluster);
    scanned(&cluster);
    let behind = records(&cluster) - head;
    assert!(behind <= 3, "{behind} records of one rename");
    assert_eq!([inode(osaka.join("side")), inode(osaka.join("side/many/007777"))], before);
}
