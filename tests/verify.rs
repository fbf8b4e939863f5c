//! Bit rot: what a disk changes by itself is found by `nearshare verify`, and put right.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::cluster::{Cluster, Plan, Server, nearshare};
use common::disk::Disk;
use common::{NEARSHARE, PATIENCE, compare, wait_for, wait_until};
use serde_json::Value;

/// HQ and both copies with some files; `bad` has a disk that is about to go bad.
fn cluster(bad: &str, disk: &Disk) -> Cluster {
    let mut plan = Plan::three(Server::Embedded);
    plan.site(bad).disk = Some(disk.path.clone());
    let cluster = plan.start();
    let mut hq = cluster.site("hq").client();
    hq.mkcol("/docs/dir").unwrap().expect(&[201]);
    for n in 0..20 {
        let data = format!("file number {n} of this share\n").repeat(2000);
        hq.put(&format!("/docs/dir/{n}.txt"), data.as_bytes()).unwrap().expect(&[201]);
    }
    cluster.settle();
    cluster
}

fn at(cluster: &Cluster, site: &str, command: &str, more: &[&str]) -> Output {
    let socket = cluster.site(site).state().join("control.sock");
    let mut arguments = vec![command, "docs", "--socket", socket.to_str().unwrap()];
    arguments.extend(more);
    nearshare(&arguments)
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Verifies, and says the exit code and the report.
fn verify(cluster: &Cluster, site: &str, more: &[&str]) -> (Option<i32>, Value) {
    let output = at(cluster, site, "verify", &[more, &["--json", "--rate", "0"]].concat());
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    (output.status.code(), report)
}

fn paths(report: &Value) -> Vec<&str> {
    let mut paths: Vec<_> = report["wrong"]
        .as_array()
        .unwrap()
        .iter()
        .map(|wrong| wrong["path"].as_str().unwrap())
        .collect();
    paths.sort_unstable();
    paths
}

fn status(cluster: &Cluster, site: &str) -> Value {
    cluster.site(site).status().unwrap()["shares"][0].clone()
}

/// Turns one bit of a file, and gives it back its times.
fn flip(path: &Path) {
    let found = fs::metadata(path).unwrap();
    let mut data = fs::read(path).unwrap();
    let middle = data.len() / 2;
    data[middle] ^= 1;
    fs::write(path, data).unwrap();
    let modified = std::time::UNIX_EPOCH
        + std::time::Duration::new(found.mtime() as u64, u32::try_from(found.mtime_nsec()).unwrap());
    fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
}

#[test]
fn what_went_bad_at_a_copy_is_found_and_put_right_from_the_primary() {
    let disk = Disk::ext4(64);
    let cluster = cluster("lyon", &disk);
    let (hq, lyon) = (cluster.site("hq").share(), cluster.site("lyon").share());
    for site in ["hq", "osaka", "lyon"] {
        let (code, report) = verify(&cluster, site, &[]);
        let told = [&report["objects"], &report["complete"], &report["skipped"]];
        assert_eq!((code, told), (Some(0), [&22.into(), &true.into(), &0.into()]), "{site}: {report}");
    }
    assert!(disk.rot(b"file number 7 of", b"file nomber 7 of") > 1000);
    flip(&lyon.join("dir/11.txt"));

    let wrong = ["/dir/11.txt", "/dir/7.txt"];
    let people = at(&cluster, "lyon", "verify", &[]);
    assert_eq!(people.status.code(), Some(1), "{}", text(&people));
    for words in ["/dir/7.txt: its content is not what was recorded\n", ": 2 wrong, 0 put right\n"] {
        assert!(text(&people).contains(words), "no {words} in {}", text(&people));
    }
    let (code, report) = verify(&cluster, "lyon", &[]);
    assert_eq!((code, paths(&report)), (Some(1), wrong.to_vec()));
    let told = status(&cluster, "lyon");
    assert_eq!(told["verify"]["wrong"].as_array().unwrap().len(), 2, "{told}");
    assert!(told["wrong"].as_str().unwrap().contains("found 2 files wrong on this disk"), "{told}");
    assert_eq!(told["fix"], "`nearshare verify docs --repair` puts it right from the primary");
    assert_eq!(told["kept"], 0, "nothing was changed yet");

    let (code, report) = verify(&cluster, "lyon", &["--repair"]);
    assert_eq!((code, &report["repaired"], paths(&report)), (Some(0), &2.into(), vec![]), "{report}");
    compare::same(&hq, &lyon).unwrap();
    let kept = at(&cluster, "lyon", "kept", &["--json"]);
    let kept: Value = serde_json::from_slice(&kept.stdout).unwrap();
    let mut was: Vec<_> =
        kept["kept"].as_array().unwrap().iter().map(|row| row["path"].as_str().unwrap()).collect();
    was.sort_unstable();
    assert_eq!(was, wrong);
    let reason = kept["kept"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("`nearshare verify` found"), "{reason}");
    assert_eq!(verify(&cluster, "lyon", &[]).0, Some(0));
    wait_for("all to be well", || status(&cluster, "lyon")["wrong"].is_null());
}

#[test]
fn what_went_bad_at_the_primary_is_found_and_put_right_when_another_leads() {
    let disk = Disk::ext4(64);
    let cluster = cluster("hq", &disk);
    assert!(disk.rot(b"file number 7 of", b"file nomber 7 of") > 1000);
    let (code, report) = verify(&cluster, "hq", &[]);
    assert_eq!((code, paths(&report)), (Some(1), vec!["/dir/7.txt"]), "{report}");
    let told = status(&cluster, "hq");
    assert!(
        told["wrong"].as_str().unwrap().contains("/dir/7.txt: its content is not what was recorded"),
        "{told}"
    );
    assert!(told["fix"].as_str().unwrap().contains("promote a site"), "{told}");
    let log = cluster.site("hq").log_text();
    assert!(
        log.lines().any(|line| line.contains("ERROR") && line.contains("path=\"/dir/7.txt\"")),
        "{log}"
    );
    let refused = at(&cluster, "hq", "verify", &["--repair"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused).contains("the primary copy of docs is here"), "{}", text(&refused));

    // As it says.
    assert_eq!(verify(&cluster, "osaka", &[]).0, Some(0));
    let socket = cluster.site("osaka").state().join("control.sock");
    let promoted =
        nearshare(&["promote", "docs", "--to", "osaka", "--socket", socket.to_str().unwrap()]);
    assert_eq!(promoted.status.code(), Some(0), "{}", text(&promoted));
    wait_until("HQ to follow", PATIENCE, || {
        let told = status(&cluster, "hq");
        if told["copy"]["confirmed"] == true { Ok(()) } else { Err(told.to_string()) }
    });
    let (code, report) = verify(&cluster, "hq", &["--repair"]);
    assert_eq!((code, &report["repaired"]), (Some(0), &1.into()), "{report}");
    compare::same(&cluster.site("osaka").share(), &cluster.site("hq").share()).unwrap();
}

#[test]
fn one_that_was_killed_goes_on_and_forgets_nothing() {
    let disk = Disk::ext4(64);
    let mut cluster = cluster("lyon", &disk);
    let lyon = cluster.site("lyon").share();
    // What was filled in just now is looked at again until it is at rest: then nothing is passed over.
    assert_eq!(verify(&cluster, "lyon", &[]).0, Some(0));
    (0..20).for_each(|n| flip(&lyon.join(format!("dir/{n}.txt"))));
    let socket = cluster.site("lyon").state().join("control.sock");
    // 57 KB each, twice: two or so a second.
    let arguments = ["verify", "docs", "--rate", "200K", "--socket", socket.to_str().unwrap()];
    let asked =
        Command::new(NEARSHARE).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let asked = asked.unwrap();
    // What is found is kept at once.
    wait_for("some to be found", || {
        status(&cluster, "lyon")["verify"]["wrong"].as_array().is_some_and(|wrong| wrong.len() >= 4)
    });
    let other = at(&cluster, "lyon", "verify", &["--repair"]);
    assert_eq!(other.status.code(), Some(2));
    assert!(text(&other).contains("it is under way already, without --repair"), "{}", text(&other));
    cluster.site_mut("lyon").kill();
    let broken = asked.wait_with_output().unwrap();
    assert_eq!(broken.status.code(), Some(2), "{}", text(&broken));

    cluster.start("lyon");
    let told = status(&cluster, "lyon")["verify"].clone();
    assert_eq!((&told["running"], &told["stopped"]), (&false.into(), &"the site was stopped".into()));
    let before = told["objects"].as_u64().unwrap();
    assert!((3..22).contains(&before), "{told}");
    let (code, report) = verify(&cluster, "lyon", &["--repair"]);
    assert_eq!((code, paths(&report)), (Some(0), vec![]), "{report}");
    assert_eq!((&report["objects"], &report["repaired"]), (&22.into(), &20.into()), "{report}");
    compare::same(&cluster.site("hq").share(), &lyon).unwrap();
    let log = cluster.site("lyon").log_text();
    assert!(log.lines().any(|line| line.contains("verifying") && line.contains("after=\"")), "{log}");
}
