//! Real requests over connections in memory, on real directories.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::id::Epoch;
use crate::object::{LocalHandle, Stamp};
use crate::tree::write::tests::disk;
use crate::tree::{Resolved, Tree};

mod dav;
mod disks;
mod patching;
mod reading;
mod receiving;

/// Knows files as the catalog does: by handle, as long as they are what they were.
#[derive(Default)]
struct Known(Mutex<HashMap<LocalHandle, (Stamp, ObjectId, Version)>>);

impl Tags for Known {
    fn tag(&self, share: &ShareId, found: &Found) -> Option<(ObjectId, Version)> {
        assert_eq!(share.as_str(), "eng");
        let (stamp, id, version) = self.0.lock().unwrap().get(&found.handle).copied()?;
        (stamp == found.stamp).then_some((id, version))
    }
}

/// A server of one share at `/eng`.
struct Bench {
    dir: PathBuf,
    disk: Arc<Disk>,
    server: Embedded,
    known: Arc<Known>,
    _temp: Option<tempfile::TempDir>,
}

struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
    fn field(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl Bench {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let bench = Self::over(temp.path());
        Self { _temp: Some(temp), ..bench }
    }

    fn over(dir: &Path) -> Self {
        Self::keeping(dir, true)
    }

    fn keeping(dir: &Path, properties: bool) -> Self {
        let (known, disk) = (Arc::new(Known::default()), disk(dir));
        let share = EmbeddedShare {
            share: "eng".parse().unwrap(),
            prefix: RelPath::parse(b"eng").unwrap(),
            tree: disk.clone(),
            properties,
        };
        let server = embedded(vec![share], known.clone()).unwrap();
        Self { dir: dir.to_owned(), disk, server, known, _temp: None }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }
    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.at(path), content).unwrap();
    }
    fn read(&self, path: &str) -> String {
        String::from_utf8(std::fs::read(self.at(path)).unwrap()).unwrap()
    }
    /// From here on the catalog knows this file.
    fn know(&self, path: &str, version: u64) -> String {
        let id = ObjectId::new(Epoch(1), [0xab; 12]);
        let path = RelPath::parse(path.as_bytes()).unwrap();
        let resolved = self.disk.resolve(&path, false).unwrap();
        let Resolved::Entry { found: Some(found), .. } = resolved else { panic!("{resolved:?}") };
        self.known.0.lock().unwrap().insert(found.handle, (found.stamp, id, Version(version)));
        format!("\"00000001abababababababababababab-{version}\"")
    }
    /// Whether nothing is left in `.nearshare/tmp`.
    fn tidy(&self) -> bool {
        std::fs::read_dir(self.at(".nearshare/tmp")).unwrap().next().is_none()
    }
    /// Waits until what a broken connection left is cleared away; that happens after it broke.
    async fn becomes_tidy(&self) {
        for _ in 0..1000 {
            if self.tidy() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("litter stays in .nearshare/tmp");
    }

    async fn ask(&self, method: &str, path: &str) -> Reply {
        self.send(method, path, &[], "").await
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(path).header("host", "files");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let io = TokioIo::new(self.server.connect());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn status(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> u16 {
        self.send(method, path, fields, "").await.status
    }

    /// Sends bytes as they are, which must ask the server to close, and gives what comes back.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut io = self.server.connect();
        io.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        io.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}
