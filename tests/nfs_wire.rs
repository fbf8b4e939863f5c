//! A relay on `nearshare::wire` and nothing else, between libnfs and Ganesha: what that room says of messages
//! must be so with programs that know nothing of it. Clients see handles and numbers of ours, the server its
//! own, and neither notices.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;
#[path = "nfs_wire/relay.rs"]
mod relay;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use common::ganesha::Ganesha;
use common::run;
use relay::{FSID, Relay, fileid};

/// Runs a program where the server is.
fn there(server: &Ganesha, command: &[&str]) -> String {
    let ns = format!("--net=/run/netns/{}", server.ns);
    run("nsenter", &[&[ns.as_str(), "--", "timeout", "60"][..], command].concat())
}

fn url(server: &Ganesha, path: &str, nfs: u16, mount: u16) -> String {
    format!("nfs://127.0.0.1{}{path}?version=3&nfsport={nfs}&mountport={mount}", server.export.display())
}

#[test]
fn libnfs_and_ganesha_do_not_notice() {
    let server = Ganesha::start();
    let ops = server.export.with_file_name("nfs_ops");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/nfs_ops.c");
    run("cc", &["-O1", "-Wall", "-o", ops.to_str().unwrap(), source, "-lnfs"]);
    let relay = Relay::start(&server.ns);
    let through = |path: &str| url(&server, path, relay::NFS, relay::MOUNT);
    let direct = |path: &str| url(&server, path, Ganesha::NFS, Ganesha::MOUNT);

    // Every procedure, and what it leaves on the disk.
    let said = there(&server, &[ops.to_str().unwrap(), &through("")]);
    let moved = std::fs::symlink_metadata(server.export.join("c/deep/moved")).unwrap();
    assert_eq!((moved.size(), moved.nlink(), moved.mode() & 0o7777), (1234, 2, 0o444));
    assert_eq!(said.trim(), format!("{} {FSID}", fileid(moved.ino())));

    // A large file, both ways.
    let big: Vec<u8> =
        (0..5_000_000_u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 24).to_ne_bytes()).collect();
    let (here, back) = (server.export.with_file_name("big"), server.export.with_file_name("back"));
    std::fs::write(&here, &big).unwrap();
    there(&server, &["nfs-cp", here.to_str().unwrap(), &through("/big")]);
    assert!(std::fs::read(server.export.join("big")).unwrap() == big);
    there(&server, &["nfs-cp", &through("/big"), back.to_str().unwrap()]);
    assert!(std::fs::read(&back).unwrap() == big);

    // Listings of many replies.
    std::fs::create_dir(server.export.join("many")).unwrap();
    for i in 0..2000 {
        let name = format!("many/a name of some length, number {i}");
        std::fs::write(server.export.join(name), vec![b'x'; i % 50]).unwrap();
    }
    let lines = |url: &str| -> BTreeSet<String> {
        there(&server, &["nfs-ls", "-R", url]).lines().map(str::to_owned).collect()
    };
    let (seen, is) = (lines(&through("")), lines(&direct("")));
    assert!(is.len() > 2000);
    assert_eq!(seen, is);

    let report = relay.report();
    assert_eq!(report.faults, Vec::<String>::new());
    let want = "ACCESS COMMIT CREATE FSINFO FSSTAT GETATTR LINK LOOKUP MKDIR MKNOD MNT READ READDIRPLUS \
                READLINK REMOVE RENAME RMDIR SETATTR SYMLINK WRITE";
    let missing: Vec<_> =
        want.split_whitespace().filter(|name| !report.procedures.contains(name)).collect();
    assert_eq!(missing, Vec::<&str>::new(), "of {:?}", report.procedures);
    assert!(report.lengths.iter().any(|length| *length != 32), "{:?}", report.lengths);
}
