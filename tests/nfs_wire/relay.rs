//! The relay: other handles, numbers and xids on either side, and not a byte else.

use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use nearshare::id::{ObjectId, ShareId};
use nearshare::wire::mount;
use nearshare::wire::nfs3::listing::Entries;
use nearshare::wire::nfs3::near::NearHandles;
use nearshare::wire::nfs3::{self, Item, Returned};
use nearshare::wire::program::{Program, V4, program};
use nearshare::wire::rpc::record::{Limits, Records};
use nearshare::wire::rpc::{Call, Outcome, Reply, XID};
use nearshare::wire::xdr::{Reader, Rope, Weave};

use crate::common::ganesha::Ganesha;
use crate::common::lab::inside;

pub const NFS: u16 = 3049;
pub const MOUNT: u16 = 3048;
/// What clients see as the file system's number.
pub const FSID: u64 = 0x6e73;
const LIMITS: Limits = Limits { bytes: 2 << 20, fragments: 16 };

/// What clients see as the number of a file.
pub fn fileid(server: u64) -> u64 {
    server ^ 1 << 62
}

/// What is known of both sides.
struct Book {
    handles: NearHandles,
    share: ShareId,
    servers: Mutex<HashMap<ObjectId, Bytes>>,
    report: Mutex<Report>,
}

#[derive(Default, Clone)]
pub struct Report {
    /// That were answered.
    pub procedures: BTreeSet<&'static str>,
    /// Of the server's handles.
    pub lengths: BTreeSet<usize>,
    pub faults: Vec<String>,
}

pub struct Relay(Arc<Book>);

impl Relay {
    pub fn start(ns: &str) -> Self {
        let share: ShareId = "docs".parse().unwrap();
        let book = Arc::new(Book {
            handles: NearHandles::new(&[5; 32], [share.clone()]),
            share,
            servers: Mutex::default(),
            report: Mutex::default(),
        });
        // Threads that are started there stay there.
        inside(Some(ns), || {
            for (own, servers) in [(NFS, Ganesha::NFS), (MOUNT, Ganesha::MOUNT)] {
                let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, own)).unwrap();
                let book = book.clone();
                std::thread::spawn(move || {
                    for client in listener.incoming() {
                        let server = TcpStream::connect((Ipv4Addr::LOCALHOST, servers)).unwrap();
                        connect(&book, client.unwrap(), server);
                    }
                });
            }
        });
        Self(book)
    }

    pub fn report(&self) -> Report {
        self.0.report.lock().unwrap().clone()
    }
}

#[derive(Clone, Copy)]
enum Asked {
    Nfs(&'static nfs3::Row),
    Mount(&'static mount::Row, mount::Version),
}

impl Asked {
    fn name(self) -> &'static str {
        match self {
            Self::Nfs(row) => row.name,
            Self::Mount(row, _) => row.name,
        }
    }
}

/// Calls on their way, by the xid that the server knows: what they are, and the client's xid.
type Pending = Arc<Mutex<HashMap<u32, (Asked, u32)>>>;

fn connect(book: &Arc<Book>, client: TcpStream, server: TcpStream) {
    let pending = Pending::default();
    let ends = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (calls, replies) = (pending.clone(), pending);
    pump(book, client, server, move |book, record| call(book, &calls, record));
    pump(book, ends.1, ends.0, move |book, record| reply(book, &replies, record));
}

/// Carries records until one side ends; what cannot be read is reported.
fn pump(
    book: &Arc<Book>,
    mut from: TcpStream,
    mut to: TcpStream,
    turn: impl Fn(&Book, &Rope) -> Result<Rope, String> + Send + 'static,
) {
    let book = book.clone();
    std::thread::spawn(move || {
        let (mut records, mut buffer) = (Records::new(LIMITS), BytesMut::new());
        let mut carry = || -> Result<bool, String> {
            let mut chunk = vec![0; 100_000];
            // An end is an end, however it comes.
            let read = from.read(&mut chunk).unwrap_or(0);
            buffer.extend_from_slice(&chunk[..read]);
            while let Some(record) = records.take(&mut buffer).map_err(|fault| fault.to_string())? {
                let sent = turn(&book, &record)?;
                if sent.pieces().any(|piece| to.write_all(piece).is_err()) {
                    return Ok(false);
                }
            }
            Ok(read > 0)
        };
        let end = loop {
            match carry() {
                Ok(true) => {}
                end => break end,
            }
        };
        if let Err(fault) = end {
            book.report.lock().unwrap().faults.push(fault);
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
}

fn call(book: &Book, pending: &Pending, record: &Rope) -> Result<Rope, String> {
    let mut reader = Reader::new(record);
    let call = Call::read(&mut reader).map_err(|why| why.to_string())?;
    let mut pending = pending.lock().unwrap();
    let xid = call.xid.wrapping_add(0x4000_0000);
    let mut weave = Weave::new(record);
    weave.replace(XID, |out| {
        out.u32(xid);
    });
    let asked = match program(call.program, call.version, V4::Refuse) {
        Ok(known @ (Program::Nfs3 | Program::Acl3)) => {
            let row = if known == Program::Nfs3 { nfs3::row } else { nfs3::acl::row };
            let row = row(call.procedure).ok_or("a procedure that NFS does not have")?;
            let args = row.args(&mut reader).map_err(|why| format!("{}: {why}", row.name))?;
            for fh in args.about.handles() {
                fh.replace(&mut weave, &book.server(&fh.bytes)?);
            }
            Asked::Nfs(row)
        }
        Ok(Program::Mount(version)) => {
            let row = mount::row(call.procedure).ok_or("a procedure that MOUNT does not have")?;
            row.path(&mut reader).map_err(|why| format!("{}: {why}", row.name))?;
            Asked::Mount(row, version)
        }
        other => return Err(format!("{call:?} is {other:?}")),
    };
    // The list of a SETACL is nobody's business here.
    if reader.left() > 0 && asked.name() != "SETACL" && asked.name() != "GETACL" {
        return Err(format!("{}: {} bytes are not understood", asked.name(), reader.left()));
    }
    match pending.insert(xid, (asked, call.xid)) {
        None => Ok(weave.record()),
        Some(_) => Err(format!("the xid {:08x} came twice", call.xid)),
    }
}

fn reply(book: &Book, pending: &Pending, record: &Rope) -> Result<Rope, String> {
    let mut reader = Reader::new(record);
    let reply = Reply::read(&mut reader).map_err(|why| why.to_string())?;
    let (asked, xid) =
        pending.lock().unwrap().remove(&reply.xid).ok_or(format!("nobody asked for {reply:?}"))?;
    let mut weave = Weave::new(record);
    weave.replace(XID, |out| {
        out.u32(xid);
    });
    match reply.outcome {
        Outcome::Success => {}
        // Not every server has ACLs.
        Outcome::ProgUnavail => return Ok(weave.record()),
        _ => return Err(format!("{}: {reply:?}", asked.name())),
    }
    book.report.lock().unwrap().procedures.insert(asked.name());
    match asked {
        Asked::Nfs(row) => results(book, row, record, &mut reader, &mut weave)?,
        Asked::Mount(row, version) if row.is_mnt() => {
            let mounted = mount::mounted(&mut reader, version).map_err(|why| why.to_string())?;
            let mounted = mounted.map_err(|status| format!("MNT: {status:?}"))?;
            weave.opaque(mounted.at, mounted.handle.len(), &book.near(&mounted.handle));
        }
        Asked::Mount(..) => {}
    }
    Ok(weave.record())
}

fn results(
    book: &Book,
    row: &'static nfs3::Row,
    record: &Rope,
    reader: &mut Reader<'_>,
    weave: &mut Weave<'_>,
) -> Result<(), String> {
    let wrong = |why: nearshare::wire::xdr::Fault| format!("reply to {}: {why}", row.name);
    let results = row.results(reader).map_err(wrong)?;
    for item in results.items.iter() {
        match item {
            Item::Handle(fh) => fh.replace(weave, &book.near(&fh.bytes)),
            Item::Attributes(attributes) => {
                attributes.identify(weave, FSID, fileid(attributes.is.fileid))
            }
            Item::Before(before) => before.leave_out(weave),
        }
    }
    if let Returned::Listing(at) = results.returned {
        let mut entries = Entries::new(Reader::starting(record, at), row.name == "READDIRPLUS");
        while let Ok(entry) = entries.next_entry().map_err(wrong)? {
            let handle = entry.handle.as_ref().map(|fh| book.near(&fh.bytes)).unwrap_or_default();
            entry.identify(weave, FSID, fileid(entry.fileid), &handle);
        }
    }
    Ok(())
}

impl Book {
    /// Our handle for one of the server's.
    fn near(&self, server: &Bytes) -> [u8; 32] {
        let mut object = [0; 16];
        object.copy_from_slice(&blake3::hash(server).as_bytes()[..16]);
        let object = ObjectId::from_bytes(object);
        self.servers.lock().unwrap().insert(object, Bytes::copy_from_slice(server));
        self.report.lock().unwrap().lengths.insert(server.len());
        *self.handles.make(&self.share, object).unwrap().as_bytes()
    }

    /// The server's handle for one of ours.
    fn server(&self, near: &[u8]) -> Result<Bytes, String> {
        let read = self.handles.read(near).map_err(|why| why.to_string())?;
        let (_, object) = read.ok_or("a client has a handle of the server's")?;
        self.servers.lock().unwrap().get(&object).cloned().ok_or("a handle that nobody gave".to_owned())
    }
}
