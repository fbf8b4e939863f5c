//! Procedures about one object by its handle: GETATTR, SETATTR, ACCESS, READLINK, FSSTAT, FSINFO, PATHCONF
//! (RFC 1813 sections 3.3.1, 2, 4, 5, 18, 19, 20).

use super::super::xdr::{Fault, Reader};
use super::attributes::{Settable, Time};
use super::items::{Items, Whose};
use super::{About, Args, Fh, FsInfo, More, Returned, TEXT_MAX};

pub(super) fn handle(reader: &mut Reader<'_>) -> Result<Args, Fault> {
    Ok(Args { about: About::Object(Fh::read(reader)?), more: More::Nothing })
}

pub(super) fn access(reader: &mut Reader<'_>) -> Result<Args, Fault> {
    Ok(Args { about: About::Object(Fh::read(reader)?), more: More::Access(reader.u32("access")?) })
}

pub(super) fn set_attributes(reader: &mut Reader<'_>) -> Result<Args, Fault> {
    let about = About::Object(Fh::read(reader)?);
    let new = Settable::read(reader)?;
    let guard = match reader.bool("guard")? {
        true => Some(Time::read(reader, "guard")?),
        false => None,
    };
    Ok(Args { about, more: More::Set { new, guard } })
}

pub(super) fn got_attributes(
    reader: &mut Reader<'_>,
    ok: bool,
    items: &mut Items,
) -> Result<Returned, Fault> {
    if ok {
        items.attributes(reader, Whose::Object)?;
    }
    Ok(Returned::Nothing)
}

pub(super) fn changed(reader: &mut Reader<'_>, _ok: bool, items: &mut Items) -> Result<Returned, Fault> {
    items.change(reader, Whose::Object)?;
    Ok(Returned::Nothing)
}

pub(super) fn accessible(
    reader: &mut Reader<'_>,
    ok: bool,
    items: &mut Items,
) -> Result<Returned, Fault> {
    items.after(reader, Whose::Object)?;
    if ok { Ok(Returned::Access(reader.u32("access")?)) } else { Ok(Returned::Nothing) }
}

pub(super) fn link_target(
    reader: &mut Reader<'_>,
    ok: bool,
    items: &mut Items,
) -> Result<Returned, Fault> {
    items.after(reader, Whose::Object)?;
    match ok {
        true => Ok(Returned::Target(reader.opaque("link target", TEXT_MAX)?)),
        false => Ok(Returned::Nothing),
    }
}

/// FSSTAT and PATHCONF: figures of the server's that nobody here needs.
pub(super) fn fs_figures(
    reader: &mut Reader<'_>,
    _ok: bool,
    items: &mut Items,
) -> Result<Returned, Fault> {
    items.after(reader, Whose::Object)?;
    Ok(Returned::Nothing)
}

pub(super) fn fs_info(reader: &mut Reader<'_>, ok: bool, items: &mut Items) -> Result<Returned, Fault> {
    items.after(reader, Whose::Object)?;
    if ok { Ok(Returned::FsInfo(FsInfo::read(reader)?)) } else { Ok(Returned::Nothing) }
}
