use super::*;
use crate::effect::{Change, Depth, Read};
use crate::id::RelPath;

fn read(home_only: bool) -> Effect {
    let share = "eng".parse().unwrap();
    Effect::Read(Read { share, path: RelPath::ROOT, depth: Depth::Object, home_only })
}

fn change() -> Effect {
    Effect::Change(Change { share: "eng".parse().unwrap(), targets: Vec::new() })
}

/// Every combination there is, and what each must give. The rows are tried in order.
const STANDINGS: [Standing; 5] =
    [Standing::Current, Standing::Behind, Standing::Ahead, Standing::Unconfirmed, Standing::Barrier];

const CERTAINTIES: [Certainty; 5] = [
    Certainty::Relaxed,
    Certainty::Sure,
    Certainty::Unsure,
    Certainty::CutOffServe,
    Certainty::CutOffRefuse,
];

#[test]
fn the_whole_truth() {
    let mut seen = 0;
    for role in [Role::Local, Role::Broadcast, Role::Remote] {
        for standing in STANDINGS {
            for link_up in [true, false] {
                for full_answer_will_do in [true, false] {
                    for certainty in CERTAINTIES {
                        for known_there in [true, false] {
                            seen += one(&Facts {
                                role,
                                standing,
                                certainty,
                                link_up,
                                full_answer_will_do,
                                known_there,
                            });
                        }
                    }
                }
            }
        }
    }
    assert_eq!(seen, 3 * 5 * 5 * 2 * 2 * 2 * 2);
}

fn one(facts: &Facts) -> usize {
    use Certainty::{CutOffRefuse, CutOffServe, Relaxed, Sure, Unsure};
    use Role::{Broadcast, Local, Remote};
    use Route::{Divert, DivertPlain, Forward, Home, Pass, Refuse};
    let Facts { role, standing, certainty, link_up, full_answer_will_do, known_there } = *facts;
    let case = format!("{facts:?}");
    assert_eq!(route(&Effect::<RelPath>::Outside, facts), Pass, "{case}");

    let want = match (role, link_up) {
        (Local, _) => Home,
        (_, true) => Forward,
        (_, false) => Refuse(Why::ChangeAway),
    };
    assert_eq!(route(&change(), facts), want, "change, {case}");

    for home_only in [false, true] {
        let asked = (role, standing, certainty, home_only, link_up, full_answer_will_do);
        let want = match asked {
            (Local, ..) => Divert,
            (Broadcast, Standing::Current, Relaxed | Sure, false, false, _) => Divert,
            (Broadcast, Standing::Current, Relaxed | Sure, false, true, _) if !known_there => Divert,
            (_, _, _, _, true, _) => Forward,
            (Remote, ..) => Refuse(Why::ReadAway),
            (_, _, Unsure | CutOffRefuse, ..) => Refuse(Why::Unsure),
            (_, Standing::Behind, Sure, ..) => Refuse(Why::Unsure),
            (_, Standing::Current, CutOffServe, false, ..) => Divert,
            (_, Standing::Behind, _, false, ..) => Divert,
            (_, Standing::Current | Standing::Behind, _, true, false, true) => DivertPlain,
            (_, Standing::Current | Standing::Behind, _, true, false, false) => Refuse(Why::ReadAway),
            (_, Standing::Ahead, ..) => Refuse(Why::Ahead),
            (_, Standing::Unconfirmed, ..) => Refuse(Why::Unconfirmed),
            (_, Standing::Barrier, ..) => Refuse(Why::Barrier),
        };
        assert_eq!(route(&read(home_only), facts), want, "{home_only}, {case}");
    }
    2
}

#[test]
fn the_narrowest_client_rule_decides() {
    let rule = |net: &str, access| ClientRule { net: net.parse().unwrap(), access };
    let clients = Clients::new(vec![
        rule("10.0.0.0/8", Access::Read),
        rule("10.2.0.0/16", Access::Write),
        rule("10.2.9.0/24", Access::None),
        rule("fd00::/8", Access::Write),
    ]);
    for (client, access) in [
        ("10.1.1.1", Access::Read),
        ("10.2.1.1", Access::Write),
        ("10.2.9.1", Access::None),
        ("::ffff:10.2.1.1", Access::Write),
        ("192.0.2.1", Access::None),
        ("fd00::1", Access::Write),
        ("fe80::1", Access::None),
    ] {
        assert_eq!(clients.access(client.parse().unwrap()), access, "{client}");
    }
    assert_eq!(Clients::default().access("192.0.2.1".parse().unwrap()), Access::Write);
}
