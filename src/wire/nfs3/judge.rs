//! What must hold for every call, reply and handle, whatever is in it. The property tests and the fuzz
//! targets both ask here.

use bytes::Bytes;

use super::super::rpc::judge::cut;
use super::super::xdr::{Reader, Rope, Weave};
use super::listing::Entries;
use super::near::NearHandles;
use super::{Args, Item, Results, Returned, Row, Status, acl, row};

/// Every row of both programs.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    (0..).map_while(row).chain((0..).map_while(acl::row))
}

/// However arguments are cut, they are read alike; the same handles in their place make the same bytes, and
/// others make arguments that differ in nothing else.
///
/// # Errors
/// Says what does not hold. Arguments that cannot be read hold.
pub fn args(row: &Row, bytes: &[u8], size: usize, handle: &[u8]) -> Result<(), String> {
    let (whole, pieces) = (Rope::from(Bytes::copy_from_slice(bytes)), cut(bytes, size));
    let read = row.args(&mut Reader::new(&whole));
    let again = row.args(&mut Reader::new(&pieces));
    if read != again {
        return Err(format!("{}: whole {read:?}, in pieces of {size} {again:?}", row.name));
    }
    let Ok(read) = read else { return Ok(()) };
    let mut weave = Weave::new(&pieces);
    read.about.handles().for_each(|fh| fh.replace(&mut weave, &fh.bytes));
    same_but_padding(row.name, bytes, &weave.message().into_bytes())?;

    let mut weave = Weave::new(&pieces);
    read.about.handles().for_each(|fh| fh.replace(&mut weave, handle));
    let other = weave.message();
    let other = row.args(&mut Reader::new(&other)).map_err(|fault| fault.to_string())?;
    let handles = |args: &Args| args.about.handles().map(|fh| fh.bytes.clone()).collect::<Vec<_>>();
    if handles(&other).iter().any(|fh| fh != handle) || handles(&other).len() != handles(&read).len() {
        return Err(format!("{}: {other:?} has not the handle {handle:?}", row.name));
    }
    let mut back = Weave::new(&pieces);
    read.about.handles().for_each(|fh| fh.replace(&mut back, &fh.bytes));
    match row.args(&mut Reader::new(&back.message())) {
        Ok(back) if back == read => Ok(()),
        back => Err(format!("{}: {read:?} is read back as {back:?}", row.name)),
    }
}

/// Padding is written as zeros, whatever it was.
fn same_but_padding(name: &str, was: &[u8], is: &[u8]) -> Result<(), String> {
    let odd = was.iter().zip(is).filter(|(was, is)| was != is && **is != 0).count();
    match was.len() == is.len() && odd == 0 {
        true => Ok(()),
        false => Err(format!("{name}: {was:?} became {is:?}")),
    }
}

/// However results are cut, they are read alike; and translated ones can be read again, with what was put
/// in and with nothing else changed.
///
/// # Errors
/// Says what does not hold. Results that cannot be read hold.
pub fn results(row: &Row, bytes: &[u8], size: usize, handle: &[u8]) -> Result<(), String> {
    let (whole, pieces) = (Rope::from(Bytes::copy_from_slice(bytes)), cut(bytes, size));
    let read = row.results(&mut Reader::new(&whole));
    let again = row.results(&mut Reader::new(&pieces));
    let (Ok(read), Ok(again)) = (&read, &again) else {
        return match read.as_ref().err() == again.as_ref().err() {
            true => Ok(()),
            false => Err(format!("{}: whole {read:?}, in pieces of {size} {again:?}", row.name)),
        };
    };
    if read.items != again.items || read.returned != again.returned {
        return Err(format!("{}: whole {read:?}, in pieces of {size} {again:?}", row.name));
    }
    let mut weave = Weave::new(&pieces);
    translate(read, &mut weave, handle);
    let plus = row.name == "READDIRPLUS";
    if let Returned::Listing(at) = read.returned {
        let mut entries = Entries::new(Reader::starting(&pieces, at), plus);
        while let Ok(Ok(entry)) = entries.next_entry() {
            entry.identify(&mut weave, 1, 2, handle);
        }
    }
    let other = weave.message();
    let other = row.results(&mut Reader::new(&other)).map_err(|fault| fault.to_string())?;
    translated(row, &other, handle)?;
    match (other.status, kind(&other.returned)) == (read.status, kind(&read.returned)) {
        true => Ok(()),
        false => Err(format!("{}: {read:?} became {other:?}", row.name)),
    }
}

fn kind(returned: &Returned) -> std::mem::Discriminant<Returned> {
    std::mem::discriminant(returned)
}

fn translate(results: &Results, weave: &mut Weave<'_>, handle: &[u8]) {
    for item in results.items.iter() {
        match item {
            Item::Handle(fh) => fh.replace(weave, handle),
            Item::Attributes(attributes) => attributes.identify(weave, 1, 2),
            Item::Before(before) => before.leave_out(weave),
        }
    }
}

fn translated(row: &Row, results: &Results, handle: &[u8]) -> Result<(), String> {
    for item in results.items.iter() {
        let right = match item {
            Item::Handle(fh) => fh.bytes == handle,
            Item::Attributes(attributes) => (attributes.is.fsid, attributes.is.fileid) == (1, 2),
            Item::Before(_) => false,
        };
        if !right {
            return Err(format!("{}: {item:?} is not translated", row.name));
        }
    }
    Ok(())
}

/// A refusal of our own making can be read as what it is.
///
/// # Errors
/// Says what does not hold.
pub fn refusal(row: &Row, status: Status) -> Result<(), String> {
    let mut out = super::Writer::new();
    row.fail(&mut out, status);
    let rope = Rope::from(out.message());
    let mut reader = Reader::new(&rope);
    let read = row.results(&mut reader).map_err(|fault| format!("{}: {fault}", row.name))?;
    match read.status == status && read.items.iter().next().is_none() && reader.left() == 0 {
        true => Ok(()),
        false => Err(format!("{}: {read:?}, {} bytes left", row.name, reader.left())),
    }
}

/// What is read as a handle of ours is the one that we make.
///
/// # Errors
/// Says what does not hold.
pub fn handle(handles: &NearHandles, bytes: &[u8]) -> Result<(), String> {
    let Ok(Some((share, object))) = handles.read(bytes) else { return Ok(()) };
    match handles.make(share, object) {
        Some(made) if made.as_bytes() == bytes => Ok(()),
        made => Err(format!("{bytes:?} is read as {share} {object}, whose handle is {made:?}")),
    }
}
