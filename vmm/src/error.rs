//! Why a launch could not even start.

/// What stands in the way, for a person to read: what, why, and what to do, in one line.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for makes no sense, or not on this guest.
    #[error("{0}")]
    Usage(String),
    /// The host cannot do it.
    #[error("{0}")]
    Host(String),
}
