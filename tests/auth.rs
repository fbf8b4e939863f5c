//! Who may do what is the servers' to say, at every site, and nobody is ever taken for somebody else: real
//! servers that ask for a name, and real clients that say one, through one pool of connections.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::cluster::{Cluster, Plan, Server, SitePlan};
use common::http::Client;
use common::wait_for;

const USERS: [&str; 2] = ["ann", "bob"];

/// HQ and Osaka with servers that ask for a name: `more` in their configurations, where `HOME` is the site's
/// directory. A file for each user is there: what he may see and nobody else.
fn pair(server: Server, keys: &str, more: &str) -> Cluster {
    let sites = vec![SitePlan::new("hq", "local"), SitePlan::new("osaka", "broadcast")];
    let mut cluster = Plan { server, sites, keys: keys.to_owned() }.prepare();
    for site in &cluster.sites {
        let home = site.home.to_str().unwrap();
        std::fs::write(site.home.join("server.conf"), more.replace("HOME", home)).unwrap();
        let file = |name: &str, text: String| std::fs::write(site.home.join(name), text).unwrap();
        file("ntlm-users", USERS.map(|user| format!("HOUSE:{user}:{user}-pw\n")).concat());
        let digest = USERS.map(|user| {
            let secret = common::run("sh", &["-c", &format!("printf {user}:files:{user}-pw | md5sum")]);
            format!("{user}:files:{}\n", secret.split(' ').next().unwrap())
        });
        file("digest", digest.concat());
        let hashed = USERS.map(|user| {
            let secret = common::run("openssl", &["passwd", "-apr1", &format!("{user}-pw")]);
            format!("{user}:{secret}")
        });
        for (user, line) in USERS.iter().zip(&hashed) {
            file(&format!("only-{user}"), line.clone());
        }
        file("basic", hashed.concat());
    }
    for user in USERS {
        let dir = cluster.primary().share().join(user);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("f"), format!("of {user}")).unwrap();
        // For Apache, which serves as somebody who is not root.
        common::run("chmod", &["-R", "a+rwX", dir.to_str().unwrap()]);
    }
    cluster.start_all();
    cluster.settle();
    cluster
}

/// Everybody has a directory of his own.
fn own_directories(kind: &str) -> String {
    let mut conf = String::new();
    for user in USERS {
        let kind = kind.replace("NAME", user);
        writeln!(conf, "<Location /docs/{user}>\n{kind}\n</Location>").unwrap();
    }
    conf
}

fn modules(names: &[&str]) -> String {
    let dirs = ["/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/lib/httpd/modules"];
    let at = common::modules(&dirs, "mod_dav_lock.so").display();
    names.iter().map(|name| format!("LoadModule {name}_module {at}/mod_{name}.so\n")).collect()
}

fn basic(user: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{user}-pw")))
}

/// Both read and write, in turns and at once, at both sites: each gets his own, what is the other's is refused, and
/// who says no name is asked for one.
fn two_users_of_one_pool(cluster: &Cluster) {
    std::thread::scope(|scope| {
        for site in ["hq", "osaka", "osaka"] {
            let number = std::sync::atomic::AtomicUsize::new(0);
            let mut client = cluster.site(site).client();
            scope.spawn(move || {
                for round in 0..60 {
                    let n = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let (user, other) = (USERS[round % 2], USERS[(round + 1) % 2]);
                    let as_user = basic(user);
                    let said = [("Authorization", as_user.as_str())];
                    let mut ask = |method: &str, of: &str, fields: &[(&str, &str)]| {
                        let path = format!("/docs/{of}/f");
                        let body = if method == "PUT" { format!("of {of}") } else { String::new() };
                        client.send(method, &path, fields, body.as_bytes()).unwrap()
                    };
                    assert_eq!(ask("GET", user, &said).expect(&[200]).text(), format!("of {user}"));
                    for refused in [ask("GET", other, &said), ask("DELETE", other, &said)] {
                        assert!([401, 403].contains(&refused.status), "{site} {n}: {refused:?}");
                        assert!(!refused.text().contains("of "), "{refused:?}");
                    }
                    ask("PUT", user, &said).expect(&[204]);
                    for method in ["GET", "PUT", "DELETE"] {
                        let asked = ask(method, user, &[]).expect(&[401]);
                        assert!(asked.header("www-authenticate").unwrap().starts_with("Basic"));
                    }
                }
            });
        }
    });
}

#[test]
fn two_users_of_apache_are_never_taken_for_each_other() {
    let kind = "AuthType Basic\nAuthName files\nAuthUserFile HOME/basic\nRequire user NAME";
    let loaded = modules(&["auth_basic", "authn_core", "authn_file", "authz_user"]);
    let cluster = pair(Server::Apache, "", &(loaded + &own_directories(kind)));
    two_users_of_one_pool(&cluster);
    // A refusal is an answer: nobody else is asked.
    let requests = |site: &str| cluster.site(site).apache.as_ref().unwrap().requests().len();
    let (hq, osaka) = (requests("hq"), requests("osaka"));
    let mut client = cluster.site("osaka").client();
    cluster.settle();
    wait_for("a near read", || {
        let fields = [("Authorization", &*basic("ann"))];
        client.send("GET", "/docs/ann/f", &fields, b"").unwrap().header("x-served-by") == Some("osaka")
    });
    let near = requests("osaka") - osaka;
    assert!(near > 0);
    let hq = requests("hq").max(hq);
    for wrong in [None, Some("Basic eDp5"), Some(&*basic("bob"))] {
        let fields: Vec<_> = wrong.iter().map(|said| ("Authorization", *said)).collect();
        let refused = client.send("GET", "/docs/ann/f", &fields, b"").unwrap();
        assert_eq!((refused.header("x-served-by"), refused.status / 100), (Some("osaka"), 4));
    }
    assert_eq!(requests("hq"), hq, "{:?}", cluster.primary().apache.as_ref().unwrap().requests());
    let osaka = requests("osaka");
    let refused = client.put("/docs/ann/f", b"x").unwrap().expect(&[401]);
    assert_eq!(refused.header("x-served-by"), Some("hq"));
    assert_eq!((requests("hq"), requests("osaka")), (hq + 1, osaka));
}

#[test]
fn two_users_of_nginx_are_never_taken_for_each_other() {
    let mut conf = String::new();
    for user in USERS {
        // Nobody else knows the other's password there.
        writeln!(
            conf,
            "location /docs/{user}/ {{ auth_basic files; auth_basic_user_file HOME/only-{user}; }}"
        )
        .unwrap();
    }
    let cluster = pair(Server::Nginx, "", &conf);
    two_users_of_one_pool(&cluster);
}

/// The answer comes as soon as the server has said it, whatever of the body is still to come.
#[test]
fn a_challenged_write_is_answered_before_its_body_is_read() {
    let conf = "location /docs/ann/ { auth_basic files; auth_basic_user_file HOME/basic; }\n";
    let cluster = pair(Server::Nginx, "", conf);
    for site in ["hq", "osaka"] {
        for (length, waits) in [(1_000_000_000_u64, false), (1_000_000_000, true), (5000, true)] {
            let mut stream = TcpStream::connect(cluster.site(site).door).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let expect = if waits { "Expect: 100-continue\r\n" } else { "" };
            let head = format!(
                "PUT /docs/ann/big HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{expect}\r\n"
            );
            let mut answered = |part: u64| {
                let part = vec![b'x'; usize::try_from(part.min(100_000)).unwrap()];
                if part.is_empty() {
                    stream.write_all(head.as_bytes())
                } else {
                    stream.write_all(&part)
                }
                .unwrap();
                (part.is_empty() && !waits).then(|| stream.write_all(&[b'x'; 1000]).unwrap());
                let mut line = [0; 12];
                stream.read_exact(&mut line).unwrap_or_else(|error| panic!("{site}, {length}: {error}"));
                if &line == b"HTTP/1.1 100" {
                    // Its rest, up to the empty line.
                    stream.read_exact(&mut [0; 13]).unwrap();
                }
                String::from_utf8_lossy(&line[9..]).into_owned()
            };
            let mut said = answered(0);
            // A copy asks for the body before it has heard of its primary's server.
            if said == "100" && site == "osaka" {
                said = answered(length);
            }
            assert_eq!(said, "401", "{site}, {length}, {waits}");
        }
        let mut client: Client = cluster.site(site).client();
        client
            .send("PUT", "/docs/ann/big", &[("Authorization", &basic("ann"))], b"x")
            .unwrap()
            .expect(&[201, 204]);
    }
    cluster.settle();
}

/// What cadaver says, as that user. It keeps a nonce for as long as it runs, and asks nobody for a password.
fn cadaver(cluster: &Cluster, user: &str, password: &str, script: &str) -> String {
    let home = cluster.dir.path().join(format!("as-{user}"));
    std::fs::create_dir_all(&home).unwrap();
    std::fs::write(home.join(".netrc"), format!("machine 127.0.0.1 login {user} password {password}\n"))
        .unwrap();
    let mut cadaver = Command::new("timeout");
    cadaver.args(["60", "cadaver", &format!("http://{}/docs/{user}/", cluster.site("osaka").door)]);
    cadaver.env("HOME", &home).current_dir(&home);
    cadaver.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = cadaver.spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
}

/// A nonce of one server means nothing to another: who has one stays there, and who has to go elsewhere gets another
/// without being told that his password is wrong.
#[test]
fn a_client_of_digest_stays_with_the_server_that_knows_its_nonce() {
    let kind = "AuthType Digest\nAuthName files\nAuthDigestProvider file\nAuthUserFile HOME/digest\n\
        Require user NAME";
    let loaded = modules(&["auth_digest", "authn_core", "authn_file", "authz_user"]);
    let cluster = pair(Server::Apache, "", &(loaded + &own_directories(kind)));
    let file = cluster.dir.path().join("body");
    std::fs::write(&file, b"of ann").unwrap();
    let requests = |site: &str| cluster.site(site).apache.as_ref().unwrap().requests();
    wait_for("a near read", || {
        cadaver(&cluster, "ann", "ann-pw", "cat f\nquit\n").contains("of ann")
            && requests("osaka").contains(&"GET /docs/ann/f 200".to_owned())
    });
    let counted =
        |line: &str| ["hq", "osaka"].map(|at| requests(at).iter().filter(|it| *it == line).count());
    let (read, again) = ("GET /docs/ann/f 200", "GET /docs/ann/g 200");
    let before = counted(read);
    let script = format!("cat f\ncat f\nput {} g\ncat f\ncat g\nquit\n", file.display());
    let said = cadaver(&cluster, "ann", "ann-pw", &script);
    assert!(said.contains("succeeded") && !said.contains("ailed"), "{said}");
    // What was read before the change was read near, and what was read after it where its nonce is known.
    assert_eq!(counted(read), [before[0] + 1, before[1] + 2], "{said}");
    cluster.settle();
    assert_eq!(counted(again), [1, 0], "{said}");
    assert_eq!((counted("PUT /docs/ann/g 401"), counted("PUT /docs/ann/g 201")), ([1, 0], [1, 0]));
    // A new one begins near again. Who does not know the password gets nothing.
    let said = cadaver(&cluster, "bob", "bob-pw", "cat f\nquit\n");
    assert!(said.contains("of bob"), "{said}");
    let said = cadaver(&cluster, "ann", "wrong", "cat f\nput .netrc h\nquit\n");
    assert!(!said.contains("of ann") && counted("PUT /docs/ann/h 201") == [0, 0], "{said}");
    // Nobody is let in with what is made up.
    let mut client = cluster.site("osaka").client();
    let made_up =
        "Digest username=\"ann\", realm=\"files\", nonce=\"x\", uri=\"/docs/ann/f\", response=\"y\"";
    for method in ["GET", "PUT", "DELETE"] {
        let refused = client.send(method, "/docs/ann/f", &[("Authorization", made_up)], b"").unwrap();
        assert!(refused.expect(&[401]).header("www-authenticate").unwrap().contains("stale=true"));
    }
}

/// A session is with the server that began it.
#[test]
fn a_client_with_a_session_stays_with_the_server_that_began_it() {
    // Each server knows the session that it has given itself: who writes without one gets one.
    let conf = "<Location /docs/ann>
  SetEnvIf Cookie \"session=SITE\" known
  Header always set X-Known yes env=known
  Header always set Set-Cookie \"session=SITE; Path=/docs\" env=!known
</Location>
";
    let sites = vec![SitePlan::new("hq", "local"), SitePlan::new("osaka", "broadcast")];
    let mut cluster = Plan { server: Server::Apache, sites, keys: String::new() }.prepare();
    for site in &cluster.sites {
        let conf = modules(&["setenvif"]) + &conf.replace("SITE", site.name);
        std::fs::write(site.home.join("server.conf"), conf).unwrap();
    }
    let dir = cluster.primary().share().join("ann");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("f"), b"x").unwrap();
    common::run("chmod", &["-R", "a+rwX", dir.to_str().unwrap()]);
    cluster.start_all();
    cluster.settle();
    let mut osaka = cluster.site("osaka").client();
    let mut ask = |method: &str, cookie: &str| {
        let answer = osaka.send(method, "/docs/ann/f", &[("Cookie", cookie)], b"x").unwrap();
        let said = |name: &str| answer.header(name).unwrap_or_default().to_owned();
        (said("x-served-by"), said("x-known"), said("set-cookie"))
    };
    wait_for("a near read", || ask("GET", "a=b").0 == "osaka");
    let (by, _, given) = ask("GET", "a=b");
    assert_eq!((&*by, &*given), ("osaka", "session=osaka; Path=/docs"));
    assert_eq!(ask("GET", "a=b; session=osaka").1, "yes");
    assert_eq!(
        ask("PUT", "session=osaka"),
        ("hq".into(), String::new(), "session=hq; Path=/docs".into())
    );
    wait_for("a near read", || ask("GET", "session=osaka").0 == "osaka");
    for _ in 0..3 {
        assert_eq!(ask("GET", "session=hq; a=b"), ("hq".into(), "yes".into(), String::new()));
        assert_eq!(ask("GET", "session=osaka").0, "osaka");
    }
}

/// NTLM, as Windows speaks it (SPNEGO), proves who is there on a connection: nobody else may ever speak on that.
#[test]
fn nobody_speaks_on_a_connection_that_ntlm_has_proven() {
    let kind = "AuthType GSSAPI\nAuthName files\nGssapiConnectionBound On\n\
        Require expr %{REMOTE_USER} =~ /NAME$/";
    let loaded = modules(&["auth_gssapi", "authn_core", "authz_user"]);
    let cluster = pair(Server::Apache, "", &(loaded + &own_directories(kind)));
    let osaka = format!("http://{}/docs", cluster.site("osaka").door);
    let who = |user: &str| {
        let path = cluster.dir.path().join(user);
        std::fs::write(&path, format!("HOUSE:{user}:{user}-pw\n")).unwrap();
        path
    };
    let file = cluster.dir.path().join("body");
    std::fs::write(&file, b"written").unwrap();
    let asks = |user: &str, arguments: &[&str]| {
        let mut curl = Command::new("timeout");
        curl.args(["60", "curl", "-sS", "-o", "/dev/null", "--negotiate", "-u", ":"]);
        curl.args(["-w", "%{http_code} %header{x-served-by} %{num_connects}\\n"]).args(arguments);
        let output = curl.env("NTLM_USER_FILE", who(user)).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let url = |path: &str| format!("{osaka}/{path}");
    wait_for("a near read", || asks("ann", &[&url("ann/f")]) == ["200 osaka 1"]);
    let mut nobody = [cluster.site("osaka").client(), cluster.site("hq").client()];
    let told = |said: &[String]| {
        said.iter()
            .map(|line| line.split(' ').step_by(2).collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    for round in 0..10 {
        // Its second request says nothing of who asks: that is known of the connection.
        let (own, new) = (url("ann/f"), url(&format!("ann/new{round}")));
        let twice = [own.as_str(), "-o", "/dev/null", &own];
        let said = asks("ann", &twice);
        assert_eq!(told(&said), ["200 1", "200 0"]);
        // From the same server as long as nothing is held that it is about.
        assert!(round > 0 || said.concat().matches("osaka").count() == 2, "{said:?}");
        assert_eq!(asks("ann", &["-T", file.to_str().unwrap(), &new]), ["201 hq 1"]);
        assert_eq!(told(&asks("bob", &[&url("bob/f")])), ["200 1"]);
        assert_eq!(told(&asks("bob", &[&own])), ["401 1"]);
        for client in &mut nobody {
            for path in ["/docs/ann/f", "/docs/bob/f"] {
                client.get(path).unwrap().expect(&[401]);
                client.put(path, b"x").unwrap().expect(&[401]);
            }
        }
    }
    cluster.settle();
    assert_eq!(std::fs::read(cluster.site("osaka").share().join("ann/new9")).unwrap(), b"written");
}
