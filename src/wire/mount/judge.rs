//! What must hold for every message of MOUNT, whatever is in it. The property tests and the fuzz target both
//! ask here.

use bytes::Bytes;

use super::super::rpc::judge::cut;
use super::super::xdr::{Reader, Rope, Weave};
use super::{Exports, Version, mounted, row};

/// However a message is cut, it is read alike; and a list of exports stays one when its clients change.
///
/// # Errors
/// Says what does not hold. What cannot be read holds.
pub fn message(bytes: &[u8], size: usize) -> Result<(), String> {
    let ropes = [Rope::from(Bytes::copy_from_slice(bytes)), cut(bytes, size)];
    let differs = |what: &str| Err(format!("{what} {bytes:?} is read in two ways in pieces of {size}"));
    for row in (0..).map_while(row) {
        let [whole, pieces] = ropes.each_ref().map(|rope| row.path(&mut Reader::new(rope)));
        if whole != pieces {
            return differs(row.name);
        }
    }
    for version in [Version::Old, Version::Three] {
        let [whole, pieces] = ropes.each_ref().map(|rope| mounted(&mut Reader::new(rope), version));
        if whole != pieces {
            return differs("what was mounted,");
        }
    }
    let mut weave = Weave::new(&ropes[1]);
    let mut exports = Exports::new(Reader::new(&ropes[1]));
    let mut paths = Vec::new();
    while let Ok(Some(export)) = exports.next_export() {
        export.for_clients(&mut weave, ["10.0.0.0/8"]);
        paths.push(export.path);
    }
    let other = weave.message();
    let mut others = Exports::new(Reader::new(&other));
    for path in paths {
        match others.next_export() {
            Ok(Some(export)) if export.path == path => {}
            export => return Err(format!("{path:?} became {export:?}")),
        }
    }
    Ok(())
}
