//! The port mapper (program 100000): version 2 (RFC 1833 section 3), which asks for ports, and versions 3 and
//! 4 (section 2), which ask for addresses. What clients ask it before they mount is answered here; nobody can
//! register anything, and no call is passed on to somebody else.

#[cfg(any(test, feature = "fuzz"))]
pub mod judge;

use std::net::IpAddr;

use super::rpc::{Call, Outcome, reply};
use super::xdr::{Fault, Reader, Writer};

pub const PROGRAM: u32 = 100_000;
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=4;

/// Longest netid, address or owner that is read. The longest address is that of IPv6, 47 bytes.
const TEXT_MAX: u32 = 1024;
/// Whose the services are.
const OWNER: &[u8] = b"superuser";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// As an IP protocol.
    fn number(self) -> u32 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    fn of_number(number: u32) -> Option<Self> {
        [Self::Tcp, Self::Udp].into_iter().find(|transport| transport.number() == number)
    }

    fn netid(self, ip: IpAddr) -> &'static str {
        match (self, ip) {
            (Self::Tcp, IpAddr::V4(_)) => "tcp",
            (Self::Tcp, IpAddr::V6(_)) => "tcp6",
            (Self::Udp, IpAddr::V4(_)) => "udp",
            (Self::Udp, IpAddr::V6(_)) => "udp6",
        }
    }
}

/// Something that can be asked for, at the address at which the port mapper itself was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    pub program: u32,
    pub version: u32,
    pub transport: Transport,
    pub port: u16,
}

/// How the question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Came {
    pub transport: Transport,
    /// The address at which the client has reached us.
    pub to: IpAddr,
}

/// Answers a call to the port mapper; `reader` is at its arguments.
pub fn answer(call: &Call, reader: &mut Reader<'_>, services: &[Service], came: Came) -> Writer {
    let found = Found { services, came };
    let written = match (call.version, call.procedure) {
        (version, _) if !VERSIONS.contains(&version) => {
            Err(Outcome::ProgMismatch { low: *VERSIONS.start(), high: *VERSIONS.end() })
        }
        (_, 0) => Ok(reply(call.xid, Outcome::Success)),
        (2, procedure) => found.ports(call.xid, procedure, reader),
        (version, procedure) => found.addresses(call.xid, version, procedure, reader),
    };
    written.unwrap_or_else(|outcome| reply(call.xid, outcome))
}

struct Found<'a> {
    services: &'a [Service],
    came: Came,
}

impl Found<'_> {
    /// Version 2.
    fn ports(&self, xid: u32, procedure: u32, reader: &mut Reader<'_>) -> Result<Writer, Outcome> {
        let mut out = reply(xid, Outcome::Success);
        match procedure {
            // SET, UNSET: the answer says that it was not done.
            1 | 2 => out.bool(false),
            // GETPORT
            3 => {
                let asked = Mapping::read(reader).map_err(|_| Outcome::GarbageArgs)?;
                let transport = Transport::of_number(asked.transport);
                let port = transport.and_then(|by| self.port(asked.program, asked.version, by));
                out.u32(port.unwrap_or(0).into())
            }
            // DUMP
            4 => {
                for service in self.services {
                    out.bool(true).u32(service.program).u32(service.version);
                    out.u32(service.transport.number()).u32(service.port.into());
                }
                out.bool(false)
            }
            _ => return Err(Outcome::ProcUnavail),
        };
        Ok(out)
    }

    /// Versions 3 and 4.
    fn addresses(
        &self,
        xid: u32,
        version: u32,
        procedure: u32,
        reader: &mut Reader<'_>,
    ) -> Result<Writer, Outcome> {
        let mut out = reply(xid, Outcome::Success);
        match (version, procedure) {
            (_, 1 | 2) => out.bool(false),
            // GETADDR, GETVERSADDR
            (_, 3) | (4, 9) => {
                let asked = Binding::read(reader).map_err(|_| Outcome::GarbageArgs)?;
                let port = self.port(
                    asked.program,
                    asked.version,
                    asked.transport.unwrap_or(self.came.transport),
                );
                let address = port.map(|port| self.address(port)).unwrap_or_default();
                out.opaque(address.as_bytes())
            }
            // DUMP
            (_, 4) => {
                for service in self.services {
                    out.bool(true).u32(service.program).u32(service.version);
                    out.opaque(service.transport.netid(self.came.to).as_bytes());
                    out.opaque(self.address(service.port).as_bytes()).opaque(OWNER);
                }
                out.bool(false)
            }
            _ => return Err(Outcome::ProcUnavail),
        };
        Ok(out)
    }

    /// Of exactly that version: a client that is told of another one would call what is not there.
    fn port(&self, program: u32, version: u32, transport: Transport) -> Option<u16> {
        let mut services = self.services.iter();
        let found = services.find(|service| {
            (service.program, service.version, service.transport) == (program, version, transport)
        });
        found.map(|service| service.port)
    }

    /// A universal address (RFC 5665 section 5.2.3): the port as two numbers behind the address.
    fn address(&self, port: u16) -> String {
        format!("{}.{}.{}", self.came.to, port >> 8, port & 0xff)
    }
}

/// What version 2 asks for (`mapping`).
struct Mapping {
    program: u32,
    version: u32,
    transport: u32,
}

impl Mapping {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let program = reader.u32("program")?;
        let version = reader.u32("program version")?;
        let transport = reader.u32("protocol")?;
        reader.u32("port")?;
        Ok(Self { program, version, transport })
    }
}

/// What versions 3 and 4 ask for (`rpcb`). Address and owner are for those who register.
struct Binding {
    program: u32,
    version: u32,
    /// None if the client does not say, or something that nobody here speaks.
    transport: Option<Transport>,
}

impl Binding {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let program = reader.u32("program")?;
        let version = reader.u32("program version")?;
        let netid = reader.opaque("netid", TEXT_MAX)?;
        reader.payload("address", TEXT_MAX)?;
        reader.payload("owner", TEXT_MAX)?;
        let transport = match &netid[..] {
            b"tcp" | b"tcp6" => Some(Transport::Tcp),
            b"udp" | b"udp6" => Some(Transport::Udp),
            _ => None,
        };
        Ok(Self { program, version, transport })
    }
}

#[cfg(test)]
mod tests;
