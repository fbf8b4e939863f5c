//! A file server that is dead, or stands still: nobody waits for it for ever, and nothing piles up before it.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::io::{BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::cluster::{Cluster, Plan, Server};
use common::http::{Client, read_response};
use common::wait_for;

/// That of hq and lyon, in the maps here.
const TIMEOUT: Duration = Duration::from_secs(4);

/// hq and lyon, with nginx, and one small file.
fn two() -> Cluster {
    let mut plan = Plan::three(Server::Nginx);
    plan.sites.retain(|site| site.name != "osaka");
    plan.sites.iter_mut().for_each(|site| site.server_timeout = Some("4s"));
    let cluster = plan.start();
    cluster.site("hq").client().put("/docs/first.txt", b"first").unwrap().expect(&[201]);
    cluster.settle();
    cluster
}

fn put(client: &mut Client, path: &str, body: &[u8]) {
    client.put(path, body).unwrap().expect(&[201, 204]);
}

/// The copy follows without it, and a write has nothing to do with it.
#[test]
fn at_a_copy_whose_own_server_is_away_reads_end_soon_and_writes_pass_home() {
    let mut cluster = two();
    wait_for("a near read at lyon", || {
        let answer = cluster.site("lyon").client().get("/docs/first.txt").unwrap().expect(&[200]);
        answer.header("x-served-by") == Some("lyon")
    });
    for (dead, statuses, limit) in [
        (false, &[504][..], TIMEOUT + Duration::from_secs(10)),
        (true, &[502, 504][..], Duration::from_secs(10)),
    ] {
        match dead {
            true => cluster.site_mut("lyon").nginx = None,
            false => cluster.site("lyon").nginx.as_ref().unwrap().freeze(),
        }
        let mut lyon = cluster.site("lyon").client();
        for path in ["/docs/first.txt", "/elsewhere"] {
            let began = Instant::now();
            lyon.get(path).unwrap().expect(statuses);
            assert!(began.elapsed() < limit, "{path}, dead: {dead}: {:?}", began.elapsed());
        }
        let path = format!("/docs/written-{dead}.txt");
        put(&mut lyon, &path, b"one");
        put(&mut lyon, &path, b"two");
        lyon.mkcol(&format!("/docs/made-{dead}/")).unwrap().expect(&[201]);
        let there = cluster.site("hq").client().get(&path).unwrap().expect(&[200]);
        assert_eq!(there.text(), "two");
        cluster.settle();
        match dead {
            true => cluster.site_mut("lyon").start_nginx(),
            false => cluster.site("lyon").nginx.as_ref().unwrap().thaw(),
        }
        wait_for("lyon's server to be used again", || {
            let answer = cluster.site("lyon").client().get(&path).unwrap();
            answer.header("x-served-by") == Some("lyon") && answer.text() == "two"
        });
    }
}

/// A body on its way to a server that takes nothing.
struct Upload<'a> {
    stream: TcpStream,
    /// Of the body, taken by this machine's kernel at least.
    sent: &'a AtomicU64,
    over: &'a AtomicBool,
}

impl Upload<'_> {
    fn begin(&mut self, path: &str, length: u64) {
        let head = format!("PUT {path} HTTP/1.1\r\nHost: files\r\nContent-Length: {length}\r\n\r\n");
        self.stream.write_all(head.as_bytes()).unwrap();
    }
    /// Until all is sent, or the other side wants no more.
    fn send(&mut self, length: u64) {
        let piece = vec![7; 64 << 10];
        while self.sent.load(Ordering::SeqCst) < length {
            match self.stream.write(&piece) {
                Ok(some) => _ = self.sent.fetch_add(some as u64, Ordering::SeqCst),
                Err(_) => break,
            }
        }
        self.over.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_big_body_for_a_server_that_stands_still_waits_at_its_client() {
    const BIG: u64 = 256 << 20;
    // What two sites and the kernel, with its buffers of 6 MiB, may have of it on the way.
    const UNDER_WAY: u64 = 96 << 20;
    let cluster = two();
    // Whatever they need for any body at all.
    for name in ["hq", "lyon"] {
        put(&mut cluster.site(name).client(), "/docs/small", &vec![1; 4 << 20]);
        cluster.settle();
    }
    let daemons = ["hq", "lyon"].map(|name| (name, cluster.site(name).daemon.as_ref().unwrap()));
    let before = daemons.map(|(_, daemon)| {
        daemon.forget_peak();
        daemon.peak()
    });
    let nginx = cluster.site("hq").nginx.as_ref().unwrap();
    nginx.freeze();
    for at in ["hq", "lyon"] {
        let began = Instant::now();
        let (sent, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let mut client = cluster.site(at).client();
        client.timeout = common::PATIENCE;
        let stream = client.connect().unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap());
        let mut upload = Upload { stream, sent: &sent, over: &over };
        upload.begin(&format!("/docs/held-{at}"), BIG);
        std::thread::scope(|scope| {
            scope.spawn(move || upload.send(BIG));
            // For a second nothing more was taken, while there is no answer yet.
            let mut stood = (0, Instant::now());
            while stood.1.elapsed() < Duration::from_secs(1) {
                std::thread::sleep(Duration::from_millis(20));
                let now = sent.load(Ordering::SeqCst);
                if now != stood.0 {
                    stood = (now, Instant::now());
                }
                assert!(!over.load(Ordering::SeqCst), "{at}: {now} bytes are sent or refused at once");
            }
            println!("{at}: {} KiB under way", stood.0 >> 10);
            assert!(stood.0 < UNDER_WAY, "{at}: {} bytes were taken", stood.0);
            // It is told, or its connection is cut.
            if let Ok(answer) = read_response(&mut answers, "PUT") {
                answer.expect(&[504]);
            }
            let took = began.elapsed();
            // The two sites find out one after the other.
            let limit = TIMEOUT + Duration::from_secs(15);
            assert!(took > TIMEOUT / 2 && took < limit, "{at}: {took:?}");
            for ((name, daemon), before) in daemons.iter().zip(before) {
                let grown = daemon.peak().saturating_sub(before);
                println!("{name} for a body at {at}: {grown} KiB more than {before} KiB");
                assert!(grown <= 16 * 1024, "{name} for a body at {at}: {grown} KiB");
            }
            let _ = answers.get_ref().shutdown(Shutdown::Both);
        });
    }
    nginx.thaw();
    wait_for("the server to be used again", || {
        cluster.site("lyon").client().put("/docs/yes.txt", b"yes").unwrap().is_success()
    });
    cluster.settle();
    for at in ["hq", "lyon"] {
        let part = cluster.site("hq").client().get(&format!("/docs/held-{at}")).unwrap().status;
        assert_eq!(part, 404, "a part of a body is no file");
    }
}
