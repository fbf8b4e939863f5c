//! `nearshare check`: every mistake in a server map, and with `--site` also what that site lacks on
//! its own disk. Changes nothing.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use http::Method;

use super::control::Selector;
use crate::clock::Clock;
use crate::id::SiteId;
use crate::link::own::{Age, Validity, open_advice};
use crate::map::{self, Map, Mistake, Need, NeedKind, NotText, Reading};
use crate::serve::{KernelClock, belongings};

/// Exit codes of `nearshare check`.
const CLEAN: u8 = 0;
const MISTAKES: u8 = 1;
const CANNOT_READ: u8 = 2;
/// A site that runs on this host answers at once.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// Report every mistake in a server map.
///
/// Exits with 0 when there is none, 1 when there are, 2 when the file cannot be read.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArgs {
    /// The server map
    pub file: PathBuf,
    /// Also look for the files and directories that this site needs on this host
    #[arg(long)]
    pub site: Option<SiteId>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the command. The summary, or the JSON, goes to standard output, mistakes to standard error.
pub fn check(args: &CheckArgs) -> ExitCode {
    match check_to(args, &mut io::stdout().lock(), &mut io::stderr().lock()) {
        Ok(code) => ExitCode::from(code),
        // Nobody reads what is printed: the reader of a pipe has seen enough.
        Err(_) => ExitCode::from(CANNOT_READ),
    }
}

/// Why a map's file gave no text.
#[derive(Debug, thiserror::Error)]
pub enum CannotRead {
    #[error("{}: cannot read the server map: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}:{why}", path.display())]
    NotUtf8 { path: PathBuf, why: NotText },
    #[error("{}: {why}", path.display())]
    TooLarge { path: PathBuf, why: NotText },
}

/// The text of the map in `path`. Reads at most a byte more than a map may have.
pub fn map_text(path: &Path) -> Result<String, CannotRead> {
    let fail = |source| CannotRead::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let limit = map::TEXT_MAX as u64 + 1;
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(fail)?;
    let path = path.to_owned();
    match map::text(&bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(why @ NotText::NotUtf8 { .. }) => Err(CannotRead::NotUtf8 { path, why }),
        Err(why @ NotText::TooLarge) => Err(CannotRead::TooLarge { path, why }),
    }
}

/// The mistakes of one file as every command reports them: one a line, each with its end of line.
pub fn report(file: &Path, mistakes: &[Mistake]) -> String {
    mistakes.iter().map(|mistake| format!("{}:{mistake}\n", file.display())).collect()
}

fn check_to(args: &CheckArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let text = match map_text(&args.file) {
        Ok(text) => text,
        Err(error) => {
            writeln!(err, "{error}")?;
            if args.json {
                let empty: [Mistake; 0] = [];
                let error = error.to_string();
                let json = serde_json::json!({
                    "file": args.file.display().to_string(), "clean": false, "mistakes": empty, "error": error,
                });
                writeln!(out, "{json}")?;
            }
            return Ok(CANNOT_READ);
        }
    };
    let reading = map::read(&text);
    let mut mistakes = reading.mistakes.clone();
    let mut validity = None;
    if let Some(site) = &args.site {
        let found = lacking(site, &reading);
        validity = found.validity;
        mistakes.extend(found.mistakes);
        mistakes.sort();
    }
    if args.json {
        let mut json = serde_json::json!({
            "file": args.file.display().to_string(), "clean": mistakes.is_empty(), "mistakes": mistakes,
        });
        if let Some(validity) = validity {
            json["certificate"] = serde_json::json!(validity);
        }
        writeln!(out, "{json}")?;
    }
    err.write_all(report(&args.file, &mistakes).as_bytes())?;
    match reading.map {
        Some(map) if mistakes.is_empty() => {
            if !args.json {
                summary(&args.file, &map, out)?;
                if let (Some(site), Some(validity)) = (&args.site, validity) {
                    certificate(site, validity, out)?;
                    moved(args, out)?;
                }
            }
            Ok(CLEAN)
        }
        _ => Ok(MISTAKES),
    }
}

fn summary(file: &Path, map: &Map, out: &mut dyn Write) -> io::Result<()> {
    let count = |count: usize, noun: &str| match count {
        1 => format!("1 {noun}"),
        many => format!("{many} {noun}s"),
    };
    let (sites, shares) = (count(map.sites.len(), "site"), count(map.shares.len(), "share"));
    writeln!(out, "{}: no mistakes: serial {}, {sites}, {shares}", file.display(), map.serial)?;
    for (name, share) in &map.shares {
        let roles: Vec<String> =
            share.sites().map(|(site, at)| format!("{site} {}", at.role())).collect();
        writeln!(out, "  {name}: {}", roles.join(", "))?;
    }
    map.notes().iter().try_for_each(|note| writeln!(out, "  note: {note}"))
}

/// Shares whose primary copy is elsewhere than the map says, if the site runs and can be asked (R33).
fn moved(args: &CheckArgs, out: &mut dyn Write) -> io::Result<()> {
    let of = Selector { map: Some(args.file.clone()), site: args.site.clone(), socket: None };
    let Ok(answer) = of.ask(Method::GET, "/status", ASK_LIMIT) else { return Ok(()) };
    let status: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    for share in status["shares"].as_array().into_iter().flatten() {
        let field = |name: &str| share[name].as_str().unwrap_or_default().to_owned();
        if share["map_primary"].is_string() {
            writeln!(
                out,
                "  note: the primary copy of {} is at {}, where it was promoted to; `local` in the map says \
                 only where it was first",
                field("share"),
                field("primary")
            )?;
        }
    }
    Ok(())
}

/// How long the site's certificate goes on.
fn certificate(site: &SiteId, validity: Validity, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "  the certificate of {site} is {validity}")?;
    match validity.trouble(site, KernelClock.wall()) {
        Some((what, fix)) => writeln!(out, "  note: {what}; {fix}"),
        None => Ok(()),
    }
}

/// What was found on this host's disk.
#[derive(Default)]
struct Found {
    mistakes: Vec<Mistake>,
    /// Of the certificate, if all that belongs to the site is fit.
    validity: Option<Validity>,
}

/// What `site` needs on this host's disk and does not find, and with what `run` could not start.
fn lacking(site: &SiteId, reading: &Reading) -> Found {
    let needs: Vec<&Need> = reading.needs.iter().filter(|need| need.site == *site).collect();
    let (Some(first), row) = (needs.first(), reading.map.as_ref().and_then(|map| map.sites.get(site)))
    else {
        return Found { mistakes: vec![no_such_site(site)], validity: None };
    };
    let mut found = Found::default();
    let mut faults = Vec::new();
    match row.map(belongings) {
        Some(Ok(mine)) => found.validity = Some(mine.validity),
        Some(Err(lacking)) => faults = lacking.0,
        // Without a map only what each file is by itself can be looked at.
        None => {}
    }
    let fit = |need: &&&Need| !faults.iter().any(|fault| fault.path == need.path);
    found.mistakes.extend(needs.iter().filter(fit).filter_map(|need| lack(need)));
    for fault in &faults {
        let need = needs.iter().find(|need| need.path == fault.path).unwrap_or(first);
        let what = format!("{}: {}", fault.path.display(), fault.what);
        let right = fault.right.clone();
        found.mistakes.push(Mistake { line: need.line, column: need.column, what, right });
    }
    if let (Some(row), Some(validity)) = (row, found.validity)
        && matches!(validity.at(KernelClock.wall()), Age::Early | Age::Expired)
        && let Some((what, right)) = validity.trouble(site, KernelClock.wall())
    {
        let path = &row.cluster.certificate;
        let need = needs.iter().find(|need| need.path == *path).unwrap_or(first);
        let what = format!("{}: {what}", path.display());
        found.mistakes.push(Mistake { line: need.line, column: need.column, what, right });
    }
    found
}

/// The mistake of a map that does not have the site it is asked about.
pub(super) fn no_such_site(site: &SiteId) -> Mistake {
    let what = format!("the map has no [site.{site}]");
    let right = format!("add [site.{site}], or give `--site` the name of a site that is there");
    Mistake { line: 1, column: 1, what, right }
}

fn lack(need: &Need) -> Option<Mistake> {
    let (what, right) = match need.kind {
        NeedKind::Directory => no_directory(&need.path)?,
        NeedKind::Readable => no_file(&need.path)?,
        NeedKind::Private => no_file(&need.path).or_else(|| not_private(&need.path))?,
        NeedKind::State => return None,
    };
    let what = format!("{}: {what}", need.path.display());
    Some(Mistake { line: need.line, column: need.column, what, right })
}

fn no_directory(path: &Path) -> Option<(String, String)> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => None,
        Ok(_) => Some(("not a directory".to_owned(), "name the share's directory".to_owned())),
        Err(error) => {
            Some((error.to_string(), open_advice(&error, "make or mount the share's directory")))
        }
    }
}

fn no_file(path: &Path) -> Option<(String, String)> {
    let right = "make it with `nearshare cert`, or name where it is".to_owned();
    match fs::metadata(path) {
        // What is no regular file is not opened: that could block, or mean something to a device.
        Ok(found) if !found.is_file() => Some(("not a regular file".to_owned(), right)),
        Ok(_) => File::open(path).err().map(|error| (error.to_string(), open_advice(&error, &right))),
        Err(error) => Some((error.to_string(), open_advice(&error, &right))),
    }
}

fn not_private(path: &Path) -> Option<(String, String)> {
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o7777;
    let what = format!("mode {mode:04o} lets others than its owner at a secret");
    (mode & 0o077 != 0).then(|| (what, format!("chmod 0600 {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallTime;
    use crate::link::cert::{Authority, Secret};

    const EXAMPLE: &str = include_str!("../../server-map.example.toml");

    struct Ran {
        code: u8,
        out: String,
        err: String,
    }

    fn ran(file: &Path, site: Option<&str>, json: bool) -> Ran {
        let site = site.map(|site| site.parse().expect("a site's name"));
        let args = CheckArgs { file: file.to_owned(), site, json };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check_to(&args, &mut out, &mut err).expect("written to memory");
        let text = |bytes| String::from_utf8(bytes).expect("prints UTF-8");
        Ran { code, out: text(out), err: text(err) }
    }

    fn file_of(dir: &tempfile::TempDir, bytes: &[u8]) -> PathBuf {
        let path = dir.path().join("server-map.toml");
        fs::write(&path, bytes).expect("writes the map");
        path
    }

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("makes a directory")
    }

    #[test]
    fn a_clean_map_is_summed_up() {
        let dir = dir();
        let file = file_of(&dir, EXAMPLE.as_bytes());
        let got = ran(&file, None, false);
        let expected = format!(
            "{}: no mistakes: serial 1, 3 sites, 2 shares\n  \
             drawings: hq remote, lyon broadcast, osaka local\n  \
             engineering: hq local, lyon broadcast, osaka broadcast\n",
            file.display()
        );
        assert_eq!((got.code, got.out, got.err), (CLEAN, expected, String::new()));
        let got = ran(&file, None, true);
        let json: serde_json::Value = serde_json::from_str(&got.out).expect("prints JSON");
        let file = file.display().to_string();
        assert_eq!(json, serde_json::json!({ "file": file, "clean": true, "mistakes": [] }));
        assert_eq!((got.code, got.err), (CLEAN, String::new()));
    }

    #[test]
    fn what_a_server_does_not_do_is_a_note() {
        let dir = dir();
        let embedded = "server = \"http://127.0.0.1:8080\", listen = \"10.1.0.10:80\"";
        let text = EXAMPLE.replace(embedded, &embedded.replace("http://127.0.0.1:8080", "embedded"));
        let got = ran(&file_of(&dir, text.as_bytes()), None, false);
        let note = "  note: `locks` of engineering is \"server\", and the embedded server at hq keeps none: \
                    nearshare keeps them; write \"nearshare\"";
        assert_eq!((got.code, got.out.lines().last()), (CLEAN, Some(note)), "{}", got.out);
        // Who says nothing of locks expects nothing else.
        let silent = text.replace("locks          = \"server\"", "# ");
        let got = ran(&file_of(&dir, silent.as_bytes()), None, false);
        assert!(got.code == CLEAN && !got.out.contains("note:"), "{}", got.out);
    }

    #[test]
    fn every_mistake_is_a_line_with_the_file_in_front() {
        let dir = dir();
        let file = file_of(&dir, EXAMPLE.replace("zone = \"emea\"", "zoen = 1").as_bytes());
        let got = ran(&file, None, false);
        let (right, name) = ("the nearest known key is `zone`", file.display());
        let expected = format!(
            "{name}:27:1: unknown key `zoen` in [site.hq]; {right}\n\
             {name}:33:1: unknown key `zoen` in [site.lyon]; {right}\n"
        );
        assert_eq!((got.code, got.out, got.err), (MISTAKES, String::new(), expected));
        let got = ran(&file, None, true);
        let json: serde_json::Value = serde_json::from_str(&got.out).expect("prints JSON");
        assert_eq!((got.code, &json["clean"]), (MISTAKES, &serde_json::json!(false)));
        assert_eq!(
            json["mistakes"][1],
            serde_json::json!({
                "line": 33, "column": 1, "what": "unknown key `zoen` in [site.lyon]", "right": right,
            })
        );
    }

    #[test]
    fn what_cannot_be_read_is_no_mistake() {
        let dir = dir();
        let missing = dir.path().join("none.toml");
        let got = ran(&missing, None, false);
        assert_eq!((got.code, got.out.as_str()), (CANNOT_READ, ""));
        assert!(got.err.contains("none.toml: cannot read the server map: No such file"), "{}", got.err);
        let got = ran(dir.path(), None, false);
        assert_eq!(got.code, CANNOT_READ, "a directory");

        let file = file_of(&dir, b"serial = 1\n# caf\xe9\n");
        let got = ran(&file, None, true);
        let why = format!("{}:2:6: the byte here is not UTF-8; save the file as UTF-8", file.display());
        assert_eq!((got.code, got.err), (CANNOT_READ, format!("{why}\n")));
        let json: serde_json::Value = serde_json::from_str(&got.out).expect("prints JSON");
        assert_eq!((&json["clean"], &json["error"]), (&false.into(), &why.into()));

        let file = file_of(&dir, &vec![b'#'; map::TEXT_MAX + 2]);
        let got = ran(&file, None, false);
        assert_eq!(got.code, CANNOT_READ);
        assert!(got.err.contains("at most 1048576 bytes"), "{}", got.err);
    }

    /// A map of one site, all of whose files are below `at`.
    fn local_map(at: &Path) -> String {
        let at = at.display();
        format!(
            "serial = 1\n[cluster]\nca = \"{at}/ca\"\ncertificate = \"{at}/cert\"\nkey = \"{at}/key\"\n\
             [site.hq]\nsecret = \"{at}/secret\"\nlink = \"127.0.0.1:7400\"\nstate = \"{at}/state\"\n\
             [site.lyon]\nlink = \"127.0.0.1:7401\"\n\
             [share.eng]\nhq = {{ role = \"local\", path = \"{at}/eng\" }}\n\
             lyon = {{ role = \"remote\" }}\n"
        )
    }

    fn private(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).expect("writes a file");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("sets its mode");
    }

    /// Lays what `nearshare cert` makes for hq, valid for so many days from some days ago.
    fn lay(at: &Path, days_ago: i64, days: u32) {
        let then = WallTime(KernelClock.wall().0 - days_ago * 24 * 3600 * 1_000_000_000);
        let ca = Authority::create(then).expect("a CA");
        let issued = ca.issue(&"hq".parse().expect("a name"), then, days).expect("a certificate");
        private(&at.join("ca"), ca.cert_pem(), 0o644);
        private(&at.join("cert"), &issued.cert, 0o644);
        private(&at.join("key"), &issued.key, 0o600);
        private(&at.join("secret"), &Secret::generate().expect("a secret").to_text(), 0o600);
    }

    #[test]
    fn a_site_s_own_needs_are_looked_for_on_request() {
        let dir = dir();
        let at = dir.path();
        let file = file_of(&dir, local_map(at).as_bytes());
        assert_eq!(ran(&file, None, false).code, CLEAN, "without --site the disk is not looked at");

        let got = ran(&file, Some("hq"), false);
        assert_eq!(got.code, MISTAKES);
        let places =
            got.err.lines().filter_map(|line| line.strip_prefix(&format!("{}:", file.display())));
        let places: Vec<_> = places.filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(places, ["3:6:", "4:15:", "5:7:", "7:10:", "13:31:"], "{}", got.err);
        assert!(got.err.contains("No such file or directory (os error 2)"), "{}", got.err);

        lay(at, 0, 90);
        fs::write(at.join("eng"), b"").expect("writes a file");
        private(&at.join("key"), &fs::read_to_string(at.join("key")).expect("a key"), 0o640);
        fs::remove_file(at.join("ca")).expect("removes it");
        fs::create_dir(at.join("ca")).expect("makes a directory");
        let got = ran(&file, Some("hq"), false);
        let (name, at_) = (file.display(), at.display());
        let expected = format!(
            "{name}:3:6: {at_}/ca: not a regular file; make it with `nearshare cert`, or name where it is\n\
             {name}:5:7: {at_}/key: mode 0640 lets others than its owner at a secret; chmod 0600 {at_}/key\n\
             {name}:13:31: {at_}/eng: not a directory; name the share's directory\n"
        );
        assert_eq!((got.code, got.err), (MISTAKES, expected));

        fs::remove_dir(at.join("ca")).expect("removes it");
        fs::remove_file(at.join("eng")).expect("removes it");
        lay(at, 0, 90);
        fs::create_dir(at.join("eng")).expect("makes a directory");
        let got = ran(&file, Some("hq"), false);
        assert_eq!((got.code, got.err.as_str()), (CLEAN, ""));
        assert!(got.out.contains("  the certificate of hq is valid from "), "{}", got.out);
        assert!(!got.out.contains("note:"), "{}", got.out);
        assert!(!at.join("state").exists(), "nothing is made");

        let got = ran(&file, Some("osaka"), false);
        assert_eq!(got.code, MISTAKES);
        assert!(got.err.contains(":1:1: the map has no [site.osaka]; add [site.osaka]"), "{}", got.err);
    }

    #[test]
    fn what_a_site_could_not_start_with_is_a_mistake_where_the_map_names_it() {
        let dir = dir();
        let at = dir.path();
        let file = file_of(&dir, local_map(at).as_bytes());
        fs::create_dir(at.join("eng")).expect("makes a directory");
        lay(at, 0, 90);
        private(&at.join("secret"), "half of it", 0o600);
        fs::write(at.join("state"), b"").expect("writes a file");
        let key = fs::read_to_string(at.join("key")).expect("a key");
        let ca = fs::read_to_string(at.join("ca")).expect("a CA");
        lay(at, 0, 90);
        private(&at.join("secret"), "half of it", 0o600);
        private(&at.join("key"), &key, 0o600);
        private(&at.join("ca"), &ca, 0o644);
        let got = ran(&file, Some("hq"), false);
        let (name, at_) = (file.display(), at.display());
        for said in [
            format!("{name}:4:15: {at_}/cert: the certificate is not from the CA in {at_}/ca; copy "),
            format!(
                "{name}:5:7: {at_}/key: the key is not that of the certificate in {at_}/cert; copy "
            ),
            format!(
                "{name}:7:10: {at_}/secret: the cluster secret must be 64 hexadecimal digits; copy "
            ),
            format!("{name}:9:9: {at_}/state: not a directory; name another directory in `state`"),
        ] {
            assert!(got.err.contains(&said), "no {said:?} in\n{}", got.err);
        }
        assert_eq!((got.code, got.err.lines().count()), (MISTAKES, 4), "{}", got.err);
    }

    #[test]
    fn a_certificate_that_ends_soon_is_a_note_and_one_that_has_ended_a_mistake() {
        let dir = dir();
        let at = dir.path();
        let file = file_of(&dir, local_map(at).as_bytes());
        fs::create_dir(at.join("eng")).expect("makes a directory");
        lay(at, 80, 90);
        let got = ran(&file, Some("hq"), false);
        assert_eq!((got.code, got.err.as_str()), (CLEAN, ""));
        assert!(got.out.contains("  note: the certificate of hq expires on "), "{}", got.out);
        assert!(got.out.contains("run `nearshare cert issue hq`"), "{}", got.out);
        lay(at, 91, 90);
        let got = ran(&file, Some("hq"), false);
        let said =
            format!("{}:4:15: {}/cert: the certificate of hq expired on ", file.display(), at.display());
        assert!(got.code == MISTAKES && got.err.starts_with(&said), "{}", got.err);
        let json: serde_json::Value =
            serde_json::from_str(&ran(&file, Some("hq"), true).out).expect("JSON");
        assert!(json["certificate"]["until_unix_ms"].is_i64(), "{json}");
    }
}
