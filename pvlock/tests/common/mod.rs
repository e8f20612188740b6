//! The platform of host threads, and a watchdog, for all tests.

#![allow(dead_code, reason = "each test file uses some of it")]

pub(crate) mod host;
pub(crate) mod scenario;
pub(crate) mod watchdog;
