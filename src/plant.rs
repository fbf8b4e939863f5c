//! Bugs on purpose, one for a rule, so that the simulation can be seen to catch them. There are none but
//! in its tests: elsewhere [`is`] is always false.

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A copy asks for a lease although nobody reads there (R14).
    AskUnread,
    /// A listing depends on the way to its directory alone (R1).
    ListBlindly,
    /// A hold of a directory is none of what is below it (R3).
    ForgetBelow,
    /// What others lean on is released before them (R3, R7).
    ReleaseLeanedOn,
    /// A copy says that it holds, and does not (R5).
    HoldInWordOnly,
    /// A change is relayed although no copy was asked to hold what it touches.
    SkipHold,
    /// What a change turns out to have touched is not held before it is answered (R2).
    KeepFirstWalk,
    /// Nor what was on its way meanwhile (R2).
    ForgetShifts,
    /// Where a change is to be made is looked up in the catalog (R2).
    ResolveInCatalog,
    /// A release counts whatever generation it is of (R4).
    ReleaseAnyGeneration,
    /// A mark is over although something changes it, or has not been looked at since (R4).
    ReleaseInFlight,
    /// What changes is looked at when nothing has changed it for a while (R8).
    WaitForQuiet,
    /// A copy answers although its lease is over (R10, R12).
    ServeOnExpiredLease,
    /// A lease is counted as if all clocks ran alike (R12).
    NoMargin,
    /// A lease goes by the boot clock alone (R12).
    IgnoreJump,
    /// A primary that starts does not wait for leases of the process before it (R11).
    ForgetLeases,
    /// A primary that starts waits for no lease of a site that the map has no copy at any more (R11).
    ForgetStrangers,
    /// A lease begins without what is in force (R10).
    GrantWithoutHolds,
    /// A change is answered before it is on the disk (R23).
    AnswerBeforeDurable,
    /// A copy's marks go before its disk is synced (R23).
    ClearMarkUnsynced,
    /// A mark is over and no copy is told.
    ForgetRelease,
    /// A lease is renewed while a question is open (R6).
    RenewWhileAsked,
    /// What a site changes elsewhere does not count as ahead of its own copy (R9).
    ForgetAhead,
    /// The same, after a restart of the site (R9).
    ForgetAheadOverRestart,
    /// And after a power cut (R9).
    NoteUnsynced,
    /// Of two holds of one touch the lower generation counts (R10).
    MergeLower,
    /// What is known to be ahead is answered for where nobody can be asked (R13).
    ServeWhatIsAhead,
    /// A copy that has no lease takes itself to be cut off (R13).
    CutOffByLeaseAlone,
    /// A change whose outcome nobody told is taken for one that was not made (R18).
    ForgetDoubt,
    /// Some changes are journalled after such as were answered later (R20).
    OutOfOrder,
    /// A name that is missing is taken for a delete (R16).
    DeleteForMove,
    /// Reads at the primary show what too few sites have (R26).
    ShowBeforeKept,
    /// And it is answered (R26).
    AnswerBeforeKept,
    /// And a change that is refused because of it is so at once (R26).
    ShowByRefusal,
    /// A site that has heard of a later primary follows an earlier one (R34).
    FollowOlder,
    /// A copy takes over without what the primary had to the last (R34).
    PromoteBehind,
    /// Without what other copies have (R35).
    PromoteAlone,
    /// What only the lost primary had makes way for what is there now (R35).
    OverwriteForeign,
    /// A site that takes over leads in the epoch of the site before it (R33).
    ReuseEpoch,
    /// Where a path led is remembered when names have changed (R21).
    KeepWalks,
    /// Who takes over by force takes what an ended history went on with (R33).
    TakeEnded,
    /// Who takes over by force goes by what the others had long ago (R34).
    TrustOldReports,
    /// A change whose answer got lost is taken for one that never came, and carried out again (R19).
    CarryOutTwice,
    /// A primary says of what it does not know that it was not begun, also of what came before its start (R19).
    TrustUnknown,
    /// What comes out of a session that is over is carried out, whatever its sender was told (R19).
    TakeLate,
    /// An answer that shows a file goes on while that is written into (R22).
    LetAnswersRun,
    /// What is settled has neither mode nor extended attributes of its own (R31).
    LeaveAttributes,
    /// And contents come without their time (R31).
    LeaveTimes,
    /// A copy says that it holds when its disk has said so (R5).
    HoldBehindDisk,
    /// A copy answers whatever its map says of the share (R10).
    IgnoreMaps,
}

#[cfg(not(test))]
pub const fn is(_: Bug) -> bool {
    false
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
pub fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// On this thread, from now on.
#[cfg(test)]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}
