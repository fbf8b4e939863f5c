//! Sites in network namespaces of their own, each joined to each other one: by a veth pair, or by the
//! delaying line of `tests/lab/line.py`. Packets can be dropped one way or both.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::daemon::Daemon;
use super::{PATIENCE, path_with_sbin, run, wait_until};

pub struct Mesh {
    pub ends: Vec<End>,
    lines: Vec<Daemon>,
    _dir: tempfile::TempDir,
}

pub struct End {
    pub site: &'static str,
    pub ns: String,
    pub address: Ipv4Addr,
}

/// Two sites and the round trip in ms between them.
pub type Slow = (&'static str, &'static str, u32);

impl Mesh {
    /// Joins all `sites`; the pairs in `slow` by a line with a delay, the others at once.
    pub fn new(sites: &[&'static str], slow: &[Slow]) -> Self {
        static MESHES: AtomicU32 = AtomicU32::new(0);
        super::needs_root("a network namespace");
        let number = MESHES.fetch_add(1, Ordering::Relaxed);
        let ends: Vec<End> = (1..).zip(sites).map(|(last, site)| End::new(number, site, last)).collect();
        let dir = tempfile::tempdir().unwrap();
        let mut mesh = Self { ends, lines: Vec::new(), _dir: dir };
        for end in &mesh.ends {
            run("ip", &["netns", "add", &end.ns]);
            run("ip", &["-n", &end.ns, "link", "set", "lo", "up"]);
            nft(
                &end.ns,
                "add table inet lab\nadd chain inet lab in { type filter hook input priority 0; }\n",
            );
        }
        let mut lines = Vec::new();
        for (index, a) in mesh.ends.iter().enumerate() {
            for b in &mesh.ends[index + 1..] {
                let pair = [a.site, b.site];
                let delay = slow.iter().find(|(x, y, _)| pair == [*x, *y] || pair == [*y, *x]);
                match delay {
                    Some((_, _, round_trip)) => lines.push(mesh.line(a, b, *round_trip)),
                    None => join(a, b),
                }
            }
        }
        mesh.lines = lines;
        for line in &mesh.lines {
            wait_until("the line", PATIENCE, || {
                if line.log_text().contains("up\n") { Ok(()) } else { Err(line.tail()) }
            });
        }
        mesh
    }

    fn line(&self, a: &End, b: &End, round_trip: u32) -> Daemon {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/line.py");
        let [at_a, at_b] = [a, b].map(|end| end.address.to_string());
        let round_trip = round_trip.to_string();
        let device = device(a, b);
        let command = [
            &["python3", "-u", script, &a.ns, &b.ns][..],
            &["--dev-a", &device, "--dev-b", &device, "--addr-a", &at_a, "--addr-b", &at_b],
            &["--rtt", &round_trip],
        ]
        .concat();
        Daemon::spawn(&command, None, &self._dir.path().join(format!("{device}.log")))
    }

    pub fn end(&self, site: &str) -> &End {
        self.ends.iter().find(|end| end.site == site).unwrap()
    }

    /// Packets from one site no longer arrive at the other; the other way they do.
    pub fn drop_from_to(&self, from: &str, to: &str) {
        let from = self.end(from).address;
        nft(&self.end(to).ns, &format!("add rule inet lab in ip saddr {from} drop\n"));
    }

    pub fn heal(&self) {
        for end in &self.ends {
            nft(&end.ns, "flush chain inet lab in\n");
        }
    }
}

impl End {
    fn new(mesh: u32, site: &'static str, last: u8) -> Self {
        let ns = format!("nearshare-{}-{mesh}-{site}", std::process::id());
        Self { site, ns, address: Ipv4Addr::new(10, 66, 0, last) }
    }
}

fn device(a: &End, b: &End) -> String {
    format!("wan{}{}", a.address.octets()[3], b.address.octets()[3])
}

fn join(a: &End, b: &End) {
    let device = device(a, b);
    let there = ["type", "veth", "peer", "name", &device, "netns", &b.ns];
    run("ip", &[&["link", "add", &device, "netns", &a.ns][..], &there].concat());
    for (here, there) in [(a, b), (b, a)] {
        let (own, peer) = (here.address.to_string(), there.address.to_string());
        run("ip", &["-n", &here.ns, "addr", "add", &own, "peer", &peer, "dev", &device]);
        run("ip", &["-n", &here.ns, "link", "set", &device, "up"]);
    }
}

/// Gives commands to nft inside the namespace.
fn nft(ns: &str, commands: &str) {
    let mut nft = Command::new("ip")
        .args(["netns", "exec", ns, "nft", "-f", "-"])
        .env("PATH", path_with_sbin())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("ip: {error}; run tests/setup"));
    nft.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "nft {commands:?} in {ns}; run tests/setup");
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for line in &mut self.lines {
            line.kill();
        }
        for end in &self.ends {
            let _ = Command::new("ip")
                .args(["netns", "del", &end.ns])
                .env("PATH", path_with_sbin())
                .status();
        }
    }
}
