//! The files of the CA and of a site's bundle. A directory appears whole or not at all; keys and the
//! secret are 0600 from their first byte, directories 0700. Not here: what is in the files (`cert`).

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::cert::{Authority, CertError, Identity, Issued, Secret};

/// The CA's certificate, in the CA's directory and in every bundle.
pub const CA_CERT: &str = "ca.pem";
/// The CA's private key. It never leaves the CA's directory.
pub const CA_KEY: &str = "ca.key";
pub const SITE_CERT: &str = "site.pem";
pub const SITE_KEY: &str = "site.key";
pub const SECRET: &str = "secret";
/// Longest key, certificate or secret file that is read, in bytes: 64 KiB, a chain of dozens.
pub(super) const FILE_MAX: u64 = 64 << 10;

/// A file of the CA or of a bundle cannot be written, read or trusted. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("{0} exists already and is not overwritten: move it away, or name another directory")]
    Exists(PathBuf),
    #[error("{0} holds no CA: make one with `nearshare cert init --dir {0}`")]
    NoAuthority(PathBuf),
    #[error("cannot {operation} {path}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{0} is no regular file: name the file that `nearshare cert` wrote")]
    NotAFile(PathBuf),
    #[error("{0} can be read by every user of this machine: run `chmod 600 {0}`")]
    Readable(PathBuf),
    #[error("{0} is longer than {FILE_MAX} bytes: it is no key, certificate or secret")]
    TooLong(PathBuf),
    #[error("{path}: {source}")]
    Content { path: PathBuf, source: CertError },
}

/// Writes a new CA and the cluster's secret to `dir`, which must not exist or be empty.
pub fn write_authority(dir: &Path, ca: &Authority, secret: &Secret) -> Result<(), BundleError> {
    write_dir(
        dir,
        &[
            (CA_CERT, ca.cert_pem().as_bytes()),
            (CA_KEY, ca.key_pem().as_bytes()),
            (SECRET, secret.to_text().as_bytes()),
        ],
    )
}

/// Reads what [`write_authority`] wrote.
pub fn read_authority(dir: &Path) -> Result<(Authority, Secret), BundleError> {
    let cert = match read(&dir.join(CA_CERT), false) {
        Err(BundleError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(BundleError::NoAuthority(dir.into()));
        }
        other => other?,
    };
    let key = dir.join(CA_KEY);
    let ca = Authority::from_pem(&cert, &read(&key, true)?)
        .map_err(|source| BundleError::Content { path: key, source })?;
    Ok((ca, read_secret(&dir.join(SECRET))?))
}

/// Writes all that a site needs to `dir`, which must not exist or be empty.
pub fn write_bundle(
    dir: &Path,
    ca: &Authority,
    site: &Issued,
    secret: &Secret,
) -> Result<(), BundleError> {
    write_dir(
        dir,
        &[
            (CA_CERT, ca.cert_pem().as_bytes()),
            (SITE_CERT, site.cert.as_bytes()),
            (SITE_KEY, site.key.as_bytes()),
            (SECRET, secret.to_text().as_bytes()),
        ],
    )
}

/// Reads a site's certificate, key and CA. The key must not be readable by everybody.
pub fn read_identity(ca: &Path, cert: &Path, key: &Path) -> Result<Identity, BundleError> {
    let (ca, pem) = (read(ca, false)?, read(cert, false)?);
    Identity::from_pem(&ca, &pem, &read(key, true)?)
        .map_err(|source| BundleError::Content { path: cert.into(), source })
}

/// Reads the cluster's secret, which must not be readable by everybody.
pub fn read_secret(path: &Path) -> Result<Secret, BundleError> {
    read(path, true)?.parse().map_err(|source| BundleError::Content { path: path.into(), source })
}

fn failed<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> BundleError + 'a {
    move |source| BundleError::Io { operation, path: path.into(), source }
}

pub(super) fn read(path: &Path, private: bool) -> Result<String, BundleError> {
    let failed = failed("read", path);
    // What is no regular file is not opened: that could wait for ever, or mean something to a device.
    if !std::fs::metadata(path).map_err(&failed)?.is_file() {
        return Err(BundleError::NotAFile(path.into()));
    }
    let file = File::open(path).map_err(&failed)?;
    let mode = file.metadata().map_err(&failed)?.permissions().mode();
    if private && mode & 0o007 != 0 {
        return Err(BundleError::Readable(path.into()));
    }
    let mut text = String::new();
    file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(&failed)?;
    if text.len() as u64 > FILE_MAX { Err(BundleError::TooLong(path.into())) } else { Ok(text) }
}

/// Makes `dir` with these files, through a directory beside it, so that an interrupted run leaves
/// nothing that looks whole.
fn write_dir(dir: &Path, files: &[(&str, &[u8])]) -> Result<(), BundleError> {
    let dir = &std::path::absolute(dir).map_err(failed("find", dir))?;
    let parent = dir.parent().unwrap_or(dir);
    DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed("make", parent))?;
    let aside = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .map_err(failed("make a directory in", parent))?;
    for (name, content) in files {
        let path = aside.path().join(name);
        write_file(&path, content).map_err(failed("write", &path))?;
    }
    sync(aside.path())?;
    match std::fs::rename(aside.path(), dir) {
        Ok(()) => drop(aside.keep()),
        Err(error) => {
            use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, NotADirectory};
            return Err(match error.kind() {
                AlreadyExists | DirectoryNotEmpty | NotADirectory => BundleError::Exists(dir.clone()),
                _ => failed("make", dir)(error),
            });
        }
    }
    sync(parent)
}

fn write_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync(dir: &Path) -> Result<(), BundleError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallTime;

    const NOW: WallTime = WallTime(1_795_000_000_000_000_000);

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_bundle_comes_back_and_is_private() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("deep/ca");
        let made = Authority::create(NOW).unwrap();
        let secret = Secret::generate().unwrap();
        write_authority(&dir, &made, &secret).unwrap();
        let (ca, read) = read_authority(&dir).unwrap();
        assert_eq!(read, secret);
        let issued = ca.issue(&"hq".parse().unwrap(), NOW, 1).unwrap();
        let site = dir.join("hq");
        write_bundle(&site, &ca, &issued, &secret).unwrap();
        let identity =
            read_identity(&site.join(CA_CERT), &site.join(SITE_CERT), &site.join(SITE_KEY)).unwrap();
        assert_eq!(identity.site.as_str(), "hq");
        assert_eq!(read_secret(&site.join(SECRET)).unwrap(), secret);
        assert!(!site.join(CA_KEY).exists());
        for dir in [&dir, &site, &root.path().join("deep")] {
            assert_eq!(mode(dir), 0o700);
        }
        for file in [dir.join(CA_KEY), dir.join(SECRET), site.join(SITE_KEY), site.join(SECRET)] {
            assert_eq!(mode(&file), 0o600);
        }
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_half_made_is_left() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("ca");
        let ca = Authority::create(NOW).unwrap();
        let secret = Secret::generate().unwrap();
        write_authority(&dir, &ca, &secret).unwrap();
        let other = Authority::create(NOW).unwrap();
        let again = write_authority(&dir, &other, &Secret::generate().unwrap());
        assert!(matches!(again, Err(BundleError::Exists(_))), "{again:?}");
        assert_eq!(read_authority(&dir).unwrap().1, secret);
        let names: Vec<_> = std::fs::read_dir(root.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn what_everybody_can_read_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("secret");
        std::fs::write(&path, Secret::generate().unwrap().to_text()).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read_secret(&path), Err(BundleError::Readable(_))));
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(read_secret(&path).is_ok());
        std::fs::write(&path, vec![b'0'; FILE_MAX as usize + 1]).unwrap();
        assert!(matches!(read_secret(&path), Err(BundleError::TooLong(_))));
    }

    #[test]
    fn a_missing_ca_says_how_to_make_one() {
        let root = tempfile::tempdir().unwrap();
        let error = read_authority(root.path()).err().unwrap().to_string();
        assert!(error.contains("nearshare cert init"), "{error}");
    }
}
