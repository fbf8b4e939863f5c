//! What must hold for every request, whatever is in it. The property tests and the fuzz target both
//! ask here.

use ::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use ::xml::name::OwnedName;
use ::xml::reader::{EventReader, XmlEvent};

use super::condition::{self, Current, Verdict};
use super::etag::{self, EntityTag};
use super::fields::END_TO_END;
use super::framing::{Fault, Framing, HeadLimits};
use super::multistatus::{Multistatus, Tagger};
use super::{
    Classified, Located, Move, ShareUrl, SiteShares, auth, classify, encode, strip_hop_by_hop, xml,
};
use crate::id::RelPath;

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

/// What is said of a challenge leaves the nonces in it what they are.
///
/// # Errors
/// Says which they were and are.
pub fn auth(field: &[u8]) -> Result<(), String> {
    let Ok(field) = HeaderValue::from_bytes(field) else { return Ok(()) };
    let mut headers: HeaderMap = [
        (header::WWW_AUTHENTICATE, field.clone()),
        (header::AUTHORIZATION, field.clone()),
        (header::COOKIE, field.clone()),
        (header::SET_COOKIE, field),
    ]
    .into_iter()
    .collect();
    let before = auth::nonces_given(&headers);
    auth::say_stale(StatusCode::UNAUTHORIZED, &mut headers);
    let after = auth::nonces_given(&headers);
    // Whatever they say.
    let _known = (auth::nonce_said(&headers), auth::is_of_connection(&headers));
    let _pairs = (auth::cookies_said(&headers).count(), auth::cookies_given(&headers).count());
    if before == after { Ok(()) } else { Err(format!("{before:?} became {after:?}")) }
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

/// Tags are read as they are written, and nothing that a request says of others is taken for a word about the
/// file that is there.
///
/// # Errors
/// Says what does not hold. Fields that HTTP does not allow hold.
pub fn tags(fields: [&[u8]; 3], file: &Current) -> Result<(), String> {
    let names = [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_RANGE];
    let mut asked = HeaderMap::new();
    for (name, value) in names.iter().zip(fields) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            asked.insert(name, value);
        }
    }
    for written in fields.iter().flat_map(|field| etag::list(field)).flatten() {
        let text = [if written.weak { &b"W/\""[..] } else { b"\"" }, written.opaque, b"\""].concat();
        if EntityTag::parse(&text) != Some(written) {
            return Err(format!("{written:?} is read as {:?}", EntityTag::parse(&text)));
        }
        if let Some((tag, None)) = written.ours()
            && tag.field().as_bytes() != text.strip_prefix(b"W/").unwrap_or(&text)
        {
            return Err(format!("{written:?} is {:?}", tag.field()));
        }
    }
    let mut sent = asked.clone();
    let fitted = condition::fit(&mut sent, Some(file), false);
    let judged = condition::judge(&asked, true, Some(file));
    let named = |name: &HeaderName| {
        let wanted = file.tag.map(|tag| format!("\"{tag}")).unwrap_or("no tag".into());
        let field = asked.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
        field.windows(wanted.len()).any(|part| part == wanted.as_bytes())
    };
    let any =
        |name: &HeaderName| asked.get(name).is_some_and(|field| field.as_bytes().trim_ascii() == b"*");
    let [of_match, of_none, of_range] = names;
    if let Ok(fitted) = &fitted {
        let said = [fitted.required, fitted.matched.is_some(), fitted.ranged];
        let named = [named(&of_match), named(&of_none), named(&of_range)];
        if said.iter().zip(named).any(|(said, named)| *said && !named) {
            return Err(format!("{fitted:?} of {asked:?}"));
        }
        // What it sends is sent on as it is.
        let mut again = sent.clone();
        if condition::fit(&mut again, Some(file), true).is_ok_and(|it| it.required || it.ranged) {
            return Err(format!("{asked:?} became {sent:?}"));
        }
    }
    let holds = judged == Verdict::Holds;
    if holds && asked.contains_key(&of_match) && !any(&of_match) && !named(&of_match) {
        return Err(format!("{asked:?} holds"));
    }
    match judged == Verdict::Fails
        && !asked.contains_key(&of_match)
        && !any(&of_none)
        && !named(&of_none)
    {
        true => Err(format!("{asked:?} fails")),
        false => Ok(()),
    }
}

/// What an If field says is sent on, whatever the URLs there are, and is read there as it was here.
///
/// # Errors
/// Says what does not hold. A field that is refused holds.
pub fn if_field(field: &[u8]) -> Result<(), String> {
    let sites = ["/eng", "/else/where"].map(|prefix| {
        let url = "eng".parse().ok().and_then(|share| ShareUrl::new(share, prefix).ok());
        SiteShares::new(url.into_iter().collect())
    });
    let read = |field: &[u8], shares: &SiteShares, host: &str| {
        let request = Request::builder().method("PUT").uri(format!("{}/f", shares.url(0).encoded()));
        let built = request.header("host", host).header("if", field).body(());
        let classified = classify(&built.ok()?.into_parts().0, shares).ok()?;
        classified.place?.conditions
    };
    let [here, there] = &sites;
    let Some(said) = read(field, here, "files") else { return Ok(()) };
    let url = |path: &RelPath, slash| format!("http://other:81{}", encode("/else/where", path, slash));
    let sent = said.write(url);
    match read(sent.as_bytes(), there, "other:81") {
        Some(again) if again == said => Ok(()),
        again => Err(format!("{said:?} is sent as {sent} and read as {again:?}")),
    }
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

/// Any body is read or refused, and an owner that is told with a lock is one element, or none, of XML that any
/// reader takes, wherever it stands.
///
/// # Errors
/// Says what does not hold.
pub fn bodies(body: &[u8]) -> Result<(), String> {
    let _read = xml::propfind(body);
    if let Some(update) = xml::propertyupdate(body) {
        values(&update)?;
    }
    if let Some(dead) = xml::Dead::read(body) {
        stands(&dead)?;
    }
    let Ok(info) = xml::lockinfo(body) else { return Ok(()) };
    let told = format!("<D:activelock xmlns:D=\"DAV:\">{}</D:activelock>", info.owner);
    let (mut depth, mut elements) = (0usize, 0usize);
    for event in EventReader::from_str(&told) {
        match event.map_err(|error| format!("{told:?}: {error}"))? {
            XmlEvent::StartElement { name, namespace, .. } => {
                let OwnedName { local_name, namespace: own, .. } = name;
                let reserved =
                    namespace.0.values().filter(|name| name.starts_with("http://www.w3.org/"));
                // Those of `xml` and `xmlns` are always there.
                if reserved.count() > 2 {
                    return Err(format!("{told:?} declares what is reserved"));
                }
                elements += usize::from(depth == 1);
                if depth == 1 && (own.as_deref(), local_name.as_str()) != (Some(xml::DAV), "owner") {
                    return Err(format!("{told:?} has {own:?} {local_name} beside an owner"));
                }
                depth += 1;
            }
            XmlEvent::EndElement { .. } => depth -= 1,
            XmlEvent::Characters(text) if depth == 1 => {
                return Err(format!("{told:?} has {text:?} beside an owner"));
            }
            _ => {}
        }
    }
    match elements <= 1 {
        true => Ok(()),
        false => Err(format!("{told:?} has {elements} owners")),
    }
}

/// Each value that is set is one element of that name wherever it is put, and is kept as it is.
fn values(update: &xml::Update) -> Result<(), String> {
    for step in &update.0 {
        let xml::Step::Set(property, Some(element)) = step else { continue };
        let mut dead = xml::Dead::default();
        let alone =
            dead.change(&xml::Update(vec![xml::Step::Set(property.clone(), Some(element.clone()))]));
        // It may be too long with what is around it.
        if alone.is_ok() {
            stands(&dead)?;
        }
    }
    Ok(())
}

fn stands(dead: &xml::Dead) -> Result<(), String> {
    let Some(written) = dead.write() else { return Ok(()) };
    let again = xml::Dead::read(written.as_bytes());
    if again.as_ref() != Some(dead) {
        return Err(format!("{written:?} is read as {again:?}"));
    }
    let elements: String = dead.iter().map(|(_, element)| element).collect();
    let mut names = dead.iter().map(|(property, _)| property);
    let told = format!("<D:prop xmlns:D=\"DAV:\" xmlns=\"urn:around\">{elements}</D:prop>");
    let mut depth = 0usize;
    for event in EventReader::from_str(&told) {
        match event.map_err(|error| format!("{told:?}: {error}"))? {
            XmlEvent::StartElement { name, .. } => {
                if depth == 1 {
                    let OwnedName { local_name: name, namespace, .. } = name;
                    let own = xml::Property { name, namespace: namespace.unwrap_or_default() };
                    if names.next() != Some(&own) {
                        return Err(format!("{told:?} has {own:?} where it should not"));
                    }
                }
                depth += 1;
            }
            XmlEvent::EndElement { .. } => depth -= 1,
            XmlEvent::Characters(text) if depth == 1 => {
                return Err(format!("{told:?} has {text:?} beside its properties"));
            }
            _ => {}
        }
    }
    match names.next() {
        None => Ok(()),
        Some(name) => Err(format!("{told:?} lacks {name:?}")),
    }
}

fn filtered(body: &[u8], cut: usize, moved: Option<&Move>) -> Option<Vec<u8>> {
    let mut filter = Multistatus::new(moved.cloned(), Some(Tagger::ours()));
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
