//! The ELF note that makes a file a pvlab guest.
//!
//! An image carries, in a `PT_NOTE` segment, a note of name `pvlab` and type [`TYPE_VERSION`] whose
//! description is the [`VERSION`](crate::VERSION) it was built with. The VMM launches nothing else.
//!
//! ```
//! #[used]
//! #[unsafe(link_section = ".note.pvlab")]
//! static NOTE: abi::note::VersionNote = abi::note::VersionNote::CURRENT;
//! ```

use crate::assert_layout;

/// The note's name, as ELF readers give it: without the terminating zero.
pub const NAME: &str = "pvlab";

/// The note's type.
pub const TYPE_VERSION: u32 = 1;

/// An ELF note (`Elf64_Nhdr`, name and description, each padded to four bytes).
#[derive(Clone, Copy, Debug)]
#[repr(C, align(4))]
pub struct VersionNote {
    name_size: u32,
    description_size: u32,
    note_type: u32,
    name: [u8; 8],
    version: u32,
}

impl VersionNote {
    /// The note of the interface this crate describes.
    pub const CURRENT: Self = Self {
        name_size: NAME.len() as u32 + 1,
        description_size: 4,
        note_type: TYPE_VERSION,
        name: *b"pvlab\0\0\0",
        version: crate::VERSION,
    };
}

assert_layout!(VersionNote, size 24, name at 12, version at 20);
