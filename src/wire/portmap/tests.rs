use bytes::Bytes;
use nfs3_types::portmap::{mapping, pmaplist};
use nfs3_types::xdr_codec::{Pack, Unpack};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::rpc::{Credential, Reply, call};
use super::super::xdr::Rope;
use super::*;

const SERVICES: [Service; 3] = [
    Service { program: 100_003, version: 3, transport: Transport::Tcp, port: 2049 },
    Service { program: 100_005, version: 3, transport: Transport::Tcp, port: 20048 },
    Service { program: 100_005, version: 3, transport: Transport::Udp, port: 20049 },
];

/// What is answered to version, procedure and arguments, over UDP.
fn ask(version: u32, procedure: u32, to: &str, args: &[u8]) -> (Outcome, Bytes) {
    let mut question = call(9, PROGRAM, version, procedure, &Credential::None);
    question.fixed(args);
    let question = Rope::from(question.message());
    let mut reader = Reader::new(&question);
    let read = Call::read(&mut reader).unwrap();
    let came = Came { transport: Transport::Udp, to: to.parse().unwrap() };
    let said = answer(&read, &mut reader, &SERVICES, came).message();
    let rope = Rope::from(said.clone());
    let reply = Reply::read(&mut Reader::new(&rope)).unwrap();
    assert_eq!(reply.xid, 9);
    (reply.outcome, said.slice(reply.results..))
}

fn port(prog: u32, vers: u32, prot: u32) -> u32 {
    let mut args = Vec::new();
    mapping { prog, vers, prot, port: 0 }.pack(&mut args).unwrap();
    let (outcome, said) = ask(2, 3, "10.1.0.10", &args);
    assert_eq!(outcome, Outcome::Success);
    u32::unpack(&mut &said[..]).unwrap().0
}

fn address(version: u32, procedure: u32, to: &str, program: u32, netid: &str) -> String {
    let mut args = Writer::new();
    args.u32(program).u32(3).opaque(netid.as_bytes()).opaque(b"").opaque(b"mount");
    let (outcome, said) = ask(version, procedure, to, &args.message());
    assert_eq!(outcome, Outcome::Success);
    let said = Rope::from(said);
    let text = Reader::new(&said).opaque("address", 100).unwrap();
    String::from_utf8(text.to_vec()).unwrap()
}

#[test]
fn version_2_is_told_ports() {
    assert_eq!(port(100_003, 3, 6), 2049);
    assert_eq!(port(100_005, 3, 17), 20049);
    // Another version, another transport, none at all, the lock manager.
    let nothing = [port(100_003, 4, 6), port(100_003, 3, 17), port(100_003, 3, 1), port(100_021, 4, 6)];
    assert_eq!(nothing, [0; 4]);
}

#[test]
fn later_versions_are_told_addresses() {
    for (version, procedure) in [(3, 3), (4, 3), (4, 9)] {
        assert_eq!(address(version, procedure, "10.1.0.10", 100_003, "tcp"), "10.1.0.10.8.1");
        // Where the question came over, if it does not say: UDP.
        assert_eq!(address(version, procedure, "10.1.0.10", 100_005, ""), "10.1.0.10.78.81");
        assert_eq!(address(version, procedure, "10.1.0.10", 100_003, "udp"), "");
    }
    assert_eq!(address(4, 3, "fd00::1", 100_003, "tcp6"), "fd00::1.8.1");
}

#[test]
fn all_that_there_is_is_listed() {
    let (_, said) = ask(2, 4, "10.1.0.10", &[]);
    let (list, len) = pmaplist::unpack(&mut &said[..]).unwrap();
    assert_eq!(len, said.len());
    let list: Vec<_> = list.0.iter().map(|m| (m.prog, m.vers, m.prot, m.port)).collect();
    assert_eq!(list, [(100_003, 3, 6, 2049), (100_005, 3, 6, 20048), (100_005, 3, 17, 20049)]);

    let (_, said) = ask(4, 4, "fd00::1", &[]);
    let rope = Rope::from(said);
    let mut reader = Reader::new(&rope);
    for service in SERVICES {
        assert_eq!(reader.bool("more"), Ok(true));
        assert_eq!(reader.u32("program"), Ok(service.program));
        assert_eq!(reader.u32("version"), Ok(service.version));
        let texts = [(); 3].map(|()| reader.opaque("text", 100).unwrap());
        assert_eq!(texts[0], service.transport.netid("::1".parse().unwrap()));
        assert!(texts[1].starts_with(b"fd00::1."));
        assert_eq!(texts[2], OWNER);
    }
    assert_eq!((reader.bool("more"), reader.left()), (Ok(false), 0));
}

#[test]
fn nothing_else_is_done_for_anybody() {
    for version in 2..=4 {
        assert_eq!(ask(version, 0, "::1", &[]), (Outcome::Success, Bytes::new()));
        for procedure in [1, 2] {
            assert_eq!(
                ask(version, procedure, "::1", &[]),
                (Outcome::Success, Bytes::from_static(&[0; 4]))
            );
        }
        // CALLIT would make others believe that we have called.
        assert_eq!(ask(version, 5, "::1", &[]).0, Outcome::ProcUnavail);
        assert_eq!(ask(version, 3, "::1", &[0; 7]).0, Outcome::GarbageArgs);
    }
    assert_eq!(ask(3, 9, "::1", &[0; 40]).0, Outcome::ProcUnavail);
    for version in [1, 5] {
        assert_eq!(ask(version, 0, "::1", &[]).0, Outcome::ProgMismatch { low: 2, high: 4 });
    }
}

proptest! {
    #[test]
    fn any_question_is_answered(
        version in 0_u32..6,
        procedure in 0_u32..12,
        args in vec(prop_oneof![4 => Just(0_u8), 1 => 0_u8..8, 1 => any::<u8>()], 0..120),
        size in 1_usize..50,
    ) {
        let mut question = call(9, PROGRAM, version, procedure, &Credential::None);
        question.fixed(&args);
        prop_assert_eq!(judge::question(&question.message(), size), Ok(()));
    }
}
