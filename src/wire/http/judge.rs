//! What must hold for every request, whatever is in it. The property tests and the fuzz target both
//! ask here.

use ::http::{HeaderMap, HeaderName, HeaderValue, Request};

use super::fields::END_TO_END;
use super::framing::{Fault, Framing, HeadLimits};
use super::multistatus::Multistatus;
use super::{Classified, Located, Move, SiteShares, classify, encode, strip_hop_by_hop};

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

/// How a client's stream is cut into pieces makes no difference to how it is read.
///
/// # Errors
/// Says what differs.
pub fn stream(bytes: &[u8], cut: usize) -> Result<(), String> {
    let (whole, pieces) = (framed(bytes, bytes.len()), framed(bytes, cut));
    let (passed, heads, fault) = whole;
    if passed > bytes.len() || heads > passed as u64 {
        return Err(format!("{passed} bytes and {heads} requests of {} bytes", bytes.len()));
    }
    match (whole == pieces, fault) {
        (true, _) => Ok(()),
        _ => Err(format!("whole {whole:?}, in pieces of {cut} {pieces:?}")),
    }
}

/// Bytes that passed, requests in them, and the fault that ended it.
fn framed(bytes: &[u8], cut: usize) -> (usize, u64, Option<Fault>) {
    let mut framing = Framing::new(HeadLimits { fields: 8, bytes: 256 });
    let (mut passed, mut heads, mut seen) = (0, 0, 0);
    while seen < bytes.len() {
        seen = (seen + cut.max(1)).min(bytes.len());
        let (more, fault) = framing.pass(&bytes[passed..seen], &mut heads);
        passed += more;
        if fault.is_some() {
            return (passed, heads, fault);
        }
    }
    (passed, heads, None)
}

/// Of a message that passes, the fields of one connection only go, those that Connection nominates among
/// them unless they are for its end; every other is kept, and those of one name keep their order.
///
/// # Errors
/// Says what does not hold. Fields that HTTP does not allow hold.
pub fn fields(fields: &[(&str, &[u8])]) -> Result<(), String> {
    const OURS: [&str; 7] = [
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let before = headers.clone();
    strip_hop_by_hop(&mut headers);
    let nominated = |name: &HeaderName| {
        let all = before.get_all("connection").into_iter();
        let mut tokens = all.flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
    };
    for name in before.keys() {
        let was: Vec<_> = before.get_all(name).iter().collect();
        let is: Vec<_> = headers.get_all(name).iter().collect();
        let for_the_end = END_TO_END.contains(&name.as_str());
        let goes = OURS.contains(&name.as_str()) || nominated(name) && !for_the_end;
        if is != if goes { Vec::new() } else { was.clone() } {
            return Err(format!("{name}: {was:?} became {is:?}"));
        }
    }
    Ok(())
}

/// How a multistatus arrives makes no difference to what passes.
///
/// # Errors
/// Says what does not hold. A body that is no multistatus holds.
pub fn multistatus(body: &[u8], cut: usize, moved: Option<&Move>) -> Result<(), String> {
    let whole = filtered(body, body.len(), moved);
    match filtered(body, cut, moved) {
        Some(pieces) if whole.as_ref() != Some(&pieces) => {
            Err(format!("whole {whole:?}, in pieces of {cut} {:?}", String::from_utf8_lossy(&pieces)))
        }
        _ => Ok(()),
    }
}

fn filtered(body: &[u8], cut: usize, moved: Option<&Move>) -> Option<Vec<u8>> {
    let mut filter = Multistatus::new(moved.cloned(), true);
    let mut out = Vec::new();
    for piece in body.chunks(cut.max(1)) {
        filter.push(piece, &mut out).ok()?;
    }
    filter.finish().ok()?;
    Some(out)
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
