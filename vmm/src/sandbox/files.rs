//! Landlock: which files the process can get at.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus,
};

use crate::error::Error;

/// Files that a program needs beside `/dev/kvm` and, for reading, `/proc`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files<'a> {
    /// A file to read.
    pub read: Option<&'a Path>,
    /// A directory to create and replace files in.
    pub replace_in: Option<&'a Path>,
}

/// What the kernel enforces of [`Files`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landlock {
    /// All of it.
    Full,
    /// What its version of Landlock knows.
    Partial,
    /// Nothing: it has no Landlock, or it is switched off. The files' permissions hold, as ever.
    None,
}

impl Files<'_> {
    /// Leaves the calling thread, and those that it starts, nothing but these files. Files that are open
    /// stay so.
    pub(super) fn enforce(&self) -> Result<Landlock, Error> {
        let failed = |error: &dyn std::fmt::Display| {
            Error::Host(format!(
                "cannot confine the process with Landlock: {error}; --no-sandbox runs guests without"
            ))
        };
        // What an older kernel does not know of it, it does not enforce.
        let all = AccessFs::from_all(ABI::V5);
        let mut rules = Ruleset::default()
            .handle_access(all)
            .and_then(Ruleset::create)
            .map_err(|error| failed(&error))?;
        let allowed: [(Option<&Path>, BitFlags<AccessFs>); 4] = [
            (
                Some(Path::new("/dev/kvm")),
                AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev,
            ),
            // All of it, because the directory of a process is not the same for ever. Landlock keeps other
            // processes' memory and environment out of reach.
            (Some(Path::new("/proc")), AccessFs::ReadFile.into()),
            (self.read, AccessFs::ReadFile.into()),
            (
                self.replace_in,
                AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile,
            ),
        ];
        for (path, access) in allowed {
            // What is not there, or cannot be opened, is for whoever tries to use it to complain about.
            let Some(file) = path.and_then(|path| PathFd::new(path).ok()) else {
                continue;
            };
            rules = rules
                .add_rule(PathBeneath::new(file, access))
                .map_err(|error| failed(&error))?;
        }
        let status = rules.restrict_self().map_err(|error| failed(&error))?;
        Ok(match status.ruleset {
            RulesetStatus::FullyEnforced => Landlock::Full,
            RulesetStatus::PartiallyEnforced => Landlock::Partial,
            RulesetStatus::NotEnforced => Landlock::None,
        })
    }
}
