//! What an operator says about a share: that a doubt is over, and that it is to be looked over again.

use std::path::Path;
use std::process::Output;

use super::common::cluster::{Plan, Server, SitePlan, nearshare};
use super::common::{PATIENCE, wait_for, wait_until};
use super::{path, text};

fn ask(socket: &Path, command: &[&str]) -> Output {
    nearshare(&[command, &["--socket", path(socket)]].concat())
}

/// Its server has a change and hangs: nobody but an operator can know what becomes of it.
#[test]
fn status_names_a_change_in_doubt_until_it_is_believed() {
    let mut hq = SitePlan::new("hq", "local");
    hq.server_timeout = Some("1s");
    let cluster = Plan { server: Server::Nginx, sites: vec![hq], keys: String::new() }.start();
    let hq = cluster.site("hq");
    let socket = hq.state().join("control.sock");
    let said = || text(&ask(&socket, &["status"]));
    let well = || {
        wait_until("status to find all well", PATIENCE, || {
            let status = ask(&socket, &["status"]);
            if status.status.code() == Some(0) { Ok(text(&status)) } else { Err(text(&status)) }
        })
    };
    let mut client = hq.client();
    client.put("/docs/known.txt", b"known").unwrap().expect(&[201]);
    assert!(!well().contains("in doubt"), "{}", said());

    let nginx = hq.nginx.as_ref().unwrap();
    nginx.freeze();
    client.put("/docs/doubt.txt", b"doubt").unwrap().expect(&[504]);
    let doubt =
        "1 place in doubt, for lack of the server's answer: /doubt.txt; `nearshare believe` ends that";
    wait_until("status to name it", PATIENCE, || {
        let said = said();
        if said.contains(doubt) { Ok(()) } else { Err(said) }
    });
    nginx.thaw();
    wait_for("the server to do it all the same", || {
        std::fs::read(hq.share().join("doubt.txt")).is_ok_and(|found| found == b"doubt")
    });
    client.get("/docs/known.txt").unwrap().expect(&[200]);
    // It is there, which proves nothing; nor is it wrong.
    assert!(well().contains(doubt), "{}", said());

    let believed = ask(&socket, &["believe", "docs"]);
    assert_eq!(believed.status.code(), Some(0), "{}", text(&believed));
    wait_until("the doubt to end", PATIENCE, || {
        let home = hq.status()?["shares"][0]["home"].clone();
        if home["suspects"] == 0 && home["marks"] == 0 { Ok(()) } else { Err(home.to_string()) }
    });
    assert!(!well().contains("in doubt"), "{}", said());
    assert_eq!(client.get("/docs/doubt.txt").unwrap().expect(&[200]).text(), "doubt");

    // What these commands exit with, whatever there is to do.
    for command in ["believe", "scan"] {
        let good = ask(&socket, &[command, "docs"]);
        assert_eq!(good.status.code(), Some(0), "{command}: {}", text(&good));
        let unknown = ask(&socket, &[command, "plans"]);
        assert_eq!(unknown.status.code(), Some(1), "{command}: {}", text(&unknown));
        assert!(text(&unknown).contains("plans"), "{command}: {}", text(&unknown));
        let nobody = ask(Path::new("/nowhere/control.sock"), &[command, "docs"]);
        assert_eq!(nobody.status.code(), Some(2), "{command}: {}", text(&nobody));
        assert!(text(&nobody).contains("/nowhere/control.sock"), "{command}: {}", text(&nobody));
    }
}
