//! The control socket: who may bind it, and the few requests that it answers. Whoever may open it may
//! do everything, so it has mode 0600 from its first moment.

use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ORIGIN};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::metrics::exposition;
use super::page::page;
use super::words::Report;
use super::{NotTaken, Status, Steer, VERDICT, VERDICT_OK, VERDICT_WRONG, Wrong};
use crate::body::Body;
use crate::id::{IdError, Name, ShareId, SiteId};
use crate::tree::kept::{Unkept, name_of};
use crate::verify::Order;

/// The answer to a reload when the map's file cannot be read.
pub const UNREAD: StatusCode = StatusCode::NOT_FOUND;
/// Open connections; more wait to be accepted.
const CONNECTIONS_MAX: usize = 32;
/// From the moment a connection waits for a request until it has its head.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Bytes of a request's head. The longest that means anything is about 300.
const HEAD_MAX: usize = 8 * 1024;
const FIELDS_MAX: usize = 32;
/// One connection, whatever it does: a promotion takes from every other site what it has.
const CONNECTION_TIME: Duration = Duration::from_secs(600);
/// How long requests may run on at the end.
const DRAIN: Duration = Duration::from_secs(2);
/// After a failed `accept`, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest path of a socket, in bytes: `sun_path` has 108, one of them a NUL (unix(7)).
const PATH_MAX: usize = 107;

/// The control socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("another nearshare answers at {0}: stop it, or give this site a state directory of its own")]
    InUse(PathBuf),
    #[error("{0} is there and no socket: move it away")]
    NotASocket(PathBuf),
    #[error(
        "{0} is longer than the 107 bytes that a socket's path may have: shorten `state` in the map"
    )]
    TooLong(PathBuf),
    #[error("cannot {operation} {path}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

/// A bound control socket.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

/// Binds the control socket; must be called within a runtime. One that is there is replaced if nobody
/// answers at it.
pub fn bind(path: &Path) -> Result<Control, AdminError> {
    let failed = |operation| {
        let path = path.to_owned();
        move |source| AdminError::Io { operation, path, source }
    };
    let parent = path.parent().unwrap_or(Path::new("."));
    fits(path)?;
    vacant(path)?;
    // Bound in a directory that nobody else can enter, so that no moment is without its mode.
    let nursery = tempfile::Builder::new()
        .prefix(".c")
        .rand_bytes(4)
        .tempdir_in(parent)
        .map_err(failed("make a directory beside"))?;
    let born = nursery.path().join("s");
    if fits(&born).is_err() {
        return Err(AdminError::TooLong(path.to_owned()));
    }
    let listener = UnixListener::bind(&born).map_err(failed("bind"))?;
    fs::set_permissions(&born, Permissions::from_mode(0o600)).map_err(failed("set the mode of"))?;
    let found = fs::symlink_metadata(&born).map_err(failed("look at"))?;
    fs::rename(&born, path).map_err(failed("rename to"))?;
    Ok(Control { listener, path: path.to_owned(), inode: (found.dev(), found.ino()) })
}

/// Whether a socket can have that path.
pub fn fits(path: &Path) -> Result<(), AdminError> {
    let long = path.as_os_str().len() > PATH_MAX;
    if long { Err(AdminError::TooLong(path.to_owned())) } else { Ok(()) }
}

/// Answers until `stop`, then lets requests in flight end and removes the socket.
pub async fn serve(control: Control, steer: Arc<dyn Steer>, stop: CancellationToken) {
    let running = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&control.listener, &places) => accepted,
        };
        let (stream, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("control socket: accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let serving = connection(stream, steer.clone(), stop.clone());
        running.spawn(async move {
            if timeout(CONNECTION_TIME, serving).await.is_err() {
                tracing::warn!("control socket: a connection was cut off after its longest time");
            }
            drop(place);
        });
    }
    control.remove();
    running.close();
    if timeout(DRAIN, running.wait()).await.is_err() {
        tracing::warn!(left = running.len(), "control socket: requests still running were cut off");
    }
}

impl Control {
    /// Removes the socket, unless it is another's by now.
    fn remove(&self) {
        let ours = |found: &fs::Metadata| (found.dev(), found.ino()) == self.inode;
        let removed = match fs::symlink_metadata(&self.path) {
            Ok(found) if ours(&found) => fs::remove_file(&self.path),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Fails if somebody answers at `path`, or if it is something else than a socket.
fn vacant(path: &Path) -> Result<(), AdminError> {
    let failed = |operation, source| Err(AdminError::Io { operation, path: path.to_owned(), source });
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return failed("look at", source),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(AdminError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match probe(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        // Somebody is there, if only one who is too busy to accept.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(AdminError::InUse(path.to_owned()))
        }
        Err(source) => failed("connect to", source),
        Ok(()) => Err(AdminError::InUse(path.to_owned())),
    }
}

/// Connects without waiting: with a Unix socket the kernel knows at once.
fn probe(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &UnixListener,
    places: &Arc<Semaphore>,
) -> io::Result<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    Ok((listener.accept().await?.0, place))
}

async fn connection(stream: UnixStream, steer: Arc<dyn Steer>, stop: CancellationToken) {
    let service = service_fn(move |request: Request<Incoming>| {
        let steer = steer.clone();
        async move { Ok::<_, Infallible>(answer(&*steer, &request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_headers(FIELDS_MAX)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("control socket: {error}");
    }
}

/// What can be asked for.
enum Ask {
    Page,
    Status,
    StatusText,
    Metrics,
    Reload,
    Scan(ShareId),
    Believe(ShareId),
    /// The share, where to, and whether what only the old primary has may be lost.
    Promote(ShareId, SiteId, bool),
    /// What is kept aside, from behind one on.
    Kept(ShareId, Option<Name>),
    RemoveKept(ShareId, Unkept),
    Verify(ShareId, Order),
    EndVerify(ShareId),
    Verified(ShareId),
}

/// The request's meaning, or the answer that it has none.
fn ask(method: &Method, path: &str, query: &str, foreign: bool) -> Result<Ask, Response<Body>> {
    let refuse = |status, why: &str| Err(text(status, format!("{why}\n")));
    let (allowed, ask) = match path {
        "/" => (Method::GET, Ask::Page),
        "/status" => (Method::GET, Ask::Status),
        "/status.txt" => (Method::GET, Ask::StatusText),
        "/metrics" => (Method::GET, Ask::Metrics),
        "/reload" => (Method::POST, Ask::Reload),
        _ => match of_share(path, query) {
            Some(Ok(ask)) => ask,
            Some(Err(why)) => return refuse(StatusCode::BAD_REQUEST, &why),
            None => {
                let there = "there are GET /, /status, /status.txt, /metrics, /shares/SHARE/kept and /shares/SHARE/verified, POST /reload, \
                             /shares/SHARE/scan, /shares/SHARE/believe, /shares/SHARE/promote?to=SITE, \
                             /shares/SHARE/kept/remove?id=ID, /shares/SHARE/verify and \
                             /shares/SHARE/verify/stop";
                return refuse(StatusCode::NOT_FOUND, there);
            }
        },
    };
    if *method != allowed {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {allowed}\n"));
        let allow = if allowed == Method::GET { "GET" } else { "POST" };
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        return Err(answer);
    }
    // Through a forwarded port, any page in the operator's browser could post here.
    if allowed == Method::POST && foreign {
        return refuse(StatusCode::FORBIDDEN, "commands are not taken from a browser");
    }
    Ok(ask)
}

/// What is asked of one share: `/shares/SHARE/VERB`. `None`: there is no such thing.
fn of_share(path: &str, query: &str) -> Option<Result<(Method, Ask), String>> {
    let (share, verb) = path.strip_prefix("/shares/")?.split_once('/')?;
    let share = || share.parse::<ShareId>().map_err(|error: IdError| error.to_string());
    Some(match verb {
        "scan" => share().map(|share| (Method::POST, Ask::Scan(share))),
        "believe" => share().map(|share| (Method::POST, Ask::Believe(share))),
        "promote" => share().and_then(|share| promotion(share, query)).map(|ask| (Method::POST, ask)),
        "kept" => share().and_then(|share| kept_behind(share, query)).map(|ask| (Method::GET, ask)),
        "verify" => share().and_then(|share| verification(share, query)).map(|ask| (Method::POST, ask)),
        "verify/stop" => share().map(|share| (Method::POST, Ask::EndVerify(share))),
        "verified" => share().map(|share| (Method::GET, Ask::Verified(share))),
        "kept/remove" => {
            share().and_then(|share| kept_no_more(share, query)).map(|ask| (Method::POST, ask))
        }
        _ => return None,
    })
}

/// `repair`, `anew` and `rate=BYTES` a second, each if it may be.
fn verification(share: ShareId, query: &str) -> Result<Ask, String> {
    let mut order = Order::default();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            None if part == "repair" => order.repair = true,
            None if part == "anew" => order.anew = true,
            Some(("rate", rate)) => {
                order.rate = Some(rate.parse().map_err(|_| format!("`{rate}` is no number of bytes"))?);
            }
            _ => return Err(format!("`{part}` is not understood: write repair, anew and rate=BYTES")),
        }
    }
    Ok(Ask::Verify(share, order))
}

/// Nothing, or `after=ID`.
fn kept_behind(share: ShareId, query: &str) -> Result<Ask, String> {
    let after = match query.split_once('=') {
        None if query.is_empty() => None,
        Some(("after", id)) => Some(kept_id(id)?),
        _ => return Err(format!("`{query}` is not understood: write ?after=ID, or nothing")),
    };
    Ok(Ask::Kept(share, after))
}

/// `id=ID`, or `older-than=SECONDS`.
fn kept_no_more(share: ShareId, query: &str) -> Result<Ask, String> {
    let which = match query.split_once('=') {
        Some(("id", id)) => Unkept::One(kept_id(id)?),
        Some(("older-than", seconds)) => {
            let seconds = seconds.parse().map_err(|_| format!("`{seconds}` is no number of seconds"))?;
            Unkept::OlderThan(seconds)
        }
        _ => return Err(format!("`{query}` is not understood: write ?id=ID or ?older-than=SECONDS")),
    };
    Ok(Ask::RemoveKept(share, which))
}

fn kept_id(encoded: &str) -> Result<Name, String> {
    let id = percent_encoding::percent_decode_str(encoded).decode_utf8();
    let name = id.ok().and_then(|id| name_of(&id));
    name.ok_or_else(|| format!("`{encoded}` is no id that `nearshare kept` shows"))
}

/// `to=SITE`, and `accept-loss` if it may be.
fn promotion(share: ShareId, query: &str) -> Result<Ask, String> {
    let (mut to, mut accept_loss) = (None, false);
    for part in query.split('&') {
        match part.split_once('=') {
            Some(("to", site)) => to = Some(site.parse().map_err(|error: IdError| error.to_string())?),
            None if part == "accept-loss" => accept_loss = true,
            _ => return Err(format!("`{part}` is not understood: write ?to=SITE, and &accept-loss")),
        }
    }
    let to = to.ok_or("name the site that is to have the primary copy: ?to=SITE")?;
    Ok(Ask::Promote(share, to, accept_loss))
}

async fn answer(steer: &dyn Steer, request: &Request<Incoming>) -> Response<Body> {
    let foreign = request.headers().contains_key(ORIGIN);
    let query = request.uri().query().unwrap_or_default();
    match ask(request.method(), request.uri().path(), query, foreign) {
        Err(refusal) => refusal,
        Ok(Ask::Page) => {
            let html = page(&Report::new(&steer.status()));
            content(StatusCode::OK, "text/html; charset=utf-8", html)
        }
        Ok(Ask::Status) => json(&steer.status()),
        Ok(Ask::StatusText) => {
            let report = Report::new(&steer.status());
            judged(text(StatusCode::OK, report.text()), report.ok)
        }
        Ok(Ask::Metrics) => {
            let all = exposition(&steer.status(), &steer.metrics());
            content(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", all)
        }
        Ok(Ask::Reload) => match steer.reload().await {
            Ok(changed) => text(StatusCode::OK, line(changed)),
            Err(why) => {
                let code = match &why {
                    NotTaken::Unread(_) => UNREAD,
                    NotTaken::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
                };
                let Status { site, map, .. } = steer.status();
                let kept = format!(
                    "not taken: site {site} goes on with the map that it has, serial {}",
                    map.serial
                );
                text(code, format!("{}{kept}\n", line(why.to_string())))
            }
        },
        Ok(Ask::Promote(share, to, accept_loss)) => told(steer.promote(&share, &to, accept_loss).await),
        Ok(Ask::Believe(share)) => told(steer.believe(&share).map(|many| match many {
            1 => format!("1 place of {share} is no longer in doubt"),
            many => format!("{many} places of {share} are no longer in doubt"),
        })),
        Ok(Ask::Kept(share, after)) => match steer.kept(&share, after).await {
            Ok(page) => serialized("what is kept", &page),
            Err(why) => text(StatusCode::CONFLICT, line(why)),
        },
        Ok(Ask::RemoveKept(share, which)) => {
            told(steer.remove_kept(&share, which).await.map(|many| format!("{many} removed")))
        }
        Ok(Ask::Verify(share, order)) => told(steer.verify(&share, order).map(|began| {
            let how = if began { "begins" } else { "goes on" };
            format!("the verification of {share} {how}; `nearshare status` says how far it is")
        })),
        Ok(Ask::EndVerify(share)) => told(
            steer.end_verify(&share).map(|()| format!("the verification of {share} ends where it is")),
        ),
        Ok(Ask::Verified(share)) => match steer.verified(&share) {
            Ok(report) => serialized("a verification", &report),
            Err(why) => text(StatusCode::CONFLICT, line(why)),
        },
        Ok(Ask::Scan(share)) => match steer.rescan(&share) {
            Ok(()) => text(
                StatusCode::ACCEPTED,
                format!("scanning {share}; `nearshare status` says how far\n"),
            ),
            Err(why) => text(StatusCode::CONFLICT, line(why)),
        },
    }
}

/// The status, with the verdict in front.
#[derive(Serialize)]
struct Said<'s> {
    ok: bool,
    wrong: &'s [Wrong],
    #[serde(flatten)]
    status: &'s Status,
}

fn json(status: &Status) -> Response<Body> {
    let wrong = status.wrong();
    let said = Said { ok: wrong.is_empty(), wrong: &wrong, status };
    judged(serialized("status", &said), said.ok)
}

fn serialized(what: &str, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_string(value) {
        Ok(json) => content(StatusCode::OK, "application/json", json),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{what} as JSON: {error}\n")),
    }
}

fn judged(mut answer: Response<Body>, ok: bool) -> Response<Body> {
    let verdict = HeaderValue::from_static(if ok { VERDICT_OK } else { VERDICT_WRONG });
    answer.headers_mut().insert(VERDICT, verdict);
    answer
}

/// What a command did, or why not.
fn told(done: Result<String, String>) -> Response<Body> {
    match done {
        Ok(done) => text(StatusCode::OK, line(done)),
        Err(why) => text(StatusCode::CONFLICT, line(why)),
    }
}

/// With an end of line, if there is none.
fn line(mut text: String) -> String {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    content(status, "text/plain; charset=utf-8", text)
}

fn content(status: StatusCode, kind: &'static str, content: String) -> Response<Body> {
    let mut answer = Response::new(Body::text(content));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests;
