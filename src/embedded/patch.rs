//! PROPPATCH (RFC 4918 section 9.2), and the properties that clients make up: they are kept with the object, as XML that
//! is read anew each time, for others than this server may have written it.

use http::StatusCode;
use rustix::io::Errno;

use super::props::{BEGIN, END};
use super::{Share, dialect};
use crate::id::RelPath;
use crate::tree::TreeError;
use crate::wire::http::xml::{self, Dead, Property, Step, Update, propstat, refused};

/// What an answer says if the disk has no room for properties that are no more than they may be.
const NO_ROOM: &str = "the disk has no room for them: ext4 keeps 4 KiB of attributes with a file";

/// What clients have made up of the thing at `path`.
pub(super) fn of(share: &Share, path: &RelPath) -> Result<Dead, TreeError> {
    match share.files.properties(path) {
        Ok(written) => Ok(read(share, path, written)),
        Err(error) => match errno(&error) {
            // It has just gone, or those who may not read it may not see them.
            Some(Errno::NOENT | Errno::ACCESS | Errno::PERM) => Ok(Dead::default()),
            _ => Err(error),
        },
    }
}

fn read(share: &Share, path: &RelPath, written: Option<Vec<u8>>) -> Dead {
    let Some(written) = written else { return Dead::default() };
    Dead::read(&written).unwrap_or_else(|| {
        tracing::debug!(share = %share.id, %path, "its properties are not as they are written here: left out");
        Dead::default()
    })
}

/// Why an update is not carried out.
enum Refusal {
    Full(xml::Full),
    Disk(TreeError),
}

/// Carries out an update of the thing at `path`, whose URL is `href`, and says what has become of each property: all is
/// done or nothing.
pub(super) fn patch(
    share: &Share,
    path: &RelPath,
    href: &str,
    update: &Update,
) -> Result<String, StatusCode> {
    let mut out = format!("{BEGIN}<D:response><D:href>{href}</D:href>");
    let live = update.named(|step| xml::is_live(step.property()));
    if !share.properties {
        unkept(&mut out, update);
    } else if !live.is_empty() {
        refused(&mut out, &elements(&live), "403 Forbidden", "cannot-modify-protected-property", "");
        depend(&mut out, update, &live);
    } else {
        match change(share, path, update) {
            Ok(()) => propstat(&mut out, &elements(&update.named(|_| true)), "200 OK"),
            Err(refusal) => not_done(&mut out, update, refusal)?,
        }
    }
    Ok(out + "</D:response>" + END)
}

fn change(share: &Share, path: &RelPath, update: &Update) -> Result<(), Refusal> {
    let changed = share.files.change_properties(path, |written| {
        let mut dead = read(share, path, written);
        dead.change(update)?;
        Ok(dead.write().map(String::into_bytes))
    });
    changed.map_err(Refusal::Disk)?.map_err(Refusal::Full)
}

/// Says why nothing was done.
fn not_done(out: &mut String, update: &Update, refusal: Refusal) -> Result<(), StatusCode> {
    let mut blamed = update.named(|step| matches!(step, Step::Set(..)));
    if blamed.is_empty() {
        blamed = update.named(|_| true);
    }
    const FULL: &str = "507 Insufficient Storage";
    let (status, why) = match &refusal {
        Refusal::Full(full) => (FULL, full.to_string()),
        Refusal::Disk(error) => match errno(error) {
            Some(Errno::NOSPC | Errno::DQUOT | Errno::TOOBIG | Errno::RANGE) => {
                tracing::warn!(%error, "embedded server: no room for properties");
                (FULL, NO_ROOM.to_owned())
            }
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::OPNOTSUPP) => {
                ("403 Forbidden", "the server may not write to it".to_owned())
            }
            _ => return Err(dialect::status(error)),
        },
    };
    refused(out, &elements(&blamed), status, "", &why);
    depend(out, update, &blamed);
    Ok(())
}

/// What could have been done if it were not for those that are `blamed`.
fn depend(out: &mut String, update: &Update, blamed: &[&Property]) {
    let others = update.named(|step| !blamed.contains(&step.property()));
    if !others.is_empty() {
        propstat(out, &elements(&others), "424 Failed Dependency");
    }
}

/// Where nothing is kept.
fn unkept(out: &mut String, update: &Update) {
    let (not, granted) = update.unkept();
    if not.is_empty() {
        return propstat(out, &elements(&granted), "200 OK");
    }
    propstat(out, &elements(&not), "403 Forbidden");
    if !granted.is_empty() {
        propstat(out, &elements(&granted), "424 Failed Dependency");
    }
}

fn elements(properties: &[&Property]) -> String {
    let mut elements = String::new();
    properties.iter().for_each(|property| property.write(&mut elements, ""));
    elements
}

fn errno(error: &TreeError) -> Option<Errno> {
    match error {
        TreeError::Io { source, .. } => Errno::from_io_error(source),
        _ => None,
    }
}
