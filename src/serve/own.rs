//! What a site must have of its own before it starts: read and tried, and every fault named with the path
//! that the map has for it. `run` begins with this, `check --site` shows what it finds. Nothing is made,
//! bound or changed here.

use std::fmt;
use std::io;
use std::path::Path;

use rustix::fs::Access;

use super::{certificates, control_socket};
use crate::admin;
use crate::clock::WallTime;
use crate::door::tls::TlsError;
use crate::id::SiteId;
use crate::link::cert::{Identity, Secret};
use crate::link::own::{self, Files, Own, Unfit, Validity, open_advice};
use crate::map::{self, CertificateFiles, HttpTls};

/// All that was found.
pub struct Belongings {
    pub(super) identity: Identity,
    pub(super) secret: Secret,
    /// Of the certificate that other sites see.
    pub validity: Validity,
}

/// Why a site cannot start: at least one fault.
#[derive(Debug)]
pub struct Lacking(pub Vec<Unfit>);

impl fmt::Display for Lacking {
    /// A line for each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Unfit::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Lacking {}

/// What site `row` of the map has on this host's disk. Blocks.
pub fn belongings(row: &map::Site) -> Result<Belongings, Lacking> {
    let (me, cluster) = (&row.name, &row.cluster);
    let files = Files { ca: &cluster.ca, certificate: &cluster.certificate, key: &cluster.key };
    let secret = own::secret(me, &cluster.secret);
    let own = own::own(me, &files);
    let tls = row.http.as_ref().and_then(|http| http.tls.as_ref()).map_or(Ok(()), shown);
    match (own, secret, state(&cluster.state), tls) {
        (Ok(Own { identity, validity }), Ok(secret), Ok(()), Ok(())) => {
            Ok(Belongings { identity, secret, validity })
        }
        (own, secret, state, tls) => {
            let mut faults = own.err().unwrap_or_default();
            faults.extend([secret.err(), state.err()].into_iter().flatten());
            faults.extend(tls.err().unwrap_or_default());
            Err(Lacking(faults))
        }
    }
}

/// Says in the log what is wrong with the dates of the site's own certificate.
pub(super) fn tell(me: &SiteId, validity: Validity, now: WallTime) {
    let Some((what, fix)) = validity.trouble(me, now) else { return };
    match validity.at(now) {
        own::Age::Soon => tracing::warn!("{what}; {fix}"),
        _ => tracing::error!("{what}; {fix}"),
    }
}

/// The certificates for clients, each by itself, so that the first one's fault hides no other.
fn shown(tls: &HttpTls) -> Result<(), Vec<Unfit>> {
    let alone = |pair: &CertificateFiles| {
        certificates(&HttpTls { listen: tls.listen, certificates: vec![pair.clone()] }).err()
    };
    let faults: Vec<Unfit> =
        tls.certificates.iter().filter_map(|pair| Some(unshown(pair, alone(pair)?))).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

fn unshown(pair: &CertificateFiles, error: TlsError) -> Unfit {
    let both = "name a certificate and the key that it was made with".to_owned();
    let (path, what, right) = match error {
        TlsError::Read { path, source } => {
            let right = open_advice(&source, "name the file that is there");
            (path, source.to_string(), right)
        }
        TlsError::NotAFile { path } => {
            (path, "not a regular file".to_owned(), "name the file that is one".to_owned())
        }
        TlsError::Pem { path, wanted } => {
            (path, format!("holds no {wanted} in PEM"), "name the file that does".to_owned())
        }
        TlsError::Key { path } => {
            let what = "the key is of no kind that is known".to_owned();
            (path, what, "use ECDSA P-256, Ed25519 or RSA".to_owned())
        }
        TlsError::Mismatch { certificate, key } => {
            let what = format!("the key is not that of the certificate in {}", certificate.display());
            (key, what, both)
        }
        TlsError::Config(error) => (pair.certificate.clone(), format!("cannot be shown: {error}"), both),
    };
    Unfit { path, what, right }
}

/// Whether the state directory is there and can be written into, or can be made.
fn state(path: &Path) -> Result<(), Unfit> {
    let wrong = |what: String, right: String| Err(Unfit { path: path.into(), what, right });
    let another = "name another directory in `state`, or make room for this one";
    if let Err(error) = admin::fits(&control_socket(path)) {
        return wrong(error.to_string(), "shorten `state`".to_owned());
    }
    // The path itself, or the nearest one above it that is there.
    for at in path.ancestors() {
        let whose =
            || if at == path { String::new() } else { format!("cannot be made: {}: ", at.display()) };
        match std::fs::metadata(at) {
            Ok(found) if !found.is_dir() => {
                return wrong(format!("{}not a directory", whose()), another.to_owned());
            }
            Ok(_) => {
                let may = rustix::fs::access(at, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK);
                return may.or_else(|error| {
                    let error = io::Error::from(error);
                    wrong(format!("{}{error}", whose()), open_advice(&error, another))
                });
            }
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => return wrong(format!("{}{error}", whose()), open_advice(&error, another)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe would be waited for, by `run`, `check` and every reload.
    #[test]
    fn certificates_for_clients_are_read_from_files_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let pair = CertificateFiles { certificate: path.clone(), key: path.clone() };
        let tls = HttpTls { listen: "127.0.0.1:443".parse().unwrap(), certificates: vec![pair] };
        let (said, saying) = std::sync::mpsc::channel();
        std::thread::spawn(move || said.send(shown(&tls)));
        let faults = saying.recv_timeout(std::time::Duration::from_secs(10)).unwrap().unwrap_err();
        assert_eq!((&faults[0].path, &*faults[0].what), (&path, "not a regular file"));
    }

    #[test]
    fn a_state_directory_is_there_or_can_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(state(dir.path()).is_ok());
        let deep = dir.path().join("a/b/c");
        assert!(state(&deep).is_ok());
        assert!(!dir.path().join("a").exists(), "nothing is made");
        assert_eq!(state(&file).unwrap_err().what, "not a directory");
        let below = state(&file.join("x/y")).unwrap_err().what;
        assert_eq!(below, format!("cannot be made: {}: not a directory", file.display()));
        let long = dir.path().join("s".repeat(120));
        assert_eq!(state(&long).unwrap_err().right, "shorten `state`");
    }
}
