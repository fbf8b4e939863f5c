//! `nearshare kept`: what a site has kept aside, listed, counted, and removed when somebody says so.

use std::fs;
use std::process::Output;

use serde_json::Value;

use super::common::cluster::{Cluster, Plan, Server, nearshare};
use super::common::{PATIENCE, compare, wait_for, wait_until};
use super::text;

fn kept(cluster: &Cluster, more: &[&str]) -> Output {
    let socket = cluster.site("lyon").state().join("control.sock");
    let mut arguments = vec!["kept"];
    arguments.extend(more);
    arguments.extend(["--socket", socket.to_str().unwrap()]);
    nearshare(&arguments)
}

fn listed(cluster: &Cluster) -> Vec<Value> {
    let output = kept(cluster, &["docs", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let kept = all["kept"].as_array().unwrap().clone();
    assert_eq!(all["many"], kept.len());
    kept
}

fn counted(cluster: &Cluster) -> Value {
    cluster.site("lyon").status().unwrap()["shares"][0]["kept"].clone()
}

#[test]
fn what_a_copy_kept_aside_is_listed_counted_and_removed_only_when_told() {
    let mut cluster = Plan::three(Server::Embedded).start();
    let hq = |cluster: &Cluster| cluster.site("hq").client();
    hq(&cluster).mkcol("/docs/dir").unwrap().expect(&[201]);
    hq(&cluster).put("/docs/dir/a.txt", b"first").unwrap().expect(&[201]);
    cluster.settle();
    let none = kept(&cluster, &[]);
    assert_eq!((none.status.code(), text(&none).as_str()), (Some(0), "nothing is kept aside\n"));
    let lyon = cluster.site("lyon").share();
    fs::write(lyon.join("dir/a.txt"), "changed in Lyon").unwrap();
    hq(&cluster).put("/docs/dir/a.txt", b"second").unwrap().expect(&[201, 204]);
    wait_until("both to be the same", PATIENCE, || compare::same(&cluster.site("hq").share(), &lyon));
    let all = listed(&cluster);
    assert_eq!(all.len(), 1, "{all:?}");
    let row = &all[0];
    let fields = [&row["share"], &row["path"], &row["name"], &row["kind"]];
    assert_eq!(fields, ["docs", "/dir/a.txt", "a.txt", "file"]);
    assert_eq!(
        (&row["size"], &row["reason"]),
        (&15.into(), &"it was changed at this copy, behind nearshare".into())
    );
    assert_eq!(fs::read_to_string(row["data"].as_str().unwrap()).unwrap(), "changed in Lyon");
    assert_eq!(counted(&cluster), 1);
    let people = kept(&cluster, &[]);
    let id = row["id"].as_str().unwrap();
    for words in ["docs  /dir/a.txt  (file, 15 B)\n", id, "1 thing kept aside\n"] {
        assert!(text(&people).contains(words), "no {words} in {}", text(&people));
    }

    // It is counted after a start, and one that was moved away is no longer.
    cluster.site_mut("lyon").terminate();
    fs::create_dir(lyon.join(".nearshare/kept/20260102T030405Z-crash-1")).unwrap();
    cluster.start("lyon");
    wait_for("what was kept before", || counted(&cluster) == 2);
    let older = kept(&cluster, &["docs", "--older-than", "12h"]);
    assert_eq!((older.status.code(), text(&older).as_str()), (Some(0), "1 removed\n"));
    assert_eq!(listed(&cluster).len(), 1);
    let wrong = kept(&cluster, &["docs", "--remove", "none-such", id]);
    assert_eq!((wrong.status.code(), text(&wrong).as_str()), (Some(1), "0 removed\n1 removed\n"));
    assert_eq!((listed(&cluster).len(), counted(&cluster)), (0, 0.into()));
    assert!(!lyon.join(".nearshare/kept").join(id).exists());
    let elsewhere = kept(&cluster, &["pictures"]);
    assert_eq!(elsewhere.status.code(), Some(1));
    assert!(text(&elsewhere).contains("no copy of pictures at this site"), "{}", text(&elsewhere));
    assert_eq!(kept(&cluster, &["--remove", id]).status.code(), Some(2), "of which share?");
}
