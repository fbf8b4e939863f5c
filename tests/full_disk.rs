//! Full disks, on small real file systems: nothing acknowledged is lost, nothing half done shows, and
//! everything goes on by itself once there is room.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::time::Duration;

use common::cluster::{Plan, Server};
use common::disk::Disk;
use common::wait_for;

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
