//! `nearshare demo`: three sites on this machine, with real links and certificates, that show what
//! nearshare is for. Nothing is left behind, unless something goes wrong.

mod cable;
mod compare;
mod ground;
mod story;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use ground::Ground;
use story::Story;

use crate::clock::Clock;
use crate::serve::KernelClock;

/// Lines of the log that are shown when a claim fails.
const LOG_SHOWN: usize = 40;
/// At the end, for what still runs on a thread of its own.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// Show three sites on this machine at work, and check every claim.
///
/// Exits with 0 when all was shown, 1 when a claim did not hold.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Keep the sites running afterwards, and print what to try
    #[arg(long)]
    pub stay: bool,
}

/// A demonstration that has its directory, and nothing else yet.
pub struct Demo {
    dir: TempDir,
}

impl Demo {
    /// Makes the directory.
    pub fn prepare() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("nearshare-demo-").tempdir();
        Ok(Self { dir: dir.context("cannot make a temporary directory; name another with TMPDIR")? })
    }

    /// Where the log of all three sites should go.
    pub fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Starts the sites and shows everything. On failure the directory stays.
    pub fn show(self, args: &DemoArgs) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("cannot start threads")?;
        let shown = runtime.block_on(show(self.dir.path(), args.stay));
        runtime.shutdown_timeout(LAST_MOMENT);
        match shown {
            Ok(Ended::Told) => Ok(()),
            Ok(Ended::Interrupted) => bail!("interrupted; nothing is left behind"),
            Err(error) => {
                let log = self.log_file();
                let _unread = io::stderr().write_all(tail(&log).as_bytes());
                let kept = self.dir.keep();
                let why = format!("the demonstration failed; everything is kept in {}", kept.display());
                Err(error.context(why))
            }
        }
    }
}

/// How a demonstration ended that did not fail.
enum Ended {
    Told,
    Interrupted,
}

async fn show(dir: &Path, stay: bool) -> anyhow::Result<Ended> {
    let clock = KernelClock;
    let began = clock.boot();
    let mut term = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let mut told_to_stop = async || {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    say(&format!("Three sites on this machine, in {}. HQ has the primary copy.", dir.display()));
    let ground = tokio::select! {
        ground = Ground::start(dir, &clock) => ground?,
        () = told_to_stop() => return Ok(Ended::Interrupted),
    };
    introduce(&ground);
    let story = Story { ground: &ground, clock: &clock };
    let told = tokio::select! {
        told = story.tell() => told.map(|()| Ended::Told),
        () = told_to_stop() => Ok(Ended::Interrupted),
    };
    if let Ok(Ended::Told) = told {
        let took = clock.boot().since(began).as_secs_f64();
        say(&format!("\nAll of this was checked, not assumed. It took {took:.1} s."));
        if stay {
            invite(&ground);
            told_to_stop().await;
        }
    }
    ground.stop().await;
    told
}

/// Who is where, and what this user cannot show.
fn introduce(ground: &Ground) {
    for place in &ground.places {
        let (name, role) = (place.name, place.role.as_str());
        say(&format!("  {name:6} {role:10} {}  files in {}", place.url(), place.share().display()));
    }
    let mut limits = BTreeSet::new();
    for (_, site) in ground.sites() {
        limits.extend(site.status().shares.into_iter().flat_map(|share| share.limits));
    }
    for limit in limits {
        say(&format!("  left out here: {limit}"));
    }
}

fn invite(ground: &Ground) {
    say("\nThe sites keep running. Try, in another terminal:\n");
    for place in &ground.places {
        say(&format!("  curl {}", place.url()));
    }
    if let [hq, lyon, osaka] = &ground.places[..] {
        say(&format!("  curl -T /etc/hostname {}", lyon.url()));
        say(&format!("  curl {}hostname ; ls -l {}", osaka.url(), hq.share().display()));
    }
    say("");
    for place in &ground.places {
        say(&format!("  nearshare status --socket {}", place.socket().display()));
    }
    say(&format!(
        "\nThe map is {}. Ctrl-C ends it all and removes the directory.",
        ground.map.display()
    ));
}

/// The end of the log.
fn tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(LOG_SHOWN)..];
    format!("the end of the log, {}:\n{}\n\n", log.display(), shown.join("\n"))
}

/// One line of the story.
fn say(line: &str) {
    // Nobody reads what is printed: the checks go on, and the exit code tells.
    let _unread = writeln!(io::stdout(), "{line}");
}
