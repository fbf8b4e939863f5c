//! Our reading and rewriting of messages, against `nfs3_types`' of the same.

use nfs3_types::nfs3::*;
use nfs3_types::xdr_codec::{List, Opaque, Pack, Void};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::listing::{Asked, Entries};
use super::super::{
    About, Args, How, Item, More, Returned, SetTime, Settable, Stable, Status, judge, row,
};
use crate::object::Kind;
use crate::wire::rpc::judge::cut;
use crate::wire::xdr::{Reader, Rope, Weave};

/// What stands where a handle or an identity stood before.
const HANDLE: [u8; 32] = [0xa5; 32];
const IDENTITY: (u64, u64) = (0x1111, 0x2222);

/// An entry's name, attributes and handle.
type Listed = (Vec<u8>, Option<[u32; 8]>, Option<Vec<u8>>);

/// What messages of every procedure are made of.
#[derive(Debug, Clone)]
struct Seed {
    handles: [Vec<u8>; 2],
    names: [Vec<u8>; 2],
    words: [u32; 12],
    attributes: [Option<[u32; 8]>; 2],
    before: [Option<[u32; 4]>; 2],
    flag: bool,
    data: Vec<u8>,
    entries: Vec<Listed>,
}

fn seed() -> impl Strategy<Value = Seed> {
    let handle = || vec(any::<u8>(), 0..=64);
    let name = || vec(any::<u8>(), 0..40);
    let attributes = || any::<Option<[u32; 8]>>();
    let entries = vec((name(), attributes(), proptest::option::of(handle())), 0..5);
    (
        [handle(), handle()],
        [name(), name()],
        any::<[u32; 12]>(),
        [attributes(), attributes()],
        any::<[Option<[u32; 4]>; 2]>(),
        any::<bool>(),
        vec(any::<u8>(), 0..2000),
        entries,
    )
        .prop_map(|(handles, names, words, attributes, before, flag, data, entries)| Seed {
            handles,
            names,
            words,
            attributes,
            before,
            flag,
            data,
            entries,
        })
}

/// As a server says it, or as it is after translation.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Original,
    Translated,
}

impl Form {
    fn fh(self, bytes: &[u8]) -> nfs_fh3 {
        let bytes = if self == Self::Translated { &HANDLE[..] } else { bytes };
        nfs_fh3 { data: Opaque::owned(bytes.to_vec()) }
    }

    fn fileid(self, id: u32) -> u64 {
        if self == Self::Translated { IDENTITY.1 } else { wide(id, 3) }
    }

    fn fattr(self, w: &[u32; 8]) -> fattr3 {
        let types = [
            ftype3::NF3REG,
            ftype3::NF3DIR,
            ftype3::NF3BLK,
            ftype3::NF3CHR,
            ftype3::NF3LNK,
            ftype3::NF3SOCK,
            ftype3::NF3FIFO,
        ];
        fattr3 {
            type_: types[w[0] as usize % types.len()],
            mode: w[1],
            nlink: w[2],
            uid: w[3],
            gid: w[4],
            size: wide(w[5], w[6]),
            used: wide(w[6], w[5]),
            rdev: specdata3 { specdata1: w[7], specdata2: w[0] },
            fsid: if self == Self::Translated { IDENTITY.0 } else { wide(w[7], w[3]) },
            fileid: self.fileid(w[7]),
            atime: nfstime3 { seconds: w[1], nseconds: w[2] },
            mtime: nfstime3 { seconds: w[3], nseconds: w[4] },
            ctime: nfstime3 { seconds: w[5], nseconds: w[6] },
        }
    }

    fn after(self, w: &Option<[u32; 8]>) -> post_op_attr {
        w.as_ref().map_or(Nfs3Option::None, |w| Nfs3Option::Some(self.fattr(w)))
    }

    fn change(self, before: &Option<[u32; 4]>, after: &Option<[u32; 8]>) -> wcc_data {
        let before = match (before, self) {
            (Some(w), Self::Original) => Nfs3Option::Some(wcc_attr {
                size: wide(w[0], w[1]),
                mtime: nfstime3 { seconds: w[2], nseconds: w[3] },
                ctime: nfstime3 { seconds: w[1], nseconds: w[0] },
            }),
            _ => Nfs3Option::None,
        };
        wcc_data { before, after: self.after(after) }
    }
}

fn wide(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn pack(value: &impl Pack) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.pack(&mut bytes).unwrap();
    assert_eq!(bytes.len(), value.packed_size());
    bytes
}

fn settable(w: &[u32; 12]) -> sattr3 {
    let word = |bit: u32, value| {
        if w[0] & bit != 0 { Nfs3Option::Some(value) } else { Nfs3Option::None }
    };
    let time = nfstime3 { seconds: w[5], nseconds: w[6] };
    sattr3 {
        mode: word(1, w[1]),
        uid: word(2, w[2]),
        gid: word(4, w[3]),
        size: if w[0] & 8 != 0 { Nfs3Option::Some(wide(w[4], w[5])) } else { Nfs3Option::None },
        atime: [
            set_atime::DONT_CHANGE,
            set_atime::SET_TO_SERVER_TIME,
            set_atime::SET_TO_CLIENT_TIME(time),
        ][w[7] as usize % 3],
        mtime: [
            set_mtime::DONT_CHANGE,
            set_mtime::SET_TO_SERVER_TIME,
            set_mtime::SET_TO_CLIENT_TIME(time),
        ][w[8] as usize % 3],
    }
}

fn stable(word: u32) -> stable_how {
    [stable_how::UNSTABLE, stable_how::DATA_SYNC, stable_how::FILE_SYNC][word as usize % 3]
}

fn node(s: &Seed) -> mknoddata3 {
    let spec = specdata3 { specdata1: s.words[9], specdata2: s.words[10] };
    let device = devicedata3 { dev_attributes: settable(&s.words), spec };
    match s.words[11] % 4 {
        0 => mknoddata3::NF3CHR(device),
        1 => mknoddata3::NF3BLK(device),
        2 => mknoddata3::NF3SOCK(settable(&s.words)),
        _ => mknoddata3::NF3FIFO(settable(&s.words)),
    }
}

fn how(s: &Seed) -> createhow3 {
    match s.words[11] % 3 {
        0 => createhow3::UNCHECKED(settable(&s.words)),
        1 => createhow3::GUARDED(settable(&s.words)),
        _ => createhow3::EXCLUSIVE(createverf3(wide(s.words[9], s.words[10]).to_be_bytes())),
    }
}

/// Arguments of a procedure.
fn args(number: u32, s: &Seed, form: Form) -> Vec<u8> {
    let fh = || form.fh(&s.handles[0]);
    let entry =
        |n: usize| diropargs3 { dir: form.fh(&s.handles[n]), name: s.names[n].as_slice().into() };
    let w = &s.words;
    let cookieverf = cookieverf3(wide(w[2], w[3]).to_be_bytes());
    match number {
        0 => Vec::new(),
        1 => pack(&GETATTR3args { object: fh() }),
        2 => pack(&SETATTR3args {
            object: fh(),
            new_attributes: settable(w),
            guard: match s.flag {
                true => Nfs3Option::Some(nfstime3 { seconds: w[9], nseconds: w[10] }),
                false => Nfs3Option::None,
            },
        }),
        3 => pack(&LOOKUP3args { what: entry(0) }),
        4 => pack(&ACCESS3args { object: fh(), access: w[0] }),
        5 => pack(&READLINK3args { symlink: fh() }),
        6 => pack(&READ3args { file: fh(), offset: wide(w[0], w[1]), count: w[2] }),
        7 => pack(&WRITE3args {
            file: fh(),
            offset: wide(w[0], w[1]),
            count: w[2],
            stable: stable(w[3]),
            data: Opaque::borrowed(&s.data),
        }),
        8 => pack(&CREATE3args { where_: entry(0), how: how(s) }),
        9 => pack(&MKDIR3args { where_: entry(0), attributes: settable(w) }),
        10 => pack(&SYMLINK3args {
            where_: entry(0),
            symlink: symlinkdata3 {
                symlink_attributes: settable(w),
                symlink_data: s.data.as_slice().into(),
            },
        }),
        11 => pack(&MKNOD3args { where_: entry(0), what: node(s) }),
        12 => pack(&REMOVE3args { object: entry(0) }),
        13 => pack(&RMDIR3args { object: entry(0) }),
        14 => pack(&RENAME3args { from: entry(0), to: entry(1) }),
        15 => pack(&LINK3args { file: fh(), link: entry(1) }),
        16 => pack(&READDIR3args { dir: fh(), cookie: wide(w[0], w[1]), cookieverf, count: w[4] }),
        17 => pack(&READDIRPLUS3args {
            dir: fh(),
            cookie: wide(w[0], w[1]),
            cookieverf,
            dircount: w[4],
            maxcount: w[5],
        }),
        18 => pack(&FSSTAT3args { fsroot: fh() }),
        19 => pack(&FSINFO3args { fsroot: fh() }),
        20 => pack(&PATHCONF3args { object: fh() }),
        21 => pack(&COMMIT3args { file: fh(), offset: wide(w[0], w[1]), count: w[2] }),
        _ => panic!("there is no procedure {number}"),
    }
}

fn set_time(time: SetTime) -> (set_atime, set_mtime) {
    match time {
        SetTime::Keep => (set_atime::DONT_CHANGE, set_mtime::DONT_CHANGE),
        SetTime::Now => (set_atime::SET_TO_SERVER_TIME, set_mtime::SET_TO_SERVER_TIME),
        SetTime::To(time) => {
            let time = nfstime3 { seconds: time.sec, nseconds: time.nsec };
            (set_atime::SET_TO_CLIENT_TIME(time), set_mtime::SET_TO_CLIENT_TIME(time))
        }
    }
}

fn optional<T: Pack + nfs3_types::xdr_codec::Unpack>(value: Option<T>) -> Nfs3Option<T> {
    value.map_or(Nfs3Option::None, Nfs3Option::Some)
}

fn pack_settable(new: &Settable) -> Vec<u8> {
    pack(&sattr3 {
        mode: optional(new.mode),
        uid: optional(new.uid),
        gid: optional(new.gid),
        size: optional(new.size),
        atime: set_time(new.atime).0,
        mtime: set_time(new.mtime).1,
    })
}

/// What we have read, packed again by the other program: nothing of it may have got lost.
fn packed(args: &Args, message: &Rope) -> Vec<u8> {
    let fh = |fh: &super::super::Fh| pack(&Opaque::borrowed(&fh.bytes));
    let entry = |at: &super::super::EntryAt| [fh(&at.dir), pack(&Opaque::borrowed(&at.name))].concat();
    let about = match &args.about {
        About::Nothing => Vec::new(),
        About::Object(object) => fh(object),
        About::Entry(at) => entry(at),
        About::Two(from, to) => [entry(from), entry(to)].concat(),
        About::Link(object, at) => [fh(object), entry(at)].concat(),
    };
    let more = match &args.more {
        More::Nothing => Vec::new(),
        More::Access(bits) => pack(bits),
        More::Read { offset, count } | More::Commit { offset, count } => {
            [pack(offset), pack(count)].concat()
        }
        More::Write(part) => {
            let data = message.slice(part.data).into_bytes();
            let stable = [stable_how::UNSTABLE, stable_how::DATA_SYNC, stable_how::FILE_SYNC][[
                Stable::Unstable,
                Stable::Data,
                Stable::File,
            ]
            .iter()
            .position(|s| *s == part.stable)
            .unwrap()];
            [pack(&part.offset), pack(&part.count), pack(&stable), pack(&Opaque::borrowed(&data))]
                .concat()
        }
        More::Set { new, guard } => {
            let guard = guard.map(|time| nfstime3 { seconds: time.sec, nseconds: time.nsec });
            [pack_settable(new), pack(&optional(guard))].concat()
        }
        More::Create(How::Unchecked(new)) => [pack(&0_u32), pack_settable(new)].concat(),
        More::Create(How::Guarded(new)) => [pack(&1_u32), pack_settable(new)].concat(),
        More::Create(How::Exclusive(verf)) => [pack(&2_u32), pack(&createverf3(*verf))].concat(),
        More::Make(new) => pack_settable(new),
        More::Symlink { new, target } => [pack_settable(new), pack(&Opaque::borrowed(target))].concat(),
        More::Node { kind, new, device } => {
            let kind = match kind {
                Kind::Char => ftype3::NF3CHR,
                Kind::Block => ftype3::NF3BLK,
                Kind::Socket => ftype3::NF3SOCK,
                _ => ftype3::NF3FIFO,
            };
            let device = device.map(|(major, minor)| [pack(&major), pack(&minor)].concat());
            [pack(&kind), pack_settable(new), device.unwrap_or_default()].concat()
        }
        More::List(Asked { cookie, verf, room }) => {
            let names = room.names.map(|names| pack(&names)).unwrap_or_default();
            [pack(cookie), pack(&cookieverf3(*verf)), names, pack(&room.all)].concat()
        }
    };
    [about, more].concat()
}

// long: one arm a procedure.
/// Results of a procedure, as a server says them or translated.
fn results(number: u32, ok: bool, s: &Seed, form: Form) -> Vec<u8> {
    let w = &s.words;
    let object = || form.after(&s.attributes[0]);
    let found = || match s.flag {
        true => Nfs3Option::Some(form.fh(&s.handles[0])),
        false => Nfs3Option::None,
    };
    let change = |n: usize| form.change(&s.before[n], &s.attributes[n]);
    let verf = wide(w[0], w[1]).to_be_bytes();
    match number {
        0 => Vec::new(),
        1 => answer(
            ok,
            GETATTR3resok { obj_attributes: form.fattr(&s.attributes[0].unwrap_or([3; 8])) },
            Void,
        ),
        2 => answer(ok, SETATTR3resok { obj_wcc: change(0) }, SETATTR3resfail { obj_wcc: change(0) }),
        3 => answer(
            ok,
            LOOKUP3resok {
                object: form.fh(&s.handles[0]),
                obj_attributes: object(),
                dir_attributes: form.after(&s.attributes[1]),
            },
            LOOKUP3resfail { dir_attributes: form.after(&s.attributes[1]) },
        ),
        4 => answer(
            ok,
            ACCESS3resok { obj_attributes: object(), access: w[0] },
            ACCESS3resfail { obj_attributes: object() },
        ),
        5 => answer(
            ok,
            READLINK3resok { symlink_attributes: object(), data: s.data.as_slice().into() },
            READLINK3resfail { symlink_attributes: object() },
        ),
        6 => answer(
            ok,
            READ3resok {
                file_attributes: object(),
                count: s.data.len() as u32,
                eof: s.flag,
                data: Opaque::borrowed(&s.data),
            },
            READ3resfail { file_attributes: object() },
        ),
        7 => answer(
            ok,
            WRITE3resok {
                file_wcc: change(0),
                count: w[2],
                committed: stable(w[3]),
                verf: writeverf3(verf),
            },
            WRITE3resfail { file_wcc: change(0) },
        ),
        // One shape for all four that make something.
        8..=11 => answer(
            ok,
            CREATE3resok { obj: found(), obj_attributes: object(), dir_wcc: change(1) },
            CREATE3resfail { dir_wcc: change(1) },
        ),
        12 | 13 => {
            answer(ok, REMOVE3resok { dir_wcc: change(0) }, REMOVE3resfail { dir_wcc: change(0) })
        }
        14 => answer(
            ok,
            RENAME3resok { fromdir_wcc: change(0), todir_wcc: change(1) },
            RENAME3resfail { fromdir_wcc: change(0), todir_wcc: change(1) },
        ),
        15 => answer(
            ok,
            LINK3resok { file_attributes: object(), linkdir_wcc: change(1) },
            LINK3resfail { file_attributes: object(), linkdir_wcc: change(1) },
        ),
        16 => answer(
            ok,
            READDIR3resok {
                dir_attributes: object(),
                cookieverf: cookieverf3(verf),
                reply: dirlist3 { entries: List(lines(s, form)), eof: s.flag },
            },
            READDIR3resfail { dir_attributes: object() },
        ),
        17 => answer(
            ok,
            READDIRPLUS3resok {
                dir_attributes: object(),
                cookieverf: cookieverf3(verf),
                reply: dirlistplus3 { entries: List(lines_plus(s, form)), eof: s.flag },
            },
            READDIRPLUS3resfail { dir_attributes: object() },
        ),
        _ => figures(number, ok, s, form),
    }
}

fn figures(number: u32, ok: bool, s: &Seed, form: Form) -> Vec<u8> {
    let w = &s.words;
    let object = || form.after(&s.attributes[0]);
    match number {
        18 => answer(
            ok,
            FSSTAT3resok {
                obj_attributes: object(),
                tbytes: wide(w[0], w[1]),
                fbytes: wide(w[1], w[2]),
                abytes: wide(w[2], w[3]),
                tfiles: wide(w[3], w[4]),
                ffiles: wide(w[4], w[5]),
                afiles: wide(w[5], w[6]),
                invarsec: w[7],
            },
            FSSTAT3resfail { obj_attributes: object() },
        ),
        19 => answer(
            ok,
            FSINFO3resok {
                obj_attributes: object(),
                rtmax: w[0],
                rtpref: w[1],
                rtmult: w[2],
                wtmax: w[3],
                wtpref: w[4],
                wtmult: w[5],
                dtpref: w[6],
                maxfilesize: wide(w[7], w[8]),
                time_delta: nfstime3 { seconds: w[9], nseconds: w[10] },
                properties: w[11],
            },
            FSINFO3resfail { obj_attributes: object() },
        ),
        20 => answer(
            ok,
            PATHCONF3resok {
                obj_attributes: object(),
                linkmax: w[0],
                name_max: w[1],
                no_trunc: s.flag,
                chown_restricted: !s.flag,
                case_insensitive: s.flag,
                case_preserving: true,
            },
            PATHCONF3resfail { obj_attributes: object() },
        ),
        21 => answer(
            ok,
            COMMIT3resok {
                file_wcc: form.change(&s.before[0], &s.attributes[0]),
                verf: writeverf3(wide(w[0], w[1]).to_be_bytes()),
            },
            COMMIT3resfail { file_wcc: form.change(&s.before[0], &s.attributes[0]) },
        ),
        _ => panic!("there is no procedure {number}"),
    }
}

fn answer<T: Pack, E: Pack>(ok: bool, good: T, bad: E) -> Vec<u8> {
    match ok {
        true => pack(&Nfs3Result::<T, E>::Ok(good)),
        false => pack(&Nfs3Result::<T, E>::Err((nfsstat3::NFS3ERR_JUKEBOX, bad))),
    }
}

fn lines(s: &Seed, form: Form) -> Vec<entry3<'_>> {
    let line = |(n, (name, ..)): (usize, &Listed)| entry3 {
        fileid: form.fileid(n as u32),
        name: filename3::from(name.clone()),
        cookie: n as u64 + 9,
    };
    s.entries.iter().enumerate().map(line).collect()
}

fn lines_plus(s: &Seed, form: Form) -> Vec<entryplus3<'_>> {
    let line = |(n, entry): (usize, &Listed)| entryplus3 {
        fileid: form.fileid(n as u32),
        name: filename3::from(entry.0.clone()),
        cookie: n as u64 + 9,
        name_attributes: form.after(&entry.1),
        name_handle: optional(entry.2.as_ref().map(|fh| form.fh(fh))),
    };
    s.entries.iter().enumerate().map(line).collect()
}

/// Results with all translated.
fn translate(number: u32, message: &Rope) -> Vec<u8> {
    let read = row(number).unwrap().results(&mut Reader::new(message)).unwrap();
    let mut weave = Weave::new(message);
    for item in read.items.iter() {
        match item {
            Item::Handle(fh) => fh.replace(&mut weave, &HANDLE),
            Item::Attributes(attributes) => attributes.identify(&mut weave, IDENTITY.0, IDENTITY.1),
            Item::Before(before) => before.leave_out(&mut weave),
        }
    }
    if let Returned::Listing(at) = read.returned {
        let mut entries = Entries::new(Reader::starting(message, at), number == 17);
        while let Ok(entry) = entries.next_entry().unwrap() {
            entry.identify(&mut weave, IDENTITY.0, IDENTITY.1, &HANDLE);
        }
    }
    weave.message().into_bytes().to_vec()
}

proptest! {
    #[test]
    fn arguments_are_read_and_rewritten_as_the_other_program_packs_them(
        number in 0_u32..22,
        seed in seed(),
        size in 1_usize..300,
    ) {
        let bytes = args(number, &seed, Form::Original);
        let message = cut(&bytes, size);
        let mut reader = Reader::new(&message);
        let read = row(number).unwrap().args(&mut reader).unwrap();
        prop_assert_eq!(reader.left(), 0);
        prop_assert_eq!(packed(&read, &message), &bytes[..]);
        let mut weave = Weave::new(&message);
        read.about.handles().for_each(|fh| fh.replace(&mut weave, &HANDLE));
        prop_assert_eq!(weave.message().into_bytes(), args(number, &seed, Form::Translated));
    }

    #[test]
    fn results_are_translated_as_the_other_program_packs_them(
        number in 0_u32..22,
        ok: bool,
        seed in seed(),
        size in 1_usize..300,
    ) {
        let bytes = results(number, ok, &seed, Form::Original);
        let message = cut(&bytes, size);
        prop_assert_eq!(translate(number, &message), results(number, ok, &seed, Form::Translated));
    }

    #[test]
    fn results_say_what_the_other_program_packed(seed in seed()) {
        let read = |number: u32| {
            let message = Rope::from(bytes::Bytes::from(results(number, true, &seed, Form::Original)));
            let mut reader = Reader::new(&message);
            let read = row(number).unwrap().results(&mut reader).unwrap();
            let data = match read.returned {
                Returned::Data { data, .. } => message.slice(data).into_bytes(),
                _ => bytes::Bytes::new(),
            };
            (read.returned, data)
        };
        let w = &seed.words;
        prop_assert_eq!(read(4).0, Returned::Access(w[0]));
        prop_assert_eq!(read(5).0, Returned::Target(seed.data.clone().into()));
        let (returned, data) = read(6);
        let ends = matches!(returned, Returned::Data { eof, .. } if eof == seed.flag);
        prop_assert!(ends && data == seed.data, "{returned:?}");
        let Returned::Written(written) = read(7).0 else { panic!("a WRITE returns what was written") };
        prop_assert_eq!((written.count, written.verf), (w[2], wide(w[0], w[1]).to_be_bytes()));
        prop_assert_eq!(written.committed as u32, w[3] % 3);
        prop_assert_eq!(read(21).0, Returned::Committed(wide(w[0], w[1]).to_be_bytes()));
        let Returned::FsInfo(info) = read(19).0 else { panic!("FSINFO returns what it is called") };
        prop_assert_eq!((info.read, info.write), ([w[0], w[1], w[2]], [w[3], w[4], w[5]]));
        prop_assert_eq!((info.list, info.file_max, info.properties), (w[6], wide(w[7], w[8]), w[11]));
        prop_assert_eq!((info.time_delta.sec, info.time_delta.nsec), (w[9], w[10]));
    }

    #[test]
    fn what_is_no_message_of_a_procedure_does_no_harm(
        number in 0_usize..25,
        bytes in vec(prop_oneof![3 => Just(0_u8), 1 => 0_u8..5, 1 => any::<u8>()], 0..400),
        size in 1_usize..100,
        handle in vec(any::<u8>(), 0..=64),
    ) {
        let row = judge::rows().nth(number).unwrap();
        prop_assert_eq!(judge::args(row, &bytes, size, &handle), Ok(()));
        prop_assert_eq!(judge::results(row, &bytes, size, &handle), Ok(()));
    }

    #[test]
    fn a_failure_of_our_own_is_one_of_its_procedure(number in 0_usize..25, status in 1_u32..20000) {
        let row = judge::rows().nth(number).unwrap();
        if row.number != 0 {
            prop_assert_eq!(judge::refusal(row, Status(status)), Ok(()));
        }
    }
}
