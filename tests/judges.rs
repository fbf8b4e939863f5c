//! The judges are judged: what the other tests stand on, tried against plain nginx and plain files.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::cable::{Cable, Quality};
use common::disk::Disk;
use common::http::Client;
use common::lab::{Lab, Line, inside};
use common::load::Actor;
use common::nginx::Nginx;
use common::{compare, free_port, lab, wait_until};

struct Served {
    nginx: Nginx,
    www: PathBuf,
    _dir: tempfile::TempDir,
}

fn serve(ns: Option<&str>, address: std::net::SocketAddr) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let www = dir.path().join("www");
    std::fs::create_dir_all(www.join("docs/a")).unwrap();
    let nginx = Nginx::start(dir.path(), &www, "here", address, ns);
    wait_until("nginx", common::PATIENCE, || {
        lab::inside(ns, || Client::new(address).connect().map(drop)).map_err(|e| e.to_string())
    });
    Served { nginx, www, _dir: dir }
}

#[test]
fn the_client_speaks_webdav_with_nginx() {
    let served = serve(None, free_port());
    let mut client = Client::new(served.nginx.address);
    let body = vec![9; 200_000];
    client.put("/docs/f", &body).unwrap().expect(&[201]);
    client.mkcol("/docs/d/").unwrap().expect(&[201]);
    client.transfer("MOVE", "/docs/f", "/docs/d/g").unwrap().expect(&[201, 204]);
    let answer = client.get("/docs/d/g").unwrap().expect(&[200]);
    assert!(answer.body == body);
    assert_eq!(answer.header("x-served-by"), Some("here"));
    let list = client.propfind("/docs/", "1").unwrap().expect(&[207]).text();
    assert!(list.contains("/docs/d"), "{list}");
    client.delete("/docs/d/").unwrap().expect(&[204]);
    client.get("/docs/d/g").unwrap().expect(&[404]);
    assert!(served.nginx.requests().contains(&"PUT /docs/f 201".to_owned()));
}

#[test]
fn an_actor_finds_what_nginx_does() {
    let served = serve(None, free_port());
    let mut actor = Actor::new(1, served.nginx.address, "a");
    (0..300).for_each(|_| actor.step());
    assert!(actor.tally.done > 100 && actor.tally.reads > 20, "{:?}", actor.tally);
    actor.check(&served.www.join("docs"));
    // And it notices when one change is lost.
    let file = std::fs::read_dir(served.www.join("docs/a")).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(file).unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        actor.check(&served.www.join("docs"));
    }));
    assert!(caught.is_err());
}

#[test]
fn a_cable_delays_limits_and_breaks() {
    let served = serve(None, free_port());
    let cable = Cable::new(served.nginx.address);
    let mut client = Client::new(cable.address);
    client.put("/docs/f", &[1; 50_000]).unwrap().expect(&[201]);

    cable.set(Quality { one_way: Duration::from_millis(40), ..Default::default() });
    let start = Instant::now();
    client.get("/docs/").unwrap().expect(&[403]);
    assert!(start.elapsed() >= Duration::from_millis(80), "{:?}", start.elapsed());

    let queue = Duration::from_millis(100);
    cable.set(Quality { rate: 100_000, queue, ..Default::default() });
    let start = Instant::now();
    client.get("/docs/f").unwrap().expect(&[200]);
    assert!(start.elapsed() >= Duration::from_millis(450), "{:?}", start.elapsed());

    cable.set(Quality::default());
    cable.cut();
    assert!(client.connect().is_ok(), "a cut line refuses nobody");
    let mut patient = Client::new(cable.address);
    let mut hasty = Client::new(cable.address);
    hasty.timeout = Duration::from_millis(300);
    assert!(hasty.get("/docs/f").is_err());
    let waiting = std::thread::spawn(move || patient.get("/docs/f").unwrap().status);
    std::thread::sleep(Duration::from_millis(100));
    assert!(!waiting.is_finished());
    cable.heal();
    assert_eq!(waiting.join().unwrap(), 200);
    let mut client = Client::new(cable.address);
    client.get("/docs/f").unwrap().expect(&[200]);
    cable.sever();
    assert!(client.put("/docs/f", b"2").is_err());
    client.get("/docs/f").unwrap().expect(&[200]);
}

#[test]
fn the_comparer_sees_every_difference() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let root = dir.path().join(name);
        std::fs::create_dir_all(root.join("d")).unwrap();
        std::fs::create_dir_all(root.join(".nearshare")).unwrap();
        std::fs::write(root.join("d/f"), b"same").unwrap();
        std::fs::write(root.join("d/g"), b"more").unwrap();
        std::fs::write(root.join(".nearshare").join(name), b"ours").unwrap();
        symlink("f", root.join("d/l")).unwrap();
        level(&root);
        root
    };
    let (left, right) = (make("left"), make("right"));
    compare::same(&left, &right).unwrap();
    let changes: [&dyn Fn(); 8] = [
        &|| std::fs::write(right.join("d/f"), b"Same").unwrap(),
        &|| std::fs::set_permissions(right.join("d/f"), PermissionsExt::from_mode(0o600)).unwrap(),
        &|| std::fs::remove_file(right.join("d/g")).unwrap(),
        &|| std::fs::write(right.join("d/new"), b"").unwrap(),
        &|| {
            std::fs::remove_file(right.join("d/l"))
                .and_then(|()| symlink("g", right.join("d/l")))
                .unwrap()
        },
        &|| {
            std::fs::remove_file(right.join("d/g")).unwrap();
            std::fs::hard_link(right.join("d/f"), right.join("d/g")).unwrap();
        },
        &|| {
            let none = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(right.join("d/f"), "user.x", b"", none).unwrap();
        },
        &|| {
            let file = std::fs::File::options().write(true).open(right.join("d/f")).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + Duration::new(1, 1)).unwrap();
        },
    ];
    for (number, change) in changes.iter().enumerate() {
        change();
        // All but the last are to be seen with equal times as well.
        if number < 7 {
            level(&right);
        }
        assert!(compare::same(&left, &right).is_err(), "change {number}");
        std::fs::remove_dir_all(&right).unwrap();
        make("right");
        compare::same(&left, &right).unwrap();
    }
}

/// Sets all times below to one.
fn level(root: &std::path::Path) {
    common::run(
        "find",
        &[root.to_str().unwrap(), "-exec", "touch", "-h", "-d", "@1000000000.5", "{}", "+"],
    );
}

#[test]
fn a_small_disk_gets_full() {
    let disk = Disk::ext4(8);
    disk.fill(&disk.path.join("ballast"));
    let error = std::fs::write(disk.path.join("more"), vec![1; 100_000]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    std::fs::remove_file(disk.path.join("ballast")).unwrap();
    std::fs::write(disk.path.join("more"), vec![1; 100_000]).unwrap();
}

#[test]
fn a_line_between_namespaces_is_slow_and_can_be_cut() {
    let lab = Lab::new(&Line { round_trip: 60, mbit: 4.0, queue: 100, loss: 0.0 });
    let [near, far] = &lab.ends;
    let served = serve(Some(&far.ns), (far.address, 8081).into());
    std::fs::write(served.www.join("docs/f"), vec![1; 250_000]).unwrap();
    inside(Some(&near.ns), || {
        let mut client = Client::new(served.nginx.address);
        let start = Instant::now();
        client.get("/docs/f").unwrap().expect(&[200]);
        // 2 Mbit at 4 Mbit/s, and a round trip or two.
        assert!(start.elapsed() >= Duration::from_millis(550), "{:?}", start.elapsed());
        lab.cut();
        let mut hasty = Client::new(served.nginx.address);
        hasty.timeout = Duration::from_millis(400);
        assert!(hasty.connect().is_err());
        lab.heal();
        wait_until("the healed line", common::PATIENCE, || {
            client.get("/docs/f").map(drop).map_err(|error| error.to_string())
        });
    });
}
