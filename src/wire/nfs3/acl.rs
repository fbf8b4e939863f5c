//! The side protocol of NFS version 3 for POSIX ACLs, as Linux and Solaris speak it on the same port. It has
//! no RFC; the list itself passes as it is.

use super::super::xdr::{Fault, Reader};
use super::items::{Items, Whose};
use super::{About, Args, Fh, More, Returned, Row, Touches, fs, procedure};

pub const PROGRAM: u32 = 100_227;
pub const VERSION: u32 = 3;

/// By number.
static ROWS: [Row; 3] = [
    procedure!(0 NULL Nothing, false, fs::{null, nothing}, 0),
    procedure!(1 GETACL Object, false, self::{subject, attributes_first}, 1),
    procedure!(2 SETACL ChangesObject, true, self::{subject, attributes_first}, 1),
];

/// The row of a procedure; none for one that is not known.
pub fn row(procedure: u32) -> Option<&'static Row> {
    ROWS.get(procedure as usize)
}

fn subject(reader: &mut Reader<'_>) -> Result<Args, Fault> {
    Ok(Args { about: About::Object(Fh::read(reader)?), more: More::Nothing })
}

fn attributes_first(reader: &mut Reader<'_>, _ok: bool, items: &mut Items) -> Result<Returned, Fault> {
    items.after(reader, Whose::Object)?;
    Ok(Returned::Nothing)
}
