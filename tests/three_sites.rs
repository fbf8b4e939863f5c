//! The main job on real servers: reads near, writes home, copies that follow.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "three_sites/answers.rs"]
mod answers;
mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, Instant};

use common::cable::Quality;
use common::cluster::{Cluster, Plan, Server, nearshare};
use common::http::Client;
use common::{run, wait_for, wait_until};

const SITES: [&str; 3] = ["hq", "osaka", "lyon"];

/// Which site's nginx answered.
fn served_by(client: &mut Client, path: &str) -> String {
    let answer = client.get(path).unwrap().expect(&[200]);
    answer.header("x-served-by").unwrap().to_owned()
}

fn settled(server: Server) -> Cluster {
    let cluster = Plan::three(server).start();
    cluster.site("hq").client().put("/docs/first.txt", b"first").unwrap().expect(&[201, 204]);
    cluster.settle();
    cluster
}

#[test]
fn reads_are_near_and_writes_go_home() {
    let cluster = settled(Server::Nginx);
    for name in SITES {
        let mut client = cluster.site(name).client();
        wait_for(&format!("a near read at {name}"), || {
            served_by(&mut client, "/docs/first.txt") == name
        });
        let answer = client.propfind("/docs/", "1").unwrap().expect(&[207]);
        assert!(answer.text().contains("/docs/first.txt"), "{}", answer.text());
        assert!(!answer.text().contains(".nearshare"), "{}", answer.text());
    }
    for name in SITES {
        let path = format!("/docs/from-{name}.txt");
        cluster.site(name).client().put(&path, name.as_bytes()).unwrap().expect(&[201]);
        for server in SITES {
            let requests = cluster.site(server).nginx.as_ref().unwrap().requests();
            let puts = requests.iter().filter(|line| line.starts_with(&format!("PUT {path}"))).count();
            assert_eq!(puts, usize::from(server == "hq"), "PUT of {name} at the server of {server}");
        }
    }
    cluster.settle();
    for name in SITES {
        for from in SITES {
            let answer = cluster.site(name).client().get(&format!("/docs/from-{from}.txt")).unwrap();
            assert_eq!(answer.expect(&[200]).text(), from);
        }
    }
}

#[test]
fn a_client_sees_its_own_writes_at_once() {
    for server in [Server::Nginx, Server::Embedded] {
        let cluster = settled(server);
        let mut client = cluster.site("lyon").client();
        // A slow line, so that the copy is certainly behind the answer.
        cluster.cable("lyon").set(Quality { one_way: Duration::from_millis(60), ..Default::default() });
        for round in 0..20 {
            let text = format!("round {round}");
            client.put("/docs/own.txt", text.as_bytes()).unwrap().expect(&[201, 204]);
            assert_eq!(client.get("/docs/own.txt").unwrap().expect(&[200]).text(), text);
            let list = client.propfind("/docs/", "1").unwrap().expect(&[207]).text();
            assert!(list.contains("own.txt"), "{list}");
        }
        client.mkcol("/docs/new/").unwrap().expect(&[201]);
        client.put("/docs/new/a.txt", b"a").unwrap().expect(&[201]);
        client.transfer("MOVE", "/docs/new/a.txt", "/docs/new/b.txt").unwrap().expect(&[201, 204]);
        client.get("/docs/new/a.txt").unwrap().expect(&[404]);
        assert_eq!(client.get("/docs/new/b.txt").unwrap().expect(&[200]).text(), "a");
        client.delete("/docs/new/").unwrap().expect(&[204]);
        client.get("/docs/new/b.txt").unwrap().expect(&[404]);
        cluster.settle();
    }
}

/// Nobody asks for it: a copy is told at once, wherever it was written.
#[test]
fn a_change_is_on_a_copys_disk_after_a_round_trip() {
    const ONE_WAY: Duration = Duration::from_millis(60);
    let cluster = settled(Server::Embedded);
    for copy in ["lyon", "osaka"] {
        cluster.cable(copy).set(Quality { one_way: ONE_WAY, ..Default::default() });
    }
    // Where it is written and where it is awaited; its length; how often something crosses a line meanwhile. A
    // content of more than 4 KiB does not come with its record: it is asked for.
    for (writer, reader, length, ways) in [
        ("hq", "lyon", 20, 2),
        ("lyon", "osaka", 20, 2),
        ("hq", "lyon", 50_000, 4),
        ("lyon", "osaka", 50_000, 4),
    ] {
        let mut client = cluster.site(writer).client();
        let file = cluster.site(reader).share().join("lag.txt");
        let mut lags: Vec<Duration> = (0..20)
            .map(|round| {
                let text = format!("from {writer}, round {round}, {length:length$}");
                client.put("/docs/lag.txt", text.as_bytes()).unwrap().expect(&[201, 204]);
                let answered = Instant::now();
                while std::fs::read(&file).unwrap_or_default() != text.as_bytes() {
                    assert!(answered.elapsed() < common::PATIENCE, "round {round} never came");
                    std::thread::sleep(Duration::from_millis(5));
                }
                answered.elapsed()
            })
            .collect();
        lags.sort();
        println!("{length} bytes from {writer} to {reader}: {lags:?}");
        // What is asked for once a second comes after half a second and the way, or more.
        let limit = ways * ONE_WAY + Duration::from_millis(300);
        assert!(lags[lags.len() / 2] < limit, "{length} bytes from {writer} to {reader}: {lags:?}");
    }
}

/// They wait for each other at the primary, each with a part of its body on the link.
#[test]
fn large_bodies_for_one_name_do_not_stop_each_other() {
    let cluster = settled(Server::Embedded);
    for many in [5, 40] {
        std::thread::scope(|scope| {
            for byte in 0..many {
                let mut client = cluster.site("osaka").client();
                client.timeout = Duration::from_secs(200);
                scope.spawn(move || {
                    let body = vec![byte; 10_000_000];
                    client.put("/docs/one.bin", &body).unwrap().expect(&[201, 204]);
                });
            }
        });
    }
    cluster.settle();
}

#[test]
fn copies_have_everything_the_primary_has() {
    let mut cluster = Plan::three(Server::Embedded).prepare();
    let hq = cluster.site("hq").share();
    std::fs::create_dir_all(hq.join("deep/er/still")).unwrap();
    std::fs::write(hq.join("deep/er/file"), vec![7; 300_000]).unwrap();
    std::fs::write(hq.join("empty"), b"").unwrap();
    std::fs::write(hq.join("tool"), b"#!/bin/sh\n").unwrap();
    std::fs::set_permissions(hq.join("tool"), PermissionsExt::from_mode(0o4751)).unwrap();
    std::fs::hard_link(hq.join("tool"), hq.join("deep/same-tool")).unwrap();
    symlink("deep/er/file", hq.join("link")).unwrap();
    std::fs::write(hq.join("na\u{ef}ve \u{1f980} %41"), b"name").unwrap();
    std::os::unix::fs::chown(hq.join("empty"), Some(1234), Some(2345)).unwrap();
    let old = std::time::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    std::fs::File::options().write(true).open(hq.join("empty")).unwrap().set_modified(old).unwrap();
    cluster.start_all();
    cluster.settle();

    // The same again, changed behind a client's back by the client itself.
    let mut client = cluster.site("osaka").client();
    client.put("/docs/deep/er/file", b"short now").unwrap().expect(&[201, 204]);
    client.transfer("COPY", "/docs/deep/", "/docs/twin/").unwrap().expect(&[201, 204]);
    client.transfer("MOVE", "/docs/deep/er/", "/docs/moved/").unwrap().expect(&[201, 204]);
    client.delete("/docs/link").unwrap().expect(&[204]);
    cluster.settle();
    let meta = std::fs::metadata(cluster.site("lyon").share().join("empty")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mtime_nsec()), (1234, 2345, 123_456_789));
}

#[test]
fn a_link_inside_the_share_is_written_through_or_replaced_as_its_server_does() {
    for server in [Server::Nginx, Server::Embedded] {
        let mut cluster = Plan::three(server).prepare();
        let hq = cluster.site("hq").share();
        std::fs::create_dir(hq.join("d")).unwrap();
        cluster.start_all();
        cluster.settle();
        for name in SITES {
            // Put there behind nearshare's back, with what they lead to.
            for (n, body) in ["a", "b", "c"].iter().zip(["1", "2", "3"]) {
                std::fs::write(hq.join(format!("{n}-{name}")), body).unwrap();
                symlink(format!("../{n}-{name}"), hq.join(format!("d/{n}-{name}"))).unwrap();
            }
            let socket = cluster.site("hq").state().join("control.sock");
            run(common::NEARSHARE, &["scan", "docs", "--socket", socket.to_str().unwrap()]);
            cluster.settle();

            let mut client = cluster.site(name).client();
            let path = |n: &str| format!("/docs/d/{n}-{name}");
            client.put(&path("a"), name.as_bytes()).unwrap().expect(&[204]);
            assert_eq!(client.get(&path("a")).unwrap().expect(&[200]).text(), name);
            let target = client.get(&format!("/docs/a-{name}")).unwrap().expect(&[200]).text();
            assert_eq!(target, if server == Server::Embedded { name } else { "1" });
            // These are about the link itself.
            client.delete(&path("b")).unwrap().expect(&[204]);
            client.transfer("MOVE", &path("c"), &path("moved")).unwrap().expect(&[201, 204]);
            cluster.settle();
            assert_eq!(std::fs::read(hq.join(format!("b-{name}"))).unwrap(), b"2");
            assert!(hq.join(format!("d/moved-{name}")).is_symlink());
        }
    }
}

#[test]
fn with_the_link_cut_reads_go_on_and_writes_are_refused() {
    let cluster = settled(Server::Nginx);
    let mut osaka = cluster.site("osaka").client();
    wait_for("a near read at osaka", || served_by(&mut osaka, "/docs/first.txt") == "osaka");
    cluster.cable("osaka").cut();
    assert_eq!(osaka.get("/docs/first.txt").unwrap().expect(&[200]).text(), "first");
    wait_for("the write to be refused at once", || {
        let answer = osaka.put("/docs/late.txt", b"late").unwrap();
        if answer.status == 503 {
            assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
        }
        answer.status == 503
    });
    let mut hq = cluster.site("hq").client();
    hq.put("/docs/meanwhile.txt", b"meanwhile").unwrap().expect(&[201]);
    hq.put("/docs/first.txt", b"second").unwrap().expect(&[201, 204]);
    // Its lease is over: it may not answer until it is cut off for certain, and then with what it has.
    wait_for("reads at the copy to go on", || {
        let answer = osaka.get("/docs/first.txt").unwrap().expect(&[200, 503]);
        assert_eq!(answer.status == 503, answer.header("retry-after").is_some());
        answer.status == 200 && answer.text() == "first"
    });
    // What the copy lacks is known at the primary, in bytes and seconds too.
    wait_for("the lag of osaka at hq", || {
        let status = cluster.site("hq").status().unwrap();
        let copies = status["shares"][0]["copies"].as_array().unwrap().clone();
        let osaka = copies.iter().find(|copy| copy["site"] == "osaka").unwrap();
        // One record or two.
        let bytes = osaka["lag_bytes"].as_u64().unwrap();
        let seconds = osaka["lag_seconds"].as_f64().unwrap();
        osaka["lag_records"] != 0 && bytes >= "meanwhilesecond".len() as u64 && seconds > 0.0
    });
    assert_eq!(served_by(&mut osaka, "/docs/first.txt"), "osaka");
    cluster.cable("osaka").heal();
    cluster.settle();
    assert_eq!(osaka.get("/docs/first.txt").unwrap().expect(&[200]).text(), "second");
    wait_for("writes to pass again", || {
        matches!(osaka.put("/docs/late.txt", b"late").unwrap().status, 201 | 204)
    });
    cluster.settle();
}

#[test]
fn a_site_without_a_copy_forwards_everything() {
    let mut plan = Plan::three(Server::Nginx);
    plan.site("lyon").role = "remote";
    let cluster = plan.start();
    let mut lyon = cluster.site("lyon").client();
    // The link is made in the background: until then the answer is "try again".
    wait_for("the write to pass", || lyon.put("/docs/a.txt", b"from afar").unwrap().status == 201);
    assert_eq!(served_by(&mut lyon, "/docs/a.txt"), "hq");
    cluster.settle();
    assert!(!cluster.site("lyon").share().join("a.txt").exists());
}

#[test]
fn a_site_that_the_primarys_map_gives_no_part_is_refused_until_it_has_one() {
    let mut plan = Plan::three(Server::Embedded);
    plan.site("lyon").role = "remote";
    let mut cluster = plan.prepare();
    let (map, own) = (cluster.map.clone(), cluster.dir.path().join("hq.toml"));
    let whole = std::fs::read_to_string(&map).unwrap();
    let part = "lyon = { role = \"remote\" }\n";
    assert!(whole.contains(part));
    std::fs::write(&own, whole.replace(part, "")).unwrap();
    std::fs::write(cluster.site("hq").share().join("first.txt"), b"first").unwrap();
    cluster.site_mut("hq").start(&own, "hq");
    for name in ["osaka", "lyon"] {
        cluster.site_mut(name).start(&map, "hq");
    }
    for name in SITES {
        cluster.site(name).wait_ready();
    }
    let mut lyon = cluster.site("lyon").client();
    let mut ask = |want: u16| {
        let answer = lyon.get("/docs/first.txt").unwrap();
        // The link is made in the background.
        assert!([want, 503].contains(&answer.status), "{}: {}", answer.status, answer.text());
        answer.status == want
    };
    wait_for("the refusal", || ask(403));
    cluster.site("osaka").client().put("/docs/new.txt", b"new").unwrap().expect(&[201, 503]);

    std::fs::write(&own, &whole).unwrap();
    let socket = cluster.site("hq").state().join("control.sock");
    run(common::NEARSHARE, &["reload", "--socket", socket.to_str().unwrap()]);
    assert!(ask(200));
    cluster.settle();
}

#[test]
fn an_empty_directory_is_never_taken_for_all_deleted() {
    let mut cluster = settled(Server::Nginx);
    cluster.site_mut("hq").terminate();
    let share = cluster.site("hq").share();
    let aside = share.with_file_name("docs-unmounted");
    std::fs::rename(&share, &aside).unwrap();
    std::fs::create_dir(&share).unwrap();
    let map = cluster.map.clone();
    cluster.site_mut("hq").start(&map, "hq");
    wait_for("hq to say what is wrong", || {
        cluster.site("hq").log_text().contains(share.to_str().unwrap())
            && cluster.site("hq").log_text().contains("mount or restore")
    });
    // Whatever hq does now, the copies keep what they have.
    std::thread::sleep(Duration::from_secs(2));
    for copy in ["osaka", "lyon"] {
        assert_eq!(std::fs::read(cluster.site(copy).share().join("first.txt")).unwrap(), b"first");
    }
    std::fs::remove_dir_all(&share).unwrap();
    std::fs::rename(&aside, &share).unwrap();
    cluster.site_mut("hq").kill();
    cluster.start("hq");
    cluster.site("hq").client().put("/docs/back.txt", b"back").unwrap().expect(&[201]);
    cluster.settle();
}

#[test]
fn no_write_is_acknowledged_into_a_directory_that_is_not_the_share() {
    let cluster = settled(Server::Nginx);
    let share = cluster.site("hq").share();
    let aside = share.with_file_name("docs-unmounted");
    std::fs::rename(&share, &aside).unwrap();
    std::fs::create_dir(&share).unwrap();
    for name in SITES {
        let answer = cluster.site(name).client().put("/docs/lost.txt", b"lost").unwrap();
        answer.expect(&[503]);
    }
    // Nor is anything said to be missing.
    cluster.site("hq").client().get("/docs/first.txt").unwrap().expect(&[503]);
    std::fs::remove_dir(&share).expect("nothing was written there");
    std::fs::rename(&aside, &share).unwrap();
    wait_for("writes to pass again", || {
        cluster.site("osaka").client().put("/docs/back.txt", b"back").unwrap().is_success()
    });
    cluster.settle();
}

/// Its server says of everything that it is not there; it is not believed.
#[test]
fn a_copy_whose_directory_is_away_does_not_say_that_nothing_is_there() {
    for server in [Server::Nginx, Server::Embedded] {
        let cluster = settled(server);
        let share = cluster.site("osaka").share();
        let aside = share.with_file_name("docs-unmounted");
        let mut client = cluster.site("osaka").client();
        wait_for("a lease", || {
            client.get("/docs/first.txt").unwrap().expect(&[200]);
            cluster.site("osaka").status().unwrap()["shares"][0]["copy"]["lease"] == "live"
        });
        std::fs::rename(&share, &aside).unwrap();
        std::fs::create_dir(&share).unwrap();
        let until = Instant::now() + Duration::from_secs(3);
        let mut refused = 0;
        while Instant::now() < until {
            // It is answered from home while the lease is renewed.
            let read = client.get("/docs/first.txt").unwrap().expect(&[200, 503]);
            let list = client.propfind("/docs/", "1").unwrap().expect(&[207, 503]);
            assert!(list.status == 503 || list.text().contains("first.txt"), "{}", list.text());
            refused += u32::from(read.status == 503);
        }
        assert!(refused > 0);
        wait_for("osaka to say so", || told(&cluster, "osaka").0.contains("mount or restore"));
        std::fs::remove_dir(&share).unwrap();
        std::fs::rename(&aside, &share).unwrap();
        wait_for("osaka to go on", || client.get("/docs/first.txt").unwrap().status == 200);
        cluster.settle();
    }
}

#[test]
fn hostile_paths_stay_inside() {
    let cluster = settled(Server::Nginx);
    for name in ["hq", "osaka"] {
        let site = cluster.site(name);
        std::fs::write(site.home.join("secret.txt"), b"secret").unwrap();
        let mut client = site.client();
        client.timeout = Duration::from_secs(10);
        let overlong = format!("/docs/{}", "x".repeat(300));
        for path in [
            "/docs/../../secret.txt",
            "/docs/%2e%2e/%2e%2e/secret.txt",
            "/docs/..%2f..%2fsecret.txt",
            "/docs/a%00b",
            "/docs/%ff%fe",
            "/docs/.nearshare/",
            overlong.as_str(),
        ] {
            for method in ["GET", "PUT", "DELETE", "PROPFIND", "MKCOL"] {
                let answer = site.client().send(method, path, &[], b"").unwrap();
                // Any bytes are a name: this one is made and deleted like another.
                let harmless = answer.status < 300 && path.contains("%ff");
                assert!(
                    (400..500).contains(&answer.status) || harmless,
                    "{method} {path}: {}",
                    answer.status
                );
                assert!(!answer.text().contains("secret"), "{method} {path}: {}", answer.text());
            }
        }
        assert_eq!(
            client.send("MOVE", "/docs/first.txt", &[("Destination", "/out.txt")], b"").unwrap().status,
            502
        );
        assert_eq!(client.send("DELETE", "/", &[], b"").unwrap().status, 403);
        assert!(!site.www.join("out.txt").exists());
    }
    cluster.settle();
}

/// A link is a file like another and is copied as it is: it must not lead anybody out, at no site.
#[test]
fn a_link_out_of_the_share_leads_nobody_out() {
    const SECRET: &[u8] = b"for nobody's eyes";
    for server in [Server::Nginx, Server::Embedded] {
        let mut cluster = Plan::three(server).prepare();
        for site in &cluster.sites {
            std::fs::write(site.home.join("secret.txt"), SECRET).unwrap();
        }
        let hq = cluster.site("hq").share();
        std::fs::write(hq.join("first.txt"), "first").unwrap();
        // To the same place of every site, and to one of all.
        symlink("../../secret.txt", hq.join("file")).unwrap();
        symlink("../..", hq.join("dir")).unwrap();
        symlink(cluster.site("hq").home.join("secret.txt"), hq.join("far")).unwrap();
        symlink("dir", hq.join("twice")).unwrap();
        cluster.start_all();
        cluster.settle();
        let paths = ["/docs/file", "/docs/far", "/docs/dir/secret.txt", "/docs/twice/secret.txt"];
        for name in SITES {
            let mut client = cluster.site(name).client();
            if server == Server::Nginx {
                wait_for("a near read", || served_by(&mut client, "/docs/first.txt") == name);
            }
            for path in paths {
                for method in ["GET", "HEAD", "PUT", "PROPFIND"] {
                    let answer = client.send(method, path, &[("Depth", "0")], b"").unwrap();
                    assert_eq!(answer.status, 403, "{method} {path} at {name}: {}", answer.text());
                }
                let to = client.transfer("COPY", "/docs/first.txt", path).unwrap();
                assert_eq!(to.status, 403, "COPY to {path} at {name}: {}", to.text());
                let from = client.transfer("COPY", path, "/docs/taken.txt").unwrap();
                assert_eq!(from.status, 403, "COPY of {path} at {name}: {}", from.text());
            }
            let list = client.propfind("/docs/dir/", "1").unwrap();
            assert_eq!(list.status, 403, "{}", list.text());
        }
        for site in &cluster.sites {
            assert_eq!(std::fs::read(site.home.join("secret.txt")).unwrap(), SECRET, "{}", site.name);
            assert!(!site.share().join("taken.txt").exists());
        }
        cluster.settle();
    }
}

/// The tag of our own server is of the object and its version, whichever site answers.
#[test]
fn a_file_has_one_entity_tag_at_all_sites() {
    let mut plan = Plan::three(Server::Embedded);
    plan.site("osaka").server = Some(Server::Nginx);
    let cluster = plan.start();
    let mut hq = cluster.site("hq").client();
    hq.put("/docs/first.txt", b"first").unwrap().expect(&[201]);
    cluster.settle();
    let mut last = String::new();
    for text in ["one", "two"] {
        // Too much to come with its record: it is fetched.
        let text = text.repeat(1_000_000);
        hq.put("/docs/f", text.as_bytes()).unwrap().expect(&[201, 204]);
        cluster.settle();
        let mut tag = None;
        // The primary has one as soon as it has looked at the file.
        wait_for("a tag at hq", || {
            let answer = hq.get("/docs/f").unwrap().expect(&[200]);
            tag = answer.header("etag").map(str::to_owned);
            tag.is_some()
        });
        let tag = tag.unwrap();
        let (id, version) = tag.trim_matches('"').split_once('-').unwrap();
        let hexadecimal = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        assert!(tag.starts_with('"') && id.len() == 32 && id.chars().all(hexadecimal), "{tag}");
        assert!(version.parse::<u64>().is_ok(), "{tag}");
        assert_ne!(tag, last);
        // With the cable cut only the copy can answer.
        for copy in ["lyon", "osaka"] {
            let mut client = cluster.site(copy).client();
            cluster.cable(copy).cut();
            wait_for(&format!("an answer of {copy} itself"), || {
                let answer = client.get("/docs/f").unwrap().expect(&[200, 503]);
                if answer.status == 200 && answer.header("cache-status").is_some() {
                    let seen = (answer.header("etag"), answer.text() == text);
                    assert_eq!(seen, (Some(&*tag), true), "{copy}");
                    return true;
                }
                false
            });
            cluster.cable(copy).heal();
        }
        last = tag.to_owned();
        for copy in ["lyon", "osaka"] {
            cluster.site(copy).wait_linked();
        }
    }
}

#[test]
fn what_is_no_share_passes_untouched() {
    let cluster = settled(Server::Nginx);
    for name in SITES {
        let site = cluster.site(name);
        std::fs::write(site.www.join("own.txt"), name).unwrap();
        assert_eq!(site.client().get("/own.txt").unwrap().expect(&[200]).text(), name);
        site.client().put("/mine.txt", name.as_bytes()).unwrap().expect(&[201]);
        assert_eq!(std::fs::read_to_string(site.www.join("mine.txt")).unwrap(), name);
    }
}

#[test]
fn curl_and_ranges() {
    let cluster = settled(Server::Nginx);
    let body: Vec<u8> = (0..3_000_000_u32).map(|i| (i / 7) as u8).collect();
    let file = cluster.dir.path().join("body");
    std::fs::write(&file, &body).unwrap();
    for name in SITES {
        let url = format!("http://{}/docs/curl-{name}", cluster.site(name).door);
        run(
            "curl",
            &[
                "-sSf",
                "--expect100-timeout",
                "20",
                "-H",
                "Expect: 100-continue",
                "-T",
                file.to_str().unwrap(),
                &url,
            ],
        );
        run("curl", &["-sSf", "-H", "Transfer-Encoding: chunked", "-T", file.to_str().unwrap(), &url]);
    }
    cluster.settle();
    for name in SITES {
        let mut client = cluster.site("osaka").client();
        let path = format!("/docs/curl-{name}");
        assert!(client.get(&path).unwrap().expect(&[200]).body == body, "{path}");
        let part = client.send("GET", &path, &[("Range", "bytes=1000000-1000999")], b"").unwrap();
        assert!(part.expect(&[206]).body == body[1_000_000..1_001_000], "{path}");
        let head = client.send("HEAD", &path, &[], b"").unwrap().expect(&[200]);
        assert_eq!(head.header("content-length"), Some("3000000"));
    }
}

#[test]
fn a_dead_server_is_said_so() {
    let mut cluster = settled(Server::Nginx);
    cluster.site_mut("hq").nginx = None;
    let answer = cluster.site("hq").client().get("/docs/first.txt").unwrap();
    assert!(matches!(answer.status, 502 | 504), "{}", answer.status);
    let answer = cluster.site("lyon").client().put("/docs/no.txt", b"no").unwrap();
    assert!(matches!(answer.status, 502..=504), "{}", answer.status);
    cluster.site_mut("hq").start_nginx();
    wait_for("the server to be used again", || {
        cluster.site("lyon").client().put("/docs/yes.txt", b"yes").unwrap().is_success()
    });
    cluster.settle();
}

/// What `nearshare status` says at a site, and whether it finds all well.
fn told(cluster: &Cluster, name: &str) -> (String, bool) {
    let socket = cluster.site(name).state().join("control.sock");
    let output = nearshare(&["status", "--socket", socket.to_str().unwrap()]);
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
}

#[test]
fn a_dead_server_and_copies_that_never_came_are_said_before_any_client_meets_them() {
    let mut cluster = Plan::three(Server::Nginx).prepare();
    let map = cluster.map.clone();
    cluster.site_mut("hq").start_with(&map, &[]);
    wait_for("hq to say that its server is dead", || {
        let (text, ok) = told(&cluster, "hq");
        !ok && text.contains("is down: connect to the server")
    });
    let missed = |text: &str, site: &str| text.contains(&format!("{site} has had no link to here for"));
    wait_for("hq to miss its copies", || {
        let (text, ok) = told(&cluster, "hq");
        for site in ["osaka", "lyon"] {
            assert!(text.contains(&format!("copy at {site}: never heard of")), "{text}");
        }
        !ok && missed(&text, "osaka") && missed(&text, "lyon")
    });
    let links = cluster.site("hq").status().unwrap()["links"].clone();
    let down = links.as_array().unwrap().iter().filter(|link| link["up"] == false).count();
    assert_eq!(down, 2, "{links}");
    // Both are there at last, and the server.
    cluster.site_mut("hq").start_nginx();
    cluster.site_mut("osaka").start(&map, "hq");
    cluster.site_mut("lyon").start(&map, "hq");
    wait_for("hq to find all well", || told(&cluster, "hq").1);
}

#[test]
fn a_start_that_goes_well_warns_of_nothing_that_passes() {
    let cluster = settled(Server::Embedded);
    for name in SITES {
        let log = cluster.site(name).log_text();
        let warned =
            log.lines().find(|line| line.contains("WARN") && line.contains("cannot be followed"));
        assert_eq!(warned, None, "{name}");
    }
}

#[test]
fn a_map_that_one_site_has_alone_is_shown_at_both_ends_of_a_link() {
    let cluster = settled(Server::Embedded);
    let reload = |name: &str| {
        let socket = cluster.site(name).state().join("control.sock");
        run(common::NEARSHARE, &["reload", "--socket", socket.to_str().unwrap()]);
    };
    cluster.write_map(2);
    reload("hq");
    let soon = Duration::from_secs(10);
    for (name, said) in [("hq", "(serial 1, ours is 2)"), ("osaka", "(serial 2, ours is 1)")] {
        wait_until(&format!("{name} to show it"), soon, || {
            let (text, _) = told(&cluster, name);
            assert!(!text.contains("otherwise than ours"), "the shares are the same: {text}");
            if text.contains(&format!("has another map {said}")) { Ok(()) } else { Err(text) }
        });
    }
    reload("osaka");
    reload("lyon");
    for name in SITES {
        wait_until(&format!("{name} to see one map"), soon, || {
            let (text, _) = told(&cluster, name);
            if text.contains("has another map") { Err(text) } else { Ok(()) }
        });
    }
}

/// It takes connections and says nothing.
#[test]
fn a_server_that_hangs_is_not_waited_for_longer_than_the_map_says() {
    let mut plan = Plan::three(Server::Nginx);
    plan.site("hq").server_timeout = Some("1s");
    let cluster = plan.start();
    let mut hq = cluster.site("hq").client();
    hq.put("/docs/first.txt", b"first").unwrap().expect(&[201]);
    cluster.settle();
    let nginx = cluster.site("hq").nginx.as_ref().unwrap();
    nginx.freeze();
    for (name, method) in [("hq", "GET"), ("hq", "PUT"), ("lyon", "PUT")] {
        let mut client = cluster.site(name).client();
        let began = Instant::now();
        let path = if method == "GET" { "/docs/first.txt" } else { &*format!("/docs/from-{name}") };
        let answer = client.send(method, path, &[], b"").unwrap();
        assert_eq!(answer.status, 504, "{method} at {name}: {}", answer.text());
        assert!(began.elapsed() < Duration::from_secs(5), "{method} at {name}: {:?}", began.elapsed());
    }
    nginx.thaw();
    // Whatever becomes of the changes whose end nobody knows, it becomes of them at all sites.
    wait_for("the server to be used again", || {
        cluster.site("lyon").client().put("/docs/yes.txt", b"yes").unwrap().is_success()
    });
    cluster.settle();
}
