//! What must hold for every stream and message, whatever is in it. The property tests and the fuzz
//! targets both ask here.

use bytes::{Bytes, BytesMut};

use super::super::xdr::{Reader, Rope, Weave};
use super::record::{Limits, RecordFault, Records};
use super::{Call, NotACall, Reply, XID, call, reply};

/// How a stream is cut into pieces makes no difference to its records, and all of it is in them.
///
/// # Errors
/// Says what does not hold.
pub fn stream(bytes: &[u8], cut: usize) -> Result<(), String> {
    let (whole, pieces) = (records(bytes, bytes.len()), records(bytes, cut));
    match whole.is_ok() && whole == pieces {
        true => Ok(()),
        false => Err(format!("whole {whole:?}, in pieces of {cut} {pieces:?}")),
    }
}

type Taken = (Vec<Bytes>, Option<RecordFault>);

fn records(bytes: &[u8], cut: usize) -> Result<Taken, String> {
    const LIMITS: Limits = Limits { bytes: 256, fragments: 4 };
    let mut records = Records::new(LIMITS);
    let mut whole = Vec::new();
    for piece in bytes.chunks(cut.max(1)) {
        let mut piece = BytesMut::from(piece);
        loop {
            match records.take(&mut piece) {
                Ok(Some(record)) => whole.push(record.into_bytes()),
                Ok(None) => break,
                Err(fault) => return Ok((whole, Some(fault))),
            }
        }
        if !piece.is_empty() || records.held() > LIMITS.bytes {
            return Err(format!("{} bytes are held, {} were not taken", records.held(), piece.len()));
        }
    }
    Ok((whole, None))
}

/// A message in pieces of `cut` bytes.
pub fn cut(bytes: &[u8], cut: usize) -> Rope {
    bytes.chunks(cut.max(1)).map(Bytes::copy_from_slice).collect()
}

/// However a message is cut, its head is read alike; what is read can be written again; and another xid
/// changes nothing else.
///
/// # Errors
/// Says what does not hold. What is neither a call nor a reply holds.
pub fn head(bytes: &[u8], size: usize) -> Result<(), String> {
    let (whole, pieces) = (Rope::from(Bytes::copy_from_slice(bytes)), cut(bytes, size));
    let calls = [&whole, &pieces].map(|rope| Call::read(&mut Reader::new(rope)));
    let replies = [&whole, &pieces].map(|rope| Reply::read(&mut Reader::new(rope)));
    if calls[0] != calls[1] || replies[0] != replies[1] {
        return Err(format!("{calls:?}, {replies:?} in pieces of {size}"));
    }
    if let Err(NotACall::Refused { xid, outcome, .. }) = calls[0] {
        same_reply(&Reply { xid, outcome, results: 0 })?;
    }
    if let [Ok(read), _] = &calls {
        let Call { xid, program, version, procedure, .. } = *read;
        let again = Rope::from(call(xid, program, version, procedure, &read.cred).message());
        let again = Call::read(&mut Reader::new(&again)).map_err(|fault| fault.to_string())?;
        let ours = matches!(read.cred, super::Credential::None | super::Credential::Sys(_));
        if ours && again.cred != read.cred || again.procedure != procedure {
            return Err(format!("{read:?} is written as {again:?}"));
        }
    }
    if let [Ok(read), _] = &replies {
        same_reply(read)?;
    }
    other_xid(bytes, &pieces)
}

fn same_reply(read: &Reply) -> Result<(), String> {
    let again = Rope::from(reply(read.xid, read.outcome).message());
    let again = Reply::read(&mut Reader::new(&again)).map_err(|fault| fault.to_string())?;
    match (again.xid, again.outcome) == (read.xid, read.outcome) {
        true => Ok(()),
        false => Err(format!("{read:?} is written as {again:?}")),
    }
}

fn other_xid(bytes: &[u8], pieces: &Rope) -> Result<(), String> {
    let Some(rest) = bytes.get(XID.len..) else { return Ok(()) };
    let mut weave = Weave::new(pieces);
    weave.replace(XID, |out| {
        out.u32(7);
    });
    let record = weave.record().into_bytes();
    let mark = (1 << 31 | bytes.len() as u32).to_be_bytes();
    match record[..] == [&mark[..], &[0, 0, 0, 7], rest].concat() {
        true => Ok(()),
        false => Err(format!("another xid makes it {record:?}")),
    }
}
