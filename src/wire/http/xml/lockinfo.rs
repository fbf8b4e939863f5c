//! What a LOCK wants (RFC 4918 section 14.11), and its owner so that it may stand anywhere.

use std::fmt::Write;

use quick_xml::escape::escape;
use quick_xml::events::Event;
use quick_xml::reader::NsReader;

use super::{DAV, Property, add_reference, add_text, property, read};

/// Most bytes of a lock's owner, which is told with each thing that is locked. The longest real ones, a mail
/// address or the name of a machine and a user, have some 200.
pub const OWNER_MAX: usize = 4 << 10;

/// What a LOCK's body says.
#[derive(Debug, PartialEq, Eq)]
pub struct LockInfo {
    pub shared: bool,
    /// Whom to turn to, as the client has it: an element, or nothing.
    pub owner: String,
}

/// Why there is to be no such lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLock {
    #[error("the body of a LOCK is a lockinfo (RFC 4918 section 14.11)")]
    NoLockInfo,
    #[error("the owner of a lock may have {OWNER_MAX} bytes, namespaces included")]
    LongOwner,
}

/// Reads a LOCK's body.
pub fn lockinfo(xml: &[u8]) -> Result<LockInfo, BadLock> {
    let shared = scope(xml).ok_or(BadLock::NoLockInfo)?;
    let mut owner = Owner::default();
    owner.read(xml).ok_or(BadLock::NoLockInfo)?;
    match owner.out.len() > OWNER_MAX {
        true => Err(BadLock::LongOwner),
        false => Ok(LockInfo { shared, owner: owner.out }),
    }
}

/// Whether a write lock is to be shared; `None` for what is no lockinfo.
fn scope(xml: &[u8]) -> Option<bool> {
    let (mut section, mut shared, mut write) = (String::new(), None, false);
    read(xml, |depth, property| {
        match (depth, section.as_str()) {
            (0, _) => return property.is("lockinfo").then_some(()),
            (1, _) => section = if property.namespace == DAV { property.name } else { String::new() },
            (2, "lockscope") if property.is("exclusive") => shared = Some(false),
            (2, "lockscope") if property.is("shared") => shared = Some(true),
            (2, "locktype") => write |= property.is("write"),
            _ => {}
        }
        Some(())
    })?;
    shared.filter(|_| write)
}

/// The `owner` of a LOCK as it may stand in any XML: every element says its namespace, and nothing is there that
/// XML does not allow. Attributes, comments and processing instructions are left out.
#[derive(Default)]
struct Owner {
    depth: usize,
    within: bool,
    out: String,
}

impl Owner {
    /// `None`: it cannot be told.
    fn read(&mut self, xml: &[u8]) -> Option<()> {
        let mut reader = NsReader::from_str(std::str::from_utf8(xml).ok()?);
        loop {
            let (namespace, event) = reader.read_resolved_event().ok()?;
            match &event {
                Event::Start(start) => self.start(property(&namespace, start)?, false)?,
                Event::Empty(start) => self.start(property(&namespace, start)?, true)?,
                Event::End(end) => {
                    self.depth = self.depth.checked_sub(1)?;
                    if self.within {
                        let name = end.local_name();
                        let name: &str = name.as_ref();
                        let _ = write!(self.out, "</{name}>");
                    }
                    self.within &= self.depth > 1;
                }
                Event::Text(text) if self.within => add_text(&mut self.out, text)?,
                Event::CData(text) if self.within => add_text(&mut self.out, text)?,
                Event::GeneralRef(name) if self.within => add_reference(&mut self.out, name)?,
                Event::DocType(_) => return None,
                Event::Eof => return Some(()),
                _ => {}
            }
            // It is refused for that: what comes after does not matter.
            if self.out.len() > OWNER_MAX {
                return Some(());
            }
        }
    }

    fn start(&mut self, element: Property, empty: bool) -> Option<()> {
        let Property { namespace, name } = element;
        if self.depth == 1 && namespace == DAV && name == "owner" {
            // There is one.
            if !self.out.is_empty() {
                return None;
            }
            self.within = true;
        }
        if self.within {
            let end = if empty { "/" } else { "" };
            let _ = write!(self.out, "<{name} xmlns=\"{}\"{end}>", escape(namespace.as_str()));
        }
        self.depth += usize::from(!empty);
        self.within &= !(empty && self.depth == 1);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_locked() {
        let info = |scope: &str, rest: &str| {
            let xml = format!(
                "<?xml version='1.0'?><D:lockinfo xmlns:D='DAV:' xmlns:x='urn:&quot;x'><D:lockscope><D:{scope}/>\
                 </D:lockscope><D:locktype><D:write/></D:locktype>{rest}</D:lockinfo>"
            );
            lockinfo(xml.as_bytes()).ok().map(|info| (info.shared, info.owner))
        };
        assert_eq!(info("exclusive", ""), Some((false, String::new())));
        let owner =
            "<D:owner a='b'>me &amp; <x:you/><![CDATA[<&>]]><D:href>m<!-- --></D:href>&#65;</D:owner>";
        let want = "<owner xmlns=\"DAV:\">me &amp; <you xmlns=\"urn:&quot;x\"/>&lt;&amp;&gt;\
                    <href xmlns=\"DAV:\">m</href>&#65;</owner>";
        assert_eq!(info("shared", owner), Some((true, want.to_owned())));
        assert_eq!(
            info("shared", "<D:owner/>no<x:owner>no</x:owner>").unwrap().1,
            "<owner xmlns=\"DAV:\"/>"
        );
        let long = format!("<D:owner>{}</D:owner>", "x".repeat(OWNER_MAX));
        for (scope, rest) in [
            ("none", ""),
            ("shared", "<D:owner>&none;</D:owner>"),
            ("shared", "<D:owner><y:z/></D:owner>"),
            ("shared", "<D:owner>"),
            ("shared", &long),
            // What no XML may hold, however it is written, and names that are none.
            ("shared", "<D:owner>\u{1}</D:owner>"),
            ("shared", "<D:owner><![CDATA[\u{FFFE}]]></D:owner>"),
            ("shared", "<D:owner>&#1;</D:owner>"),
            ("shared", "<D:owner>&#xFFFF;</D:owner>"),
            ("shared", "<D:owner><a\u{D7}/></D:owner>"),
            ("shared", "<D:owner><xml:a/></D:owner>"),
            ("shared", "<D:owner/><D:owner/>"),
        ] {
            assert_eq!(info(scope, rest), None, "{scope} {rest}");
        }
        let split = "<D:owner>]]<!-- -->><a xmlns='urn:o'><b/></a></D:owner>";
        let want = "<owner xmlns=\"DAV:\">]]&gt;<a xmlns=\"urn:o\"><b xmlns=\"urn:o\"/></a></owner>";
        assert_eq!(info("shared", split).unwrap().1, want);
        let long = format!(
            "<lockinfo xmlns='DAV:'><lockscope><shared/></lockscope><locktype><write/></locktype>{}</lockinfo>",
            long.replace("D:", "")
        );
        assert_eq!(lockinfo(long.as_bytes()), Err(BadLock::LongOwner));
        for xml in
            ["", "<lockinfo/>", "<lockinfo xmlns='DAV:'><lockscope><shared/></lockscope></lockinfo>"]
        {
            assert_eq!(lockinfo(xml.as_bytes()), Err(BadLock::NoLockInfo), "{xml}");
        }
    }
}
