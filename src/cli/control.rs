//! Finds a running site's control socket and asks it something. Not here: what can be asked for
//! (see `admin`).

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use tokio::net::UnixStream;

use super::check::{CannotRead, map_text, no_such_site, report};
use super::http::{Answer, ExchangeError, exchange};
use crate::admin::UNREAD;
use crate::id::SiteId;
use crate::map::{self, Cluster, Need, NeedKind};
use crate::serve::control_socket;

/// A status of 65,536 shares with a kilobyte each is 64 MiB.
const ANSWER_MAX: usize = 64 << 20;

/// Which running site is meant. Without any of these: the one with the default state directory.
#[derive(Debug, Clone, clap::Args)]
pub struct Selector {
    /// The server map, which says where the site keeps its control socket
    #[arg(long, requires = "site", value_name = "FILE")]
    pub map: Option<PathBuf>,
    /// The site's name in the map
    #[arg(long, requires = "map", value_name = "NAME")]
    pub site: Option<SiteId>,
    /// The control socket itself [default: /var/lib/nearshare/control.sock]
    #[arg(long, conflicts_with_all = ["map", "site"], value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// A running site cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlError {
    #[error(transparent)]
    Map(#[from] CannotRead),
    #[error("{0}")]
    NoSite(String),
    #[error("nobody answers at {path}: {source}; {}", start(source))]
    Connect { path: PathBuf, source: io::Error },
    #[error("{path}: {source}; see the log of the nearshare that runs there")]
    Exchange { path: PathBuf, source: ExchangeError },
    #[error("cannot start: {0}")]
    Runtime(io::Error),
}

/// What to do about a socket that cannot be connected to.
fn start(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "become the user that nearshare runs as, such as root",
        _ => "start the site with `nearshare run --map FILE --site NAME`",
    }
}

/// Where the running site answers, and what its user should know of how that was found.
struct Place {
    socket: PathBuf,
    note: Option<String>,
}

impl Selector {
    fn place(&self) -> Result<Place, ControlError> {
        let at = |state: &Path| Place { socket: control_socket(state), note: None };
        if let Some(socket) = &self.socket {
            return Ok(Place { socket: socket.clone(), note: None });
        }
        let (Some(file), Some(site)) = (&self.map, &self.site) else {
            return Ok(at(&Cluster::default().state));
        };
        let reading = map::read(&map_text(file)?);
        if let Some(map) = &reading.map {
            let row = map.sites.get(site).ok_or_else(|| {
                ControlError::NoSite(report(file, &[no_such_site(site)]).trim_end().to_owned())
            })?;
            return Ok(at(&row.cluster.state));
        }
        // A site that runs keeps the map it has: a slip in the file must not hide it.
        let state = |need: &&Need| need.site == *site && need.kind == NeedKind::State;
        let state = reading.needs.iter().find(state).map(|need| need.path.clone());
        let place = at(&state.unwrap_or_else(|| Cluster::default().state));
        let (count, name) = (reading.mistakes.len(), file.display());
        let (mistakes, them) = if count == 1 { ("mistake", "it") } else { ("mistakes", "them") };
        let note = format!(
            "{name} has {count} {mistakes}, `nearshare check {name}` shows {them}; asking at {} all the same",
            place.socket.display()
        );
        Ok(Place { note: Some(note), ..place })
    }

    /// Sends one request to the running site; its answer within `limit`.
    pub(super) fn ask(
        &self,
        method: Method,
        path: &str,
        limit: Duration,
    ) -> Result<Answer, ControlError> {
        let place = self.place()?;
        if let Some(note) = &place.note {
            let _unread = writeln!(io::stderr(), "{note}");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(ControlError::Runtime)?.block_on(ask(&place.socket, method, path, limit))
    }
}

async fn ask(
    socket: &Path,
    method: Method,
    path: &str,
    limit: Duration,
) -> Result<Answer, ControlError> {
    let at = || socket.to_owned();
    let connect = tokio::time::timeout(limit, UnixStream::connect(socket)).await;
    let stream = connect
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| ControlError::Connect { path: at(), source })?;
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.method_mut() = method;
    // Whatever the name of a share is, it is a path: identifiers have only letters, digits and '-'.
    *request.uri_mut() = path.parse().unwrap_or_default();
    request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("local"));
    exchange(stream, request, ANSWER_MAX, limit)
        .await
        .map_err(|source| ControlError::Exchange { path: at(), source })
}

/// Prints an answer to standard output, or to standard error if it is a refusal.
pub(super) fn print(answer: &Answer) {
    // Nobody reads what is printed: the reader of a pipe has seen enough.
    let _unread = match answer.status.is_success() {
        true => io::stdout().write_all(&answer.body),
        false => io::stderr().write_all(&answer.body),
    };
}

/// Tells why a site could not be asked.
pub(super) fn cannot(error: &ControlError, code: u8) -> ExitCode {
    let _unread = writeln!(io::stderr(), "{error}");
    ExitCode::from(code)
}

/// Prints the answer to a command. Exits with 0 when it was done, 1 when it was refused, 2 when nobody
/// could be asked, or the site cannot read its map.
pub(super) fn told(asked: Result<Answer, ControlError>) -> ExitCode {
    match asked {
        Ok(answer) => {
            print(&answer);
            ExitCode::from(match answer.status {
                status if status.is_success() => 0,
                UNREAD => 2,
                _ => 1,
            })
        }
        Err(error @ ControlError::NoSite(_)) => cannot(&error, 1),
        Err(error) => cannot(&error, 2),
    }
}
