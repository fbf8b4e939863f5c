//! Full disks, on small real file systems: nothing acknowledged is lost, nothing half done shows, and
//! everything goes on by itself once there is room.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::time::Duration;

use common::cluster::{Cluster, Plan, Server};
use common::disk::Disk;
use common::{run, wait_for, wait_until};

const FILE: usize = 2 << 20;

#[test]
fn a_full_copy_catches_up_when_there_is_room() {
    let disk = Disk::ext4(24);
    let mut plan = Plan::three(Server::Nginx);
    plan.site("osaka").disk = Some(disk.path.clone());
    let cluster = plan.start();
    let mut hq = cluster.site("hq").client();
    let mut osaka = cluster.site("osaka").client();
    hq.put("/docs/small.txt", b"small").unwrap().expect(&[201]);
    cluster.settle();
    let ballast = disk.path.join("ballast");
    disk.fill(&ballast);

    let body = vec![3; FILE];
    hq.put("/docs/large", &body).unwrap().expect(&[201]);
    hq.put("/docs/small.txt", b"smaller").unwrap().expect(&[201, 204]);
    wait_for("osaka to say that its disk is full", || {
        cluster.site("osaka").log_text().to_lowercase().contains("no space left")
    });
    // What it could not take is still answered rightly, from home.
    wait_for("the large file through the full copy", || {
        osaka.get("/docs/large").is_ok_and(|answer| answer.status == 200 && answer.body == body)
    });
    // Lyon does not wait for osaka.
    wait_for("lyon", || {
        std::fs::read(cluster.site("lyon").share().join("large")).is_ok_and(|at_lyon| at_lyon == body)
    });
    std::fs::remove_file(&ballast).unwrap();
    cluster.settle();
    drop(cluster);
}

#[test]
fn a_full_state_directory_stops_writes_till_there_is_room() {
    for full in ["hq", "osaka"] {
        let disk = Disk::ext4(64);
        let mut plan = Plan::three(Server::Embedded);
        plan.site(full).state = Some(disk.path.join("state"));
        let cluster = plan.start();
        let mut client = cluster.site(full).client();
        let mut lyon = cluster.site("lyon").client();
        lyon.put("/docs/old", b"old").unwrap().expect(&[201]);
        cluster.settle();
        let pid = cluster.site(full).status().unwrap()["pid"].clone();
        let since = |site: &str| cluster.site(site).status().map(|said| said["since_unix_ms"].clone());
        let began = since(full).unwrap();
        let ballast = disk.path.join("ballast");
        disk.fill(&ballast);

        let mut acknowledged = Vec::new();
        wait_for("the catalog to find its disk full", || {
            let name = format!("n{:05}", acknowledged.len());
            if lyon.put(&format!("/docs/{name}"), name.as_bytes()).is_ok_and(|put| put.is_success()) {
                acknowledged.push(name);
            }
            cluster.site(full).log_text().contains("takes no more writes")
        });
        // Reads go on, and `status` says what to do.
        wait_for("a read", || client.get("/docs/old").is_ok_and(|read| read.text() == "old"));
        let share = cluster.site(full).status().unwrap()["shares"][0].clone();
        assert_eq!(share["state"], "stopped");
        assert!(share["fix"].as_str().unwrap().contains("make room"), "{share}");
        std::fs::remove_file(&ballast).unwrap();
        wait_for("a new start", || since(full).is_ok_and(|since| since != began));
        assert_eq!(cluster.site(full).status().unwrap()["pid"], pid);
        wait_for("a write", || lyon.put("/docs/new", b"new").is_ok_and(|put| put.is_success()));
        cluster.settle();
        for name in &acknowledged {
            assert_eq!(std::fs::read_to_string(cluster.site("hq").share().join(name)).unwrap(), *name);
        }
        drop(cluster);
    }
}

#[test]
fn a_full_primary_refuses_and_goes_on() {
    for server in [Server::Nginx, Server::Embedded] {
        let disk = Disk::ext4(24);
        let mut plan = Plan::three(server);
        plan.site("hq").disk = Some(disk.path.clone());
        let cluster = plan.start();
        let mut lyon = cluster.site("lyon").client();
        lyon.put("/docs/old", b"old").unwrap().expect(&[201]);
        let body = vec![5; FILE];
        lyon.put("/docs/large", &body).unwrap().expect(&[201]);
        cluster.settle();
        let ballast = disk.path.join("ballast");
        disk.fill(&ballast);

        let answer = lyon.put("/docs/old", &body).unwrap();
        assert!(matches!(answer.status, 500 | 507), "{}", answer.status);
        assert_eq!(lyon.get("/docs/old").unwrap().expect(&[200]).text(), "old");
        // A removal passes on a full disk, and makes room.
        lyon.delete("/docs/large").unwrap().expect(&[204]);
        wait_for("a small write into the room that was made", || {
            lyon.put("/docs/new", &body[..FILE / 2]).is_ok_and(|answer| answer.is_success())
        });
        std::fs::remove_file(&ballast).unwrap();
        lyon.put("/docs/old", &body).unwrap().expect(&[201, 204]);
        cluster.settle_within(Duration::from_secs(120));
        assert!(std::fs::read(cluster.site("osaka").share().join("old")).unwrap() == body);
        drop(cluster);
    }
}

fn set(path: &std::path::Path, name: &str, bytes: usize) {
    let none = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(path, name, &vec![b'x'; bytes], none).unwrap();
}

/// What was changed on the primary's disk behind nearshare is found now.
fn scan(cluster: &Cluster) {
    // Later than the file system's clock ticks.
    std::thread::sleep(Duration::from_millis(50));
    let socket = cluster.site("hq").state().join("control.sock");
    run(common::NEARSHARE, &["scan", "docs", "--socket", socket.to_str().unwrap()]);
}

/// What `status` says of the share at a site, once that is as wished.
fn said(
    cluster: &Cluster,
    site: &str,
    wished: impl Fn(&serde_json::Value) -> bool,
) -> serde_json::Value {
    wait_until(site, Duration::from_secs(60), || {
        let share = cluster.site(site).status()?["shares"][0].clone();
        if wished(&share) { Ok(share) } else { Err(share.to_string()) }
    })
}

fn is_well(share: &serde_json::Value) -> bool {
    share["wrong"].is_null() && share["home"]["unread"].as_u64().unwrap_or(0) == 0
}

/// There is room on the disk, and none in the inode (copy); or more of them than are carried (primary).
#[test]
fn attributes_that_do_not_fit_are_named_with_what_to_do() {
    let (large, usual) = (Disk::ext4_with(64, &["-O", "ea_inode"]), Disk::ext4(64));
    let mut plan = Plan::three(Server::Embedded);
    plan.site("hq").disk = Some(large.path.clone());
    plan.site("osaka").disk = Some(usual.path.clone());
    let cluster = plan.start();
    let mut hq = cluster.site("hq").client();
    let mut osaka = cluster.site("osaka").client();
    for name in ["a", "b"] {
        hq.put(&format!("/docs/{name}"), b"old").unwrap().expect(&[201]);
    }
    cluster.settle();
    let share = cluster.site("hq").share();
    set(&share.join("a"), "user.large", 6000);
    scan(&cluster);
    let wrong = said(&cluster, "osaka", |share| !share["wrong"].is_null());
    let text = |key: &str| wrong[key].as_str().unwrap_or_default().to_owned();
    assert!(text("wrong").contains("6010 bytes of extended attributes"), "{wrong}");
    assert!(text("fix").contains("ea_inode"), "{wrong}");
    assert_eq!(osaka.get("/docs/a").unwrap().expect(&[200]).text(), "old");
    hq.put("/docs/c", b"goes on").unwrap().expect(&[201]);
    wait_for("what comes behind it", || {
        std::fs::read(cluster.site("osaka").share().join("c")).is_ok_and(|at| at == b"goes on")
    });

    (0..17).for_each(|n| set(&share.join("b"), &format!("user.{n}"), 64 << 10));
    std::fs::write(share.join("b"), b"more than is carried").unwrap();
    scan(&cluster);
    let wrong = said(&cluster, "hq", |share| !share["wrong"].is_null());
    let text = |key: &str| wrong[key].as_str().unwrap_or_default().to_owned();
    assert!(text("wrong").starts_with("/b cannot be read"), "{wrong}");
    assert!(text("wrong").contains("more than 1048576 bytes"), "{wrong}");
    assert!(text("fix").contains("getfattr"), "{wrong}");

    rustix::fs::removexattr(share.join("a"), "user.large").unwrap();
    (0..17).for_each(|n| rustix::fs::removexattr(share.join("b"), format!("user.{n}")).unwrap());
    scan(&cluster);
    said(&cluster, "hq", is_well);
    cluster.settle();
    said(&cluster, "osaka", is_well);
}
