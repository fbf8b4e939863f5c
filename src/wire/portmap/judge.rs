//! What must hold for every question to the port mapper, whatever is in it. The property tests and the fuzz
//! target both ask here.

use std::net::Ipv4Addr;

use super::super::rpc::judge::cut;
use super::super::rpc::{Call, NotACall, Reply};
use super::super::xdr::{Reader, Rope};
use super::{Came, PROGRAM, Service, Transport, answer};

/// Every question has an answer that can be read, with its xid, however it was cut, and none that is much
/// longer than itself: datagrams may come from somebody else than they say.
///
/// # Errors
/// Says what does not hold. What is no call holds.
pub fn question(bytes: &[u8], size: usize) -> Result<(), String> {
    let services = [Service { program: 100_003, version: 3, transport: Transport::Tcp, port: 2049 }];
    let came = Came { transport: Transport::Udp, to: Ipv4Addr::LOCALHOST.into() };
    let asked = |rope: &Rope| -> Result<_, NotACall> {
        let mut reader = Reader::new(rope);
        let call = Call::read(&mut reader)?;
        Ok((call.xid, call.program, answer(&call, &mut reader, &services, came).message()))
    };
    let whole = asked(&cut(bytes, bytes.len()));
    if asked(&cut(bytes, size)) != whole {
        return Err(format!("{bytes:?} is answered in two ways in pieces of {size}"));
    }
    let Ok((xid, PROGRAM, said)) = whole else { return Ok(()) };
    let rope = Rope::from(said);
    let read = Reply::read(&mut Reader::new(&rope)).map_err(|fault| fault.to_string())?;
    match read.xid == xid && rope.len() <= bytes.len() + 64 {
        true => Ok(()),
        false => Err(format!("{} bytes are answered by {} bytes: {read:?}", bytes.len(), rope.len())),
    }
}
