//! The bodies of PROPFIND, PROPPATCH and LOCK (RFC 4918 section 14): read element by element and never as a tree,
//! so that no nesting is too deep for a stack, and within limits on all that is repeated in the answer.

mod dead;
mod lockinfo;

use std::fmt::Write;

use quick_xml::escape::{escape, unescape};
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};
use quick_xml::reader::NsReader;

pub use self::dead::{Dead, Full, Step, Update, is_live, propertyupdate};
pub use self::lockinfo::{BadLock, LockInfo, lockinfo};

/// Longest request body that is read. The longest real ones name some thirty properties in 2 KiB.
pub const BODY_MAX: usize = 64 << 10;
/// Deepest nesting of elements; properties stand in the third or fourth.
const DEPTH_MAX: usize = 32;
/// Most properties that one request may name: each is repeated for each thing listed.
const NAMED_MAX: usize = 128;
/// Most bytes of one namespace or name, as it is written. The longest real ones have some 60.
const NAME_MAX: usize = 1 << 10;
/// Most bytes of all of them together. Escaped they are up to six times as many, 48 KiB for each thing
/// listed.
const NAMES_MAX: usize = 8 << 10;

pub const DAV: &str = "DAV:";
pub const APACHE: &str = "http://apache.org/dav/props/";
const MICROSOFT: &str = "urn:schemas-microsoft-com:";

/// The properties of RFC 4918 section 15 that the embedded server has, and most things there have each. (Of no
/// thing is it known when it was made.)
pub const USUAL: [&str; 7] = [
    "getcontentlength",
    "getcontenttype",
    "getetag",
    "getlastmodified",
    "lockdiscovery",
    "resourcetype",
    "supportedlock",
];

/// A property's name, unescaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    pub namespace: String,
    pub name: String,
}

impl Property {
    pub fn is(&self, name: &str) -> bool {
        self.namespace == DAV && self.name == name
    }

    /// Writes its element; `value` is XML.
    pub fn write(&self, out: &mut String, value: &str) {
        let Self { namespace, name } = self;
        if namespace == DAV {
            return element(out, name, value);
        }
        let namespace = escape(namespace.as_str());
        // Writing to a string never fails.
        let _ = match value {
            "" => write!(out, "<{name} xmlns=\"{namespace}\"/>"),
            value => write!(out, "<{name} xmlns=\"{namespace}\">{value}</{name}>"),
        };
    }
}

/// Writes the element of a property of `DAV:`.
pub fn element(out: &mut String, name: &str, value: &str) {
    let _ = match value {
        "" => write!(out, "<D:{name}/>"),
        value => write!(out, "<D:{name}>{value}</D:{name}>"),
    };
}

/// Writes what became of `properties`, which are XML.
pub fn propstat(out: &mut String, properties: &str, status: &str) {
    let _ = write!(
        out,
        "<D:propstat><D:prop>{properties}</D:prop><D:status>HTTP/1.1 {status}</D:status></D:propstat>"
    );
}

/// As [`propstat`], with why it was not done: a precondition of RFC 4918 section 16, or words, or nothing.
pub fn refused(out: &mut String, properties: &str, status: &str, condition: &str, why: &str) {
    let _ =
        write!(out, "<D:propstat><D:prop>{properties}</D:prop><D:status>HTTP/1.1 {status}</D:status>");
    if !condition.is_empty() {
        let _ = write!(out, "<D:error><D:{condition}/></D:error>");
    }
    if !why.is_empty() {
        element(out, "responsedescription", &escape(why));
    }
    out.push_str("</D:propstat>");
}

/// The properties that a request names, each once.
#[derive(Debug, Default, PartialEq, Eq)]
struct Named {
    list: Vec<Property>,
    bytes: usize,
}

impl Named {
    /// `None`: there are too many, or their names are too long together.
    fn add(&mut self, property: Property) -> Option<()> {
        if self.list.contains(&property) {
            return Some(());
        }
        self.bytes += property.namespace.len() + property.name.len();
        self.list.push(property);
        (self.list.len() <= NAMED_MAX && self.bytes <= NAMES_MAX).then_some(())
    }
}

/// What a PROPFIND asks for (RFC 4918 section 14.20).
#[derive(Debug, PartialEq, Eq)]
pub enum Ask {
    /// All that are there, and those named beside the usual ones.
    All(Vec<Property>),
    Names,
    Named(Vec<Property>),
}

impl Ask {
    /// Names nothing twice: what is usual is there without being named.
    pub fn without_usual(mut self) -> Self {
        if let Self::All(named) = &mut self {
            named.retain(|property| !USUAL.iter().any(|usual| property.is(usual)));
        }
        self
    }
}

/// Reads a PROPFIND's body; `None` is 400. An empty one asks for all.
pub fn propfind(xml: &[u8]) -> Option<Ask> {
    if xml.trim_ascii().is_empty() {
        return Some(Ask::All(Vec::new()));
    }
    let (mut section, mut asked, mut named) = (String::new(), None, Named::default());
    read(xml, |depth, property| {
        match depth {
            0 => return property.is("propfind").then_some(()),
            1 => {
                section = if property.namespace == DAV { property.name } else { String::new() };
                // The three exclude each other.
                if matches!(section.as_str(), "prop" | "allprop" | "propname")
                    && asked.replace(section.clone()).is_some()
                {
                    return None;
                }
            }
            2 if section == "prop" || section == "include" => named.add(property)?,
            _ => {}
        }
        Some(())
    })?;
    match asked?.as_str() {
        "prop" => Some(Ask::Named(named.list)),
        "propname" => Some(Ask::Names),
        _ => Some(Ask::All(named.list)),
    }
}

/// Those that a server says of what is on its disk: a copy's server says the same.
const OF_THE_DISK: [(&str, &str); 9] = [
    (APACHE, "executable"),
    (DAV, "creationdate"),
    (DAV, "getcontentlength"),
    (DAV, "getcontenttype"),
    (DAV, "getetag"),
    (DAV, "getlastmodified"),
    (DAV, "quota-available-bytes"),
    (DAV, "quota-used-bytes"),
    (DAV, "resourcetype"),
];

/// Whether a PROPFIND asks for what only the primary's server can know: locks by name, and in a share where
/// clients set `properties` of their own whatever may be one. What cannot be read may ask for anything.
pub fn asks_home(xml: &[u8], properties: bool) -> bool {
    let Some(ask) = propfind(xml) else { return true };
    let lock = |property: &Property| property.is("lockdiscovery") || property.is("supportedlock");
    let of_the_disk = |property: &Property| {
        OF_THE_DISK.contains(&(property.namespace.as_str(), property.name.as_str()))
    };
    match ask {
        Ask::Named(named) if properties => !named.iter().all(of_the_disk),
        Ask::All(named) | Ask::Named(named) if !properties => named.iter().any(lock),
        Ask::All(_) | Ask::Named(_) | Ask::Names => properties,
    }
}

fn of_windows(property: &Property) -> bool {
    let known =
        ["Win32CreationTime", "Win32FileAttributes", "Win32LastAccessTime", "Win32LastModifiedTime"];
    property.namespace == MICROSOFT && known.contains(&property.name.as_str())
}

/// Hands out each element with the count of those around it, as it begins. `None`: it is no XML of one root,
/// is nested too deep, holds a name that cannot be sent back, or `each` gave up.
fn read(xml: &[u8], mut each: impl FnMut(usize, Property) -> Option<()>) -> Option<()> {
    let mut reader = NsReader::from_str(std::str::from_utf8(xml).ok()?);
    let (mut depth, mut rooted) = (0usize, false);
    loop {
        let (namespace, event) = reader.read_resolved_event().ok()?;
        let (start, open) = match &event {
            Event::Start(start) => (start, 1),
            Event::Empty(start) => (start, 0),
            Event::End(_) => {
                depth = depth.checked_sub(1)?;
                continue;
            }
            // Entities of a document type are how XML is made to explode.
            Event::DocType(_) => return None,
            Event::Eof => return (depth == 0 && rooted).then_some(()),
            _ => continue,
        };
        if depth == DEPTH_MAX || depth == 0 && rooted {
            return None;
        }
        rooted = true;
        each(depth, property(&namespace, start)?)?;
        depth += open;
    }
}

fn property(namespace: &ResolveResult<'_>, start: &BytesStart<'_>) -> Option<Property> {
    let local = start.local_name();
    let name: &str = local.as_ref();
    let namespace = namespace_of(namespace)?;
    // It is sent back as it came, so it must be a name.
    is_name(name).then(|| Property { namespace, name: name.to_owned() })
}

/// A namespace, empty for none, that can be sent back as that of an element or an attribute.
fn namespace_of(namespace: &ResolveResult<'_>) -> Option<String> {
    let namespace = match namespace {
        // A prefix must stand for something (XML Names section 5).
        ResolveResult::Bound(Namespace("")) | ResolveResult::Unknown(_) => return None,
        ResolveResult::Bound(Namespace(raw)) if raw.len() > NAME_MAX => return None,
        ResolveResult::Bound(Namespace(raw)) => unescape(raw).ok()?.into_owned(),
        ResolveResult::Unbound => String::new(),
    };
    // It would come as another one: whitespace in an attribute becomes blanks, and two names are no default for
    // anybody (XML Names section 3).
    let stays = |char: char| is_char(char) && !char.is_control();
    let fits = namespace.chars().all(stays) && !RESERVED.contains(&namespace.as_str());
    fits.then_some(namespace)
}

fn is_name(name: &str) -> bool {
    name.len() <= NAME_MAX && name.starts_with(begins_name) && name.chars().all(is_of_name)
}

/// Escaped anew: a `]]>` may come together from pieces that were none. `None`: no XML may hold it.
fn add_text(out: &mut String, text: &str) -> Option<()> {
    text.chars().all(is_char).then(|| out.push_str(&escape(text)))
}

/// A reference of XML itself, or to a character that may stand there.
fn add_reference(out: &mut String, name: &str) -> Option<()> {
    let reference = format!("&{name};");
    let said = unescape(&reference).ok()?;
    if !name.starts_with('#') {
        out.push_str(&reference);
        return Some(());
    }
    let char = said.chars().next().filter(|char| is_char(*char))?;
    let _ = write!(out, "&#{};", u32::from(char));
    Some(())
}

/// The namespace of the prefix `xml`.
const XML: &str = "http://www.w3.org/XML/1998/namespace";
const RESERVED: [&str; 2] = [XML, "http://www.w3.org/2000/xmlns/"];

/// `Char` (XML 1.0 section 2.2).
fn is_char(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

/// `NameStartChar` (XML 1.0 section 2.3), without the colon.
fn begins_name(char: char) -> bool {
    matches!(char,
        'A'..='Z' | '_' | 'a'..='z' | '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{2FF}'
        | '\u{370}'..='\u{37D}' | '\u{37F}'..='\u{1FFF}' | '\u{200C}'..='\u{200D}' | '\u{2070}'..='\u{218F}'
        | '\u{2C00}'..='\u{2FEF}' | '\u{3001}'..='\u{D7FF}' | '\u{F900}'..='\u{FDCF}'
        | '\u{FDF0}'..='\u{FFFD}' | '\u{10000}'..='\u{EFFFF}')
}

/// `NameChar`, without the colon.
fn is_of_name(char: char) -> bool {
    begins_name(char)
        || matches!(char, '-' | '.' | '0'..='9' | '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}'..='\u{2040}')
}

#[cfg(test)]
mod tests {
    use super::super::judge;
    use super::*;
    use proptest::prelude::*;

    fn named(names: &[(&str, &str)]) -> Vec<Property> {
        let property = |(namespace, name): &(&str, &str)| Property {
            namespace: (*namespace).into(),
            name: (*name).into(),
        };
        names.iter().map(property).collect()
    }

    #[test]
    fn what_is_asked_for() {
        for (xml, want) in [
            ("", Ask::All(vec![])),
            (" \n", Ask::All(vec![])),
            (r#"<propfind xmlns="DAV:"><allprop/></propfind>"#, Ask::All(vec![])),
            (r#"<propfind xmlns="DAV:"><propname/></propfind>"#, Ask::Names),
            (
                r#"<?xml version="1.0"?><D:propfind xmlns:D="DAV:"><D:prop><D:getetag/><x xmlns="urn:a&amp;b">
                   <y/></x><z/></D:prop></D:propfind>"#,
                Ask::Named(named(&[("DAV:", "getetag"), ("urn:a&b", "x"), ("", "z")])),
            ),
            (
                r#"<D:propfind xmlns:D="DAV:"><D:allprop/><D:include><D:getetag/><D:x/></D:include></D:propfind>"#,
                Ask::All(named(&[("DAV:", "x")])),
            ),
            (
                r#"<D:propfind xmlns:D="DAV:"><D:prop/><e xmlns="urn:e"><f/></e></D:propfind>"#,
                Ask::Named(vec![]),
            ),
        ] {
            assert_eq!(propfind(xml.as_bytes()).map(Ask::without_usual), Some(want), "{xml}");
        }
    }

    #[test]
    fn what_only_the_primary_knows() {
        let of = |inside: &str| format!("<propfind xmlns='DAV:'>{inside}</propfind>");
        for (xml, locks_only, with_properties) in [
            (String::new(), false, true),
            (of("<allprop/>"), false, true),
            (of("<propname/>"), false, true),
            (of("<allprop/><include><lockdiscovery/></include>"), true, true),
            (of("<prop><getetag/><resourcetype/></prop>"), false, false),
            (of("<prop><getetag/><supportedlock/></prop>"), true, true),
            (of("<prop><lockdiscovery/></prop>"), true, true),
            // Apache has no live one of that name.
            (of("<prop><displayname/></prop>"), false, true),
            (of("<prop><getetag xmlns='urn:x'/></prop>"), false, true),
            ("<".into(), true, true),
        ] {
            let got = [false, true].map(|properties| asks_home(xml.as_bytes(), properties));
            assert_eq!(got, [locks_only, with_properties], "{xml}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let propfind_of =
            |inside: &str| format!("<propfind xmlns=\"DAV:\"><prop>{inside}</prop></propfind>");
        let many: String = (0..=NAMED_MAX).map(|number| format!("<x{number}/>")).collect();
        let long = "n".repeat(NAME_MAX + 1);
        let eighth = "n".repeat(NAMES_MAX / 8);
        let sum: String = (0..8).map(|number| format!("<x{number} xmlns='{eighth}'/>")).collect();
        let deep = "<a>".repeat(DEPTH_MAX - 1) + &"</a>".repeat(DEPTH_MAX - 1);
        for inside in [
            many,
            sum,
            format!("<{long}/>"),
            format!("<x xmlns='{long}'/>"),
            // Where nothing is named, too.
            format!("<x><y xmlns='{long}'/></x>"),
            deep,
        ] {
            let xml = propfind_of(&inside);
            assert_eq!(propfind(xml.as_bytes()), None, "{xml}");
        }
        for xml in [
            "<",
            "text",
            "<propfind/>",
            r#"<propfind xmlns="DAV:"/>"#,
            r#"<propfind xmlns="DAV:"><prop/><allprop/></propfind>"#,
            r#"<propfind xmlns="DAV:"><prop></propfind>"#,
            r#"<propfind xmlns="DAV:"><prop>"#,
            r#"<propfind xmlns="DAV:"><prop/></propfind><propfind xmlns="DAV:"><prop/></propfind>"#,
            r#"<prop xmlns="DAV:"><prop/></prop>"#,
            r#"<D:propfind xmlns:D="DAV:"><D:prop><b:x xmlns:b=""/></D:prop></D:propfind>"#,
            r#"<D:propfind xmlns:D="DAV:"><D:prop><b:x/></D:prop></D:propfind>"#,
            r#"<propfind xmlns="DAV:"><prop><a&b/></prop></propfind>"#,
            "<propfind xmlns='DAV:'><prop><a\u{D7}/></prop></propfind>",
            "<propfind xmlns='DAV:'><prop><\u{2028}/></prop></propfind>",
            "<propfind xmlns='DAV:'><prop><x xmlns='a&#9;b'/></prop></propfind>",
            "<propfind xmlns='DAV:'><prop><x xmlns='a&#1;b'/></prop></propfind>",
            "<propfind xmlns='DAV:'><prop><xml:x/></prop></propfind>",
            "<propfind xmlns='DAV:'><prop><x xmlns='http://www.w3.org/2000/xmlns/'/></prop></propfind>",
            r#"<!DOCTYPE x [<!ENTITY a "b">]><propfind xmlns="DAV:"><prop/></propfind>"#,
        ] {
            assert_eq!(propfind(xml.as_bytes()), None, "{xml}");
        }
        assert_eq!(propfind(b"<propfind xmlns=\"DAV:\"><prop>\xff</prop></propfind>"), None);
    }

    #[test]
    fn what_is_named_twice_is_asked_for_once() {
        let xml = format!(
            "<propfind xmlns=\"DAV:\"><prop>{}<y/><x xmlns=\"urn:x\"/></prop></propfind>",
            "<x/>".repeat(NAMED_MAX + 1)
        );
        let want = named(&[("DAV:", "x"), ("DAV:", "y"), ("urn:x", "x")]);
        assert_eq!(propfind(xml.as_bytes()), Some(Ask::Named(want)));
    }

    proptest! {
        #[test]
        fn no_body_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            judge::bodies(&bytes).map_err(TestCaseError::fail)?;
        }

        #[test]
        fn no_xml_is_too_strange(text in r#"(<|>|/|"|=|x|xmlns|DAV:|prop|propfind|propertyupdate|lockinfo|owner|set| |:|&|!|\[|-){0,60}"#) {
            judge::bodies(text.as_bytes()).map_err(TestCaseError::fail)?;
        }

        /// Most of these are values that can be kept.
        #[test]
        fn no_value_is_too_strange(
            outside in r#"( xmlns:[xy]=("urn:[a&#;10]{0,9}"|'[\p{any}]{0,3}')| xml:lang='[ae&]{0,3}'){0,2}"#,
            inside in proptest::collection::vec(
                r#"<[xyD]?:?[ab\u{D7}]( ((xmlns:)?[xyD]|xmlns|xml:lang|x:[bc])="(urn:\PC{0,2}|DAV:|&#(1|9|13|60);|&quot;|\t)?"){0,2}/>|<a>|</a>|<D:b>|</D:b>|\]\]|>|<!-- -->|<!\[CDATA\[(\PC|<|\]|\x01){0,4}\]\]>|&#(0|1|65|xFFFF|13);|&(amp|lt|x);|(\PC|\x01|\r|\n){0,4}|<\?p i\?>"#,
                0..6,
            )
        ) {
            let inside = inside.concat();
            let xml = format!(
                "<D:propertyupdate xmlns:D='DAV:'{outside}><D:set><D:prop>{inside}</D:prop></D:set>\
                 </D:propertyupdate>"
            );
            judge::bodies(xml.as_bytes()).map_err(TestCaseError::fail)?;
            judge::bodies(format!("<D:prop xmlns:D='DAV:'{outside}>{inside}</D:prop>").as_bytes())
                .map_err(TestCaseError::fail)?;
        }

        /// Most of these are owners that can be told.
        #[test]
        fn no_owner_is_too_strange(
            outside in r#"( xmlns:[xy]=("urn:[a&#;10]{0,9}"|'[\p{any}]{0,3}')){0,2}"#,
            inside in proptest::collection::vec(
                r#"<[xyD]?:?[ab\u{D7}\u{2028}]( xmlns(:[xyD])?="(urn:\PC{0,2}|DAV:|http://www.w3.org/XML/1998/namespace|&#(1|9|13|60|xFFFE);)?"){0,2}/>|<D:b>|</D:b>|\]\]|>|<!-- -->|<!\[CDATA\[(\PC|<|\]|\x01){0,4}\]\]>|&#(0|1|x1|65|\+65|xD800|xFFFF|13);|&(amp|lt|x);|(\PC|\x01|\x0b|\r|\n|\u{FFFE}){0,4}|<\?p i\?>"#,
                0..6,
            )
        ) {
            let xml = format!(
                "<D:lockinfo xmlns:D='DAV:'{outside}><D:lockscope><D:shared/></D:lockscope><D:locktype><D:write/>\
                 </D:locktype><D:owner>{}</D:owner></D:lockinfo>",
                inside.concat()
            );
            judge::bodies(xml.as_bytes()).map_err(TestCaseError::fail)?;
        }
    }
}
