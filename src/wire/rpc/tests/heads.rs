use bytes::Bytes;
use nfs3_types::rpc::{
    accept_stat_data, accepted_reply, auth_flavor, auth_stat, auth_unix, call_body, msg_body,
    opaque_auth, rejected_reply, reply_body, rpc_msg,
};
use nfs3_types::xdr_codec::{Opaque, Pack, Unpack};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::auth::{Credential, Groups, Sys};
use super::super::{AuthStat, Call, NotACall, Outcome, Reply, call, judge, reply};
use crate::wire::xdr::{Reader, Rope, Writer};

fn pack(value: &impl Pack) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.pack(&mut bytes).unwrap();
    bytes
}

fn rope(bytes: &[u8]) -> Rope {
    Bytes::copy_from_slice(bytes).into()
}

fn read(bytes: &[u8]) -> Result<Call, NotACall> {
    Call::read(&mut Reader::new(&rope(bytes)))
}

fn written(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut out = Writer::new();
    write(&mut out);
    out.message().to_vec()
}

/// The head of a NFS call up to its credential.
fn begun(out: &mut Writer) -> &mut Writer {
    out.u32(7).u32(0).u32(2).u32(100_003).u32(3).u32(1)
}

proptest! {
    #[test]
    fn calls_are_read_and_written_as_the_other_program_does(
        numbers: [u32; 5],
        user: Option<[u32; 3]>,
        machine in vec(any::<u8>(), 0..=255),
        groups in vec(any::<u32>(), 0..=16),
        size in 1_usize..100,
    ) {
        let [xid, prog, vers, procedure, _] = numbers;
        let (cred, ours) = match user {
            None => (opaque_auth::default(), Credential::None),
            Some([stamp, uid, gid]) => (
                opaque_auth::auth_unix(&auth_unix {
                    stamp,
                    machinename: Opaque::owned(machine.clone()),
                    uid,
                    gid,
                    gids: groups.clone(),
                }),
                Credential::Sys(Sys {
                    stamp,
                    machine: machine.into(),
                    uid,
                    gid,
                    groups: Groups::new(&groups).unwrap(),
                }),
            ),
        };
        let body = call_body { rpcvers: 2, prog, vers, proc: procedure, cred, verf: opaque_auth::default() };
        let bytes = pack(&rpc_msg { xid, body: msg_body::CALL(body) });
        let got = Call::read(&mut Reader::new(&judge::cut(&bytes, size))).unwrap();
        prop_assert_eq!([got.xid, got.program, got.version, got.procedure], [xid, prog, vers, procedure]);
        prop_assert_eq!(&got.cred, &ours);
        prop_assert_eq!((got.args, got.readable_args()), (bytes.len(), Some(bytes.len())));
        prop_assert_eq!((got.cred_at.at, got.cred_at.end()), (24, bytes.len() - 8));
        prop_assert_eq!(call(xid, prog, vers, procedure, &ours).message(), bytes);
    }

    #[test]
    fn replies_are_read_and_written_as_the_other_program_does(xid: u32, low: u32, high: u32, which in 0..9) {
        let accepted = |reply_data| {
            reply_body::MSG_ACCEPTED(accepted_reply { verf: opaque_auth::default(), reply_data })
        };
        let denied = reply_body::MSG_DENIED;
        let (theirs, ours) = match which {
            0 => (accepted(accept_stat_data::SUCCESS), Outcome::Success),
            1 => (accepted(accept_stat_data::PROG_UNAVAIL), Outcome::ProgUnavail),
            2 => {
                (accepted(accept_stat_data::PROG_MISMATCH { low, high }), Outcome::ProgMismatch { low, high })
            }
            3 => (accepted(accept_stat_data::PROC_UNAVAIL), Outcome::ProcUnavail),
            4 => (accepted(accept_stat_data::GARBAGE_ARGS), Outcome::GarbageArgs),
            5 => (accepted(accept_stat_data::SYSTEM_ERR), Outcome::SystemErr),
            6 => (denied(rejected_reply::rpc_mismatch(low, high)), Outcome::RpcMismatch { low, high }),
            7 => (
                denied(rejected_reply::auth_error(auth_stat::AUTH_TOOWEAK)),
                Outcome::AuthError(AuthStat::TOO_WEAK),
            ),
            _ => (
                denied(rejected_reply::auth_error(auth_stat::AUTH_BADCRED)),
                Outcome::AuthError(AuthStat::BAD_CRED),
            ),
        };
        let bytes = pack(&rpc_msg { xid, body: msg_body::REPLY(theirs) });
        prop_assert_eq!(&reply(xid, ours).message(), &bytes);
        let got = Reply::read(&mut Reader::new(&rope(&bytes))).unwrap();
        prop_assert_eq!((got.xid, got.outcome, got.results), (xid, ours, bytes.len()));
        rpc_msg::unpack(&mut &bytes[..]).unwrap();
    }

    #[test]
    fn any_message_is_read_in_one_way(
        bytes in vec(prop_oneof![4 => Just(0_u8), 2 => 0_u8..8, 1 => any::<u8>()], 0..200),
        head: bool,
        size in 1_usize..50,
    ) {
        let bytes = if head { [written(|out| { begun(out); }), bytes].concat() } else { bytes };
        prop_assert_eq!(judge::head(&bytes, size), Ok(()));
    }
}

#[test]
fn who_is_wrong_is_told_which_byte() {
    let sys = |body: &[u8]| {
        written(|out| {
            begun(out).u32(1).opaque(body).u32(0).opaque(&[]);
        })
    };
    let body = |groups: u32, machine: usize| {
        written(|out| {
            out.u32(0).opaque(&vec![b'm'; machine]).u32(1).u32(2).u32(groups);
            (0..groups).for_each(|group| {
                out.u32(group);
            });
        })
    };
    assert!(read(&sys(&body(16, 255))).is_ok());
    let mismatch = Outcome::RpcMismatch { low: 2, high: 2 };
    let bad = |stat| Outcome::AuthError(stat);
    let refused = [
        (
            written(|out| {
                out.u32(7).u32(0).u32(3);
            }),
            mismatch,
            "RPC version is 3, it must be 2, at byte 8",
        ),
        (sys(&body(17, 4)), bad(AuthStat::BAD_CRED), "group list has 17 entries, limit 16, at byte 52"),
        (
            sys(&[body(0, 256)].concat()),
            bad(AuthStat::BAD_CRED),
            "machine name is 256 bytes, limit 255, at byte 36",
        ),
        (
            sys(&[&body(2, 4)[..], &[0; 4]].concat()),
            bad(AuthStat::BAD_CRED),
            "credential length is 36, it must be that of its fields, at byte 28",
        ),
        (
            written(|out| {
                begun(out).u32(1).u32(401);
            }),
            bad(AuthStat::BAD_CRED),
            "credential is 401 bytes, limit 400, at byte 28",
        ),
        (
            written(|out| {
                begun(out).u32(0).opaque(&[]).u32(0).u32(500);
            }),
            bad(AuthStat::BAD_VERF),
            "verifier is 500 bytes, limit 400, at byte 36",
        ),
    ];
    for (bytes, outcome, why) in refused {
        let got = read(&bytes).unwrap_err();
        assert_eq!(got.to_string(), format!("call 00000007: {why}"));
        assert!(
            matches!(got, NotACall::Refused { xid: 7, outcome: is, .. } if is == outcome),
            "{got:?}"
        );
    }
    let unreadable = [
        (vec![0, 0, 1], "xid needs 4 bytes and the message has 3 more, at byte 0"),
        (
            written(|out| {
                out.u32(7).u32(1);
            }),
            "message type is 1, it must be 0 (a call), at byte 4",
        ),
        (
            written(|out| {
                out.u32(7).u32(0).u32(2).u32(100_003);
            }),
            "program version needs 4 bytes and the message has 0 more, at byte 16",
        ),
    ];
    for (bytes, why) in unreadable {
        let got = read(&bytes).unwrap_err();
        assert!(matches!(got, NotACall::Unreadable(_)));
        assert_eq!(got.to_string(), why);
    }
}

#[test]
fn of_a_gss_call_it_is_known_what_can_be_read() {
    let gss = |procedure: u32, service: u32| {
        let body = written(|out| {
            out.u32(1).u32(procedure).u32(99).u32(service).opaque(b"context");
        });
        let bytes = written(|out| {
            begun(out).u32(6).opaque(&body).u32(6).opaque(&[9; 37]);
        });
        let call = read(&bytes).unwrap();
        assert_eq!(call.args, bytes.len());
        call.readable_args().map(|at| at - call.args)
    };
    // Setting up a context; authenticated; with integrity; encrypted.
    assert_eq!([gss(1, 1), gss(0, 1), gss(0, 2), gss(0, 3)], [None, Some(0), Some(8), None]);
}

#[test]
fn other_flavors_pass() {
    // AUTH_TLS (RFC 9289) asks with a NULL call.
    let bytes = written(|out| {
        begun(out).u32(7).opaque(&[]).u32(0).opaque(&[]);
    });
    assert_eq!(read(&bytes).unwrap().cred, Credential::Other(7));
    let short = pack(&opaque_auth { flavor: auth_flavor::AUTH_SHORT, body: Opaque::borrowed(b"1234") });
    let bytes = written(|out| {
        begun(out).fixed(&short).u32(0).opaque(&[]);
    });
    assert_eq!(read(&bytes).unwrap().cred, Credential::Other(2));
}
