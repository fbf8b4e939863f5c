//! Who a call says it is from: AUTH_NONE, AUTH_SYS (RFC 5531 section 8.2 and appendix A), and
//! RPCSEC_GSS (RFC 2203) as far as to tell what of it can be read.

use bytes::Bytes;

use super::super::xdr::{Fault, Reader, Writer};

pub(super) const AUTH_NONE: u32 = 0;
/// The only flavor that the shares of a map are mounted with.
pub const AUTH_SYS: u32 = 1;
const RPCSEC_GSS: u32 = 6;

/// Longest body of a credential or verifier.
pub(super) const BODY_MAX: u32 = 400;
const MACHINE_MAX: u32 = 255;
const GROUPS_MAX: usize = 16;
const GSS_HANDLE_MAX: u32 = BODY_MAX;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    None,
    Sys(Sys),
    Gss(Gss),
    /// Any other flavor, by its number.
    Other(u32),
}

/// A user by numbers (`authsys_parms`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sys {
    pub stamp: u32,
    /// The client's own name for itself: at most 255 bytes, and nobody vouches for it.
    pub machine: Bytes,
    pub uid: u32,
    pub gid: u32,
    pub groups: Groups,
}

/// The further groups of a user, 16 at most.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Groups {
    list: [u32; GROUPS_MAX],
    len: usize,
}

impl Groups {
    /// None if there are more than 16.
    pub fn new(groups: &[u32]) -> Option<Self> {
        let mut list = [0; GROUPS_MAX];
        list.get_mut(..groups.len())?.copy_from_slice(groups);
        Some(Self { list, len: groups.len() })
    }
}

impl std::ops::Deref for Groups {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        &self.list[..self.len]
    }
}

impl std::fmt::Debug for Groups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self[..].fmt(f)
    }
}

/// What is said outside the protection of a RPCSEC_GSS call (`rpc_gss_cred_vers_1_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gss {
    /// 0 is data, the others set up and end a context.
    pub procedure: u32,
    /// 1 none, 2 integrity, 3 privacy.
    pub service: u32,
}

impl Gss {
    /// Bytes of wrapping before arguments that can be read (RFC 2203 section 5.3.2): none around those that
    /// are only authenticated, a length and a sequence number around those with integrity.
    pub(super) fn args_behind(self) -> Option<usize> {
        match (self.procedure, self.service) {
            (0, 1) => Some(0),
            (0, 2) => Some(8),
            _ => None,
        }
    }
}

impl Credential {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let flavor = reader.u32("credential flavor")?;
        let mut body = reader.clone();
        let span = reader.payload("credential", BODY_MAX)?;
        body.skip("credential length", 4)?;
        let credential = match flavor {
            AUTH_NONE => return Ok(Self::None),
            AUTH_SYS => Self::Sys(Sys::read(&mut body)?),
            RPCSEC_GSS => Self::Gss(Gss::read(&mut body)?),
            other => return Ok(Self::Other(other)),
        };
        // A server that goes by the fields and not by the length would look for the arguments elsewhere.
        match body.at() == span.at + super::super::xdr::padded(span.len) {
            true => Ok(credential),
            false => Err(Fault::Value {
                field: "credential length",
                value: u32::try_from(span.len).unwrap_or(u32::MAX),
                want: "that of its fields",
                at: span.at - 4,
            }),
        }
    }

    /// Flavor and body. Of RPCSEC_GSS and unknown flavors there is none of our making: they become AUTH_NONE.
    pub fn write(&self, out: &mut Writer) {
        match self {
            Self::Sys(sys) => sys.write(out),
            Self::None | Self::Gss(_) | Self::Other(_) => {
                out.u32(AUTH_NONE).opaque(&[]);
            }
        }
    }
}

impl Sys {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let stamp = reader.u32("stamp")?;
        let machine = reader.opaque("machine name", MACHINE_MAX)?;
        let (uid, gid) = (reader.u32("uid")?, reader.u32("gid")?);
        let at = reader.at();
        let count = reader.u32("group list")?;
        let mut groups = Groups { len: count as usize, ..Groups::default() };
        let Some(list) = groups.list.get_mut(..count as usize) else {
            return Err(Fault::Many { field: "group list", count, limit: GROUPS_MAX as u32, at });
        };
        for group in list {
            *group = reader.u32("group")?;
        }
        Ok(Self { stamp, machine, uid, gid, groups })
    }

    fn write(&self, out: &mut Writer) {
        let mut body = Writer::new();
        body.u32(self.stamp).opaque(&self.machine).u32(self.uid).u32(self.gid);
        body.u32(self.groups.len as u32);
        self.groups.iter().for_each(|group| {
            body.u32(*group);
        });
        out.u32(AUTH_SYS).opaque(&body.message());
    }
}

impl Gss {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        reader.choice("RPCSEC_GSS version", "1", |version| (version == 1).then_some(()))?;
        let procedure = reader.u32("RPCSEC_GSS procedure")?;
        reader.u32("sequence number")?;
        let service = reader.u32("RPCSEC_GSS service")?;
        reader.payload("context handle", GSS_HANDLE_MAX)?;
        Ok(Self { procedure, service })
    }
}
