//! Entity tags are one language at all sites: what a client was told at one is understood at every other,
//! whatever server is behind it.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::collections::HashMap;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use common::cluster::{Cluster, Plan, Server, nearshare};
use common::http::{Client, Response};
use common::seeds::seeds;
use common::{Rng, wait_for, wait_until};

const SITES: [&str; 3] = ["hq", "osaka", "lyon"];

/// nginx at HQ and Osaka, the embedded server at Lyon.
fn mixed() -> Cluster {
    let mut plan = Plan::three(Server::Nginx);
    plan.site("lyon").server = Some(Server::Embedded);
    let cluster = plan.start();
    cluster.site("hq").client().put("/docs/first.txt", b"first").unwrap().expect(&[201]);
    cluster.settle();
    cluster
}

fn ask(client: &mut Client, path: &str, fields: &[(&str, &str)]) -> Response {
    client.send("GET", path, fields, b"").unwrap()
}

/// The tag that a site gives, as soon as it knows which version it has.
fn tag_at(cluster: &Cluster, site: &str, path: &str, fields: &[(&str, &str)]) -> String {
    let mut client = cluster.site(site).client();
    let mut tag = None;
    wait_for(&format!("a tag of {path} at {site}"), || {
        let answer = ask(&mut client, path, fields).expect(&[200, 503]);
        tag = answer.header("etag").map(str::to_owned);
        tag.is_some()
    });
    tag.unwrap()
}

/// The one tag that all sites give.
fn tag_everywhere(cluster: &Cluster, path: &str, fields: &[(&str, &str)]) -> String {
    let tags = SITES.map(|site| tag_at(cluster, site, path, fields));
    assert_eq!([&tags[1], &tags[2]], [&tags[0]; 2], "{path}");
    tags[0].clone()
}

/// Waits until the site's own server answers.
fn near(cluster: &Cluster, site: &str, path: &str) {
    let mut client = cluster.site(site).client();
    let nginx = cluster.site(site).nginx.is_some();
    wait_for(&format!("a near read at {site}"), || {
        client.get(path).unwrap().header("x-served-by") == nginx.then_some(site)
    });
}

#[test]
fn a_tag_of_one_site_is_good_at_every_site() {
    let cluster = mixed();
    let mut hq = cluster.site("hq").client();
    hq.put("/docs/f", b"old").unwrap().expect(&[201]);
    let old = tag_everywhere(&cluster, "/docs/f", &[]);
    let answer = hq.put("/docs/f", b"0123456789").unwrap().expect(&[204]);
    assert_eq!(answer.header("etag"), None, "nobody has looked at it yet");
    cluster.settle();
    let tag = tag_everywhere(&cluster, "/docs/f", &[]);
    assert_ne!(tag, old);
    let modified = hq.get("/docs/f").unwrap().header("last-modified").unwrap().to_owned();
    let server = cluster.site("hq").nginx.as_ref().unwrap().address;
    let foreign = Client::new(server).get("/docs/f").unwrap().header("etag").unwrap().to_owned();
    let (weak, list) = (format!("W/{tag}"), format!("{old}, \"x\" , {tag}"));
    for site in SITES {
        near(&cluster, site, "/docs/f");
        let mut client = cluster.site(site).client();
        let mut check = |method: &str, fields: &[(&str, &str)], status: u16, body: &str| {
            let answer = client.send(method, "/docs/f", fields, b"").unwrap();
            let case = format!("{site}: {method} {fields:?}: {:?}", answer.headers);
            assert_eq!((answer.status, &*answer.text()), (status, body), "{case}");
            if cluster.site(site).nginx.is_some() {
                assert_eq!(answer.header("x-served-by"), Some(site), "{case}");
            }
            answer
        };
        let whole = "0123456789";
        for known in [&tag, &weak, &list] {
            let answer = check("GET", &[("If-None-Match", known)], 304, "");
            let named = if known == &weak { &weak } else { &tag };
            assert_eq!(answer.header("etag"), Some(&**named), "{site}");
            check("HEAD", &[("If-None-Match", known)], 304, "");
            // A date says nothing where a tag is named.
            let long_ago = "Thu, 01 Jan 1970 00:00:01 GMT";
            check("GET", &[("If-None-Match", known), ("If-Modified-Since", long_ago)], 304, "");
        }
        check("GET", &[("If-None-Match", "*")], 304, "");
        for unknown in [&old, &foreign, &"\"x\"".into(), &"rubbish".into()] {
            let answer = check("GET", &[("If-None-Match", unknown)], 200, whole);
            assert_eq!(answer.header("etag"), Some(&*tag), "{site}");
            assert_eq!(answer.header("last-modified"), Some(&*modified), "{site}");
            check("GET", &[("If-None-Match", unknown), ("If-Modified-Since", &modified)], 200, whole);
        }
        check("GET", &[("If-Modified-Since", &modified)], 304, "");
        check("GET", &[("If-Match", &tag)], 200, whole);
        check("GET", &[("If-Match", &format!("{old}, {tag}"))], 200, whole);
        check("GET", &[("If-Match", "*")], 200, whole);
        let range = ("Range", "bytes=2-4");
        let part = check("GET", &[range, ("If-Range", &tag)], 206, "234");
        assert_eq!(part.header("etag"), Some(&*tag), "{site}");
        check("GET", &[range, ("If-Range", &modified)], 206, "234");
        check("GET", &[range, ("If-Match", &tag)], 206, "234");
        check("GET", &[("Range", "bytes=-2"), ("If-Range", &tag)], 206, "89");
        for unknown in [&old, &weak, &foreign] {
            check("GET", &[range, ("If-Range", unknown)], 200, whole);
        }
        let several = ask(&mut client, "/docs/f", &[("Range", "bytes=0-1,8-9"), ("If-Range", &tag)]);
        assert!(several.status == 206 && several.text().contains("\r\n89\r\n"), "{}", several.text());
        let beyond = ask(&mut client, "/docs/f", &[("Range", "bytes=99-"), ("If-Range", &tag)]);
        assert_eq!(beyond.status, 416, "{site}");
        for unknown in [&old, &weak, &foreign, &"\"x\"".into()] {
            let answer = ask(&mut client, "/docs/f", &[("If-Match", unknown)]);
            assert_eq!(answer.status, 412, "{site}: {unknown}");
        }
        // Of nothing no tag is right.
        let missing = ask(&mut client, "/docs/none", &[("If-None-Match", &tag)]);
        assert_eq!(missing.status, 404, "{site}");
    }
}

#[test]
fn changes_are_made_for_those_who_know_what_is_there() {
    let cluster = mixed();
    for (n, site) in SITES.iter().enumerate() {
        let mut client = cluster.site(site).client();
        let path = format!("/docs/g{n}");
        let mut change = |method: &str, fields: &[(&str, &str)], status: u16| {
            let body: &[u8] = if method == "PUT" { b"text" } else { b"" };
            let answer = client.send(method, &path, fields, body).unwrap();
            // nginx says of a copy that is new that it was there.
            let said = if (method, answer.status) == ("COPY", 204) { 201 } else { answer.status };
            assert_eq!(said, status, "{site}: {method} {fields:?}: {}", answer.text());
        };
        change("PUT", &[("If-Match", "*")], 412);
        change("DELETE", &[("If-Match", "*")], 412);
        change("PUT", &[("If-None-Match", "*")], 201);
        change("PUT", &[("If-None-Match", "*")], 412);
        let tag = tag_everywhere(&cluster, &path, &[]);
        let (weak, list) = (format!("W/{tag}"), format!("\"x\", {tag}"));
        change("PUT", &[("If-None-Match", &tag)], 412);
        change("PUT", &[("If-None-Match", &weak)], 412);
        for wrong in [&weak, &"\"x\"".to_owned(), &"rubbish".to_owned()] {
            change("PUT", &[("If-Match", wrong)], 412);
            change("DELETE", &[("If-Match", wrong)], 412);
        }
        change("PUT", &[("If-Match", &list)], 204);
        // Right away: nobody has looked at what is there now.
        change("PUT", &[("If-Match", &tag)], 412);
        change("PUT", &[("If-None-Match", &tag)], 204);
        let tag = tag_everywhere(&cluster, &path, &[]);
        change("MKCOL", &[("If-None-Match", "*")], 412);
        let to = format!("http://{}/docs/moved{n}", cluster.site(site).door);
        change("MOVE", &[("Destination", &to), ("If-Match", "\"x\"")], 412);
        change("COPY", &[("Destination", &to), ("If-Match", &tag)], 201);
        change("DELETE", &[("If-Match", &tag)], 204);
        change("DELETE", &[("If-Match", &tag)], 412);
    }
    cluster.settle();
}

/// Of two clients that know the same version one wins, wherever they are.
#[test]
fn two_racing_changes_never_both_win() {
    let cluster = mixed();
    let mut hq = cluster.site("hq").client();
    for seed in seeds(1) {
        let mut rng = Rng::new(seed);
        for round in 0..40 {
            let fresh = round % 4 == 0;
            let path =
                if fresh { format!("/docs/new-{seed}-{round}") } else { "/docs/first.txt".into() };
            let condition = match fresh {
                true => ("If-None-Match", "*".to_owned()),
                false => ("If-Match", tag_at(&cluster, SITES[round % 3], &path, &[])),
            };
            let barrier = Barrier::new(4);
            let delays: Vec<_> = (0..4).map(|_| rng.below(4)).collect();
            let sites = ["osaka", "lyon", "osaka", "hq"];
            let answers: Vec<(u16, String)> = std::thread::scope(|scope| {
                let racers: Vec<_> = (0..4)
                    .map(|n| {
                        let mut client = cluster.site(sites[n]).client();
                        let (barrier, path, condition, delay) = (&barrier, &path, &condition, delays[n]);
                        scope.spawn(move || {
                            let text = format!("{seed} {round} {n}");
                            barrier.wait();
                            std::thread::sleep(Duration::from_millis(delay));
                            let fields = [(condition.0, &*condition.1)];
                            let answer = client.send("PUT", path, &fields, text.as_bytes()).unwrap();
                            (answer.status, text)
                        })
                    })
                    .collect();
                racers.into_iter().map(|racer| racer.join().unwrap()).collect()
            });
            let (won, lost): (Vec<_>, Vec<_>) =
                answers.iter().partition(|(status, _)| (200..300).contains(status));
            assert_eq!(won.len(), 1, "seed {seed}, round {round}: {answers:?}");
            assert!(lost.iter().all(|(status, _)| *status == 412), "round {round}: {answers:?}");
            assert_eq!(hq.get(&path).unwrap().text(), won[0].1);
        }
    }
    cluster.settle();
}

/// nginx compresses anew each time: such a form has a weak tag, good to be kept and not for parts.
#[test]
fn what_is_compressed_on_the_way_has_a_weak_tag() {
    let cluster = mixed();
    let text = "body { color: red }\n".repeat(1000);
    let mut hq = cluster.site("hq").client();
    hq.put("/docs/f.css", text.as_bytes()).unwrap().expect(&[201]);
    cluster.settle();
    let plain = tag_everywhere(&cluster, "/docs/f.css", &[]);
    let gzip = ("Accept-Encoding", "gzip");
    let coded = format!("W/{}-gzip\"", plain.trim_end_matches('"'));
    for site in ["hq", "osaka"] {
        assert_eq!(tag_at(&cluster, site, "/docs/f.css", &[gzip]), coded);
    }
    let (strong, range) = (coded.trim_start_matches("W/").to_owned(), ("Range", "bytes=0-3"));
    for site in SITES {
        let mut client = cluster.site(site).client();
        let mut status = |fields: &[(&str, &str)]| ask(&mut client, "/docs/f.css", fields);
        let kept = status(&[gzip, ("If-None-Match", &coded)]);
        assert_eq!((kept.status, kept.header("etag")), (304, Some(&*coded)), "{site}");
        assert_eq!(status(&[gzip, ("If-None-Match", &plain)]).status, 304, "{site}");
        // Who cannot read what it has kept gets something else.
        let other = status(&[("Accept-Encoding", "identity"), ("If-None-Match", &coded)]);
        assert_eq!((other.status, other.text() == text), (200, true), "{site}");
        for tag in [&coded, &strong] {
            assert_eq!(status(&[gzip, range, ("If-Range", tag)]).status, 200, "{site}: {tag}");
        }
        // A part is of the file itself, or all of it comes.
        let part = status(&[gzip, range, ("If-Range", &plain)]);
        let whole = part.status == 200 && part.header("content-encoding") == Some("gzip");
        assert!(whole || (part.status, &*part.text()) == (206, "body"), "{site}: {part:?}");
        assert_eq!(
            client.send("PUT", "/docs/f.css", &[("If-Match", &coded)], b"x").unwrap().status,
            412
        );
    }
    hq.send("PUT", "/docs/f.css", &[("If-Match", &plain)], b"x").unwrap().expect(&[204]);
}

#[test]
fn a_listing_tells_the_same_tags() {
    let mut plan = Plan::three(Server::Embedded);
    plan.site("osaka").server = Some(Server::Nginx);
    let cluster = plan.start();
    cluster.site("lyon").client().put("/docs/a%20b", b"text").unwrap().expect(&[201]);
    cluster.settle();
    let tag = tag_everywhere(&cluster, "/docs/a%20b", &[]);
    for site in ["hq", "lyon"] {
        let mut client = cluster.site(site).client();
        wait_until(&format!("the tag in a listing of {site}"), common::PATIENCE, || {
            let listed = client.propfind("/docs/", "1").unwrap().expect(&[207]).text();
            let found = listed.contains(&format!("<D:getetag>{tag}</D:getetag>"));
            if found { Ok(()) } else { Err(listed) }
        });
    }
}

#[test]
fn tags_stay_over_restarts_and_when_the_primary_moves() {
    let mut cluster = mixed();
    let tag = tag_everywhere(&cluster, "/docs/first.txt", &[]);
    for site in SITES {
        if site == "osaka" {
            cluster.site_mut(site).kill();
        } else {
            cluster.site_mut(site).terminate();
        }
        cluster.start(site);
    }
    assert_eq!(tag_everywhere(&cluster, "/docs/first.txt", &[]), tag);
    cluster.site("osaka").wait_linked();
    let socket = cluster.site("osaka").state().join("control.sock");
    let promote = ["promote", "docs", "--to", "osaka", "--socket", socket.to_str().unwrap()];
    wait_until("osaka to lead", common::PATIENCE, || {
        let said = nearshare(&promote);
        if said.status.success() { Ok(()) } else { Err(format!("{said:?}")) }
    });
    assert_eq!(tag_everywhere(&cluster, "/docs/first.txt", &[]), tag);
    for site in SITES {
        let mut client = cluster.site(site).client();
        // Who follows another primary has to find it first.
        wait_for(&format!("an answer of {site}"), || {
            let kept = ask(&mut client, "/docs/first.txt", &[("If-None-Match", &tag)]);
            kept.expect(&[304, 503]).status == 304
        });
    }
    for site in SITES {
        let mut client = cluster.site(site).client();
        let known = tag_at(&cluster, site, "/docs/first.txt", &[]);
        wait_until(&format!("a change from {site}"), common::PATIENCE, || {
            match client.send("PUT", "/docs/first.txt", &[("If-Match", &known)], site.as_bytes()) {
                Ok(answer) if answer.status == 204 => Ok(()),
                answer => Err(format!("{answer:?}")),
            }
        });
        let stale = client.send("PUT", "/docs/first.txt", &[("If-Match", &tag)], b"x").unwrap();
        assert_eq!(stale.status, 412);
    }
}

/// Contents of one size in one second, which the servers' own tags do not tell apart; a symbolic link that flips,
/// and directories that change places. A tag means one content, at whatever site it was seen.
#[test]
fn one_tag_is_one_content_while_files_change() {
    let cluster = mixed();
    let mut hq = cluster.site("hq").client();
    for dir in ["a", "b", "c"] {
        hq.mkcol(&format!("/docs/{dir}/")).unwrap().expect(&[201]);
        hq.put(&format!("/docs/{dir}/f"), format!("in {dir} 0000").as_bytes()).unwrap().expect(&[201]);
    }
    let share = cluster.site("hq").share();
    symlink("a", share.join("link")).unwrap();
    let stop = AtomicBool::new(false);
    let seen: Mutex<HashMap<String, String>> = Mutex::default();
    let (tagged, kept) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let note = |site: &str, path: &str, tag: &str, text: String| {
        let known = seen.lock().unwrap().insert(tag.to_owned(), text.clone());
        assert!(known.is_none_or(|known| known == text), "{site}: {path} {tag} is {text}");
        tagged.fetch_add(1, Ordering::Relaxed);
    };
    std::thread::scope(|scope| {
        for site in SITES {
            let mut client = cluster.site(site).client();
            let (stop, note, kept, seen) = (&stop, &note, &kept, &seen);
            scope.spawn(move || {
                let mut last: HashMap<&str, (String, String)> = HashMap::new();
                while !stop.load(Ordering::Relaxed) {
                    for path in ["/docs/a/f", "/docs/b/f", "/docs/link/f", "/docs/x/f"] {
                        let known = last.get(path).cloned();
                        let fields: Vec<(&str, &str)> = match &known {
                            Some((tag, _)) => vec![("If-None-Match", tag)],
                            None => Vec::new(),
                        };
                        let Ok(answer) = client.send("GET", path, &fields, b"") else { continue };
                        match (answer.status, answer.header("etag"), known) {
                            (200, Some(tag), _) => {
                                note(site, path, tag, answer.text());
                                last.insert(path, (tag.to_owned(), answer.text()));
                            }
                            (304, tag, Some((known, text))) => {
                                assert_eq!(tag, Some(&*known), "{site}");
                                assert_eq!(seen.lock().unwrap().get(&known), Some(&text));
                                kept.fetch_add(1, Ordering::Relaxed);
                            }
                            (200 | 404 | 503, ..) => drop(last.remove(path)),
                            (status, ..) => panic!("{site}: {path}: {status}"),
                        }
                    }
                }
            });
        }
        let begun = Instant::now();
        for n in 1.. {
            if begun.elapsed() > Duration::from_secs(8) {
                break;
            }
            let dir = ["a", "b", "c"][n % 3];
            let body = format!("in {dir} {n:04}");
            hq.put(&format!("/docs/{dir}/f"), body.as_bytes()).unwrap().expect(&[201, 204]);
            symlink(dir, share.join("flip")).unwrap();
            std::fs::rename(share.join("flip"), share.join("link")).unwrap();
            if n % 5 == 0 {
                hq.transfer("MOVE", "/docs/b/", "/docs/x/").unwrap().expect(&[201, 204]);
                hq.transfer("MOVE", "/docs/c/", "/docs/b/").unwrap().expect(&[201, 204]);
                hq.transfer("MOVE", "/docs/x/", "/docs/c/").unwrap().expect(&[201, 204]);
            }
            if n % 20 == 0 {
                std::thread::sleep(Duration::from_millis(300));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let (tagged, kept) = (tagged.into_inner(), kept.into_inner());
    assert!(tagged > 20 && kept > 20, "{tagged} tags, {kept} answers 304");
    println!("{tagged} tagged answers of {} contents, {kept} kept", seen.lock().unwrap().len());
}
