//! The properties that clients make up, "dead" ones (RFC 4918 section 4): what a PROPPATCH wants of them, and how those
//! of one object are written down. A value is any XML, and is kept so that it may stand anywhere: every element says its
//! namespace where it is another than around it, and a language that was said further out is said with the property.
//! Prefixes, comments and processing instructions are not kept.

use std::fmt::Write;

use quick_xml::XmlVersion;
use quick_xml::escape::escape;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};
use quick_xml::reader::NsReader;

use super::{
    DAV, DEPTH_MAX, NAMED_MAX, Named, OF_THE_DISK, Property, XML, add_reference, add_text, is_char,
    is_name, namespace_of, of_windows, property,
};

/// Most dead properties of one object.
pub const COUNT_MAX: usize = 128;
/// Most bytes of them together, as they are written down. Linux has 64 KiB for one attribute.
pub const BYTES_MAX: usize = 32 << 10;
/// Most changes that one request makes, and most bytes of all its values as they are kept: a name of one letter may
/// stand for a long namespace.
const STEPS_MAX: usize = 2 * NAMED_MAX;
const VALUES_MAX: usize = 4 * BYTES_MAX;

const BEGIN: &str = "<prop xmlns=\"DAV:\">";
const END: &str = "</prop>";

/// What a PROPPATCH wants changed (RFC 4918 section 14.19), in its order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Update(pub Vec<Step>);

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// With the property's element; nothing if that is longer than all may be together.
    Set(Property, Option<String>),
    Remove(Property),
}

impl Step {
    pub fn property(&self) -> &Property {
        match self {
            Self::Set(property, _) | Self::Remove(property) => property,
        }
    }
}

impl Update {
    /// The properties that `which` is so of, each once.
    pub fn named(&self, which: impl Fn(&Step) -> bool) -> Vec<&Property> {
        let mut named: Vec<&Property> = Vec::new();
        for step in self.0.iter().filter(|step| which(step)) {
            if !named.contains(&step.property()) {
                named.push(step.property());
            }
        }
        named
    }

    /// Where nothing is kept: what is refused, and what is granted all the same, for without a yes Windows takes the
    /// upload of a file for failed.
    pub fn unkept(&self) -> (Vec<&Property>, Vec<&Property>) {
        let is_granted = |step: &Step| matches!(step, Step::Set(property, _) if of_windows(property));
        let refused = self.named(|step| !is_granted(step));
        let mut granted = self.named(is_granted);
        granted.retain(|property| !refused.contains(property));
        (refused, granted)
    }
}

/// Reads a PROPPATCH's body; `None` is 400.
pub fn propertyupdate(xml: &[u8]) -> Option<Update> {
    let (mut section, mut within) = (String::new(), false);
    let (mut steps, mut named, mut room) = (Vec::new(), Named::default(), VALUES_MAX);
    read(xml, 3, |part| {
        match part {
            Part::Around(0, element) => return element.is("propertyupdate").then_some(()),
            Part::Around(1, Property { namespace, name }) => {
                section = if namespace == DAV { name } else { String::new() };
                within = false;
            }
            Part::Around(_, element) => {
                within = element.is("prop") && matches!(section.as_str(), "set" | "remove");
            }
            Part::Property(property, value) if within => {
                named.add(property.clone())?;
                steps.push(match section.as_str() {
                    "set" => {
                        let value = value.filter(|value| value.len() <= room);
                        room -= value.as_ref().map_or(0, String::len);
                        Step::Set(property, value)
                    }
                    _ => Step::Remove(property),
                });
            }
            Part::Property(..) => {}
        }
        (steps.len() <= STEPS_MAX).then_some(())
    })?;
    Some(Update(steps))
}

/// Whether a property says what is so of an object, and no client sets it.
pub fn is_live(property: &Property) -> bool {
    let Property { namespace, name } = property;
    OF_THE_DISK.contains(&(namespace.as_str(), name.as_str()))
        || property.is("lockdiscovery")
        || property.is("supportedlock")
}

/// The dead properties of one object, each with its element.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dead(Vec<(Property, String)>);

/// Why an object cannot have them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("one object may have {COUNT_MAX} properties that clients make up; remove some first")]
    Many,
    #[error("the properties that clients make up of one object may have {BYTES_MAX} bytes together")]
    Long,
}

impl Dead {
    /// Reads what [`Self::write`] wrote, or somebody else: `None` for what it would not write.
    pub fn read(xml: &[u8]) -> Option<Self> {
        let mut dead = Self::default();
        read(xml, 1, |part| {
            match part {
                Part::Around(_, element) => return element.is("prop").then_some(()),
                Part::Property(property, value) => dead.set(property, value?),
            }
            (dead.0.len() <= COUNT_MAX).then_some(())
        })?;
        Some(dead)
    }

    /// Nothing if there are none.
    pub fn write(&self) -> Option<String> {
        let elements = self.0.iter().map(|(_, element)| element.as_str());
        (!self.0.is_empty()).then(|| [BEGIN].into_iter().chain(elements).chain([END]).collect())
    }

    /// The element of one.
    pub fn get(&self, property: &Property) -> Option<&str> {
        self.iter().find(|(known, _)| *known == property).map(|(_, element)| element)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Property, &str)> {
        self.0.iter().map(|(property, element)| (property, element.as_str()))
    }

    /// Carries out an update, all of it or nothing. To remove what is not there is no error.
    pub fn change(&mut self, update: &Update) -> Result<(), Full> {
        let mut dead = self.clone();
        for step in &update.0 {
            match step {
                Step::Set(property, Some(element)) => dead.set(property.clone(), element.clone()),
                Step::Set(_, None) => return Err(Full::Long),
                Step::Remove(property) => dead.0.retain(|(known, _)| known != property),
            }
        }
        if dead.0.len() > COUNT_MAX {
            return Err(Full::Many);
        }
        if dead.write().is_some_and(|written| written.len() > BYTES_MAX) {
            return Err(Full::Long);
        }
        *self = dead;
        Ok(())
    }

    fn set(&mut self, property: Property, element: String) {
        match self.0.iter_mut().find(|(known, _)| *known == property) {
            Some((_, known)) => *known = element,
            None => self.0.push((property, element)),
        }
    }
}

/// What a body is read as.
enum Part {
    /// An element around the properties, with the count of those around it.
    Around(usize, Property),
    /// A property, and its element unless it is too long.
    Property(Property, Option<String>),
}

/// Hands out the elements around the properties, which stand in `around` of them, as they begin, and each property as
/// it has ended. `None` as in [`super::read`].
fn read(xml: &[u8], around: usize, mut each: impl FnMut(Part) -> Option<()>) -> Option<()> {
    let mut reader = NsReader::from_str(std::str::from_utf8(xml).ok()?);
    let (mut depth, mut rooted) = (0usize, false);
    let mut languages: Vec<Option<String>> = Vec::new();
    let mut property_of: Option<Property> = None;
    let mut value = Value::default();
    loop {
        let event = reader.read_event().ok()?;
        let (start, open) = match &event {
            Event::Start(start) => (start, 1),
            Event::Empty(start) => (start, 0),
            Event::End(end) => {
                depth = depth.checked_sub(1)?;
                if depth >= around {
                    value.close(end.local_name().as_ref());
                }
                if depth == around {
                    each(Part::Property(property_of.take()?, value.take()))?;
                }
                continue;
            }
            Event::Text(text) if depth > around => {
                value.text(|out| add_text(out, text))?;
                continue;
            }
            Event::CData(text) if depth > around => {
                value.text(|out| add_text(out, text))?;
                continue;
            }
            Event::GeneralRef(name) if depth > around => {
                value.text(|out| add_reference(out, name))?;
                continue;
            }
            Event::DocType(_) => return None,
            Event::Eof => return (depth == 0 && rooted).then_some(()),
            _ => continue,
        };
        if depth == DEPTH_MAX || depth == 0 && rooted {
            return None;
        }
        rooted = true;
        let (namespace, _) = reader.resolver().resolve_element(start.name());
        let element = property(&namespace, start)?;
        let mut attributes = attributes(&reader, start)?;
        if depth < around {
            languages.truncate(depth);
            let said = attributes.into_iter().find(Attribute::is_language);
            languages.push(said.map(|said| said.value).or_else(|| languages.last().cloned().flatten()));
            each(Part::Around(depth, element))?;
        } else {
            if depth == around {
                inherit(&mut attributes, languages.last().cloned().flatten());
                property_of = Some(element.clone());
            }
            value.open(&element, &attributes, open == 0);
            if depth == around && open == 0 {
                each(Part::Property(property_of.take()?, value.take()))?;
            }
        }
        depth += open;
    }
}

/// A property has the language that is said around it, unless it says one itself (RFC 4918 section 4.3).
fn inherit(attributes: &mut Vec<Attribute>, language: Option<String>) {
    let Some(value) = language.filter(|language| !language.is_empty()) else { return };
    if !attributes.iter().any(Attribute::is_language) {
        attributes.push(Attribute { namespace: XML.to_owned(), name: "lang".to_owned(), value });
    }
}

/// An attribute that is no declaration, unescaped.
#[derive(PartialEq, Eq)]
struct Attribute {
    /// Empty for most.
    namespace: String,
    name: String,
    value: String,
}

impl Attribute {
    fn is_language(&self) -> bool {
        self.namespace == XML && self.name == "lang"
    }
}

fn attributes(reader: &NsReader<&[u8]>, start: &BytesStart<'_>) -> Option<Vec<Attribute>> {
    let mut attributes: Vec<Attribute> = Vec::new();
    for attribute in start.attributes() {
        let attribute = attribute.ok()?;
        if attribute.key.as_namespace_binding().is_some() {
            continue;
        }
        let (namespace, name) = reader.resolver().resolve_attribute(attribute.key);
        let namespace = match &namespace {
            ResolveResult::Bound(Namespace(XML)) => XML.to_owned(),
            other => namespace_of(other)?,
        };
        let name: &str = name.as_ref();
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).ok()?.into_owned();
        // Two prefixes may stand for one namespace.
        let twice = |known: &Attribute| known.namespace == namespace && known.name == name;
        if !is_name(name) || !value.chars().all(is_char) || attributes.iter().any(twice) {
            return None;
        }
        attributes.push(Attribute { namespace, name: name.to_owned(), value });
    }
    Some(attributes)
}

/// An element being written.
#[derive(Default)]
struct Value {
    /// The namespaces of those that are open.
    spaces: Vec<String>,
    out: String,
    too_long: bool,
}

impl Value {
    fn open(&mut self, element: &Property, attributes: &[Attribute], empty: bool) {
        let Property { namespace, name } = element;
        if !self.too_long {
            let out = &mut self.out;
            // Writing to a string never fails.
            let _ = write!(out, "<{name}");
            if self.spaces.last() != Some(namespace) {
                let _ = write!(out, " xmlns=\"{}\"", escape(namespace.as_str()));
            }
            for (number, attribute) in attributes.iter().enumerate() {
                write_attribute(out, number, attribute);
            }
            out.push_str(if empty { "/>" } else { ">" });
        }
        if !empty {
            self.spaces.push(namespace.clone());
        }
        self.measure();
    }

    fn close(&mut self, name: &str) {
        self.spaces.pop();
        if !self.too_long {
            let _ = write!(self.out, "</{name}>");
        }
        self.measure();
    }

    fn text(&mut self, add: impl FnOnce(&mut String) -> Option<()>) -> Option<()> {
        add(&mut self.out)?;
        self.measure();
        Some(())
    }

    /// What is refused for its length is not collected.
    fn measure(&mut self) {
        self.too_long |= self.out.len() > BYTES_MAX;
        if self.too_long {
            self.out = String::new();
        }
    }

    fn take(&mut self) -> Option<String> {
        let Self { out, too_long, .. } = std::mem::take(self);
        (!too_long).then_some(out)
    }
}

/// `number`: among those of its element.
fn write_attribute(out: &mut String, number: usize, attribute: &Attribute) {
    let Attribute { namespace, name, value } = attribute;
    let _ = match namespace.as_str() {
        "" => write!(out, " {name}=\""),
        XML => write!(out, " xml:{name}=\""),
        other => write!(out, " xmlns:a{number}=\"{}\" a{number}:{name}=\"", escape(other)),
    };
    for char in value.chars() {
        match char {
            // They would be read as blanks.
            '\t' | '\n' | '\r' => {
                let _ = write!(out, "&#{};", u32::from(char));
            }
            '"' => out.push_str("&quot;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            char => out.push(char),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(namespace: &str, name: &str) -> Property {
        Property { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn update(inside: &str) -> Option<Update> {
        let xml = format!(
            "<?xml version='1.0'?><D:propertyupdate xmlns:D='DAV:' xmlns:w='urn:schemas-microsoft-com:' \
             xml:lang='en'>{inside}</D:propertyupdate>"
        );
        propertyupdate(xml.as_bytes())
    }

    fn set(property: Property, element: &str) -> Step {
        Step::Set(property, Some(element.to_owned()))
    }

    #[test]
    fn what_is_to_be_changed() {
        let got = update(
            "<D:set><D:prop><x xmlns=\"urn:x\"><D:y><z/></D:y>text</x><D:getetag/></D:prop></D:set>\
             <e><D:prop><no/></D:prop></e>\
             <D:remove><e><no/></e><D:prop xml:lang='ja'><y>z</y><D:getetag/></D:prop></D:remove>\
             <D:set xml:lang='fr'><D:prop><y xml:lang='de' b='&lt;&#10;\t' w:c='\"'/></D:prop></D:set>",
        );
        let want = Update(vec![
            set(
                of("urn:x", "x"),
                "<x xmlns=\"urn:x\" xml:lang=\"en\"><y xmlns=\"DAV:\"><z xmlns=\"urn:x\"/></y>text</x>",
            ),
            set(of(DAV, "getetag"), "<getetag xmlns=\"DAV:\" xml:lang=\"en\"/>"),
            Step::Remove(of("", "y")),
            Step::Remove(of(DAV, "getetag")),
            set(
                of("", "y"),
                "<y xmlns=\"\" xml:lang=\"de\" b=\"&lt;&#10; \" xmlns:a2=\"urn:schemas-microsoft-com:\" \
                 a2:c=\"&quot;\"/>",
            ),
        ]);
        assert_eq!(got, Some(want));
        assert_eq!(update("<D:set/>"), Some(Update::default()));
        // The update, the set, the prop, and what is below.
        let deep = |levels| {
            let value = "<a>".repeat(levels) + &"</a>".repeat(levels);
            update(&format!("<D:set><D:prop>{value}</D:prop></D:set>"))
        };
        assert_eq!(deep(DEPTH_MAX - 3).unwrap().0.len(), 1);
        assert_eq!(deep(DEPTH_MAX - 2), None);
        let many = |count: usize| format!("<D:set><D:prop>{}</D:prop></D:set>", "<a/>".repeat(count));
        assert_eq!(update(&many(STEPS_MAX)).unwrap().0.len(), STEPS_MAX);
        assert_eq!(update(&many(STEPS_MAX + 1)), None);
        for xml in ["", "<x/>", "<propertyupdate/>", "<propertyupdate xmlns='DAV:'>", "<!DOCTYPE x><x/>"]
        {
            assert_eq!(propertyupdate(xml.as_bytes()), None, "{xml}");
        }
        for value in [
            "&none;",
            "&#1;",
            "\u{1}",
            "<y:z/>",
            "<a b='&none;'/>",
            "<a b='&#1;'/>",
            "<a y:b=''/>",
            "<a b='' b=''/>",
            "<a xmlns:p='urn:p' xmlns:q='urn:p' p:b='' q:b=''/>",
        ] {
            let xml = format!("<D:set><D:prop><x>{value}</x></D:prop></D:set>");
            assert_eq!(update(&xml), None, "{value}");
        }
    }

    #[test]
    fn where_nothing_is_kept_windows_is_told_yes() {
        let windows = of("urn:schemas-microsoft-com:", "Win32FileAttributes");
        let set = "<D:set><D:prop><w:Win32FileAttributes>20</w:Win32FileAttributes></D:prop></D:set>";
        let remove = "<D:remove><D:prop><w:Win32FileAttributes/></D:prop></D:remove>";
        assert_eq!(update(set).unwrap().unkept(), (vec![], vec![&windows]));
        assert_eq!(update(&format!("{set}{remove}")).unwrap().unkept(), (vec![&windows], vec![]));
        let other = "<D:set><D:prop><x/></D:prop></D:set>";
        let both = update(&format!("{set}{other}{other}")).unwrap();
        assert_eq!(both.unkept(), (vec![&of("", "x")], vec![&windows]));
    }

    /// In the order of the request (RFC 4918 section 9.2), and all or nothing.
    #[test]
    fn an_object_has_what_was_set_last() {
        let mut dead = Dead::default();
        let mut change = |inside: &str| {
            let said = dead.change(&update(inside).unwrap());
            let written = dead.write();
            if let Some(written) = &written {
                assert_eq!(Dead::read(written.as_bytes()).as_ref(), Some(&dead), "{written}");
            }
            (said, written)
        };
        let one = |name: &str, value: &str| {
            format!("<D:set><D:prop><{name} xmlns='urn:x'>{value}</{name}></D:prop></D:set>")
        };
        let gone = |name: &str| format!("<D:remove><D:prop><{name} xmlns='urn:x'/></D:prop></D:remove>");
        let kept = |inside: &str| Some(format!("<prop xmlns=\"DAV:\">{inside}</prop>"));
        let red = "<a xmlns=\"urn:x\" xml:lang=\"en\">red</a>";
        assert_eq!(change(&one("a", "red")), (Ok(()), kept(red)));
        let long = "x".repeat(BYTES_MAX);
        assert_eq!(change(&(gone("a") + &one("b", &long))), (Err(Full::Long), kept(red)));
        let half = "x".repeat(BYTES_MAX / 2);
        assert_eq!(change(&(one("b", &half) + &one("c", &half))), (Err(Full::Long), kept(red)));
        let many: String = (0..COUNT_MAX).map(|number| one(&format!("x{number}"), "")).collect();
        assert_eq!(change(&many), (Err(Full::Many), kept(red)));
        assert_eq!(change(&(one("a", "1") + &gone("a") + &gone("none"))), (Ok(()), None));
        assert_eq!(change(&(gone("a") + &one("a", "red"))), (Ok(()), kept(red)));
    }

    #[test]
    fn what_others_wrote_down_is_read_as_strictly() {
        for xml in [
            "",
            "text",
            "<prop/>",
            "<prop xmlns='DAV:'>",
            "<prop xmlns='DAV:'/><prop xmlns='DAV:'/>",
            "<prop xmlns='DAV:'><a><</a></prop>",
            "<!DOCTYPE x><prop xmlns='DAV:'/>",
        ] {
            assert_eq!(Dead::read(xml.as_bytes()), None, "{xml}");
        }
        let long = format!("<prop xmlns='DAV:'><a>{}</a></prop>", "x".repeat(BYTES_MAX));
        assert_eq!(Dead::read(long.as_bytes()), None);
        let many: String = (0..=COUNT_MAX).map(|number| format!("<a{number}/>")).collect();
        assert_eq!(Dead::read(format!("<prop xmlns='DAV:'>{many}</prop>").as_bytes()), None);
        assert_eq!(Dead::read(b"<prop xmlns='DAV:'/>"), Some(Dead::default()));
    }
}
