//! The primary's side: who may answer for itself, and who has yet to answer a question. What a peer is to
//! it, and becomes, is drawn at [`Peer::turn`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::counted;
use super::peer::{Event, Peer, Refused};
use crate::clock::BootTime;
use crate::hash::HashMap;
use crate::id::SiteId;

/// One thing that was asked of every peer that had a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Question(pub u64);

/// One connection on which a peer asks for leases. What comes on an older one counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream(u64);

/// What a peer gets that asks for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// It had one all the time: nothing happened that it was not asked about.
    Again,
    /// It had none: it must be told the head and everything in force (R10).
    Fresh,
}

#[derive(Debug)]
pub struct Giver {
    lease: Duration,
    /// Who has joined, and its newest connection.
    peers: BTreeMap<SiteId, (Stream, Peer)>,
    /// Who has yet to answer.
    open: HashMap<Question, BTreeSet<SiteId>>,
    next: u64,
    /// A process before this one may have given leases that are good until then (R11)...
    old: Option<BootTime>,
    /// Or this one has.
    anew: bool,
    /// ...to these.
    unheard: BTreeSet<SiteId>,
}

impl Giver {
    /// `given`: leases may have been given before `now`, to `sites`, and are not known.
    pub fn new(lease: Duration, given: bool, sites: BTreeSet<SiteId>, now: BootTime) -> Self {
        Self {
            lease,
            peers: BTreeMap::new(),
            open: HashMap::default(),
            next: 1,
            old: given.then(|| BootTime(now.0 + counted(lease))),
            unheard: sites,
            anew: false,
        }
    }

    /// Whatever was given counts no more, and is waited out: by `copies`, and by those that are none any more.
    /// Answers to what was asked before are of nothing.
    pub fn begin_anew(&mut self, copies: &[SiteId], now: BootTime) {
        let sites = copies.iter().chain(self.perhaps_leased(now));
        let (next, sites) = (self.next, sites.cloned().collect());
        *self = Self { next, anew: true, ..Self::new(self.lease, true, sites, now) };
    }

    /// Whoever led before has given no lease, or a longer one, since then. Those of this process that are waited out
    /// as well are none of his.
    pub fn none_given_since(&mut self, since: BootTime) {
        if !self.anew {
            let until = BootTime(since.0 + counted(self.lease));
            self.old = self.old.map(|old| old.min(until));
        }
    }

    /// Until when nothing may be changed, because leases may be out that nobody here knows of (R11).
    pub fn quiet_until(&self, now: BootTime) -> Option<BootTime> {
        self.old.filter(|until| now < *until && !self.unheard.is_empty())
    }

    /// The peer has dropped the lease it had, and asks on a new connection from now on.
    pub fn join(&mut self, site: &SiteId) -> Stream {
        self.unheard.remove(site);
        let stream = Stream(self.next_number());
        let (newest, peer) = self.peers.entry(site.clone()).or_insert((stream, Peer::Free));
        *newest = stream;
        for question in peer.meet(Event::Join).unwrap_or_default() {
            self.settle(question, site);
        }
        stream
    }

    /// `caught_up`: it has applied all that was journalled.
    pub fn renew(
        &mut self,
        site: &SiteId,
        stream: Stream,
        caught_up: bool,
        now: BootTime,
    ) -> Result<Renewal, Refused> {
        let until = BootTime(now.0 + counted(self.lease));
        let peer = self.peer(site, stream)?;
        let live = peer.is_leased(now);
        peer.meet(Event::Renew { until, caught_up, now })?;
        Ok(if live { Renewal::Again } else { Renewal::Fresh })
    }

    /// What [`Self::renew`] said was not sent.
    pub fn revoke(&mut self, site: &SiteId, stream: Stream) -> Result<(), Refused> {
        self.peer(site, stream)?.meet(Event::Revoke).map(drop)
    }

    /// Asks every peer that has a lease; none if nobody has.
    pub fn ask(&mut self, now: BootTime) -> Option<(Question, Vec<SiteId>)> {
        let question = Question(self.next_number());
        let mut asked = Vec::new();
        for (site, (_, peer)) in &mut self.peers {
            if peer.meet(Event::Ask { question, now }).is_ok() {
                asked.push(site.clone());
            }
        }
        if asked.is_empty() {
            return None;
        }
        self.open.insert(question, asked.iter().cloned().collect());
        Some((question, asked))
    }

    /// The peer holds what it was asked to hold. `true`: so do all others.
    pub fn answered(
        &mut self,
        site: &SiteId,
        stream: Stream,
        question: Question,
    ) -> Result<bool, Refused> {
        self.peer(site, stream)?.meet(Event::Answer(question))?;
        Ok(self.settle(question, site))
    }

    /// Takes away the leases whose time is over. `true`: some question needs no answer any more.
    pub fn expire(&mut self, now: BootTime) -> bool {
        let mut freed = Vec::new();
        for (site, (_, peer)) in &mut self.peers {
            let unanswered = peer.meet(Event::Pass { now }).unwrap_or_default();
            freed.extend(unanswered.into_iter().map(|question| (question, site.clone())));
        }
        freed.into_iter().fold(false, |any, (question, site)| self.settle(question, &site) || any)
    }

    /// Whether someone who may still answer for itself has not answered.
    pub fn is_open(&self, question: Question) -> bool {
        self.open.contains_key(&question)
    }

    /// When the last lease of those that have not answered is over.
    pub fn due(&self, question: Question) -> Option<BootTime> {
        let sites = self.open.get(&question)?;
        sites.iter().filter_map(|site| self.peers.get(site)?.1.until()).max()
    }

    /// As [`Self::leased`], and those that may have one from before.
    pub fn perhaps_leased(&self, now: BootTime) -> impl Iterator<Item = &SiteId> {
        let old = self.quiet_until(now).is_some().then_some(&self.unheard);
        self.leased(now).chain(old.into_iter().flatten())
    }

    /// The peers that may answer for themselves.
    pub fn leased(&self, now: BootTime) -> impl Iterator<Item = &SiteId> {
        self.peers.iter().filter(move |(_, (_, peer))| peer.is_leased(now)).map(|(site, _)| site)
    }

    fn peer(&mut self, site: &SiteId, stream: Stream) -> Result<&mut Peer, Refused> {
        let found = self.peers.get_mut(site).filter(|(newest, _)| *newest == stream);
        found.map(|(_, peer)| peer).ok_or(Refused::OldStream)
    }

    fn settle(&mut self, question: Question, site: &SiteId) -> bool {
        let Some(sites) = self.open.get_mut(&question) else { return false };
        sites.remove(site);
        if sites.is_empty() {
            self.open.remove(&question);
            return true;
        }
        false
    }

    fn next_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(5);

    fn at(ms: u64) -> BootTime {
        BootTime(Duration::from_millis(ms))
    }
    fn osaka() -> SiteId {
        "osaka".parse().unwrap()
    }
    fn lyon() -> SiteId {
        "lyon".parse().unwrap()
    }
    fn giver() -> Giver {
        Giver::new(LEASE, false, [osaka(), lyon()].into(), at(0))
    }

    #[test]
    fn a_first_lease_is_fresh_and_is_renewed_while_it_lasts() {
        let mut giver = giver();
        let stream = giver.join(&osaka());
        assert_eq!(giver.renew(&osaka(), stream, false, at(0)), Ok(Renewal::Fresh));
        assert_eq!(giver.renew(&osaka(), stream, false, at(5059)), Ok(Renewal::Again));
        assert_eq!(giver.renew(&osaka(), stream, false, at(5059 + 5060)), Ok(Renewal::Fresh));
    }

    #[test]
    fn nobody_is_asked_who_has_no_lease() {
        let mut giver = giver();
        assert_eq!(giver.ask(at(0)), None);
        let stream = giver.join(&osaka());
        assert_eq!(giver.ask(at(0)), None);
        giver.renew(&osaka(), stream, false, at(0)).unwrap();
        assert_eq!(giver.ask(at(5000)).unwrap().1, vec![osaka()]);
        assert_eq!(giver.ask(at(5060)), None, "its time is over");
    }

    /// R6: renewals arrive, the answer does not.
    #[test]
    fn no_renewal_while_a_question_is_open() {
        let mut giver = giver();
        let stream = giver.join(&osaka());
        giver.renew(&osaka(), stream, false, at(0)).unwrap();
        let (question, _) = giver.ask(at(1000)).unwrap();
        for ms in [1100, 2000, 4000] {
            assert_eq!(giver.renew(&osaka(), stream, true, at(ms)), Err(Refused::Asked));
        }
        assert_eq!(giver.due(question), Some(at(5060)));
        assert!(!giver.expire(at(5059)) && giver.is_open(question));
        assert!(giver.expire(at(5060)) && !giver.is_open(question));
    }

    #[test]
    fn who_let_a_writer_wait_gets_the_next_lease_later_and_only_when_it_has_caught_up() {
        let mut giver = giver();
        let stream = giver.join(&osaka());
        let mut now = 0;
        for wait in [1000, 2000, 4000] {
            assert_eq!(giver.renew(&osaka(), stream, true, at(now)), Ok(Renewal::Fresh));
            giver.ask(at(now)).unwrap();
            now += 5060;
            assert!(giver.expire(at(now)));
            assert_eq!(giver.renew(&osaka(), stream, true, at(now + wait - 1)), Err(Refused::TooSoon));
            now += wait;
            assert_eq!(giver.renew(&osaka(), stream, false, at(now)), Err(Refused::Behind));
        }
        giver.renew(&osaka(), stream, true, at(now)).unwrap();
        let (question, _) = giver.ask(at(now)).unwrap();
        assert_eq!(giver.answered(&osaka(), stream, question), Ok(true));
        let stream = giver.join(&osaka());
        assert_eq!(giver.renew(&osaka(), stream, false, at(now)), Ok(Renewal::Fresh), "forgiven");
    }

    #[test]
    fn a_question_waits_for_all_it_was_asked_of() {
        let mut giver = giver();
        let (one, two) = (giver.join(&osaka()), giver.join(&lyon()));
        giver.renew(&osaka(), one, false, at(0)).unwrap();
        giver.renew(&lyon(), two, false, at(10)).unwrap();
        let (question, _) = giver.ask(at(20)).unwrap();
        assert_eq!(giver.answered(&osaka(), one, question), Ok(false));
        assert_eq!(giver.due(question), Some(at(5070)));
        assert_eq!(giver.answered(&osaka(), one, question), Err(Refused::Unasked), "twice is once");
        assert_eq!(giver.answered(&lyon(), two, question), Ok(true));
        assert!(!giver.is_open(question));
    }

    #[test]
    fn joining_again_answers_everything_and_an_old_connection_counts_for_nothing() {
        let mut giver = giver();
        let old = giver.join(&osaka());
        giver.renew(&osaka(), old, false, at(0)).unwrap();
        let (question, _) = giver.ask(at(0)).unwrap();
        let new = giver.join(&osaka());
        assert!(!giver.is_open(question));
        assert_eq!(giver.renew(&osaka(), old, true, at(1)), Err(Refused::OldStream));
        assert_eq!(giver.renew(&osaka(), new, false, at(1)), Ok(Renewal::Fresh));
        let (question, _) = giver.ask(at(2)).unwrap();
        assert_eq!(giver.answered(&osaka(), old, question), Err(Refused::OldStream));
        assert!(giver.is_open(question));
    }

    #[test]
    fn an_answer_to_what_was_asked_before_a_new_beginning_is_none() {
        let mut giver = giver();
        let old = giver.join(&osaka());
        giver.renew(&osaka(), old, false, at(0)).unwrap();
        let (before, _) = giver.ask(at(0)).unwrap();
        giver.begin_anew(&[osaka(), lyon()], at(0));
        assert!(!giver.is_open(before) && giver.quiet_until(at(1)).is_some());
        let new = giver.join(&osaka());
        giver.renew(&osaka(), new, false, at(1)).unwrap();
        let (after, _) = giver.ask(at(1)).unwrap();
        assert!(before != after && old != new);
        assert_eq!(giver.answered(&osaka(), new, before), Err(Refused::Unasked));
        assert_eq!(giver.answered(&osaka(), old, after), Err(Refused::OldStream));
        assert!(giver.is_open(after));
    }

    /// R11: what a map took a copy's part from, and the map then made strict again.
    #[test]
    fn who_is_no_copy_any_more_is_waited_for_all_the_same() {
        let mut giver = giver();
        for site in [osaka(), lyon()] {
            let stream = giver.join(&site);
            giver.renew(&site, stream, false, at(0)).unwrap();
        }
        giver.begin_anew(&[osaka()], at(1000));
        giver.join(&osaka());
        assert_eq!(giver.quiet_until(at(1001)), Some(at(6060)), "lyon may have a lease");
        // And once more within that time.
        giver.begin_anew(&[osaka()], at(2000));
        giver.join(&osaka());
        assert_eq!(giver.quiet_until(at(2001)), Some(at(7060)));
        giver.begin_anew(&[osaka()], at(8000));
        giver.join(&osaka());
        assert_eq!(giver.quiet_until(at(8001)), None);
    }

    /// R11: granted at 0 s, killed at 0.1, up at 0.5 and knows no lease.
    #[test]
    fn a_giver_that_may_have_given_leases_before_waits_them_out_or_hears_from_all() {
        let mut giver = Giver::new(LEASE, true, [osaka(), lyon()].into(), at(500));
        assert_eq!(giver.quiet_until(at(600)), Some(at(5560)));
        giver.join(&osaka());
        assert!(giver.quiet_until(at(600)).is_some());
        giver.join(&lyon());
        assert_eq!(giver.quiet_until(at(600)), None);
        let giver = Giver::new(LEASE, true, [osaka()].into(), at(500));
        assert_eq!(giver.quiet_until(at(5560)), None);
        assert_eq!(Giver::new(LEASE, false, [osaka()].into(), at(0)).quiet_until(at(1)), None);
    }
}
