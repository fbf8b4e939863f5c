//! One site in this process, its nginx in another, and a client that sends exactly what it is told.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use futures_util::future::BoxFuture;
use nearshare::clock::{BootTime, Clock, WallTime};
use nearshare::effect::{Change, Depth};
use nearshare::id::RelPath;
use nearshare::object::Found;
use nearshare::relay::seam::{Awaits, Fence, Fenced, Home, HomeError, HomeTicket, Outcome};
use nearshare::relay::{Caller, Codec, HttpRelay, HttpSite, KeptBy, Part, ShareHttp};
use nearshare::route::Clients;
use nearshare::server::{Limits, Target, Upstream};
use nearshare::wire::http::etag::Tag;
use nearshare::wire::http::{ShareUrl, SiteShares};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use tokio_util::sync::CancellationToken;

/// The memory test wants the process for itself.
static QUIET: RwLock<()> = RwLock::new(());

pub struct House {
    address: SocketAddr,
    server: Option<Child>,
    server_port: u16,
    marked: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
    runtime: Option<tokio::runtime::Runtime>,
    dir: tempfile::TempDir,
    _quiet: Result<RwLockReadGuard<'static, ()>, RwLockWriteGuard<'static, ()>>,
}

impl House {
    pub fn new() -> Self {
        Self::build(Ok(QUIET.read().unwrap_or_else(std::sync::PoisonError::into_inner)))
    }
    /// While no other runs.
    pub fn alone() -> Self {
        Self::build(Err(QUIET.write().unwrap_or_else(std::sync::PoisonError::into_inner)))
    }

    fn build(quiet: Result<RwLockReadGuard<'static, ()>, RwLockWriteGuard<'static, ()>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["root/eng", "root/other", "tmp"] {
            std::fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        let server_port = free_port();
        let marked = Arc::new(Mutex::new(Vec::new()));
        let site = site(&dir.path().join("root/eng"), server_port, marked.clone());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let stop = CancellationToken::new();
        let address = runtime.block_on({
            let stop = stop.clone();
            async move {
                let listener = nearshare::door::listen(([127, 0, 0, 1], 0).into(), false).unwrap();
                let address = listener.local_addr().unwrap();
                let relay = Arc::new(HttpRelay::new(site, Arc::new(Still)));
                tokio::spawn(nearshare::door::serve(
                    listener,
                    relay,
                    nearshare::door::Limits::default(),
                    stop,
                ));
                address
            }
        });
        let runtime = Some(runtime);
        let mut house =
            Self { address, server: None, server_port, marked, stop, runtime, dir, _quiet: quiet };
        house.start_server();
        house
    }

    pub fn start_server(&mut self) {
        let dir = self.dir.path().display();
        let conf = self.dir.path().join("nginx.conf");
        std::fs::write(
            &conf,
            CONF.replace("DIR", &dir.to_string()).replace("PORT", &self.server_port.to_string()),
        )
        .unwrap();
        let server = Command::new("nginx").arg("-c").arg(&conf).process_group(0).spawn().unwrap();
        self.server = Some(server);
        for _ in 0..1000 {
            if TcpStream::connect(("127.0.0.1", self.server_port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nginx does not listen; see {dir}/error.log");
    }
    pub fn stop_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    pub fn share(&self, path: &str) -> PathBuf {
        self.dir.path().join("root/eng").join(path)
    }
    pub fn outside(&self, path: &str) -> PathBuf {
        self.dir.path().join("root/other").join(path)
    }
    pub fn address(&self) -> SocketAddr {
        self.address
    }
    pub fn host(&self) -> &'static str {
        HOST
    }
    /// The targets of the changes since it was last asked, and which were left in doubt.
    pub fn marked(&self) -> Vec<String> {
        std::mem::take(&mut self.marked.lock().unwrap())
    }

    /// Sends a request with its length said, on a connection of its own.
    pub fn ask(&self, method: &str, path: &str, fields: &[&str], body: &[u8]) -> Answer {
        let length = format!("Content-Length: {}", body.len());
        let mut all = fields.to_vec();
        if !body.is_empty() {
            all.push(&length);
        }
        self.ask_raw(method, path, &all, body)
    }
    pub fn ask_raw(&self, method: &str, path: &str, fields: &[&str], body: &[u8]) -> Answer {
        let mut stream = self.send(method, path, fields, body);
        let mut raw = Vec::new();
        // A reset after the answer is an end as well.
        let _ended = stream.read_to_end(&mut raw);
        Answer::parse(&raw)
    }
    /// Announces `length` bytes, sends `body`, goes away, and waits until the change is known to be in
    /// doubt.
    pub fn half_a_put(&self, path: &str, length: usize, body: &[u8]) {
        let length = format!("Content-Length: {length}");
        let stream = self.send("PUT", path, &[&length], body);
        stream.shutdown(std::net::Shutdown::Both).unwrap();
        for _ in 0..1000 {
            if self.marked().iter().any(|entry| entry == "in doubt") {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("half a body is taken for the whole");
    }
    fn send(&self, method: &str, path: &str, fields: &[&str], body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n");
        if !fields.iter().any(|field| field.starts_with("Connection:")) {
            head += "Connection: close\r\n";
        }
        for field in fields {
            head += &format!("{field}\r\n");
        }
        head += "\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        stream
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
        if let Some(mut server) = self.server.take() {
            let _gone = server.kill();
            let _reaped = server.wait();
        }
    }
}

const HOST: &str = "files.example.com";

const CONF: &str = r#"
load_module /usr/lib/nginx/modules/ngx_http_dav_ext_module.so;
user root;
daemon off;
master_process off;
pid DIR/nginx.pid;
error_log DIR/error.log;
events { worker_connections 256; }
http {
    access_log off;
    client_body_temp_path DIR/tmp;
    client_max_body_size 0;
    server {
        listen 127.0.0.1:PORT;
        root DIR/root;
        autoindex on;
        location / {
            dav_methods PUT DELETE MKCOL COPY MOVE;
            dav_ext_methods PROPFIND OPTIONS;
            min_delete_depth 0;
        }
        location /echo {
            return 200 "$request_uri end=$http_x_end hop=$http_x_hop host=$http_host";
        }
    }
}
"#;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    fn parse(raw: &[u8]) -> Self {
        let end = raw.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| {
            panic!("no answer: {}", raw.escape_ascii());
        });
        let head = String::from_utf8_lossy(&raw[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let fields: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut answer = Self { status, fields, body: raw[end + 4..].to_vec() };
        if answer.field("transfer-encoding") == Some("chunked") {
            answer.body = unchunk(&answer.body);
        }
        answer
    }
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| &**value)
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn unchunk(mut raw: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = raw.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&raw[..end]).unwrap(), 16).unwrap();
        body.extend_from_slice(&raw[end + 2..end + 2 + size]);
        raw = &raw[end + 2 + size + 2..];
    }
    body
}

/// Most memory this process has had resident.
pub fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn site(share_dir: &std::path::Path, port: u16, marked: Arc<Mutex<Vec<String>>>) -> HttpSite {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, share_dir, flags, Mode::empty()).unwrap();
    let share: nearshare::id::ShareId = "eng".parse().unwrap();
    HttpSite {
        site: "hq".parse().unwrap(),
        shares: SiteShares::new(vec![ShareUrl::new(share.clone(), "/eng").unwrap()]),
        slots: vec![ShareHttp {
            share,
            sites: Default::default(),
            clients: Clients::default(),
            locks: KeptBy::Server,
            fence: Some(Arc::new(Below(root))),
            part: Part::Local { home: Arc::new(Marking(marked)) },
        }],
        upstream: Upstream::new(
            Target::Tcp { host: "127.0.0.1".into(), port },
            Limits::default(),
            Arc::new(Still),
        ),
        host: None,
        codec: Codec { encode: |_| Vec::new(), decode: |_| None },
        running: Arc::default(),
    }
}

struct Still;
impl Clock for Still {
    fn boot(&self) -> BootTime {
        BootTime::default()
    }
    fn wall(&self) -> WallTime {
        WallTime::default()
    }
}

/// Notes what would be marked.
struct Marking(Arc<Mutex<Vec<String>>>);
struct Ticket(Option<Arc<Mutex<Vec<String>>>>);

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(marked) = self.0.take() {
            marked.lock().unwrap().push("in doubt".to_owned());
        }
    }
}

impl Home for Marking {
    fn begin<'a>(
        &'a self,
        change: &'a Change,
        _: Option<&'a Caller>,
    ) -> BoxFuture<'a, Result<Box<dyn HomeTicket>, HomeError>> {
        let targets = change.targets.iter().map(|target| target.path.to_string());
        self.0.lock().unwrap().extend(targets);
        let ticket = Ticket(Some(self.0.clone()));
        Box::pin(async { Ok(Box::new(ticket) as Box<dyn HomeTicket>) })
    }
    fn stay(&self) -> BoxFuture<'_, Result<Box<dyn Send>, HomeError>> {
        Box::pin(async { Ok(Box::new(()) as Box<dyn Send>) })
    }
    fn is_pledged(&self) -> bool {
        false
    }
    fn visible<'a>(&'a self, _: &'a nearshare::effect::Read) -> BoxFuture<'a, Result<(), HomeError>> {
        Box::pin(async { Ok(()) })
    }
}

impl HomeTicket for Ticket {
    fn answered(mut self: Box<Self>, _: Outcome) -> BoxFuture<'static, Result<Awaits, HomeError>> {
        self.0 = None;
        Box::pin(async { Ok(Vec::new()) })
    }
    fn refused(mut self: Box<Self>, _: Depth) -> BoxFuture<'static, Result<Awaits, HomeError>> {
        self.0 = None;
        Box::pin(async { Ok(Vec::new()) })
    }
    fn unsent(mut self: Box<Self>) -> Awaits {
        self.0 = None;
        Vec::new()
    }
    /// Dropped: what it touched is in doubt.
    fn broke_off(self: Box<Self>) {}
    fn reconcile(&mut self) -> BoxFuture<'_, Result<(), HomeError>> {
        Box::pin(async { Ok(()) })
    }
}

/// The kernel's own word on whether a path stays below a directory.
struct Below(OwnedFd);

impl Fence for Below {
    fn cached(&self, _: &RelPath, _: bool) -> Fenced {
        Fenced::Unknown
    }
    fn look(&self, path: &RelPath, follow: bool) -> Fenced {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let flags = if follow { flags } else { flags | OFlags::NOFOLLOW };
        match openat2(&self.0, path.to_os_path(), flags, Mode::empty(), ResolveFlags::BENEATH) {
            Ok(_) => Fenced::Inside,
            Err(rustix::io::Errno::XDEV) => Fenced::Outside,
            Err(_) => Fenced::Missing,
        }
    }
    fn reaches(&self, path: &RelPath, cached: bool) -> (Fenced, Option<Found>) {
        (if cached { self.cached(path, true) } else { self.look(path, true) }, None)
    }
    fn proven(&self, _: &RelPath) -> Option<(Found, Tag)> {
        None
    }
    fn is_still(&self, _: &RelPath, _: &Found) -> bool {
        false
    }
    fn straight(&self, path: &RelPath, _: bool) -> Option<RelPath> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH;
        let there = openat2(&self.0, path.to_os_path(), flags, Mode::empty(), beneath).ok()?;
        let way = |fd: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok();
        let below = way(&there)?.strip_prefix(way(&self.0)?).ok()?.to_owned();
        RelPath::parse(below.as_os_str().as_bytes()).ok()
    }
    fn version(&self, _: &Found) -> Option<Tag> {
        None
    }
}
