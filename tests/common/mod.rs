//! What the integration tests share: real sites of the real program, real servers, a line that can
//! be cut, and judges that know nothing of nearshare.

// Every test program uses a part of this.
#![allow(dead_code, clippy::unwrap_used, clippy::disallowed_methods)]

pub mod apache;
pub mod cable;
pub mod cluster;
pub mod compare;
pub mod curl;
pub mod daemon;
pub mod disk;
pub mod ganesha;
pub mod history;
pub mod http;
pub mod lab;
pub mod litmus;
pub mod load;
pub mod mesh;
pub mod nginx;
pub mod propfind;
#[path = "../../src/seeds.rs"]
pub mod seeds;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// The program under test.
pub const NEARSHARE: &str = env!("CARGO_BIN_EXE_nearshare");

/// How long anything may take that has no bound of its own: machines with two busy cores are slow.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A small generator of our own, so that a seed means the same for ever (SplitMix64).
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// 0 to `limit - 1`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// An unused port on loopback. From below the kernel's own range for outgoing connections, so that
/// none of those takes it before the server does.
pub fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 64) as u16 * 150;
    loop {
        let port = 20_000 + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 11_000;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Tries until it is true, or panics with what was awaited.
pub fn wait_for(what: &str, mut check: impl FnMut() -> bool) {
    wait_until(what, PATIENCE, || check().then_some(()).ok_or_else(String::new));
}

/// Tries until it gives a value, or panics with what was awaited and why it has not come.
pub fn wait_until<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match check() {
            Ok(value) => return value,
            Err(why) if start.elapsed() > limit => {
                panic!("waited {limit:?} for: {what}\n{why}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Runs a program to its end; panics with its output when it fails.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program)
        .args(arguments)
        .env("PATH", path_with_sbin())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; run tests/setup"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}{errors}", output.status);
    text
}

pub fn path_with_sbin() -> String {
    format!("{}:/usr/local/sbin:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// Where the distribution keeps what a server loads: the first of the `dirs` that has the `file`.
pub fn modules(dirs: &[&'static str], file: &str) -> &'static std::path::Path {
    let dir = dirs.iter().map(|&dir| std::path::Path::new(dir)).find(|dir| dir.join(file).exists());
    dir.unwrap_or_else(|| {
        panic!("{file} is in none of {dirs:?}: run tests/setup, or add its directory here")
    })
}

pub fn needs_root(why: &str) {
    assert!(rustix::process::getuid().is_root(), "{why} needs root: run tests/all as root");
}
