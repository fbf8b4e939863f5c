//! A process of ours that is ended with the test, whatever becomes of the test.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

pub struct Daemon {
    child: Child,
    pub log: PathBuf,
}

impl Daemon {
    /// Starts `command` (program first) in network namespace `ns`, if any; its output is added to
    /// `log`. It also dies with the thread that starts it.
    pub fn spawn(command: &[&str], ns: Option<&str>, log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).unwrap();
        let mut all = vec!["--pdeathsig".to_owned(), "KILL".to_owned(), "--".to_owned()];
        if let Some(ns) = ns {
            all.extend(["nsenter".to_owned(), format!("--net=/run/netns/{ns}"), "--".to_owned()]);
        }
        all.extend(command.iter().map(|&part| part.to_owned()));
        let child = Command::new("setpriv")
            .args(&all)
            .env("PATH", super::path_with_sbin())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("setpriv (util-linux): {error}; run tests/setup"));
        Self { child, log: log.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
    /// SIGKILL, and gone when this returns.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
    /// SIGTERM; its exit status, or a panic after `limit`.
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        super::wait_until("the end after SIGTERM", limit, || {
            self.child.try_wait().unwrap().ok_or_else(|| self.tail())
        })
    }
    /// For one whose workers end with it only if it is asked.
    pub fn end_with_workers(&mut self) {
        if self.exit().is_none() {
            self.terminate(super::PATIENCE);
        }
    }
    pub fn exit(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }
    /// Resident memory in KiB.
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }
    /// The most memory that was ever resident since [`Self::forget_peak`], in KiB.
    pub fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }
    pub fn forget_peak(&self) {
        // See proc_pid_clear_refs(5).
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").unwrap();
    }
    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
    /// All bytes that it ever read, from files and sockets.
    pub fn has_read(&self) -> u64 {
        let counts = std::fs::read_to_string(format!("/proc/{}/io", self.pid())).unwrap();
        counts.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
    }
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
    /// The end of the log, for a failure's text.
    pub fn tail(&self) -> String {
        const SHOWN: u64 = 4000;
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            let length = file.metadata().map_or(0, |meta| meta.len());
            let _ = file.seek(SeekFrom::Start(length.saturating_sub(SHOWN)));
            let _ = file.read_to_end(&mut text);
        }
        format!("--- end of {}\n{}", self.log.display(), String::from_utf8_lossy(&text))
    }
}

/// Of a log that may not be there yet.
pub fn lines(log: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
