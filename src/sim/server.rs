//! The file server behind a site: does what it is asked on the model of the disk, some time after it
//! was asked; with faults late, never, or without an answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use tokio::time::sleep;

use super::clock::note;
use super::net::millis;
use super::site::TOLD;
use crate::body::{Body, collect};
use crate::id::{Name, RelPath};
use crate::object::{Attrs, Found, Kind, Object, Timespec};
use crate::server::{ServerError, Serves, Target};
use crate::tree::model::{Model, ModelDir};
use crate::tree::{Place, Resolved, Spot, Tree};
use crate::work::single::{outside, pick};

pub struct Server {
    site: &'static str,
    disk: Model,
    target: Target,
    down: AtomicBool,
    /// How often it was started.
    starts: AtomicU64,
    /// It answers late or never now and then.
    sloppy: AtomicBool,
    /// What it does next at this path it does so much later.
    slow: Mutex<Option<(String, Duration)>>,
    /// And this it answers so much later than it does it.
    silent: Mutex<Option<(String, Duration)>>,
}

/// How long after it was asked a sloppy server still does something.
pub const LATE: Duration = Duration::from_millis(2500);

impl Server {
    pub fn new(site: &'static str, disk: Model) -> Arc<Self> {
        let target = Target::Tcp { host: "server".into(), port: 80 };
        let (down, sloppy) = (AtomicBool::new(false), AtomicBool::new(false));
        let (starts, slow, silent) = (AtomicU64::new(0), Mutex::default(), Mutex::default());
        Arc::new(Self { site, disk, target, down, starts, sloppy, slow, silent })
    }
    /// It takes so long before it does what it is asked next at `path`.
    pub fn set_slow(&self, path: &str, time: Duration) {
        *self.slow.lock().expect("nobody panics with it") = Some((path.to_owned(), time));
    }
    /// It takes so long until it answers after it has done what it is asked next at `path`.
    pub fn set_silent(&self, path: &str, time: Duration) {
        *self.silent.lock().expect("nobody panics with it") = Some((path.to_owned(), time));
    }
    pub fn set_sloppy(&self, sloppy: bool) {
        self.sloppy.store(sloppy, Ordering::SeqCst);
    }
    /// It ends: what it was at is not done any more, and who waits hears nothing.
    pub fn stop(&self) {
        self.starts.fetch_add(1, Ordering::SeqCst);
        self.down.store(true, Ordering::SeqCst);
    }
    pub fn start(&self) {
        self.down.store(false, Ordering::SeqCst);
    }

    async fn answer(self: Arc<Self>, asked: Asked) -> Result<Response<Body>, ServerError> {
        let server = || format!("server of {}", self.site);
        let silent = || ServerError::Silent { server: server(), after: LATE };
        if self.down.load(Ordering::SeqCst) {
            let source = std::io::ErrorKind::ConnectionRefused.into();
            return Err(ServerError::Connect { server: server(), source });
        }
        let start = self.starts.load(Ordering::SeqCst);
        sleep(millis(0, 8)).await;
        let next = |what: &Mutex<Option<(String, Duration)>>| {
            let mut next = what.lock().expect("nobody panics with it");
            next.take_if(|(path, _)| *path == asked.path)
        };
        let (slow, quiet) = (next(&self.slow), next(&self.silent));
        if let Some((_, time)) = slow {
            sleep(time).await;
        }
        let sloppy = self.sloppy.load(Ordering::SeqCst);
        let (late, never) = (sloppy && pick(6) == 0, sloppy && pick(12) == 0);
        if never {
            sleep(millis(100, 1000)).await;
            return Err(silent());
        }
        let this = self.clone();
        let work = outside(async move {
            if late {
                sleep(millis(0, LATE.as_millis() as u64)).await;
            }
            (this.starts.load(Ordering::SeqCst) == start).then(|| this.execute(&asked))
        });
        if late {
            sleep(millis(0, LATE.as_millis() as u64)).await;
            return Err(silent());
        }
        let Some(response) = work.await.ok().flatten() else { return Err(silent()) };
        if let Some((_, time)) = quiet {
            sleep(time).await;
        }
        sleep(millis(0, 5)).await;
        if self.starts.load(Ordering::SeqCst) != start {
            return Err(silent());
        }
        Ok(response)
    }

    fn execute(&self, asked: &Asked) -> Response<Body> {
        let (status, body) = asked.carry_out(&self.disk).unwrap_or((507, Bytes::new()));
        if asked.is_read() {
            self.disk.show();
        }
        note(|| format!("{} server: {} {} {}", self.site, asked.method, asked.path, status));
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = StatusCode::from_u16(status).expect("a status of ours");
        response
    }
}

impl Serves for Server {
    fn serve(
        self: Arc<Self>,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, ServerError>> {
        Box::pin(async move {
            let _ = TOLD.try_with(|told| told.near.set(true));
            let (parts, body) = request.into_parts();
            let data = collect(body, 1 << 20)
                .await
                .map_err(|error| ServerError::Client { source: error.into() })?;
            let field = |name| parts.headers.get(name).and_then(|field| field.to_str().ok());
            let path = |path: &str| path.trim_start_matches("/eng").trim_matches('/').to_owned();
            let asked = Asked {
                method: parts.method.clone(),
                path: path(parts.uri.path()),
                to: field("destination")
                    .map(|url| path(url.strip_prefix("http://files").unwrap_or(url))),
                overwrite: field("overwrite") != Some("F"),
                data,
            };
            self.answer(asked).await
        })
    }
    fn target(&self) -> &Target {
        &self.target
    }
}

struct Asked {
    method: Method,
    path: String,
    to: Option<String>,
    overwrite: bool,
    data: Bytes,
}

/// Where a path leads: a directory, the name in it and what is there.
struct At {
    dir: ModelDir,
    name: Name,
    found: Option<Found>,
}

impl Asked {
    fn is_read(&self) -> bool {
        matches!(self.method.as_str(), "GET" | "HEAD" | "PROPFIND")
    }
    /// `None`: there is no room for it.
    fn carry_out(&self, disk: &Model) -> Option<(u16, Bytes)> {
        let plain = |status| Some((status, Bytes::new()));
        let Some(at) = locate(disk, &self.path) else {
            if self.path.is_empty() && self.method.as_str() == "PROPFIND" {
                return Some((207, list(disk, "", &disk.root().ok()?)));
            }
            return plain(if matches!(self.method.as_str(), "PUT" | "MKCOL") { 409 } else { 404 });
        };
        let is_dir = at.found.as_ref().is_some_and(|found| found.kind == Kind::Directory);
        match (self.method.as_str(), &at.found) {
            ("PUT", _) if is_dir => plain(405),
            ("PUT", found) => {
                let over = found.is_some() && pick(2) == 0;
                disk.write(&at.dir, &at.name, &self.data, over).ok()?;
                plain(if found.is_some() { 204 } else { 201 })
            }
            ("MKCOL", Some(_)) => plain(405),
            ("MKCOL", None) => {
                disk.make(Spot::Entry(&at.dir, &at.name), &directory()).ok()?;
                plain(201)
            }
            (_, None) => plain(404),
            ("GET" | "HEAD", _) if is_dir => plain(403),
            ("GET" | "HEAD", _) => Some((200, read(disk, &at.dir, &at.name))),
            ("PROPFIND", Some(found)) if is_dir => {
                let dir = open(disk, found)?;
                Some((207, list(disk, &self.path, &dir)))
            }
            ("PROPFIND", Some(found)) => {
                let rows = BTreeMap::from([(self.path.clone(), Some(found.size))]);
                Some((207, multistatus(&rows)))
            }
            ("DELETE", Some(_)) => {
                // Only directories that are not empty cannot go.
                plain(if disk.remove(Spot::Entry(&at.dir, &at.name)).is_ok() { 204 } else { 423 })
            }
            ("MOVE", Some(_)) => self.rename(disk, &at),
            ("COPY", Some(_)) => self.copy(disk, &at),
            _ => plain(501),
        }
    }

    fn copy(&self, disk: &Model, from: &At) -> Option<(u16, Bytes)> {
        let plain = |status| Some((status, Bytes::new()));
        let Some(to) = locate(disk, self.to.as_deref()?) else { return plain(409) };
        if to.found.is_some() && !self.overwrite {
            return plain(412);
        }
        match from.found.as_ref().filter(|found| found.kind == Kind::Directory) {
            Some(found) => copy_tree(disk, &open(disk, found)?, &to)?,
            None => {
                let over = to.found.is_some() && pick(2) == 0;
                disk.write(&to.dir, &to.name, &read(disk, &from.dir, &from.name), over).ok()?;
            }
        }
        plain(if to.found.is_some() { 204 } else { 201 })
    }

    fn rename(&self, disk: &Model, from: &At) -> Option<(u16, Bytes)> {
        let plain = |status| Some((status, Bytes::new()));
        let Some(to) = locate(disk, self.to.as_deref()?) else { return plain(409) };
        if to.found.is_some() && !self.overwrite {
            return plain(412);
        }
        let spots = (Spot::Entry(&from.dir, &from.name), Spot::Entry(&to.dir, &to.name));
        match disk.rename(spots.0, spots.1, true) {
            Ok(()) => plain(if to.found.is_some() { 204 } else { 201 }),
            Err(_) => plain(423),
        }
    }
}

fn copy_tree(disk: &Model, from: &ModelDir, to: &At) -> Option<()> {
    disk.make(Spot::Entry(&to.dir, &to.name), &directory()).ok()?;
    let made = disk.look(Spot::Entry(&to.dir, &to.name)).ok()??;
    let dir = open(disk, &made)?;
    for name in disk.list(from).unwrap_or_default() {
        disk.write(&dir, &name, &read(disk, from, &name), false).ok()?;
    }
    Some(())
}

fn directory() -> Object {
    Object {
        id: crate::id::ObjectId::ROOT,
        kind: Kind::Directory,
        attrs: Attrs { mode: 0o755, uid: 0, gid: 0, mtime: Timespec { sec: 1, nsec: 0 } },
        xattrs: Default::default(),
        size: 0,
        rdev: 0,
        target: Vec::new(),
        version: crate::id::Version(1),
        root: crate::id::Hash::default(),
        ctime: Timespec { sec: 1, nsec: 0 },
        seq: crate::id::Seq(0),
    }
}

fn open(disk: &Model, found: &Found) -> Option<ModelDir> {
    disk.open_dir(&Place { handle: &found.handle, path: &|| None }).ok()?
}

fn locate(disk: &Model, path: &str) -> Option<At> {
    let names = path.split('/').map(|name| Name::new(name.as_bytes()).ok()).collect::<Option<_>>()?;
    match disk.resolve(&RelPath::new(names).ok()?, false).ok()? {
        Resolved::Entry { dir, name, found } => Some(At { dir: open(disk, &dir)?, name, found }),
        _ => None,
    }
}

fn read(disk: &Model, dir: &ModelDir, name: &Name) -> Bytes {
    let file = disk.open_file(Spot::Entry(dir, name)).ok().flatten();
    let mut data = Vec::new();
    if let Some(mut file) = file {
        // A model's file can always be read.
        let _ = std::io::Read::read_to_end(&mut file, &mut data);
    }
    data.into()
}

fn list(disk: &Model, path: &str, dir: &ModelDir) -> Bytes {
    let mut rows = BTreeMap::from([(format!("{path}/"), None)]);
    for name in disk.list(dir).unwrap_or_default() {
        let Ok(Some(found)) = disk.look(Spot::Entry(dir, &name)) else { continue };
        let below = if path.is_empty() { name.to_string() } else { format!("{path}/{name}") };
        match found.kind {
            Kind::Directory => rows.insert(format!("{below}/"), None),
            _ => rows.insert(below, Some(found.size)),
        };
    }
    multistatus(&rows)
}

fn multistatus(rows: &BTreeMap<String, Option<u64>>) -> Bytes {
    let mut text = String::from("<?xml version=\"1.0\"?><D:multistatus xmlns:D=\"DAV:\">");
    for (path, size) in rows {
        let size = size
            .map_or(String::new(), |size| format!("<D:getcontentlength>{size}</D:getcontentlength>"));
        let path = path.trim_start_matches('/');
        text += &format!(
            "<D:response><D:href>/eng/{path}</D:href><D:propstat><D:prop>{size}</D:prop>\
             <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
        );
    }
    text += "</D:multistatus>";
    text.into()
}
