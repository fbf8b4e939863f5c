//! Changes behind the proxy, on the primary's own disk: a shell's, as the kernel tells of them. Its file system is an
//! ext4 of its own, whatever the machine's is.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::time::{Duration, Instant};

use common::cluster::{Cluster, Plan, Server};
use common::disk::Disk;
use common::{compare, run, wait_until};

/// Longest that a change may take to both copies on a machine that is busy; it takes about a tenth of a second.
const SOON: Duration = Duration::from_secs(20);

fn home(cluster: &Cluster) -> serde_json::Value {
    cluster.site("hq").status().unwrap()["shares"][0]["home"].clone()
}

/// Runs a shell in HQ's directory of the share, and waits until both copies are the same again.
fn shell(cluster: &Cluster, script: &str) {
    let share = cluster.site("hq").share();
    run("sh", &["-euc", &format!("cd {}; {script}", share.display())]);
    let began = Instant::now();
    for site in ["osaka", "lyon"] {
        let copy = cluster.site(site).share();
        wait_until(&format!("{site} to have: {script}"), SOON, || compare::same(&share, &copy));
    }
    println!("{script}: at both copies after {:?}", began.elapsed());
}

#[test]
fn what_a_shell_does_at_hq_is_at_both_copies_without_a_scan() {
    for (server, keys) in [(Server::Embedded, ""), (Server::Nginx, "consistency = \"relaxed\"\n")] {
        let disk = Disk::ext4(64);
        let mut plan = Plan::three(server);
        plan.keys = keys.to_owned();
        plan.site("hq").disk = Some(disk.path.clone());
        let cluster = plan.start();
        cluster.site("hq").client().put("/docs/put", b"put").unwrap().expect(&[201]);
        cluster.settle();
        wait_until("the start's scan", SOON, || match home(&cluster)["scan"].is_null() {
            true => Ok(()),
            false => Err("it goes on".to_owned()),
        });
        assert_eq!(home(&cluster)["outside"], serde_json::json!({ "by": "fanotify", "why": null }));
        let beside = disk.path.join("beside");
        std::fs::create_dir(&beside).unwrap();

        shell(&cluster, "printf one > file; mkdir -p dir/sub; printf two > dir/sub/two");
        shell(&cluster, "printf more >> file; printf put >> put");
        shell(&cluster, "chmod 640 file; chmod 700 dir; touch -d 2001-02-03 dir/sub/two");
        shell(&cluster, "mv file dir/moved; mv dir renamed");
        shell(&cluster, "rm renamed/moved");
        let beside = beside.display();
        shell(
            &cluster,
            &format!(
                "mkdir -p {beside}/tree/a/b; seq 1000 > {beside}/tree/a/b/many; mv {beside}/tree in"
            ),
        );
        shell(&cluster, "printf x > in/a/b/later; rm -r renamed");
        // And in between through nearshare.
        cluster.site("lyon").client().put("/docs/in/a/put", b"put").unwrap().expect(&[201]);
        shell(&cluster, "printf shell > in/a/put");
        let read = cluster
            .site("lyon")
            .client()
            .get("/docs/in/a/put")
            .unwrap()
            .expect(&[200])
            .text()
            .to_owned();
        assert_eq!(read, "shell");
        assert_eq!(home(&cluster)["scans"], 1, "{}", home(&cluster));

        let socket = cluster.site("hq").state().join("control.sock");
        let socket = socket.to_str().unwrap();
        let status = run(common::NEARSHARE, &["status", "--socket", socket]);
        assert!(status.contains("changes behind nearshare: noticed at once (fanotify)"), "{status}");
        let metrics = run("curl", &["--silent", "--unix-socket", socket, "http://site/metrics"]);
        let count = |name: &str| {
            let line = format!("nearshare_outside_{name}_total{{share=\"docs\"}} ");
            let count = metrics.lines().find_map(|said| said.strip_prefix(&line));
            count.unwrap_or_else(|| panic!("{name}: {metrics}")).parse::<u64>().unwrap()
        };
        assert!(count("events") > 10, "{metrics}");
        assert_eq!(count("overflows"), 0);
        drop(cluster);
    }
}
