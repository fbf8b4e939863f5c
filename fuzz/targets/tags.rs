//! Entity tags and the conditions that name them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearshare::id::{ObjectId, Version};
use nearshare::object::{Stamp, Timespec};
use nearshare::wire::http::condition::Current;
use nearshare::wire::http::etag::Tag;
use nearshare::wire::http::judge;

fuzz_target!(|input: (bool, [u8; 16], u64, [&[u8]; 3])| {
    let (proven, id, version, fields) = input;
    let tag = Tag { id: ObjectId::from_bytes(id), version: Version(version) };
    let mtime = Timespec { sec: 100_000_000, nsec: 4_000_000 };
    let stamp = Stamp { size: 255, mtime, ctime: mtime };
    judge::tags(fields, &Current { stamp, tag: proven.then_some(tag) }).unwrap();
});
