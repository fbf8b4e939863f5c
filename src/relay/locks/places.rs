//! Where the paths of a request lead: a lock is on what is there, by whatever symbolic links it is reached.

use std::sync::Arc;

use super::Keeper;
use crate::hash::HashMap;
use crate::id::RelPath;
use crate::relay::seam::{Fence, Fenced};
use crate::relay::{ShareHttp, near};
use crate::wire::http::lock::Use;
use crate::wire::http::{Classified, IfField, Touches};
use crate::work;

/// The places that the paths of a request lead to, where that matters.
#[derive(Default)]
pub struct Places(HashMap<RelPath, RelPath>);

impl Places {
    /// Of an If field: where it names a lock that there is.
    pub async fn look(
        share: &ShareHttp,
        keeper: &Keeper,
        field: Option<&IfField>,
        own: &RelPath,
    ) -> Self {
        let mut places = Self::default();
        for list in field.iter().flat_map(|field| &field.lists) {
            let at = list.place.as_ref().map_or(own, |(path, _)| path);
            let held = list.tokens().any(|token| keeper.now().0.locks.holds(token));
            if held && !places.0.contains_key(at) {
                places.0.insert(at.clone(), straight(share, at, true).await);
            }
        }
        places
    }
    pub fn of(&self, path: &RelPath) -> RelPath {
        self.0.get(path).unwrap_or(path).clone()
    }
}

/// The path of what is there, without a symbolic link on the way, and none at its end if they are to be
/// followed. Where nothing is, that of the collection with the name.
pub async fn straight(share: &ShareHttp, path: &RelPath, follow: bool) -> RelPath {
    let Some(fence) = &share.fence else { return path.clone() };
    if follow && let Some(there) = ask(fence, path).await {
        return there;
    }
    match path.split_last() {
        None => path.clone(),
        Some((above, name)) => match ask(fence, &above).await {
            Some(above) => above.join(name.clone()),
            None => path.clone(),
        },
    }
}

async fn ask(fence: &Arc<dyn Fence>, path: &RelPath) -> Option<RelPath> {
    if let Some(there) = fence.straight(path, true) {
        return Some(there);
    }
    let (fence, path) = (fence.clone(), path.clone());
    // Only a panic or the end of the runtime makes no answer.
    work::blocking(move || fence.straight(&path, false)).await.ok().flatten()
}

/// What a change needs to be let by locks.
pub async fn uses(share: &ShareHttp, classified: &Classified) -> Vec<Use> {
    let (path, row) = (classified.path(), classified.row);
    let place = classified.place.as_ref();
    let follows = row.follows || place.is_some_and(|place| place.slash);
    let mut uses = Vec::new();
    match row.touches {
        Touches::About => each(share, path, follows, Use::Entry, &mut uses).await,
        Touches::Entry if row.name != "DELETE" => {
            each(share, path, follows, Use::Entry, &mut uses).await;
            if is_missing(share, path).await {
                uses.extend(Use::member(&straight(share, path, follows).await));
            }
        }
        Touches::Copy => {}
        _ => {
            each(share, path, follows, Use::Tree, &mut uses).await;
            uses.extend(Use::member(&straight(share, path, false).await));
        }
    }
    if let Some((to, _)) = place.and_then(|place| place.destination.as_ref()) {
        each(share, to, true, Use::Tree, &mut uses).await;
        if row.touches == Touches::Both || is_missing(share, to).await {
            uses.extend(Use::member(&straight(share, to, false).await));
        }
    }
    uses
}

/// The entry, and what it leads to if links are followed: not every server does the same.
async fn each(
    share: &ShareHttp,
    path: &RelPath,
    follows: bool,
    of: fn(RelPath) -> Use,
    uses: &mut Vec<Use>,
) {
    let entry = straight(share, path, false).await;
    if follows {
        let there = straight(share, path, true).await;
        if there != entry {
            uses.push(of(there));
        }
    }
    uses.push(of(entry));
}

pub async fn is_missing(share: &ShareHttp, path: &RelPath) -> bool {
    match &share.fence {
        Some(fence) => near::look(fence, path, true).await == Fenced::Missing,
        None => false,
    }
}
