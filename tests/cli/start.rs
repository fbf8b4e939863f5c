//! Before a site serves: exit codes, and that `check --site` says what `run` would stumble over.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;

use rustix::process::Signal;

use super::common::cluster::{Cluster, Plan, Server, SitePlan, nearshare};
use super::common::{NEARSHARE, PATIENCE, run, wait_until};
use super::{BAD_MAP, path, text};

/// HQ alone, not started. Its state directory is not there yet.
pub fn alone() -> Cluster {
    let sites = vec![SitePlan::new("hq", "local")];
    Plan { server: Server::Embedded, sites, keys: String::new() }.prepare()
}

fn run_hq(cluster: &Cluster) -> Output {
    nearshare(&["run", "--map", path(&cluster.map), "--site", "hq"])
}

fn is_closed(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err()
}

/// Issues a bundle for `site` and puts the named files of it into HQ's.
fn swap(cluster: &Cluster, site: &str, files: &[&str]) {
    let out = cluster.dir.path().join(format!("other-{}", files.concat()));
    let ca = cluster.dir.path().join("ca");
    run(NEARSHARE, &["cert", "issue", site, "--dir", path(&ca), "--out", path(&out)]);
    for file in files {
        std::fs::copy(out.join(file), bundle(cluster).join(file)).unwrap();
    }
}

fn bundle(cluster: &Cluster) -> PathBuf {
    cluster.site("hq").home.join("bundle")
}

#[test]
fn what_run_cannot_start_with_check_has_said_before() {
    type Break = fn(&Cluster);
    let table: [(&str, Break); 8] = [
        ("the certificate is that of osaka", |hq| swap(hq, "osaka", &["site.pem", "site.key"])),
        ("the key is not that of the certificate", |hq| swap(hq, "hq", &["site.key"])),
        ("64 hexadecimal digits", |hq| std::fs::write(bundle(hq).join("secret"), "abc").unwrap()),
        ("holds no certificate in PEM", |hq| std::fs::write(bundle(hq).join("ca.pem"), "x").unwrap()),
        ("make it with `nearshare cert`", |hq| {
            std::fs::remove_file(bundle(hq).join("site.pem")).unwrap();
        }),
        ("is not from the CA in", |hq| {
            let other = hq.dir.path().join("other-ca");
            run(NEARSHARE, &["cert", "init", "--dir", path(&other)]);
            std::fs::copy(other.join("ca.pem"), bundle(hq).join("ca.pem")).unwrap();
        }),
        ("not a directory", |hq| std::fs::write(hq.site("hq").state(), "").unwrap()),
        ("the key is not that of the certificate", |hq| {
            // At the door for clients, whose files are another pair of keys.
            swap(hq, "hq", &["site.key"]);
            let key = hq.dir.path().join("door.key");
            std::fs::rename(bundle(hq).join("site.key"), &key).unwrap();
            swap(hq, "hq", &["site.pem", "site.key"]);
            let map = std::fs::read_to_string(&hq.map).unwrap();
            let tls = format!(
                "[site.hq.http.tls]\nlisten = \"{}\"\ncertificates = [{{ certificate = \"{}\", key = \"{}\" }}]\n",
                super::common::free_port(),
                bundle(hq).join("site.pem").display(),
                key.display(),
            );
            let old =
                format!("http = {{ server = \"embedded\", listen = \"{}\" }}\n", hq.site("hq").door);
            let door =
                format!("[site.hq.http]\nserver = \"embedded\"\nlisten = \"{}\"\n", hq.site("hq").door);
            assert!(map.contains(&old));
            let map = map.replace(&old, "").replace("[share.docs]", &format!("{door}{tls}[share.docs]"));
            std::fs::write(&hq.map, map).unwrap();
        }),
    ];
    for (said, damage) in table {
        let cluster = alone();
        let check = || nearshare(&["check", path(&cluster.map), "--site", "hq", "--json"]);
        assert_eq!(check().status.code(), Some(0), "{}", text(&check()));
        damage(&cluster);
        let state_is_there = cluster.site("hq").state().exists();

        let checked = check();
        assert_eq!(checked.status.code(), Some(1), "{said}: {}", text(&checked));
        let json: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
        let mistake = &json["mistakes"][0];
        let (what, right) = (mistake["what"].as_str().unwrap(), mistake["right"].as_str().unwrap());
        assert!(format!("{what}; {right}").contains(said), "{said}: {json}");
        // The line of the map names the very file.
        let map = std::fs::read_to_string(&cluster.map).unwrap();
        let line = map.lines().nth(mistake["line"].as_u64().unwrap() as usize - 1).unwrap();
        let file = what.split(": ").next().unwrap();
        assert!(line.contains(file), "{file} is not in line {line:?}");

        let ran = run_hq(&cluster);
        assert_eq!(ran.status.code(), Some(3), "{said}: {}", text(&ran));
        assert!(text(&ran).contains(&format!("{what}; {right}")), "{said}: {}", text(&ran));
        assert_eq!(cluster.site("hq").state().exists(), state_is_there, "{said}: nothing is made");
        for word in ["KeyMismatch", "NAME", "Some(", "Error {"] {
            assert!(!text(&ran).contains(word), "{word} in {}", text(&ran));
        }
    }
}

#[test]
fn run_says_by_its_code_why_it_did_not_serve() {
    let cluster = alone();
    let map = path(&cluster.map);
    let code = |output: &Output| output.status.code();
    let elsewhere = nearshare(&["run", "--map", map, "--site", "osaka"]);
    assert_eq!(code(&elsewhere), Some(1), "{}", text(&elsewhere));
    assert!(text(&elsewhere).contains("the map has no [site.osaka]"), "{}", text(&elsewhere));
    let missing = nearshare(&["run", "--map", "/nowhere/map.toml", "--site", "hq"]);
    assert_eq!(code(&missing), Some(2), "{}", text(&missing));
    assert!(text(&missing).contains("/nowhere/map.toml: cannot read the server map"));

    let key = bundle(&cluster).join("site.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let ran = run_hq(&cluster);
    assert_eq!(code(&ran), Some(3), "{}", text(&ran));
    assert!(text(&ran).contains(&format!("chmod 0600 {}", key.display())), "{}", text(&ran));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();

    for (address, whom) in
        [(cluster.site("hq").door, "clients"), (cluster.site("hq").link, "other sites")]
    {
        let _taken = TcpListener::bind(address).unwrap();
        let ran = run_hq(&cluster);
        assert_eq!(code(&ran), Some(3), "{}", text(&ran));
        let said = format!("cannot listen for {whom} at {address}: Address already in use");
        assert!(text(&ran).contains(&said), "{}", text(&ran));
        assert!(text(&ran).contains("another program listens there"), "{}", text(&ran));
    }
    // An address that is not this machine's is another mistake (RFC 5737: nobody's).
    let map_text = std::fs::read_to_string(&cluster.map).unwrap();
    let door = format!("listen = \"{}\"", cluster.site("hq").door);
    std::fs::write(&cluster.map, map_text.replace(&door, "listen = \"192.0.2.1:8080\"")).unwrap();
    let ran = run_hq(&cluster);
    assert_eq!(code(&ran), Some(3), "{}", text(&ran));
    assert!(text(&ran).contains("this machine has no such address"), "{}", text(&ran));
    assert!(!text(&ran).contains("another program"), "{}", text(&ran));
}

#[test]
fn sigint_ends_with_0_as_well() {
    let mut cluster = alone();
    cluster.start_all();
    let hq = cluster.site_mut("hq").daemon.as_mut().unwrap();
    hq.signal(Signal::INT);
    let status = wait_until("the end after SIGINT", PATIENCE, || hq.exit().ok_or_else(|| hq.tail()));
    assert_eq!(status.code(), Some(0), "{}", hq.tail());
}

#[test]
fn a_map_with_a_mistake_touches_nothing() {
    let cluster = alone();
    let hq = cluster.site("hq");
    std::fs::create_dir(hq.state()).unwrap();
    let good = std::fs::read_to_string(&cluster.map).unwrap();
    for bad in [BAD_MAP.to_owned(), good.replace("http = \"/docs\"", "http = \"/docs\"\nhtpp = \"/x\"")]
    {
        std::fs::write(&cluster.map, bad).unwrap();
        let ran = run_hq(&cluster);
        assert_eq!(ran.status.code(), Some(1), "{}", text(&ran));
        for dir in [hq.state(), hq.share()] {
            let left: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
        assert!(is_closed(hq.door) && is_closed(hq.link));
    }
}

#[test]
fn a_cause_is_said_once() {
    let output = nearshare(&["cert", "init", "--dir", "/proc/nearshare-ca"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output).matches("os error").count(), 1, "{}", text(&output));
}
