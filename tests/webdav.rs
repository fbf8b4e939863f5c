//! WebDAV through nearshare, in front of Apache, nginx and the embedded server, as its clients see it:
//! what a server can do, it can do at every site.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::cluster::{Cluster, Plan, Server, SitePlan};
use common::http::{Client, Response};
use common::litmus::litmus;
use common::wait_for;

/// HQ with the primary copy, Osaka with a copy.
fn pair(server: Server, keys: &str) -> Cluster {
    let sites = vec![SitePlan::new("hq", "local"), SitePlan::new("osaka", "broadcast")];
    let cluster = Plan { server, sites, keys: keys.to_owned() }.start();
    cluster.settle();
    cluster
}

/// What litmus leaves out while a file has no tag, which it has not in the moment after a change.
const TAGGED: [&str; 3] =
    ["locks 16. fail_cond_put", "locks 19. complex_cond_put", "locks 20. fail_complex_cond_put"];

/// With what is left out for want of a tag taken for passed. The words behind a status are each hop's own.
fn litmus_at(address: std::net::SocketAddr) -> Vec<String> {
    let said = litmus(&format!("http://{address}/docs/")).into_iter();
    let said = said.map(|line| match line.strip_suffix(": SKIPPED") {
        Some(test) if TAGGED.contains(&test) => format!("{test}: pass"),
        _ => line.replace("405 Method Not Allowed", "405 Not Allowed"),
    });
    said.collect()
}

/// Compares what was said test by test.
#[track_caller]
fn same(one: &[String], other: &[String]) {
    let only = |one: &[String], other: &[String]| {
        one.iter().filter(|line| !other.contains(line)).cloned().collect::<Vec<_>>().join("\n")
    };
    assert!(one == other, "gone:\n{}\nnew:\n{}", only(one, other), only(other, one));
}

/// What is said of the server itself, and at the two sites.
fn litmus_of(server: Server, keys: &str) -> (Vec<String>, [Vec<String>; 2]) {
    let cluster = pair(server, keys);
    let hq = litmus_at(cluster.primary().door);
    cluster.settle();
    let osaka = litmus_at(cluster.site("osaka").door);
    cluster.settle();
    // Behind nearshare's back, which has nothing to follow any more.
    (litmus_at(cluster.primary().server_address), [hq, osaka])
}

#[test]
fn litmus_says_of_apache_what_it_says_without_nearshare() {
    let (direct, sites) = litmus_of(Server::Apache, PROPERTIES);
    sites.iter().for_each(|said| same(&direct, said));
    let not: Vec<_> = direct.iter().filter(|line| !line.contains(": pass")).collect();
    assert!(not.iter().all(|line| line.contains("WARNING")), "{not:?}");
}

/// nginx alone carries out a DELETE whose URL has a fragment, which nothing in a request line is.
#[test]
fn litmus_says_of_nginx_what_it_says_without_nearshare() {
    let (mut direct, mut sites) = litmus_of(Server::Nginx, "");
    let taken = |said: &mut Vec<String>| -> Vec<String> {
        said.extract_if(.., |line| line.starts_with("basic 9. delete_fragment:")).collect()
    };
    let warning =
        "WARNING: DELETE removed collection resource with Request-URI including fragment; unsafe";
    let test = "basic 9. delete_fragment: ";
    assert_eq!(
        taken(&mut direct),
        [warning, "pass (with 1 warning)"].map(|said| test.to_owned() + said)
    );
    for said in &mut sites {
        assert_eq!(taken(said), [test.to_owned() + "pass"]);
        same(&direct, said);
    }
}

#[test]
fn litmus_says_of_the_embedded_server_the_same_at_every_site() {
    let cluster = pair(Server::Embedded, "");
    let hq = litmus_at(cluster.primary().door);
    cluster.settle();
    same(&hq, &litmus_at(cluster.site("osaka").door));
    // As of Apache, nothing fails and nothing is left out.
    let not: Vec<_> = hq.iter().filter(|line| !line.contains(": pass")).collect();
    assert!(not.iter().all(|line| line.contains("WARNING")), "{not:?}");
    assert!(hq.iter().any(|line| line.starts_with("props 27. propget: pass")), "{hq:?}");
    assert!(hq.iter().any(|line| line.starts_with("locks 40. finish")), "{hq:?}");
}

fn lock(client: &mut Client, path: &str, fields: &[(&str, &str)]) -> Response {
    const INFO: &[u8] =
        b"<?xml version=\"1.0\"?><D:lockinfo xmlns:D=\"DAV:\"><D:lockscope><D:exclusive/>\
        </D:lockscope><D:locktype><D:write/></D:locktype><D:owner>lyon</D:owner></D:lockinfo>";
    client.send("LOCK", path, fields, INFO).unwrap()
}

fn token(answer: &Response) -> String {
    answer.header("lock-token").unwrap().trim_matches(['<', '>']).to_owned()
}

fn locks_of(client: &mut Client, path: &str) -> String {
    const ASK: &[u8] = b"<propfind xmlns=\"DAV:\"><prop><lockdiscovery/></prop></propfind>";
    client.send("PROPFIND", path, &[("Depth", "0")], ASK).unwrap().expect(&[207]).text()
}

fn locks_hold_at_every_site(server: Server, keys: &str) {
    let cluster = Plan { keys: keys.to_owned(), ..Plan::three(server) }.start();
    let [mut hq, mut lyon, mut osaka] = ["hq", "lyon", "osaka"].map(|name| cluster.site(name).client());
    lyon.put("/docs/f", b"one").unwrap().expect(&[201]);
    let token = token(&lock(&mut lyon, "/docs/f", &[("Timeout", "Second-600")]).expect(&[200]));
    for client in [&mut hq, &mut lyon, &mut osaka] {
        assert!(locks_of(client, "/docs/f").contains(&token));
        client.put("/docs/f", b"two").unwrap().expect(&[423]);
        client.delete("/docs/f").unwrap().expect(&[423]);
        client.transfer("MOVE", "/docs/f", "/docs/g").unwrap().expect(&[423]);
        assert_eq!(lock(client, "/docs/f", &[]).status, 423);
    }
    let tagged = format!("<http://{}/docs/f> (<{token}>)", osaka.address());
    for field in [format!("(<{token}>)"), tagged] {
        osaka.send("PUT", "/docs/f", &[("If", &field)], b"three").unwrap().expect(&[204]);
    }
    assert_eq!(hq.get("/docs/f").unwrap().body, b"three");
    let held = format!("(<{token}>)");
    let refreshed = osaka.send("LOCK", "/docs/f", &[("If", &held), ("Timeout", "Second-900")], b"");
    assert!(refreshed.unwrap().expect(&[200]).text().contains(&token));
    let wrong = [("Lock-Token", "<opaquelocktoken:00000000-0000-0000-0000-000000000000>")];
    assert!(!hq.send("UNLOCK", "/docs/f", &wrong, b"").unwrap().is_success());
    hq.send("UNLOCK", "/docs/f", &[("Lock-Token", &format!("<{token}>"))], b"").unwrap().expect(&[204]);
    lyon.put("/docs/f", b"four").unwrap().expect(&[204]);
    assert!(!locks_of(&mut osaka, "/docs/f").contains(&token));
    cluster.settle();
}

#[test]
fn locks_of_apache_hold_at_every_site_and_over_its_restart() {
    locks_hold_at_every_site(Server::Apache, "");
    let mut cluster = pair(Server::Apache, "");
    let mut osaka = cluster.site("osaka").client();
    osaka.put("/docs/f", b"one").unwrap().expect(&[201]);
    let token = token(&lock(&mut osaka, "/docs/f", &[("Timeout", "Second-600")]).expect(&[200]));
    let hq = cluster.site_mut("hq");
    drop(hq.apache.take());
    hq.start_apache();
    wait_for("the server again", || osaka.get("/docs/f").unwrap().status == 200);
    osaka.put("/docs/f", b"two").unwrap().expect(&[423]);
    let held = format!("(<{token}>)");
    osaka.send("PUT", "/docs/f", &[("If", &held)], b"two").unwrap().expect(&[204]);
}

#[test]
fn apache_reads_near_and_writes_at_home() {
    let cluster = pair(Server::Apache, "");
    let mut osaka = cluster.site("osaka").client();
    osaka.put("/docs/f", b"one").unwrap().expect(&[201]);
    osaka.mkcol("/docs/d/").unwrap().expect(&[201]);
    osaka.transfer("MOVE", "/docs/f", "/docs/d/f").unwrap().expect(&[201]);
    wait_for("a near read", || {
        let answer = osaka.get("/docs/d/f").unwrap().expect(&[200]);
        assert_eq!(answer.body, b"one");
        answer.header("x-served-by") == Some("osaka")
    });
    cluster.settle();
    let home = cluster.primary().apache.as_ref().unwrap().requests();
    assert!(home.contains(&"MOVE /docs/f 201".to_owned()), "{home:?}");
}

const OURS: &str = "locks = \"nearshare\"\n";

#[test]
fn locks_that_nearshare_keeps_hold_at_every_site() {
    for (server, keys) in [(Server::Nginx, OURS), (Server::Embedded, ""), (Server::Apache, OURS)] {
        locks_hold_at_every_site(server, keys);
    }
}

#[test]
fn locks_that_nearshare_keeps_outlive_the_server_and_nearshare() {
    let mut cluster = pair(Server::Nginx, OURS);
    let mut osaka = cluster.site("osaka").client();
    // A file that is not there is made.
    let answer = lock(&mut osaka, "/docs/f", &[("Timeout", "Second-600")]).expect(&[201]);
    let held = format!("(<{}>)", token(&answer));
    assert_eq!(osaka.get("/docs/f").unwrap().expect(&[200]).body, b"");
    let hq = cluster.site_mut("hq");
    drop(hq.nginx.take());
    hq.start_nginx();
    osaka.put("/docs/f", b"one").unwrap().expect(&[423]);
    hq.kill();
    cluster.start("hq");
    cluster.site("osaka").wait_linked();
    osaka.put("/docs/f", b"one").unwrap().expect(&[423]);
    osaka.send("PUT", "/docs/f", &[("If", &held)], b"two").unwrap().expect(&[204]);
    osaka.send("DELETE", "/docs/f", &[("If", &held)], b"").unwrap().expect(&[204]);
    // It ended with what it was on, and for good.
    osaka.put("/docs/f", b"three").unwrap().expect(&[201]);
    cluster.site_mut("hq").kill();
    cluster.start("hq");
    cluster.site("osaka").wait_linked();
    osaka.put("/docs/f", b"four").unwrap().expect(&[204]);
    cluster.settle();
}

#[test]
fn what_is_said_of_locks_is_the_same_at_every_site() {
    let cluster = pair(Server::Nginx, OURS);
    for name in ["hq", "osaka"] {
        let mut client = cluster.site(name).client();
        let options = client.send("OPTIONS", "/docs/", &[], b"").unwrap();
        assert!(options.header("dav").unwrap().contains('2'), "{options:?}");
        assert!(options.header("allow").unwrap().contains("LOCK"), "{options:?}");
        let wrong = client.send("LOCK", "/docs/f", &[], b"<lockinfo/>").unwrap();
        assert_eq!(wrong.status, 400);
        assert_eq!(client.send("LOCK", "/docs/f", &[], b"").unwrap().status, 400);
        assert_eq!(client.send("LOCK", "/docs/f", &[("If", "(<urn:x>)")], b"").unwrap().status, 412);
        assert_eq!(client.send("UNLOCK", "/docs/f", &[], b"").unwrap().status, 400);
        let none = [("Lock-Token", "<urn:x>")];
        assert_eq!(client.send("UNLOCK", "/docs/f", &none, b"").unwrap().status, 409);
        // In a collection that is not there.
        assert_eq!(lock(&mut client, "/docs/no/f", &[]).status, 409);
        let depth = [("Depth", "1")];
        assert_eq!(lock(&mut client, "/docs/", &depth).status, 400);
    }
    let mut osaka = cluster.site("osaka").client();
    osaka.mkcol("/docs/d/").unwrap().expect(&[201]);
    osaka.put("/docs/d/a", b"a").unwrap().expect(&[201]);
    let deep = lock(&mut osaka, "/docs/d/", &[("Depth", "infinity")]).expect(&[200]);
    let token = token(&deep);
    assert!(deep.text().contains("<D:href>/docs/d</D:href>"), "{}", deep.text());
    for method in ["DELETE", "MKCOL", "PUT"] {
        let refused = osaka.send(method, "/docs/d/b/", &[], b"").unwrap().expect(&[423]);
        assert!(refused.text().contains("lock-token-submitted"), "{}", refused.text());
    }
    assert_eq!(lock(&mut osaka, "/docs/", &[]).expect(&[423]).status, 423);
    assert!(locks_of(&mut osaka, "/docs/d/a").contains(&token));
    osaka.send("MKCOL", "/docs/d/b/", &[("If", &format!("(<{token}>)"))], b"").unwrap().expect(&[201]);
    let tagged = format!("<http://{}/docs/d> (<{token}>)", osaka.address());
    osaka.send("DELETE", "/docs/d/", &[("If", &tagged)], b"").unwrap().expect(&[204]);
    lock(&mut osaka, "/docs/", &[]).expect(&[200]);
}

fn promote(cluster: &Cluster, to: &str, more: &[&str]) -> String {
    let socket = cluster.site(to).state().join("control.sock");
    let command = ["promote", "docs", "--to", to, "--socket", socket.to_str().unwrap()];
    let promoted = common::cluster::nearshare(&[&command, more].concat());
    assert!(promoted.status.success(), "{promoted:?}");
    String::from_utf8(promoted.stdout).unwrap()
}

#[test]
fn locks_that_nearshare_keeps_go_along_when_the_primary_copy_is_handed_over() {
    const MANY: usize = 60;
    let mut cluster = pair(Server::Nginx, OURS);
    let [mut hq, mut osaka] = ["hq", "osaka"].map(|name| cluster.site(name).client());
    osaka.put("/docs/f", b"one").unwrap().expect(&[201]);
    osaka.put("/docs/g", b"one").unwrap().expect(&[201]);
    let held = |client: &mut Client, path: &str| {
        format!("(<{}>)", token(&lock(client, path, &[("Timeout", "Second-600")]).expect(&[200, 201])))
    };
    let of_f = held(&mut osaka, "/docs/f");
    // One that is over does not come along, and as many do as take more than one message.
    let of_g = held(&mut hq, "/docs/g").trim_matches(['(', ')']).to_owned();
    hq.send("UNLOCK", "/docs/g", &[("Lock-Token", &of_g)], b"").unwrap().expect(&[204]);
    let owner = "x".repeat(3000);
    let info = format!(
        "<lockinfo xmlns='DAV:'><lockscope><exclusive/></lockscope><locktype><write/></locktype><owner>{owner}\
         </owner></lockinfo>"
    );
    for number in 0..MANY {
        let path = format!("/docs/many{number}");
        hq.send("LOCK", &path, &[("Timeout", "Second-600")], info.as_bytes()).unwrap().expect(&[201]);
    }
    let said = promote(&cluster, "osaka", &[]);
    assert!(said.contains(&format!("WebDAV locks: {} came along", MANY + 1)), "{said}");
    let refused = |client: &mut Client, path: &str| client.put(path, b"two").unwrap().expect(&[423]);
    for client in [&mut hq, &mut osaka] {
        wait_for("the new primary to be followed", || client.get("/docs/f").unwrap().status == 200);
        for path in ["/docs/f", "/docs/many0", &format!("/docs/many{}", MANY - 1)] {
            refused(client, path);
        }
        assert!(locks_of(client, "/docs/many7").contains(&owner));
        client.put("/docs/g", b"two").unwrap().expect(&[204]);
        client.send("PUT", "/docs/f", &[("If", &of_f)], b"two").unwrap().expect(&[204]);
    }
    // They outlive the new primary's process as its own do.
    cluster.site_mut("osaka").kill();
    cluster.start("osaka");
    wait_for("the primary again", || osaka.get("/docs/f").unwrap().status == 200);
    refused(&mut osaka, "/docs/f");
    // Back again, and what was ended meanwhile stays so.
    let of_f = of_f.trim_matches(['(', ')']).to_owned();
    osaka.send("UNLOCK", "/docs/f", &[("Lock-Token", &of_f)], b"").unwrap().expect(&[204]);
    let linked =
        || cluster.site("hq").status().is_ok_and(|status| status["shares"][0]["primary"] == "osaka");
    wait_for("hq to follow", linked);
    cluster.site("hq").wait_linked();
    let said = promote(&cluster, "hq", &[]);
    assert!(said.contains(&format!("WebDAV locks: {MANY} came along")), "{said}");
    hq.put("/docs/f", b"three").unwrap().expect(&[204]);
    refused(&mut hq, "/docs/many1");
    // Nobody can be asked for them.
    wait_for("osaka to follow", || osaka.get("/docs/f").unwrap().body == b"three");
    cluster.settle();
    cluster.site_mut("hq").kill();
    // One whose line breaks while it is asked may still be there.
    wait_for("osaka to miss hq", || {
        cluster.site("osaka").status().is_ok_and(|status| status["links"][0]["up"] == false)
    });
    let said = promote(&cluster, "osaka", &["--accept-loss"]);
    assert!(said.contains("WebDAV locks that hq kept are over"), "{said}");
    osaka.put("/docs/many1", b"four").unwrap().expect(&[204]);
}

const PROPERTIES: &str = "properties = \"apache\"\n";

fn set(client: &mut Client, path: &str, value: &str) -> Response {
    let xml = format!(
        "<D:propertyupdate xmlns:D=\"DAV:\"><D:set><D:prop><colour xmlns=\"urn:x\">{value}</colour></D:prop>\
         </D:set></D:propertyupdate>"
    );
    client.send("PROPPATCH", path, &[], xml.as_bytes()).unwrap()
}

fn ask_colour(client: &mut Client, path: &str) -> Response {
    const ASK: &[u8] = b"<propfind xmlns=\"DAV:\"><prop><colour xmlns=\"urn:x\"/></prop></propfind>";
    client.send("PROPFIND", path, &[("Depth", "0")], ASK).unwrap()
}

fn colour(client: &mut Client, path: &str) -> Option<String> {
    let said = ask_colour(client, path).expect(&[207]).text();
    let (_, value) = said.split_once("colour")?.1.split_once('>')?;
    Some(value.split_once('<')?.0.to_owned()).filter(|value| !value.trim().is_empty())
}

#[test]
fn properties_that_clients_set_are_those_of_the_primary_and_follow_to_the_copies() {
    let mut cluster = pair(Server::Apache, PROPERTIES);
    let [mut hq, mut osaka] = ["hq", "osaka"].map(|name| cluster.site(name).client());
    osaka.mkcol("/docs/d/").unwrap().expect(&[201]);
    osaka.put("/docs/f", b"one").unwrap().expect(&[201]);
    for path in ["/docs/f", "/docs/d/", "/docs/"] {
        set(&mut osaka, path, "red").expect(&[207]);
        for client in [&mut hq, &mut osaka] {
            assert_eq!(colour(client, path).as_deref(), Some("red"), "{path}");
        }
    }
    cluster.settle();
    assert!(cluster.site("osaka").share().join(".DAV").is_dir());
    // What they are kept in is nobody's business.
    for client in [&mut hq, &mut osaka] {
        for path in ["/docs/.DAV/f", "/docs/.DAV/", "/docs/d/.DAV"] {
            client.get(path).unwrap().expect(&[404]);
            client.propfind(path, "0").unwrap().expect(&[404]);
            client.put(path, b"x").unwrap().expect(&[403]);
            client.delete(path).unwrap().expect(&[403]);
            client.transfer("COPY", "/docs/f", path).unwrap().expect(&[403]);
        }
        let listed = client.propfind("/docs/", "1").unwrap().text();
        assert!(listed.contains("/docs/f") && !listed.contains(".DAV"), "{listed}");
    }
    osaka.transfer("MOVE", "/docs/f", "/docs/d/g").unwrap().expect(&[201]);
    assert_eq!(colour(&mut osaka, "/docs/d/g").as_deref(), Some("red"));
    osaka.transfer("COPY", "/docs/d/g", "/docs/h").unwrap().expect(&[201]);
    osaka.delete("/docs/d/g").unwrap().expect(&[204]);
    osaka.put("/docs/d/g", b"new").unwrap().expect(&[201]);
    assert_eq!(colour(&mut osaka, "/docs/d/g"), None);
    cluster.settle();
    // The next primary has them.
    promote(&cluster, "osaka", &[]);
    drop(cluster.site_mut("hq").apache.take());
    assert_eq!(colour(&mut osaka, "/docs/h").as_deref(), Some("red"));
    assert_eq!(colour(&mut osaka, "/docs/d/").as_deref(), Some("red"));
}

/// HQ and Lyon with the embedded server; Osaka's nginx knows nothing of properties.
#[test]
fn properties_that_the_embedded_server_keeps_hold_at_every_site() {
    let mut plan = Plan::three(Server::Embedded);
    plan.site("osaka").server = Some(Server::Nginx);
    let mut cluster = plan.start();
    let [mut hq, mut lyon, mut osaka] = ["hq", "lyon", "osaka"].map(|name| cluster.site(name).client());
    osaka.mkcol("/docs/d/").unwrap().expect(&[201]);
    osaka.put("/docs/f", b"one").unwrap().expect(&[201]);
    for (round, path) in ["/docs/f", "/docs/d/", "/docs/"].into_iter().enumerate() {
        for setter in [&mut hq, &mut lyon, &mut osaka] {
            // What is answered is seen, whoever set it, and also what is too long for a row of the catalog.
            let value = format!("{round}{}", "x".repeat(round * 1500));
            let answer = set(setter, path, &value).expect(&[207]).text();
            assert!(answer.contains("200 OK"), "{answer}");
        }
        let value = Some(format!("{round}{}", "x".repeat(round * 1500)));
        for client in [&mut hq, &mut lyon, &mut osaka] {
            assert_eq!(colour(client, path), value, "{path}");
        }
    }
    for (round, client) in [&mut hq, &mut lyon, &mut osaka].into_iter().enumerate() {
        set(client, "/docs/f", &round.to_string()).expect(&[207]);
        for name in ["hq", "lyon", "osaka"] {
            let told = colour(&mut cluster.site(name).client(), "/docs/f");
            assert_eq!(told, Some(round.to_string()), "set by {round}, asked at {name}");
        }
    }
    lyon.put("/docs/f", b"two").unwrap().expect(&[204]);
    osaka.transfer("MOVE", "/docs/f", "/docs/d/g").unwrap().expect(&[201]);
    lyon.transfer("COPY", "/docs/d/g", "/docs/h").unwrap().expect(&[201]);
    lyon.delete("/docs/d/g").unwrap().expect(&[204]);
    lyon.put("/docs/d/g", b"new").unwrap().expect(&[201]);
    for client in [&mut hq, &mut lyon, &mut osaka] {
        assert_eq!(colour(client, "/docs/h").as_deref(), Some("2"));
        assert_eq!(colour(client, "/docs/d/g"), None);
    }
    // What was answered outlives the process.
    set(&mut lyon, "/docs/d/g", "green").expect(&[207]);
    cluster.site_mut("hq").kill();
    cluster.start("hq");
    ["lyon", "osaka"].iter().for_each(|name| cluster.site(name).wait_linked());
    let green = Some("green".to_owned());
    for name in ["hq", "lyon", "osaka"] {
        wait_for("an answer", || {
            let mut client = cluster.site(name).client();
            client.get("/docs/d/g").unwrap().status == 200 && colour(&mut client, "/docs/d/g") == green
        });
    }
    cluster.settle();
    // Once nothing is left of the crash, a copy that can tell answers by itself, and the other one asks.
    for name in ["lyon", "osaka"] {
        wait_for("nothing to be ahead", || {
            let copy = cluster.site(name).status().unwrap()["shares"][0]["copy"].clone();
            copy["ahead"] == 0 && copy["held"] == 0
        });
    }
    for _ in 0..5 {
        assert_eq!(colour(&mut cluster.site("osaka").client(), "/docs/d/g"), green);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    cluster.cable("lyon").cut();
    wait_for("an answer of the copy alone", || {
        let answer = ask_colour(&mut cluster.site("lyon").client(), "/docs/d/g");
        answer.status == 207 && answer.text().contains("green")
    });
    cluster.cable("lyon").heal();
    cluster.site("lyon").wait_linked();
    // The next primary has them, also if the old one is gone.
    cluster.site_mut("hq").kill();
    promote(&cluster, "lyon", &["--accept-loss"]);
    let mut lyon = cluster.site("lyon").client();
    assert_eq!(colour(&mut lyon, "/docs/d/g"), green);
    set(&mut lyon, "/docs/d/g", "blue").expect(&[207]);
    assert_eq!(colour(&mut lyon, "/docs/d/g").as_deref(), Some("blue"));
    assert_eq!(colour(&mut lyon, "/docs/h").as_deref(), Some("2"));
}

/// Runs a client to its end; what it said.
fn client(program: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("timeout")
        .args(["60", program])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let text = text.concat();
    assert!(output.status.success(), "{program} (run tests/setup): {}\n{text}", output.status);
    text
}

#[test]
fn cadaver_and_rclone_work_at_a_copy() {
    let cluster = pair(Server::Apache, PROPERTIES);
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("file");
    std::fs::write(&file, b"content").unwrap();
    let osaka = format!("http://{}/docs/", cluster.site("osaka").door);
    let script = format!(
        "put {} a\nmkcol d\nlock a\npropset a colour red\nunlock a\nmove a d/b\npropget d/b colour\ncopy d/b c\n\
         delete c\nls d\nquit\n",
        file.display()
    );
    let said = client("cadaver", &[&osaka], &script);
    assert!(said.contains("Value of colour is: red") && !said.contains("failed"), "{said}");
    let mut hq = cluster.site("hq").client();
    assert_eq!(hq.get("/docs/d/b").unwrap().expect(&[200]).body, b"content");
    hq.get("/docs/c").unwrap().expect(&[404]);
    for number in 0..20 {
        std::fs::create_dir_all(files.path().join("tree/x y")).unwrap();
        std::fs::write(files.path().join(format!("tree/x y/ü{number}")), number.to_string()).unwrap();
    }
    let rclone = |command: &str, site: &str| {
        let url = format!("http://{}/docs/", cluster.site(site).door);
        let tree = files.path().join("tree");
        let tree = tree.to_str().unwrap();
        let options = ["--config", "/dev/null", "--webdav-vendor", "other", "--webdav-url", &url];
        client("rclone", &[&[command, tree, ":webdav:tree"][..], &options].concat(), "")
    };
    rclone("copy", "osaka");
    for site in ["osaka", "hq"] {
        let said = rclone("check", site);
        assert!(said.contains("0 differences found"), "{said}");
    }
    cluster.settle();
}

/// A mount that ends with the test.
struct Davfs(std::path::PathBuf);

impl Davfs {
    fn mount(url: &str, dir: &std::path::Path) -> Self {
        let (conf, at) = (dir.join("davfs2.conf"), dir.join("mnt"));
        std::fs::write(&conf, "ask_auth 0\nuse_locks 1\ndelay_upload 0\n").unwrap();
        std::fs::create_dir(&at).unwrap();
        let options = format!("conf={},uid=0,gid=0", conf.display());
        client("mount.davfs", &["-o", &options, url, at.to_str().unwrap()], "");
        Self(at)
    }
}

impl Drop for Davfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn davfs2_works_at_a_copy() {
    common::needs_root("a mount");
    for (server, keys) in [(Server::Apache, PROPERTIES), (Server::Embedded, "")] {
        let cluster = pair(server, keys);
        let dir = tempfile::tempdir().unwrap();
        let mount = Davfs::mount(&format!("http://{}/docs/", cluster.site("osaka").door), dir.path());
        let mut hq = cluster.site("hq").client();
        std::fs::create_dir(mount.0.join("d")).unwrap();
        std::fs::write(mount.0.join("d/f"), b"one").unwrap();
        wait_for("what was written to be at HQ", || hq.get("/docs/d/f").unwrap().body == b"one");
        std::fs::rename(mount.0.join("d/f"), mount.0.join("g")).unwrap();
        assert_eq!(std::fs::read(mount.0.join("g")).unwrap(), b"one");
        hq.get("/docs/d/f").unwrap().expect(&[404]);
        std::fs::remove_file(mount.0.join("g")).unwrap();
        hq.get("/docs/g").unwrap().expect(&[404]);
        drop(mount);
        cluster.settle();
    }
}

/// Every place is told as its reader knows it: the share has another URL at every site, and the servers hear
/// another Host than clients say.
#[test]
fn a_share_has_other_urls_at_other_sites() {
    for (server, keys) in [(Server::Apache, ""), (Server::Apache, OURS), (Server::Nginx, OURS)] {
        let mut plan = Plan { server, sites: Vec::new(), keys: keys.to_owned() };
        for (name, role, url) in [("hq", "local", "/srv/files/docs"), ("osaka", "broadcast", "/o/d")] {
            plan.sites.push(SitePlan {
                url: Some(url),
                host: Some("inner.example"),
                ..SitePlan::new(name, role)
            });
        }
        let cluster = plan.start();
        cluster.settle();
        let [hq, osaka] = ["hq", "osaka"].map(|name| cluster.site(name));
        for (site, other) in [(osaka, hq), (hq, osaka)] {
            let (mut client, mut there, url) = (site.client(), other.client(), site.url);
            let path = |name: &str| format!("{url}/{name}");
            let full = |name: &str| format!("http://{}{url}/{name}", site.door);
            client.mkcol(&path("d/")).unwrap().expect(&[201]);
            client.put(&path("f"), b"one").unwrap().expect(&[201]);
            client.transfer("MOVE", &path("f"), &path("d/g%20h")).unwrap().expect(&[201, 204]);
            let listed = client.propfind(&path("d/"), "1").unwrap().expect(&[207]).text();
            assert!(listed.contains(&format!(">{url}/d/g%20h<")), "{listed}");
            assert!(!listed.contains(other.url), "{listed}");
            let locked = lock(&mut client, &path("d/g%20h"), &[("Depth", "0")]).expect(&[200]);
            let held = token(&locked);
            assert!(!locked.text().contains(other.url), "{}", locked.text());
            let found = locks_of(&mut client, &path("d/g%20h"));
            assert!(found.contains(&held) && !found.contains(other.url), "{found}");
            let refused = client.delete(&path("d/")).unwrap();
            assert!(!refused.is_success() || refused.status == 207, "{refused:?}");
            assert!(!refused.text().contains(other.url), "{}", refused.text());
            let tagged = format!("<{}> (<{held}>)", full("d/g%20h"));
            let to = full("k");
            let fields = [("If", tagged.as_str()), ("Destination", to.as_str())];
            client.send("MOVE", &path("d/g%20h"), &fields, b"").unwrap().expect(&[201, 204]);
            there.get(&format!("{}/k", other.url)).unwrap().expect(&[200]);
            // Redirects to the collection's own URL.
            let moved = client.get(&path("d")).unwrap();
            if let Some(location) = moved.header("location") {
                assert!(location.ends_with(&format!("{url}/d/")), "{location}");
                assert!(!location.contains("inner"), "{location}");
            }
            client.delete(&path("d/")).unwrap().expect(&[204]);
            client.delete(&path("k")).unwrap().expect(&[204]);
        }
        cluster.settle();
    }
}
