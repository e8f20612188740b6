//! The window against its invariants: over random operations with a reference model, and over threads whose
//! software MMUs forget nothing unless they are told to.

mod compaction;
mod machine;
mod model;
mod notifiers;
mod random;
mod secondary;
mod threads;
