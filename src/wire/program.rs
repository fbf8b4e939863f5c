//! Which programs of ONC RPC pass, and what is said to who calls another one or another version.

use super::rpc::Outcome;
use super::{mount, nfs3, portmap};

/// The lock manager, which clients of NFS version 3 call for `fcntl` locks.
const NLM: u32 = 100_021;

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Nfs3,
    /// ACLs of NFS version 3.
    Acl3,
    /// NFS version 4, where the map lets it pass untouched.
    Nfs4,
    Mount(mount::Version),
    Portmap,
    /// It passes as it is: it is not known to touch any share.
    Other,
}

/// What is done with NFS version 4 (`nfs.v4` of the map).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum V4 {
    /// Clients are told that there is version 3, and Linux then takes that by itself.
    Refuse,
    Pass,
}

/// What a call is for; or the answer, if it cannot be carried out.
pub fn program(program: u32, version: u32, v4: V4) -> Result<Program, Outcome> {
    let only_3 = Outcome::ProgMismatch { low: 3, high: 3 };
    match (program, version) {
        (nfs3::PROGRAM, nfs3::VERSION) => Ok(Program::Nfs3),
        (nfs3::PROGRAM, 4) if v4 == V4::Pass => Ok(Program::Nfs4),
        // Version 2 has handles of another kind, which nobody translates.
        (nfs3::PROGRAM, _) if v4 == V4::Pass => Err(Outcome::ProgMismatch { low: 3, high: 4 }),
        (nfs3::PROGRAM, _) => Err(only_3),
        (nfs3::acl::PROGRAM, nfs3::acl::VERSION) => Ok(Program::Acl3),
        (nfs3::acl::PROGRAM, _) => Err(only_3),
        (mount::PROGRAM, version) => match mount::Version::new(version) {
            Some(version) => Ok(Program::Mount(version)),
            None => Err(Outcome::ProgMismatch { low: 1, high: 3 }),
        },
        (portmap::PROGRAM, _) => Ok(Program::Portmap),
        // A lock at one site would be none at another.
        (NLM, _) => Err(Outcome::ProgUnavail),
        _ => Ok(Program::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_is_known_or_passes() {
        use mount::Version::{Old, Three};
        let mismatch = |low, high| Err(Outcome::ProgMismatch { low, high });
        let table = [
            (100_003, 3, V4::Refuse, Ok(Program::Nfs3)),
            (100_003, 3, V4::Pass, Ok(Program::Nfs3)),
            (100_003, 4, V4::Refuse, mismatch(3, 3)),
            (100_003, 4, V4::Pass, Ok(Program::Nfs4)),
            (100_003, 2, V4::Refuse, mismatch(3, 3)),
            (100_003, 2, V4::Pass, mismatch(3, 4)),
            (100_227, 3, V4::Refuse, Ok(Program::Acl3)),
            (100_227, 2, V4::Refuse, mismatch(3, 3)),
            (100_005, 1, V4::Refuse, Ok(Program::Mount(Old))),
            (100_005, 2, V4::Refuse, Ok(Program::Mount(Old))),
            (100_005, 3, V4::Refuse, Ok(Program::Mount(Three))),
            (100_005, 4, V4::Refuse, mismatch(1, 3)),
            (100_000, 2, V4::Refuse, Ok(Program::Portmap)),
            (100_021, 4, V4::Refuse, Err(Outcome::ProgUnavail)),
            (100_021, 4, V4::Pass, Err(Outcome::ProgUnavail)),
            (100_024, 1, V4::Refuse, Ok(Program::Other)),
        ];
        for (number, version, v4, want) in table {
            assert_eq!(program(number, version, v4), want, "{number} {version} {v4:?}");
        }
    }
}
