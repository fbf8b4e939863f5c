//! Answers under load and under change: whole, of one version, or cut.

use super::*;

/// nginx copies into the file that is there: whoever reads it at that moment gets the old one, or less.
#[test]
fn an_answer_never_mixes_two_versions() {
    let cluster = settled(Server::Nginx);
    let mut hq = cluster.site("hq").client();
    let len = 24 << 20;
    for (name, byte) in [("old.bin", b'a'), ("new.bin", b'b')] {
        hq.put(&format!("/docs/{name}"), &vec![byte; len]).unwrap().expect(&[201]);
    }
    let mut reader = cluster.site("hq").client().connect().unwrap();
    reader.write_all(b"GET /docs/old.bin HTTP/1.1\r\nHost: hq\r\n\r\n").unwrap();
    let mut head = [0; 4096];
    reader.read_exact(&mut head).unwrap();
    hq.transfer("COPY", "/docs/new.bin", "/docs/old.bin").unwrap().expect(&[201, 204]);
    let mut rest = Vec::new();
    // Cut off, in whatever way.
    let _ended = reader.read_to_end(&mut rest);
    assert!(rest.len() + head.len() < len, "{} bytes", rest.len());
    assert!(rest.iter().all(|byte| *byte == b'a'));
    assert!(hq.get("/docs/old.bin").unwrap().expect(&[200]).body.iter().all(|byte| *byte == b'b'));
}

/// Nor where nearshare does not see who writes: behind its back, and by another name of the file.
#[test]
fn an_answer_is_cut_when_its_file_is_written_unseen() {
    let cluster = settled(Server::Nginx);
    let mut hq = cluster.site("hq").client();
    let len = 24 << 20;
    for (name, byte) in [("old.bin", b'a'), ("new.bin", b'b')] {
        hq.put(&format!("/docs/{name}"), &vec![byte; len]).unwrap().expect(&[201]);
    }
    let on_disk = |name: &str| cluster.site("hq").share().join(name);
    std::fs::hard_link(on_disk("old.bin"), on_disk("other.bin")).unwrap();
    let mut writers: Vec<Box<dyn FnMut()>> = vec![
        Box::new(|| {
            let mut file = std::fs::OpenOptions::new().write(true).open(on_disk("old.bin")).unwrap();
            file.write_all(&vec![b'c'; len]).unwrap();
        }),
        Box::new(|| {
            hq.transfer("COPY", "/docs/new.bin", "/docs/other.bin").unwrap().expect(&[201, 204]);
        }),
    ];
    for write in &mut writers {
        let mut reader = cluster.site("hq").client().connect().unwrap();
        reader.write_all(b"GET /docs/old.bin HTTP/1.1\r\nHost: hq\r\n\r\n").unwrap();
        let mut head = [0; 4096];
        reader.read_exact(&mut head).unwrap();
        write();
        let mut rest = Vec::new();
        // Cut off, in whatever way.
        let _ended = reader.read_to_end(&mut rest);
        assert!(rest.len() + head.len() < len, "{} bytes", rest.len());
    }
}

/// Neither site keeps more of a body than what is on its way, also while nobody takes it.
#[test]
fn a_big_body_through_a_copy_takes_no_memory() {
    const BIG: u64 = 256 << 20;
    for server in [Server::Nginx, Server::Embedded] {
        let mut plan = Plan::three(server);
        plan.sites.retain(|site| site.name != "osaka");
        let cluster = plan.start();
        let lyon = cluster.site("lyon");
        let source = cluster.dir.path().join("big");
        std::fs::File::create(&source).unwrap().set_len(BIG).unwrap();
        let url = format!("http://{}/docs/big", lyon.door);
        // Whatever they need for any file at all.
        lyon.client().put("/docs/small", &vec![1; 4 << 20]).unwrap().expect(&[201]);
        cluster.settle();
        lyon.client().get("/docs/small").unwrap().expect(&[200]);
        let daemons = ["hq", "lyon"].map(|name| (name, cluster.site(name).daemon.as_ref().unwrap()));
        let before = daemons.map(|(_, daemon)| {
            daemon.forget_peak();
            daemon.peak()
        });
        let grown = |what: &str| {
            for ((name, daemon), before) in daemons.iter().zip(before) {
                let grown = daemon.peak().saturating_sub(before);
                println!("{name} after {what}: {grown} KiB more than {before} KiB");
                assert!(grown <= 16 * 1024, "{name} after {what}: {grown} KiB");
            }
        };
        run("curl", &["-sSf", "-T", source.to_str().unwrap(), &url]);
        grown("the way up");
        cluster.settle();
        grown("the fill");
        // A condition on locks is judged at the primary, which sends the whole file.
        let passed = cluster.cable("lyon").passed();
        let mut slow = lyon.client().connect().unwrap();
        let get = "GET /docs/big HTTP/1.1\r\nHost: lyon\r\nIf: (Not <urn:x>)\r\n\r\n";
        slow.write_all(get.as_bytes()).unwrap();
        let mut reader = BufReader::new(slow);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            reader.read_line(&mut head).unwrap();
        }
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.to_ascii_lowercase().contains(&format!("content-length: {BIG}")), "{head}");
        // All that is not held back would come meanwhile.
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(std::io::copy(&mut reader.take(BIG), &mut std::io::sink()).unwrap(), BIG);
        let passed = cluster.cable("lyon").passed() - passed;
        assert!(passed >= BIG, "{passed} bytes: it did not come from hq");
        grown("the way down");
    }
}

/// A client of another make, with many connections.
#[test]
fn wrk_gets_every_answer_at_a_copy_while_files_change() {
    let cluster = settled(Server::Nginx);
    let mut hq = cluster.site("hq").client();
    for dir in ["still", "busy"] {
        hq.mkcol(&format!("/docs/{dir}/")).unwrap().expect(&[201]);
        hq.put(&format!("/docs/{dir}/f"), b"edition").unwrap().expect(&[201]);
    }
    cluster.settle();
    let osaka = cluster.site("osaka");
    let mut reader = osaka.client();
    wait_for("a near read at osaka", || served_by(&mut reader, "/docs/still/f") == "osaka");
    let near = || osaka.nginx.as_ref().unwrap().requests().len();
    let before = near();
    let url = format!("http://{}/", osaka.door);
    // What changes, which goes home while it does, and what does not, in turns.
    let script = cluster.dir.path().join("asks.lua");
    let asks = r#"local n = 0
        request = function()
            n = n + 1
            return wrk.format("GET", n % 2 == 0 and "/docs/busy/f" or "/docs/still/f")
        end"#;
    std::fs::write(&script, asks).unwrap();
    let (said, changes) = std::thread::scope(|scope| {
        let script = script.to_str().unwrap();
        let load = ["-t1", "-c64", "-d2s", "--timeout", "30s", "-s", script, &url];
        let load = scope.spawn(move || run("wrk", &load));
        let mut changes = 0;
        while !load.is_finished() {
            let text = format!("edition {changes}");
            hq.put("/docs/busy/f", text.as_bytes()).unwrap().expect(&[201, 204]);
            changes += 1;
        }
        (load.join().unwrap(), changes)
    });
    let near = near() - before;
    println!("{changes} changes, {near} of the answers from the copy\n{said}");
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    let answers = said.lines().find_map(|line| line.split_once(" requests in ")?.0.trim().parse().ok());
    assert!(answers.is_some_and(|answers: u64| answers > 64), "{said}");
    assert!(changes >= 4 && near > 64, "{changes} changes, {near} answers from the copy");
    cluster.settle();
}
