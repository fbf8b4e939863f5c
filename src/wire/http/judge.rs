//! What must hold for every request, whatever is in it. The property tests and the fuzz target both
//! ask here.

use ::http::Request;

use super::{Classified, Located, SiteShares, classify, encode};

/// What is sent on for a request is what was understood of it, and never leaves its share.
///
/// # Errors
/// Says what does not hold. A request that cannot be built, or is refused, holds.
pub fn request(shares: &SiteShares, method: &str, uri: &str, destination: &str) -> Result<(), String> {
    let built = Request::builder()
        .method(method)
        .uri(uri)
        .header("host", "files")
        .header("destination", destination)
        .body(());
    let Ok(request) = built else { return Ok(()) };
    let Ok(classified) = classify(&request.into_parts().0, shares) else { return Ok(()) };
    holds(shares, &classified, uri)
}

fn holds(shares: &SiteShares, classified: &Classified, uri: &str) -> Result<(), String> {
    let Some(place) = &classified.place else { return Ok(()) };
    let prefix = shares.url(place.slot).encoded();
    let own = (classified.path(), place.slash);
    let to = place.destination.as_ref().map(|(path, slash)| (path, *slash));
    for (path, slash) in [Some(own), to].into_iter().flatten() {
        let text = encode(prefix, path, slash);
        let back = shares.locate(&text).map_err(|error| format!("{text}: {error}"))?;
        let Located::Inside { slot, path: again, slash: slashed, canonical, .. } = back else {
            return Err(format!("{text} leads outside"));
        };
        if (slot, &again, slashed) != (place.slot, path, slash) {
            return Err(format!("{text} is read as {again:?}, slash {slashed}"));
        }
        if !canonical || again.has_ours() {
            return Err(format!("{text}: canonical {canonical}, ours {}", again.has_ours()));
        }
    }
    let sent = uri.split(['?', '#']).next().unwrap_or_default();
    match place.canonical && !sent.ends_with(&encode(prefix, own.0, own.1)) {
        true => Err(format!("{sent} would be sent on as it is")),
        false => Ok(()),
    }
}
