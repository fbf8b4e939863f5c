//! Which site's server gave a client what it proves itself by: a nonce, a session, a step of NTLM. No other
//! server knows it, so the client stays with that one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::request::Parts;
use http::{Response, StatusCode, header};

use crate::body::Body;
use crate::hash::HashMap;
use crate::id::SiteId;
use crate::server::Bond;
use crate::wire::http::auth;

/// What servers have given the clients of this site, in memory only: who is not known here any more proves himself
/// anew.
#[derive(Default)]
pub struct Stays {
    given: Mutex<Given>,
    any_cookie: AtomicBool,
}

#[derive(Default)]
struct Given {
    by: HashMap<Key, Known>,
    /// In which order they go, each by the number under which it stands here.
    order: VecDeque<(Key, u64)>,
    last: u64,
}

struct Known {
    /// Nobody: the servers of several sites gave it, so that it is of no one's.
    by: Option<SiteId>,
    /// A higher number was given later.
    given: u64,
    queued: u64,
    /// Since it was queued: it has another turn.
    used: bool,
}

/// By a hash, for it may be of any length and is a secret.
type Key = [u8; 16];

/// Most that are known, of which those stay that somebody uses: 6 MiB.
const MOST: usize = 1 << 16;

/// What one request proves itself by.
#[derive(Default)]
pub struct Said {
    /// Whose server gave it.
    by: Option<SiteId>,
    /// It is a nonce.
    nonce: bool,
    bond: Option<Arc<Bond>>,
}

impl Said {
    pub fn is_known_at(&self, site: &SiteId) -> bool {
        self.by.as_ref() == Some(site)
    }
}

fn key(kind: &str, value: &[u8]) -> Key {
    let mut hash = blake3::Hasher::new();
    hash.update(kind.as_bytes()).update(&[0]).update(value);
    let mut key = Key::default();
    key.copy_from_slice(&hash.finalize().as_bytes()[..16]);
    key
}

fn of_bond(bond: &Bond) -> Key {
    key("bond", &bond.id().to_be_bytes())
}

impl Stays {
    /// Credentials count before cookies, and of cookies the one that was given last.
    pub fn said(&self, parts: &Parts) -> Said {
        let Parts { headers, extensions, .. } = parts;
        let bond = extensions.get::<Arc<Bond>>().cloned();
        if let Some(bond) = &bond {
            let by = self.given().used(&of_bond(bond));
            return Said { by, nonce: false, bond: Some(bond.clone()) };
        }
        let nonce = headers.contains_key(header::AUTHORIZATION).then(|| auth::nonce_said(headers));
        if let Some(nonce) = nonce.flatten() {
            let by = self.given().used(&key("nonce", &nonce));
            return Said { by, nonce: true, bond: None };
        }
        if !self.any_cookie.load(Ordering::Relaxed) || !headers.contains_key(header::COOKIE) {
            return Said::default();
        }
        let keys: Vec<Key> = auth::cookies_said(headers).map(|pair| key("cookie", pair)).collect();
        let mut given = self.given();
        let known = keys.iter().filter_map(|key| Some((given.by.get(key)?.of()?, key)));
        let last = known.max_by_key(|(number, _)| *number).map(|(_, key)| key);
        Said { by: last.and_then(|key| given.used(key)), nonce: false, bond: None }
    }

    /// Notes what the server of the site `by` gives with its answer. To a nonce that it cannot know it is made to
    /// say that, and not that the password is wrong.
    pub fn answered(&self, said: &Said, by: &SiteId, response: &mut Response<Body>) {
        let status = response.status();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED && said.nonce && !said.is_known_at(by) {
            auth::say_stale(status, headers);
        }
        let mut keys = Vec::new();
        if headers.contains_key(header::SET_COOKIE) {
            keys.extend(auth::cookies_given(headers).map(|pair| key("cookie", pair)));
            self.any_cookie.store(true, Ordering::Relaxed);
        }
        let challenged = headers.contains_key(header::WWW_AUTHENTICATE);
        if challenged || headers.contains_key("authentication-info") {
            keys.extend(auth::nonces_given(headers).iter().map(|nonce| key("nonce", nonce)));
        }
        if let Some(bond) = said.bond.as_ref().filter(|_| challenged && auth::proves_connection(headers))
        {
            self.given().forget(&of_bond(bond));
            keys.push(of_bond(bond));
        }
        if !keys.is_empty() {
            self.given().note(by, keys);
        }
    }

    fn given(&self) -> MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// When it was given, if by one site alone.
    fn of(&self) -> Option<u64> {
        self.by.as_ref().map(|_| self.given)
    }
}

impl Given {
    /// By whom; it is kept the longer for being asked for.
    fn used(&mut self, key: &Key) -> Option<SiteId> {
        let known = self.by.get_mut(key)?;
        known.used = true;
        known.by.clone()
    }

    /// Who gives it next is the only one.
    fn forget(&mut self, key: &Key) {
        self.by.remove(key);
    }

    fn note(&mut self, by: &SiteId, keys: Vec<Key>) {
        for key in keys {
            self.last += 1;
            if let Some(known) = self.by.get_mut(&key) {
                known.given = self.last;
                // What another has given as well tells of none.
                known.by = known.by.take().filter(|known| known == by);
                continue;
            }
            while self.order.len() >= MOST {
                self.let_one_go();
            }
            let (by, given, queued) = (Some(by.clone()), self.last, self.last);
            self.by.insert(key, Known { by, given, queued, used: false });
            self.order.push_back((key, queued));
        }
    }

    fn let_one_go(&mut self) {
        let Some((key, queued)) = self.order.pop_front() else { return };
        // What was forgotten meanwhile may be known again, in another place.
        let Some(known) = self.by.get_mut(&key).filter(|known| known.queued == queued) else { return };
        if std::mem::take(&mut known.used) {
            self.order.push_back((key, queued));
        } else {
            self.by.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn site(name: &str) -> SiteId {
        name.parse().unwrap()
    }

    fn asks(fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder();
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn answers(stays: &Stays, said: &Said, by: &str, status: u16, fields: &[(&str, &str)]) -> String {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let mut response = response.body(Body::Empty).unwrap();
        stays.answered(said, &site(by), &mut response);
        let challenge = response.headers().get("www-authenticate");
        challenge.map(|it| it.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    #[test]
    fn what_several_servers_give_is_no_session() {
        let stays = Stays::default();
        let none = Said::default();
        answers(&stays, &none, "lyon", 200, &[("set-cookie", "SID=a")]);
        answers(&stays, &none, "lyon", 200, &[("set-cookie", "lang=en; Path=/")]);
        answers(&stays, &none, "hq", 200, &[("set-cookie", "lang=en")]);
        answers(&stays, &none, "hq", 200, &[("set-cookie", "lang=en")]);
        let said = stays.said(&asks(&[("cookie", "SID=a; lang=en")]));
        assert!(said.is_known_at(&site("lyon")) && !said.is_known_at(&site("hq")));
        assert!(stays.said(&asks(&[("cookie", "lang=en")])).by.is_none());
    }

    #[test]
    fn a_nonce_is_of_who_gave_it_and_stale_at_others() {
        let stays = Stays::default();
        let of_hq = [("www-authenticate", "Digest realm=\"x\", nonce=\"hq1\"")];
        assert!(!answers(&stays, &Said::default(), "hq", 401, &of_hq).contains("stale"));
        answers(&stays, &Said::default(), "osaka", 200, &[("authentication-info", "nextnonce=\"o1\"")]);
        for (nonce, by) in [("hq1", Some("hq")), ("o1", Some("osaka")), ("made-up", None)] {
            let said = stays.said(&asks(&[("authorization", &format!("Digest nonce=\"{nonce}\""))]));
            assert_eq!(said.by, by.map(site), "{nonce}");
            for server in ["hq", "osaka"] {
                let challenge = answers(&stays, &said, server, 401, &of_hq);
                assert_eq!(challenge.contains("stale=true"), by != Some(server), "{nonce} {server}");
            }
        }
        // One that stands for nothing is not looked for.
        assert!(stays.said(&asks(&[("authorization", "Basic hq1")])).by.is_none());
    }

    #[test]
    fn of_cookies_the_one_given_last_decides() {
        let stays = Stays::default();
        let cookie = |said: &str| stays.said(&asks(&[("cookie", said)])).by;
        assert_eq!(cookie("s=1"), None);
        answers(&stays, &Said::default(), "osaka", 200, &[("set-cookie", "s=1; Path=/")]);
        answers(&stays, &Said::default(), "hq", 200, &[("set-cookie", "t=2; HttpOnly")]);
        assert_eq!((cookie("s=1"), cookie("s=2")), (Some(site("osaka")), None));
        assert_eq!((cookie("t=2; s=1"), cookie("s=1; t=2")), (Some(site("hq")), Some(site("hq"))));
        answers(&stays, &Said::default(), "osaka", 200, &[("set-cookie", "s=1")]);
        assert_eq!(cookie("s=1; t=2"), Some(site("osaka")));
    }

    #[test]
    fn a_proof_goes_on_where_it_was_begun() {
        let stays = Stays::default();
        let bond = Bond::new();
        let mut parts = asks(&[("authorization", "NTLM abc")]);
        parts.extensions.insert(bond);
        let said = stays.said(&parts);
        assert_eq!(said.by, None);
        answers(&stays, &said, "hq", 401, &[("www-authenticate", "NTLM def")]);
        assert_eq!(stays.said(&parts).by, Some(site("hq")));
    }

    #[test]
    fn no_more_is_kept_than_fits() {
        let stays = Stays::default();
        let gives = |number: usize| {
            answers(&stays, &Said::default(), "hq", 200, &[("set-cookie", &format!("s={number}"))]);
        };
        (0..=MOST).for_each(gives);
        assert_eq!(stays.given().by.len(), MOST);
        let by = |number: usize| stays.said(&asks(&[("cookie", &format!("s={number}"))])).by;
        assert_eq!((by(0), by(1)), (None, Some(site("hq"))));
        // What is used stays, whoever fetches sessions that nobody uses.
        for number in 0..2 * MOST {
            gives(MOST + 1 + number);
            if number % 1000 == 0 {
                assert_eq!(by(1), Some(site("hq")), "{number}");
            }
        }
        assert_eq!(by(2), None);
        assert_eq!(stays.given().by.len(), MOST);
        assert_eq!(stays.given().order.len(), MOST);
        // All of it at once: the one that has waited longest goes.
        stays.given().by.values_mut().for_each(|known| known.used = true);
        gives(0);
        assert_eq!(by(0), Some(site("hq")));
        assert_eq!(stays.given().by.len(), MOST);
    }
}
