//! Bad maps, each one change away from a good one, and every word that is said of them.

use super::{GOOD, MORE, said};

/// What is replaced in `GOOD` (`END`: what is put behind it; `MORE`: behind it and another share), by
/// what, and all that is then wrong.
type Case = (&'static str, &'static str, &'static [&'static str]);

#[test]
fn every_mistake_is_told_with_its_place() {
    for (from, to, expected) in SITES.iter().chain(SHARES).chain(SYNTAX) {
        let text = match *from {
            "END" => format!("{GOOD}{to}"),
            "MORE" => format!("{GOOD}{MORE}{to}"),
            from => {
                assert!(GOOD.contains(from), "{from} is not in the good map");
                GOOD.replacen(from, to, 1)
            }
        };
        let expected: String = expected.iter().map(|line| format!("{line}\n")).collect();
        assert_eq!(said(&text), expected, "in this map:\n{text}");
    }
}

/// What may be wrong at the top, in `[cluster]` and with sites.
#[rustfmt::skip]
const SITES: &[Case] = &[
    ("serial = 1", "serail = 1", &[
        "1:1: the map has no `serial`; add serial = 1",
        "1:1: unknown key `serail` in the map; the nearest known key is `serial`",
    ]),
    ("serial = 1", "serial = -1", &[
        "1:10: `serial` is -1, out of range; write a number from 0 to 9223372036854775807",
    ]),
    ("serial = 1", r#"serial = "1""#, &[
        "1:10: `serial` is a string, not an integer; write a number such as 1, without quotes",
    ]),
    ("serial = 1", "serial = 99999999999999999999", &[
        "1:10: `serial` is 99999999999999999999, out of range; write a number from 0 to 9223372036854775807",
    ]),
    ("serial = 1", r"serial = 1
stie = 3
x = 3", &[
        "2:1: unknown key `stie` in the map; the nearest known key is `site`",
        "3:1: unknown key `x` in the map; the known keys are cluster, serial, share, site",
    ]),
    ("[site.hq]", "[site.HQ]", &[
        "2:7: site name `HQ` is no name; write 1 to 63 of a-z, 0-9 and '-', the first of them a letter or digit",
        "10:1: unknown site `hq` in [share.eng]; add [site.hq], or remove this",
    ]),
    ("[site.hq]", "[site.http]", &[
        "2:7: site `http` has the name of a share's key; give the site another name",
        "10:1: unknown site `hq` in [share.eng]; add [site.hq], or remove this",
    ]),
    ("[site.hq]", r#"[site.hq]
zoen = "emea"
colour = "red"
zone = "é u""#, &[
        "3:1: unknown key `zoen` in [site.hq]; the nearest known key is `zone`",
        "4:1: unknown key `colour` in [site.hq]; the known keys are ca, certificate, http, key, link, link_listen, nfs, secret, state, zone",
        r#"5:8: `zone` is "é u", which is no name; write 1 to 63 of a-z, 0-9 and '-', the first of them a letter or digit"#,
    ]),
    (r#""hq.example.com:7400""#, "7400", &[
        r#"3:8: `link` is an integer, not a string; write "hq.example.com:7400""#,
    ]),
    (r#""hq.example.com:7400""#, r#""hq.example.com""#, &[
        r#"3:8: `link` is "hq.example.com", which has no port; write a name or address and a port, such as "hq.example.com:7400""#,
    ]),
    (r#""hq.example.com:7400""#, r#""hq.example.com:0""#, &[
        r#"3:8: `link` is "hq.example.com:0", whose port is "0"; write a port from 1 to 65535"#,
    ]),
    (r#""hq.example.com:7400""#, r#""hq.example.com:74000""#, &[
        r#"3:8: `link` is "hq.example.com:74000", whose port is "74000"; write a port from 1 to 65535"#,
    ]),
    (r#""hq.example.com:7400""#, r#""hq..example.com:7400""#, &[
        r#"3:8: `link` holds "hq..example.com", which is no host; write a name or address and a port, such as "hq.example.com:7400""#,
    ]),
    (r#""hq.example.com:7400""#, r#""10.1.0.999:7400""#, &[
        r#"3:8: `link` holds "10.1.0.999", which is no host; write a name or address and a port, such as "hq.example.com:7400""#,
    ]),
    (r#""hq.example.com:7400""#, r#""2001:db8::1:7400""#, &[
        r#"3:8: `link` holds "2001:db8::1", an IPv6 address without brackets; write "[2001:db8::1]" before the port"#,
    ]),
    (r#""hq.example.com:7400""#, r#""lyon.example.com:7400""#, &[
        "6:8: `link` is lyon.example.com:7400, where site `hq` is reached; give each site an address and port of its own",
    ]),
    (r#""hq.example.com:7400""#, r#""hq.example.com:7400"
link_listen = "hq.example.com:7400""#, &[
        r#"4:15: `link_listen` is "hq.example.com:7400", whose host is no IP address; write an address of this host and a port, such as "0.0.0.0:8080""#,
    ]),
    (r#""10.1.0.10:80""#, r#""10.1.0.10""#, &[
        r#"4:40: `listen` is "10.1.0.10", which has no port; write an address of this host and a port, such as "0.0.0.0:8080""#,
    ]),
    (r#""10.1.0.10:80""#, r#""10.1.0.10:7400""#, &[
        "4:40: `http` listens on 10.1.0.10:7400 at hq, where `link` listens on 0.0.0.0:7400 already; give each listener an address or port of its own",
    ]),
    (r#""0.0.0.0:8080""#, r#""[::]:8080", server_timeout = "60 sekunden", host = "a b""#, &[
        r#"7:70: `server_timeout` is "60 sekunden", which is no duration; write a number and its unit, from "1s" to "1h", such as "60s""#,
        r#"7:92: `host` holds "a b", which is no host; write a name or address, such as "files.example.com""#,
    ]),
    (r#""0.0.0.0:8080""#, r#""[::]:8080", via = "on", client_rate = 0, client_connections = "many""#, &[
        "7:59: `via` is a string, not a boolean; write true or false",
        "7:79: `client_rate` is 0, out of range; write a number from 1 to 9223372036854775807",
        "7:103: `client_connections` is a string, not an integer; write a number such as 1000, without quotes",
    ]),
    (r#""0.0.0.0:8080""#, r#""[::]:8080", tls = { listen = "0.0.0.0:8080", certificates = [] }"#, &[
        "7:70: `tls` listens on 0.0.0.0:8080 at lyon, where `http` listens on [::]:8080 already; give each listener an address or port of its own",
        r#"7:101: `certificates` is empty; write [{ certificate = "/etc/nearshare/files.pem", key = "/etc/nearshare/files.key" }]"#,
    ]),
    (r#""0.0.0.0:8080""#, r#""[::]:8080", tls = { certs = 1 }"#, &[
        r#"7:53: `tls` of `http` of [site.lyon] has no `certificates`; add certificates = [{ certificate = "/etc/nearshare/files.pem", key = "/etc/nearshare/files.key" }]"#,
        r#"7:53: `tls` of `http` of [site.lyon] has no `listen`; add listen = "0.0.0.0:443""#,
        "7:61: unknown key `certs` in `tls` of `http` of [site.lyon]; the known keys are certificates, listen",
    ]),
    (r#""0.0.0.0:8080""#, r#""[::]:8080", tls = { listen = "[::]:443", certificates = [{ certificate = "x.pem" }, 1] }"#, &[
        r#"7:98: `certificates` of `tls` of `http` of [site.lyon] has no `key`; add key = "/etc/nearshare/files.key""#,
        r#"7:114: `certificate` is "x.pem", a relative path; write it from the root, such as "/x.pem""#,
        r#"7:125: `certificates` is an integer, not a table; write { certificate = "/etc/nearshare/files.pem", key = "/etc/nearshare/files.key" }"#,
    ]),
    (r#""0.0.0.0:8080""#, r#""[::]:8080", server_timeout = "0s""#, &[
        r#"7:70: `server_timeout` is "0s", out of range; write a number and its unit, from "1s" to "1h", such as "60s""#,
    ]),
    (r#""0.0.0.0:8080""#, r#""[::]:8080", server_timeout = 60"#, &[
        r#"7:70: `server_timeout` is an integer, not a string; write a duration such as "60s""#,
    ]),
    (r#""0.0.0.0:8080""#, r#""[::]:8080", server_timeuot = "2h""#, &[
        "7:53: unknown key `server_timeuot` in `http` of [site.lyon]; the nearest known key is `server_timeout`",
    ]),
    (r#"server = "embedded", listen = "10.1.0.10:80""#, r#"server = "https://127.0.0.1", listen = "127.0.0.1:80""#, &[
        r#"4:19: `server` is an https URL, and TLS to the local server does not exist in this release; write the server's http URL, such as "http://127.0.0.1:8080""#,
    ]),
    (r#"server = "embedded", listen = "10.1.0.10:80""#, r#"server = "http://127.0.0.1/dav", listen = "127.0.0.1:80""#, &[
        r#"4:19: `server` is "http://127.0.0.1/dav", a URL with a path; write it without: the path that a client asks for is passed on as it is"#,
    ]),
    (r#"server = "embedded", listen = "10.1.0.10:80""#, r#"server = "http://localhost:81/", listen = "0.0.0.0:81""#, &[
        "4:19: `server` is localhost:81, where `http` of hq itself listens; write where the server behind nearshare listens",
    ]),
    (r#"server = "embedded", listen = "10.1.0.10:80""#, r#"server = "embeded""#, &[
        r#"4:1: `http` of [site.hq] has no `listen`; add listen = "0.0.0.0:80""#,
        r#"4:19: `server` is "embeded", which is no http URL; write "embedded" or a URL such as "http://127.0.0.1:8080""#,
    ]),
    (r#"server = "embedded", listen = "10.1.0.10:80""#, r#"server = "embedded", listen = "127.0.0.1:8080" }
[site.osaka]
link = "127.0.0.1:7400"
http = { server = "embedded", listen = "127.0.0.1:8080""#, &[
        "7:40: `http` listens on 127.0.0.1:8080 at osaka, where `http` of site `hq` listens already on this host; give each listener an address or port of its own",
    ]),
    ("[site.lyon]", r#"nfs = { server = "x:1", listen = "10.1.0.10:2049", v4 = "allow", portmap = "y", mountd = "z:1", udp = 3 }
[site.lyon]"#, &[
        "5:1: the NFS door of [site.hq] does not exist in this release; remove `nfs`",
        r#"5:57: `v4` is "allow", which is no way to treat NFSv4; write "refuse""#,
        r#"5:76: `portmap` is "y", which has no port; write a name or address and a port, such as "hq.example.com:7400""#,
        "5:97: unknown key `udp` in `nfs` of [site.hq]; the known keys are listen, mountd, portmap, server, v4",
    ]),
    ("[site.lyon]", r#"nfs = { server = "x:1", listen = "10.1.0.10:80" }
[site.lyon]"#, &[
        "5:1: the NFS door of [site.hq] does not exist in this release; remove `nfs`",
        "5:34: `nfs` listens on 10.1.0.10:80 at hq, where `http` listens on 10.1.0.10:80 already; give each listener an address or port of its own",
    ]),
    (r#"http = { server = "embedded", listen = "0.0.0.0:8080" }"#, r#"state = "var/lib/nearshare"
key = ""
secret = "/srv/../etc/secret""#, &[
        r#"7:9: `state` is "var/lib/nearshare", a relative path; write it from the root, such as "/var/lib/nearshare""#,
        r#"8:7: `key` is "", a relative path; write it from the root, such as "/srv/engineering""#,
        r#"9:10: `secret` is "/srv/../etc/secret", a path with `..` in it; write where the directory really is"#,
        "13:1: share `eng` has the URL /eng at lyon, but [site.lyon] has no `http` door; add http = { server = ..., listen = ... } to [site.lyon], or write http = false here",
    ]),
    (r#"http = { server = "embedded", listen = "0.0.0.0:8080" }"#, r#"http = "embedded""#, &[
        r#"7:8: `http` is a string, not a table; write { server = "http://127.0.0.1:8080", listen = "0.0.0.0:80" }"#,
    ]),
    (r#""hq.example.com:7400""#, r#""127.0.0.1:7400"
link_listen = "127.0.0.1:80"
[site.osaka]
link = "127.0.0.1:7400"
http = { server = "http://[::1]:80", listen = "[::]:80" }
[site.nara]
link = "127.0.0.1:7401""#, &[
        "6:8: `link` is 127.0.0.1:7400, where site `hq` is reached; give each site an address and port of its own",
        "7:19: `server` is [::1]:80, where `http` of osaka itself listens; write where the server behind nearshare listens",
        "16:1: share `eng` has the URL /eng at hq, but [site.hq] has no `http` door; add http = { server = ..., listen = ... } to [site.hq], or write http = false here",
    ]),
    ("serial = 1", r#"serial = 1
cluster = { ca = "ca.pem", cert = "/x" }"#, &[
        r#"2:18: `ca` is "ca.pem", a relative path; write it from the root, such as "/ca.pem""#,
        "2:28: unknown key `cert` in [cluster]; the nearest known key is `certificate`",
    ]),
];

/// What may be wrong with shares.
#[rustfmt::skip]
const SHARES: &[Case] = &[
    (r#""/eng""#, r#""eng""#, &[
        r#"9:8: `http` is "eng", which does not begin with a slash; write the path of a URL, such as "/engineering""#,
    ]),
    (r#""/eng""#, r#""/eng/%2e%2e/x""#, &[
        r#"9:8: `http` is "/eng/%2e%2e/x", which is no path: an entry name may not be '.' or '..'; write the path of a URL, such as "/engineering""#,
    ]),
    (r#""/eng""#, "false", &[
        r#"9:8: `http` is a boolean, not a string; write "/engineering""#,
    ]),
    (r#""/eng""#, r#""/eng"
nfs = "/export/eng"
tree = "nfs"
durable_copies = 3
degraded = "maybe""#, &[
        "10:1: [share.eng] has an NFS export, and the NFS door does not exist in this release; remove `nfs`",
        r#"11:8: `tree` is "nfs", and a share on an NFS mount does not exist in this release; write "local", or remove it"#,
        "12:18: `durable_copies` is 3, and the share has a copy at 2 sites; write 2, or give more sites a copy",
        r#"13:12: `degraded` is "maybe", which is no way to treat changes while too few sites are there; write "wait" or "allow""#,
    ]),
    (r#""/eng""#, r#""/eng"
consistency = "eventual"
durable_copies = 0
when_cut_off = 3
http_sync = "yes"
tree = "disk"
locks = "nobody"
properties = "apache""#, &[
        r#"10:15: `consistency` is "eventual", which is no consistency; write "strict" or "relaxed""#,
        "11:18: `durable_copies` is 0: a change would be on nobody's disk; write 1",
        r#"12:16: `when_cut_off` is an integer, not a string; write "serve""#,
        "13:13: `http_sync` is a string, not a boolean; write true or false",
        r#"14:8: `tree` is "disk", which is no kind of tree; write "local""#,
        r#"15:9: `locks` is "nobody", which is no keeper of locks; write "server" or "nearshare""#,
        r#"16:14: `properties` is "apache", and hq has the embedded server, which does not read what Apache writes; leave it out, or have an Apache there"#,
        r#"16:14: `properties` is "apache", and lyon has the embedded server, which does not read what Apache writes; leave it out, or have an Apache there"#,
    ]),
    (r#"hq = { role = "local""#, r#"hq = { role = "broadcast""#, &[
        r#"8:8: share `eng` has no primary; give one site role = "local""#,
    ]),
    (r#"role = "broadcast""#, r#"role = "local""#, &[
        r#"11:17: `hq` is already the primary of share `eng`; write "broadcast" or "remote": one site is local"#,
    ]),
    (r#"role = "broadcast""#, r#"role = "brodcast""#, &[
        r#"11:17: `role` is "brodcast", which is no role; write "broadcast""#,
    ]),
    (r#"role = "local""#, r#"role = "primary""#, &[
        r#"10:15: `role` is "primary", which is no role; write "local", "broadcast" or "remote""#,
    ]),
    (r#"role = "local", "#, "", &[
        r#"10:1: `hq` of [share.eng] has no `role`; add role = "broadcast""#,
    ]),
    (r#", path = "/srv/eng""#, "", &[
        r#"10:1: `hq` of [share.eng] has no `path`; add path = "/srv/engineering""#,
    ]),
    (r#", path = "/srv/eng""#, r#", path = "srv/eng""#, &[
        r#"10:31: `path` is "srv/eng", a relative path; write it from the root, such as "/srv/eng""#,
    ]),
    (r#"role = "broadcast""#, r#"role = "remote""#, &[
        r#"11:27: `lyon` of [share.eng] has a `path`, but a remote site has no copy; remove `path`, or write role = "broadcast""#,
    ]),
    ("lyon = { role", "lyn = { role", &[
        "11:1: unknown site `lyn` in [share.eng]; the nearest known site is `lyon`",
    ]),
    ("lyon = { role", "tokyo = { role", &[
        "11:1: unknown site `tokyo` in [share.eng]; add [site.tokyo], or remove this",
    ]),
    ("lyon = {", r#"htpp = "/eng"
lyon2 = 3
smb = { share = "eng" }
path = "/srv/eng"
lyon = {"#, &[
        "11:1: unknown key or site `htpp` in [share.eng]; the nearest known key is `http`",
        "12:1: unknown key or site `lyon2` in [share.eng]; the nearest known site is `lyon`",
        "13:1: unknown key or site `smb` in [share.eng]; the known keys are clients, consistency, degraded, durable_copies, http, http_sync, locks, nfs, properties, tree, when_cut_off, and the sites' names",
        r#"14:1: `path` in [share.eng] belongs to one site of the share; write it as hq = { role = "local", path = "/srv/engineering" }"#,
    ]),
    (r#"path = "/data/eng""#, r#"path = "/data/eng", consistency = "relaxed", rol = 3"#, &[
        "11:50: `consistency` in `lyon` of [share.eng] is not for one site to say; set it in [share.eng], for all sites",
        "11:75: unknown key `rol` in `lyon` of [share.eng]; the nearest known key is `role`",
    ]),
    (r#"path = "/data/eng""#, r#"path = "/data/eng", clients = [{ net = "10.2.3.4/16", access = "rwx", squash = "al", secure = 1 }, { access = "ro" }, 3, { net = "10.2.3.4", nte = 1 }, { net = "lan" }]"#, &[
        r#"11:69: `net` is "10.2.3.4/16", which has host bits set; write "10.2.0.0/16""#,
        r#"11:93: `access` is "rwx", which is no access; write "rw""#,
        "11:100: `clients` of `lyon` of [share.eng] says `squash`, which is for NFS, and the NFS door does not exist in this release; remove `squash`",
        r#"11:109: `squash` is "al", which is no squash; write "all""#,
        "11:115: `clients` of `lyon` of [share.eng] says `secure`, which is for NFS, and the NFS door does not exist in this release; remove `secure`",
        "11:124: `secure` is an integer, not a boolean; write true or false",
        r#"11:129: `clients` of `lyon` of [share.eng] has no `net`; add net = "10.2.0.0/16""#,
        r#"11:148: `clients` is an integer, not a table; write { net = "10.2.0.0/16" }"#,
        r#"11:159: `net` is "10.2.3.4", which has no prefix length; write "10.2.3.4/32""#,
        "11:171: unknown key `nte` in `clients` of `lyon` of [share.eng]; the nearest known key is `net`",
        r#"11:190: `net` is "lan", which is no network; write an address and a prefix length, such as "10.2.0.0/16""#,
    ]),
    (r#"path = "/data/eng""#, r#"path = "/data/eng", clients = [{ net = "10.2.0.0/16", squash = "all" }, { net = "10.3.0.0/16", secure = false }]"#, &[
        "11:84: `clients` of `lyon` of [share.eng] says `squash`, which is for NFS, and the NFS door does not exist in this release; remove `squash`",
        "11:125: `clients` of `lyon` of [share.eng] says `secure`, which is for NFS, and the NFS door does not exist in this release; remove `secure`",
    ]),
    (r#"path = "/data/eng""#, r#"path = "/data/eng", clients = [{ net = "10.2.0.0/16" }, { net = "10.2.0.0/16" }]"#, &[
        "11:94: 10.2.0.0/16 is in `clients` of `lyon` of [share.eng] already; keep one of them",
    ]),
    (r#"path = "/data/eng""#, r#"path = "/data/eng", clients = []"#, &[
        "11:60: `clients` is empty and lets nobody in; name a net, or remove `clients` to let everyone in",
    ]),
    (r#"path = "/data/eng""#, r#"path = "/data/eng", clients = "10.0.0.0/8""#, &[
        r#"11:60: `clients` is a string, not an array; write [{ net = "10.2.0.0/16", access = "rw" }]"#,
    ]),
    (r#"path = "/data/eng""#, r#"path = "/var/lib""#, &[
        "11:37: `path` /var/lib of share `eng` holds /var/lib/nearshare, the `state` of lyon; keep shares and nearshare's own files apart",
    ]),
    (r#"path = "/data/eng""#, r#"path = "/var/lib/nearshare/eng""#, &[
        "11:37: `path` /var/lib/nearshare/eng of share `eng` lies inside /var/lib/nearshare, the `state` of lyon; keep shares and nearshare's own files apart",
    ]),
    (r#"path = "/srv/eng""#, r#"path = "/""#, &[
        "10:31: `path` / of share `eng` holds /etc/nearshare/ca.pem, the `ca` of hq; keep shares and nearshare's own files apart",
    ]),
    (r#"path = "/srv/eng""#, r#"path = "/srv/eng", http = false"#, &[
        "10:15: share `eng` has a URL at lyon, but none at its primary hq; give the primary one too: its server carries out what others forward",
    ]),
    ("END", r#"[share.more]
hq = { role = "local", path = "/srv//eng/." }"#, &[
        "13:31: `path` /srv/eng of share `more` is also that of share `eng`, /srv/eng, at hq; give each share a `path` of its own, none inside another's",
    ]),
    ("END", r#"[share.more]
http = "/en%67/"
hq = { role = "local", path = "/srv/eng/sub" }
lyon = { role = "remote" }"#, &[
        "13:8: `http` /eng of share `more` is also that of share `eng`, /eng, at hq, lyon; give each share a `http` of its own, none inside another's",
        "14:31: `path` /srv/eng/sub of share `more` lies inside that of share `eng`, /srv/eng, at hq; give each share a `path` of its own, none inside another's",
    ]),
    ("END", r#"[share.more]
http = "/"
hq = { role = "local", path = "/srv" }
lyon = { role = "remote" }"#, &[
        "13:8: `http` / of share `more` holds that of share `eng`, /eng, at hq, lyon; give each share a `http` of its own, none inside another's",
        "14:31: `path` /srv of share `more` holds that of share `eng`, /srv/eng, at hq; give each share a `path` of its own, none inside another's",
    ]),
    ("MORE", r#"lyon = { role = "remote", http = "/eng" }"#, &[
        "13:15: share `more` has a URL at lyon, but none at its primary hq; give the primary one too: its server carries out what others forward",
        "14:34: `http` /eng of share `more` is also that of share `eng`, /eng, at lyon; give each share a `http` of its own, none inside another's",
    ]),
    ("END", r#"[share.more]
nfs = "/export"
hq = { role = "local", path = "/srv/more", nfs = "/export/eng" }
lyon = { role = "remote" }
[share.less]
nfs = "/export/eng/x"
lyon = { role = "local", path = "/srv/more" }"#, &[
        "13:1: [share.more] has an NFS export, and the NFS door does not exist in this release; remove `nfs`",
        "14:44: `hq` of [share.more] has an NFS export, and the NFS door does not exist in this release; remove `nfs`",
        "17:1: [share.less] has an NFS export, and the NFS door does not exist in this release; remove `nfs`",
        "17:7: `nfs` /export/eng/x of share `less` lies inside that of share `more`, /export, at lyon; give each share a `nfs` of its own, none inside another's",
    ]),
    ("MORE", r#"nfs = "/export/x"
[share.less]
nfs = "/export/x"
hq = { role = "local", path = "/srv/less" }"#, &[
        "14:1: [share.more] has an NFS export, and the NFS door does not exist in this release; remove `nfs`",
        "16:1: [share.less] has an NFS export, and the NFS door does not exist in this release; remove `nfs`",
        "16:7: `nfs` /export/x of share `less` is also that of share `more`, /export/x, at hq; give each share a `nfs` of its own, none inside another's",
    ]),
    ("END", "[share.more]", &[
        r#"12:8: share `more` is at no site; add hq = { role = "local", path = "/srv/engineering" }"#,
    ]),
    ("END", r#"[share.-x]
hq = { role = "remote" }"#, &[
        r#"12:8: share `-x` has no primary; give one site role = "local""#,
        "12:8: share name `-x` is no name; write 1 to 63 of a-z, 0-9 and '-', the first of them a letter or digit",
    ]),
    ("END", "site = 3", &[
        "12:1: unknown key or site `site` in [share.eng]; the known keys are clients, consistency, degraded, durable_copies, http, http_sync, locks, nfs, properties, tree, when_cut_off, and the sites' names",
    ]),
    (r#"[share.eng]
http = "/eng""#, r"[share]
eng = 3
[sharee.x]", &[
        "9:7: `eng` is an integer, not a table; write a table [share.engineering]",
        "10:2: unknown key `sharee` in the map; the nearest known key is `share`",
    ]),
    (r#""/eng""#, "[1, 2]", &[
        r#"9:8: `http` is an array, not a string; write "/engineering""#,
    ]),
    (r#"path = "/data/eng""#, r#"path = "/data/\u0000eng", http = "/e%zg""#, &[
        r#"11:37: `path` is "/data/\0eng", a path with a control character in it; write a path without one"#,
        r#"11:63: `http` is "/e%zg", which holds a '%' that two hexadecimal digits do not follow; write the path of a URL, such as "/engineering""#,
    ]),
    ("MORE", r#"[share.caf]
zone = "\u001b[31m\nx"
"a\nb" = 1"#, &[
        r#"14:8: share `caf` is at no site; add hq = { role = "local", path = "/srv/engineering" }"#,
        "15:1: unknown key or site `zone` in [share.caf]; the known keys are clients, consistency, degraded, durable_copies, http, http_sync, locks, nfs, properties, tree, when_cut_off, and the sites' names",
        r#"16:1: unknown key or site `a\nb` in [share.caf]; the known keys are clients, consistency, degraded, durable_copies, http, http_sync, locks, nfs, properties, tree, when_cut_off, and the sites' names"#,
    ]),
    (r#"lyon = { role = "broadcast", path = "/data/eng" }"#, r#"lyon = { role = "broadcast", clients = 7, path = "/data/eng", "é" = 1, zz = 2 }"#, &[
        r#"11:40: `clients` is an integer, not an array; write [{ net = "10.2.0.0/16", access = "rw" }]"#,
        "11:63: unknown key `é` in `lyon` of [share.eng]; the known keys are clients, http, http_sync, nfs, path, role, tree, when_cut_off",
        "11:72: unknown key `zz` in `lyon` of [share.eng]; the known keys are clients, http, http_sync, nfs, path, role, tree, when_cut_off",
    ]),
];

/// What is no TOML, and what else can still be told.
#[rustfmt::skip]
const SYNTAX: &[Case] = &[
    ("END", r"[share.eng]
hq = 3", &[
        "12:8: duplicate key; keep one of them",
        "13:1: duplicate key; keep one of them",
    ]),
    ("serial = 1", r#"serial = 1 2
[site.hq
link = "a""#, &[
        "1:10: string values must be quoted; TOML expects literal string here",
        "2:9: unclosed table; TOML expects `]` here",
    ]),
    (r#""/eng""#, r#""/eng
httq = 3"#, &[
        r#"9:13: invalid basic string; TOML expects `"` here"#,
        "10:1: unknown key or site `httq` in [share.eng]; the nearest known key is `http`",
    ]),
    ("[site.lyon]", r#"[site.lyon]
link = "lyon.example.com:7400""#, &[
        "7:1: duplicate key; keep one of them",
    ]),
    (r#"http = "/eng""#, r#"http = "/\u00e9\u00e9", htp = 1"#, &[
        "9:23: unexpected key or value; TOML expects newline, `#` here",
    ]),
];
