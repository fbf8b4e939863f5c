//! `nearshare run`: one site, in the foreground, until it is told to stop. Not here: what a site is made
//! of (see `serve`).

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::check::{map_text, no_such_site, report};
use crate::admin::Steer;
use crate::id::SiteId;
use crate::map::{self, Map};
use crate::serve::{Options, ServeError, Site};

/// Exit codes of `nearshare run`.
const MISTAKES: u8 = 1;
const CANNOT_READ: u8 = 2;
const CANNOT_START: u8 = 3;

/// At the end, for what still runs on a thread of its own, such as a read of a slow disk.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// Serve one site of the map, until SIGTERM or SIGINT. SIGHUP takes the map again.
///
/// Exits with 0 after a signal, 1 when the map has mistakes, 2 when it cannot be read, 3 when the site
/// cannot start.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// The server map
    #[arg(long, value_name = "FILE")]
    pub map: PathBuf,
    /// Which of the map's sites this is
    #[arg(long, value_name = "NAME")]
    pub site: SiteId,
    /// Dial a site at another address than the map's; once for each such site
    #[arg(long, value_name = "SITE=ADDR", value_parser = via)]
    pub via: Vec<(SiteId, SocketAddr)>,
    /// Log more; twice: everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// How a line of the log is written
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people: time, site, level, what happened, and `name=value` pairs
    Text,
    /// One JSON object
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Runs the command. Whoever calls it has installed where the log goes.
pub fn run(args: &RunArgs) -> ExitCode {
    let (code, text) = match read_map(args) {
        Ok(map) => match run_map(map, args) {
            Ok(End::Told) => return ExitCode::SUCCESS,
            Ok(End::Anew) => {
                let error = anew();
                tracing::error!("cannot start anew: {error}; start nearshare again");
                return ExitCode::from(CANNOT_START);
            }
            Err(error) => {
                let site = &args.site;
                for line in error.to_string().lines() {
                    tracing::error!("site {site} cannot start: {line}");
                }
                return ExitCode::from(CANNOT_START);
            }
        },
        Err(refused) => refused,
    };
    let _unread = io::stderr().write_all(text.as_bytes());
    ExitCode::from(code)
}

/// The checked map, or an exit code and what to print.
fn read_map(args: &RunArgs) -> Result<Map, (u8, String)> {
    let text = map_text(&args.map).map_err(|error| (CANNOT_READ, format!("{error}\n")))?;
    let refuse = |mistakes: &[map::Mistake]| (MISTAKES, report(&args.map, mistakes));
    let map = map::parse(&text).map_err(|mistakes| refuse(&mistakes))?;
    let unknown = |site: &SiteId| !map.sites.contains_key(site);
    if unknown(&args.site) {
        return Err(refuse(&[no_such_site(&args.site)]));
    }
    match args.via.iter().find(|(site, _)| unknown(site)) {
        Some((site, _)) => {
            let right = "give `--via` the names of sites that are there";
            let text = format!("`--via` names {site}, but the map has no [site.{site}]; {right}\n");
            Err((MISTAKES, text))
        }
        None => Ok(map),
    }
}

/// Why a site did not get to serve.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("no threads: {0}")]
    Runtime(io::Error),
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// How a site came to its end.
enum End {
    /// By a signal.
    Told,
    /// Its catalog has to be opened again.
    Anew,
}

/// Becomes a new process of the same program with the same arguments and process id, so that it needs
/// nobody who starts it again. Returns only if that fails.
fn anew() -> io::Error {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "nearshare".into());
    // This very program, even if another has been installed meanwhile.
    Command::new("/proc/self/exe").arg0(name).args(arguments).exec()
}

fn run_map(map: Map, args: &RunArgs) -> Result<End, RunError> {
    let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
    tracing::info!(version, pid, map = %args.map.display(), serial = map.serial, "nearshare starts");
    // As many threads for requests as there are cores: one more than that, and each waits out the
    // other's time slice.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(RunError::Runtime)?;
    let options = Options {
        map_file: std::path::absolute(&args.map).unwrap_or_else(|_| args.map.clone()),
        site: args.site.clone(),
        via: args.via.iter().cloned().collect::<BTreeMap<_, _>>(),
    };
    let ended = runtime.block_on(until_told(map, options));
    runtime.shutdown_timeout(LAST_MOMENT);
    ended
}

/// Starts the site and serves until a signal ends it.
async fn until_told(map: Map, options: Options) -> Result<End, RunError> {
    let mut signals = Signals::new().map_err(RunError::Signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(RunError::Signals)?;
    let site = tokio::select! {
        started = Site::start(map, options) => started?,
        name = signals.end() => {
            tracing::info!("{name} while starting: stopped");
            return Ok(End::Told);
        }
    };
    notify(&[NotifyState::Ready]);
    let end = loop {
        tokio::select! {
            _ = hangup.recv() => reload(&site).await,
            name = signals.end() => {
                tracing::info!("{name}: requests in flight may end; once more stops at once");
                break End::Told;
            }
            () = site.until_anew() => {
                tracing::warn!("the state directory can be written again: nearshare starts anew");
                break End::Anew;
            }
        }
    };
    match end {
        End::Told => notify(&[NotifyState::Stopping]),
        End::Anew => notify_reloading(),
    }
    tokio::select! {
        () = site.stop() => Ok(end),
        name = signals.end() => {
            tracing::warn!("{name}: stopped at once, the next start scans");
            Ok(End::Told)
        }
    }
}

async fn reload(site: &Arc<Site>) {
    notify_reloading();
    if let Err(refused) = Steer::reload(&**site).await {
        for mistake in refused.to_string().lines() {
            tracing::error!("the new map is refused, the old one stays: {mistake}");
        }
    }
    notify(&[NotifyState::Ready]);
}

fn notify_reloading() {
    // systemd wants the moment with the news, so that it can tell an old READY from a new one.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("service manager: {error}"),
    }
}

/// Tells the service manager, if there is one.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot tell the service manager: {error}");
    }
}

/// What ends a site.
struct Signals {
    term: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }
    /// The next one, by name.
    async fn end(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

fn via(text: &str) -> Result<(SiteId, SocketAddr), String> {
    let (site, address) = text.split_once('=').ok_or("write it as SITE=ADDRESS:PORT")?;
    let site = site.parse().map_err(|error: crate::id::IdError| error.to_string())?;
    let address = address.parse().map_err(|_| format!("{address:?} is no address and port"))?;
    Ok((site, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn via_is_a_site_and_an_address() {
        let good = via("hq=127.0.0.1:7400").unwrap();
        assert_eq!((good.0.as_str(), good.1.port()), ("hq", 7400));
        for bad in ["hq", "hq=", "hq=example.com:1", "HQ=127.0.0.1:1", "=127.0.0.1:1"] {
            assert!(via(bad).is_err(), "{bad}");
        }
    }
}
