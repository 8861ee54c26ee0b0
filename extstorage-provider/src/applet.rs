//! What the program is called as.

use std::ffi::OsStr;

/// What Ganeti asks of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Create,
    Attach,
    Detach,
    Remove,
    Grow,
    Setinfo,
    Verify,
    Snapshot,
    Open,
    Close,
}

/// What Ganeti asks before it does something with an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `instance-start-pre.d/archip-lockvolumes`
    Start,
    /// `instance-migrate-pre.d/archip-openvolumes`
    Migrate,
}

/// One of the names of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applet {
    Verb(Verb),
    Hook(Hook),
    /// The server of an attached volume.
    Server,
}

/// Under which name the program serves an attached volume.
pub const SERVER: &str = "archipelago-attached";

impl Applet {
    /// All of them that Ganeti calls.
    pub const ALL: [Applet; 12] = [
        Applet::Verb(Verb::Create),
        Applet::Verb(Verb::Attach),
        Applet::Verb(Verb::Detach),
        Applet::Verb(Verb::Remove),
        Applet::Verb(Verb::Grow),
        Applet::Verb(Verb::Setinfo),
        Applet::Verb(Verb::Verify),
        Applet::Verb(Verb::Snapshot),
        Applet::Verb(Verb::Open),
        Applet::Verb(Verb::Close),
        Applet::Hook(Hook::Start),
        Applet::Hook(Hook::Migrate),
    ];

    /// The file name.
    pub fn name(self) -> &'static str {
        match self {
            Applet::Verb(Verb::Create) => "create",
            Applet::Verb(Verb::Attach) => "attach",
            Applet::Verb(Verb::Detach) => "detach",
            Applet::Verb(Verb::Remove) => "remove",
            Applet::Verb(Verb::Grow) => "grow",
            Applet::Verb(Verb::Setinfo) => "setinfo",
            Applet::Verb(Verb::Verify) => "verify",
            Applet::Verb(Verb::Snapshot) => "snapshot",
            Applet::Verb(Verb::Open) => "open",
            Applet::Verb(Verb::Close) => "close",
            Applet::Hook(Hook::Start) => "archip-lockvolumes",
            Applet::Hook(Hook::Migrate) => "archip-openvolumes",
            Applet::Server => SERVER,
        }
    }

    /// What a file name stands for.
    pub fn of(name: &OsStr) -> Option<Applet> {
        Applet::ALL.into_iter().chain([Applet::Server]).find(|applet| name == applet.name())
    }
}
