//! ONC RPC version 2 (RFC 5531): calls and replies up to where a program's own bytes begin.
//!
//! [`record`] cuts a stream into messages, [`Call`] and [`Reply`] read their heads. Not here: what a
//! program's procedures are (see `nfs3`, `mount`, `portmap`), and who waits for which reply.

pub mod auth;
#[cfg(any(test, feature = "fuzz"))]
pub mod judge;
pub mod record;

pub use self::auth::Credential;
use self::auth::{AUTH_NONE, BODY_MAX};
use super::xdr::{Fault, Reader, Span, Writer};

const CALL: u32 = 0;
const REPLY: u32 = 1;
const VERSION: u32 = 2;

/// Where a message's xid stands.
pub const XID: Span = Span { at: 0, len: 4 };

/// A call's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub xid: u32,
    pub program: u32,
    pub version: u32,
    pub procedure: u32,
    pub cred: Credential,
    /// Where the credential stands, flavor and all.
    pub cred_at: Span,
    /// The byte at which the arguments begin.
    pub args: usize,
}

/// Why a message is no call that could be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotACall {
    /// There is nobody to answer: what follows on the stream cannot be trusted either.
    #[error(transparent)]
    Unreadable(#[from] Fault),
    /// The client gets `outcome` as its answer.
    #[error("call {xid:08x}: {why}")]
    Refused { xid: u32, outcome: Outcome, why: Fault },
}

impl Call {
    /// Reads a call's head; the reader is then at its arguments.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, NotACall> {
        let xid = reader.u32("xid")?;
        reader.choice("message type", "0 (a call)", |kind| (kind == CALL).then_some(()))?;
        if let Err(why) = reader.choice("RPC version", "2", |version| (version == VERSION).then_some(()))
        {
            return Err(match why {
                Fault::Short { .. } => NotACall::Unreadable(why),
                _ => NotACall::Refused { xid, outcome: Outcome::RpcMismatch { low: 2, high: 2 }, why },
            });
        }
        let program = reader.u32("program")?;
        let version = reader.u32("program version")?;
        let procedure = reader.u32("procedure")?;
        let refused =
            |stat| move |why| NotACall::Refused { xid, outcome: Outcome::AuthError(stat), why };
        let begin = reader.at();
        let cred = Credential::read(reader).map_err(refused(AuthStat::BAD_CRED))?;
        let cred_at = Span { at: begin, len: reader.at() - begin };
        reader
            .u32("verifier flavor")
            .and_then(|_| reader.payload("verifier", BODY_MAX))
            .map_err(refused(AuthStat::BAD_VERF))?;
        Ok(Self { xid, program, version, procedure, cred, cred_at, args: reader.at() })
    }

    /// Where the arguments begin that can be read: behind the wrapping of an integrity-protected call.
    /// None if they are encrypted or belong to the setting up of a context.
    pub fn readable_args(&self) -> Option<usize> {
        match self.cred {
            Credential::Gss(gss) => gss.args_behind().map(|wrapping| self.args + wrapping),
            _ => Some(self.args),
        }
    }
}

/// The head of a call of our own, up to its arguments.
pub fn call(xid: u32, program: u32, version: u32, procedure: u32, cred: &Credential) -> Writer {
    let mut out = Writer::new();
    out.u32(xid).u32(CALL).u32(VERSION).u32(program).u32(version).u32(procedure);
    cred.write(&mut out);
    out.u32(AUTH_NONE).opaque(&[]);
    out
}

/// How a call ended, as far as RPC knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The program's own results follow.
    Success,
    ProgUnavail,
    /// The versions that the program has.
    ProgMismatch {
        low: u32,
        high: u32,
    },
    ProcUnavail,
    GarbageArgs,
    SystemErr,
    RpcMismatch {
        low: u32,
        high: u32,
    },
    AuthError(AuthStat),
}

/// Why a credential is refused (`auth_stat`, RFC 5531 section 9); others may come from servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthStat(pub u32);

impl AuthStat {
    pub const BAD_CRED: Self = Self(1);
    pub const BAD_VERF: Self = Self(3);
    pub const TOO_WEAK: Self = Self(5);
}

/// A reply's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    pub xid: u32,
    pub outcome: Outcome,
    /// The byte at which the results begin, if it is [`Outcome::Success`].
    pub results: usize,
}

impl Reply {
    /// Reads a reply's head; the reader is then at its results.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let xid = reader.u32("xid")?;
        reader.choice("message type", "1 (a reply)", |kind| (kind == REPLY).then_some(()))?;
        let denied = reader.choice("reply status", "0 or 1", |stat| match stat {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        })?;
        let outcome = if denied { Self::denial(reader)? } else { Self::acceptance(reader)? };
        Ok(Self { xid, outcome, results: reader.at() })
    }

    fn acceptance(reader: &mut Reader<'_>) -> Result<Outcome, Fault> {
        reader.u32("verifier flavor")?;
        reader.payload("verifier", BODY_MAX)?;
        let outcome = reader.choice("accept status", "0 to 5", |stat| {
            Some(match stat {
                0 => Outcome::Success,
                1 => Outcome::ProgUnavail,
                2 => Outcome::ProgMismatch { low: 0, high: 0 },
                3 => Outcome::ProcUnavail,
                4 => Outcome::GarbageArgs,
                5 => Outcome::SystemErr,
                _ => return None,
            })
        })?;
        Ok(match outcome {
            Outcome::ProgMismatch { .. } => {
                let low = reader.u32("lowest program version")?;
                Outcome::ProgMismatch { low, high: reader.u32("highest program version")? }
            }
            outcome => outcome,
        })
    }

    fn denial(reader: &mut Reader<'_>) -> Result<Outcome, Fault> {
        let auth = reader.bool("reject status")?;
        if auth {
            return Ok(Outcome::AuthError(AuthStat(reader.u32("authentication status")?)));
        }
        let low = reader.u32("lowest RPC version")?;
        Ok(Outcome::RpcMismatch { low, high: reader.u32("highest RPC version")? })
    }
}

/// The head of a reply of our own: for [`Outcome::Success`] up to the results, otherwise all of it.
pub fn reply(xid: u32, outcome: Outcome) -> Writer {
    let mut out = Writer::new();
    out.u32(xid).u32(REPLY);
    match outcome {
        Outcome::RpcMismatch { low, high } => out.u32(1).u32(0).u32(low).u32(high),
        Outcome::AuthError(AuthStat(stat)) => out.u32(1).u32(1).u32(stat),
        accepted => {
            out.u32(0).u32(AUTH_NONE).opaque(&[]);
            match accepted {
                Outcome::ProgUnavail => out.u32(1),
                Outcome::ProgMismatch { low, high } => out.u32(2).u32(low).u32(high),
                Outcome::ProcUnavail => out.u32(3),
                Outcome::GarbageArgs => out.u32(4),
                Outcome::SystemErr => out.u32(5),
                Outcome::Success | Outcome::RpcMismatch { .. } | Outcome::AuthError(_) => out.u32(0),
            }
        }
    };
    out
}

#[cfg(test)]
mod tests;
