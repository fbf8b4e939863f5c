//! Two network namespaces and a line between them that loses, delays and queues packets as a real
//! one does (`tests/lab/line.py`), for what a relay on loopback cannot show.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::daemon::Daemon;

pub struct Lab {
    pub ends: [End; 2],
    line: Daemon,
    _dir: tempfile::TempDir,
    _one: MutexGuard<'static, ()>,
}

pub struct End {
    pub ns: String,
    pub address: Ipv4Addr,
}

/// A line of this round trip in ms, this rate in Mbit/s and this queue in ms.
pub struct Line {
    pub round_trip: u32,
    pub mbit: f32,
    pub queue: u32,
    /// Percent of packets that are lost.
    pub loss: f32,
}

impl Lab {
    pub fn new(line: &Line) -> Self {
        // One at a time: the names below are the process's, and a line that shares its core is another.
        static ONE: Mutex<()> = Mutex::new(());
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        super::needs_root("a network namespace");
        let dir = tempfile::tempdir().unwrap();
        let end = |letter: &str, last: u8| End {
            ns: format!("nearshare-{}-{letter}", std::process::id()),
            address: Ipv4Addr::new(10, 66, 0, last),
        };
        let ends = [end("a", 1), end("b", 2)];
        for end in &ends {
            super::run("ip", &["netns", "add", &end.ns]);
            super::run("ip", &["-n", &end.ns, "link", "set", "lo", "up"]);
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/line.py");
        let numbers = [
            line.round_trip.to_string(),
            line.mbit.to_string(),
            line.queue.to_string(),
            line.loss.to_string(),
        ];
        let addresses = ends.each_ref().map(|end| end.address.to_string());
        let command = [
            "python3",
            "-u",
            script,
            &ends[0].ns,
            &ends[1].ns,
            "--addr-a",
            &addresses[0],
            "--addr-b",
            &addresses[1],
            "--rtt",
            &numbers[0],
            "--mbit",
            &numbers[1],
            "--queue",
            &numbers[2],
            "--loss",
            &numbers[3],
        ];
        let daemon = Daemon::spawn(&command, None, &dir.path().join("line.log"));
        let lab = Self { ends, line: daemon, _dir: dir, _one: one };
        super::wait_until("the line", super::PATIENCE, || {
            if lab.line.log_text().contains("up\n") { Ok(()) } else { Err(lab.line.tail()) }
        });
        lab
    }

    pub fn cut(&self) {
        self.line.signal(rustix::process::Signal::USR1);
    }
    pub fn heal(&self) {
        self.line.signal(rustix::process::Signal::USR2);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.line.kill();
        for end in &self.ends {
            let _ = std::process::Command::new("ip").args(["netns", "del", &end.ns]).status();
        }
    }
}

/// Runs `work` on a thread of its own inside the namespace: its sockets belong there.
pub fn inside<T: Send>(ns: Option<&str>, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Some(ns) = ns {
                let file = std::fs::File::open(format!("/run/netns/{ns}")).unwrap();
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            }
            work()
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
