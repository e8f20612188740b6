//! Guest images: what is embedded, what a file must be, and which function an address lies in.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::sync::{LazyLock, OnceLock};

use abi::boot::{HOLE, KERNEL_BASE, Region};
use abi::note;
use elf::ElfBytes;
use elf::abi::{EM_X86_64, PF_W, PF_X, PT_LOAD, PT_NOTE, STT_FUNC};
use elf::endian::LittleEndian;
use elf::note::Note;
use linux_loader::loader::KernelLoader;

use crate::error::Error;
use crate::layout::end;
use crate::memory::GuestMemory;
use crate::page_tables::Access;

/// Largest image that is read: a file named by mistake must not fill the host's memory.
const MAX_FILE: u64 = 256 << 20;

/// Most segments an image may have, functions whose names are kept, and characters of a name: what a hostile
/// file can make of a few bytes must have an end.
const MOST_SEGMENTS: usize = 64;
const MOST_FUNCTIONS: usize = 1 << 16;
const LONGEST_NAME: usize = 512;

/// A guest image, checked: a static x86-64 ELF that carries the interface's version note.
pub struct Kernel {
    file: Cow<'static, [u8]>,
    entry: u64,
    segments: Vec<Segment>,
    /// Functions by address, ascending: read when first asked for, since most runs never are.
    symbols: OnceLock<Vec<Symbol>>,
}

/// A loadable segment.
pub(crate) struct Segment {
    pub(crate) region: Region,
    pub(crate) access: Access,
}

struct Symbol {
    start: u64,
    end: u64,
    name: String,
}

impl Kernel {
    /// The kernel that this program was built with.
    pub fn embedded() -> &'static Self {
        static EMBEDDED: LazyLock<Kernel> = LazyLock::new(|| {
            let file: &'static [u8] = include_bytes!(env!("PVLAB_GUEST_ELF"));
            Kernel::parse(file.into()).expect("the embedded guest is one of ours, and tests launch it")
        });
        &EMBEDDED
    }

    /// Reads an image from a file.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if it cannot be read, or is anything else than a guest built on this version of
    /// `vmm/abi`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let fail = |why: String| Error::Usage(format!("cannot launch '{}': {why}", path.display()));
        let metadata = fs::metadata(path).map_err(|error| fail(error.to_string()))?;
        if !metadata.is_file() || metadata.len() > MAX_FILE {
            return Err(fail(
                "it is not a regular file of at most 256 MiB; name a pvlab guest ELF".into(),
            ));
        }
        let file = fs::read(path).map_err(|error| fail(error.to_string()))?;
        Self::parse(file.into()).map_err(|why| fail(format!("{why}; name an ELF built on pvlab's vmm/abi")))
    }

    /// Checks and takes apart an ELF file.
    pub(crate) fn parse(file: Cow<'static, [u8]>) -> Result<Self, String> {
        let elf =
            ElfBytes::<LittleEndian>::minimal_parse(&file).map_err(|_| "it is not a 64-bit ELF file")?;
        if elf.ehdr.e_machine != EM_X86_64 {
            return Err("it is not an x86-64 ELF file".into());
        }
        let headers = elf.segments().ok_or("it has no segments")?;
        // First, because each of them may name the whole file.
        if headers.len() > MOST_SEGMENTS {
            return Err(format!("it has more than {MOST_SEGMENTS} segments"));
        }
        check_version(&elf)?;
        let mut segments = Vec::new();
        // What is to be mapped, and what the loader would copy.
        for header in headers
            .iter()
            .filter(|header| header.p_type == PT_LOAD && (header.p_memsz != 0 || header.p_filesz != 0))
        {
            let past = header.p_paddr.checked_add(header.p_memsz);
            if header.p_paddr != header.p_vaddr
                || header.p_paddr < KERNEL_BASE
                || header.p_filesz > header.p_memsz
                || past.is_none_or(|past| past > HOLE)
            {
                return Err(format!(
                    "a segment at {:#x} lies outside the kernel's addresses",
                    header.p_paddr
                ));
            }
            let access = Access {
                write: header.p_flags & PF_W != 0,
                execute: header.p_flags & PF_X != 0,
            };
            segments.push(Segment {
                region: Region {
                    base: header.p_paddr,
                    len: header.p_memsz,
                },
                access,
            });
        }
        segments.sort_by_key(|segment| segment.region.base);
        if segments
            .windows(2)
            .any(|pair| end(pair[0].region) > pair[1].region.base)
        {
            return Err("its segments overlap".into());
        }
        let entry = elf.ehdr.e_entry;
        let contains = |segment: &Segment| entry.wrapping_sub(segment.region.base) < segment.region.len;
        if !segments
            .iter()
            .any(|segment| segment.access.execute && contains(segment))
        {
            return Err(format!("its entry point {entry:#x} is not in a code segment"));
        }
        Ok(Self {
            file,
            entry,
            segments,
            symbols: OnceLock::new(),
        })
    }

    /// The file's bytes.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn file(&self) -> &[u8] {
        &self.file
    }

    /// Where vCPUs start.
    pub(crate) fn entry(&self) -> u64 {
        self.entry
    }

    /// The first address after the image.
    pub(crate) fn end(&self) -> u64 {
        self.segments
            .iter()
            .map(|segment| end(segment.region))
            .max()
            .unwrap_or(KERNEL_BASE)
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Copies the image into guest memory.
    pub(crate) fn load(&self, memory: &GuestMemory) -> Result<(), Error> {
        let mut file = Cursor::new(&self.file[..]);
        linux_loader::loader::Elf::load(memory.backend(), None, &mut file, None)
            .map(|_| ())
            .map_err(|error| {
                Error::Usage(format!(
                    "cannot load the guest image ({error}): is it a whole ELF file?"
                ))
            })
    }

    fn symbols(&self) -> &[Symbol] {
        self.symbols.get_or_init(|| {
            let elf = ElfBytes::<LittleEndian>::minimal_parse(&self.file);
            elf.map(|elf| functions(&elf)).unwrap_or_default()
        })
    }

    /// `address` for people: in hexadecimal, with the function it lies in, if it lies in one.
    pub(crate) fn describe(&self, address: u64) -> String {
        let mut text = format!("{address:#x}");
        let symbols = self.symbols();
        let after = symbols.partition_point(|symbol| symbol.start <= address);
        if let Some(symbol) = after.checked_sub(1).map(|i| &symbols[i])
            && address < symbol.end
        {
            // A mangled name can refer to itself, and say a megabyte with a hundred characters.
            let name = format!("{:#}", rustc_demangle::demangle(&symbol.name));
            let shown: String = name.chars().take(LONGEST_NAME).collect();
            let _ = write!(text, " ({shown}+{:#x})", address - symbol.start);
        }
        text
    }
}

/// Looks for the version note and compares.
fn check_version(elf: &ElfBytes<'_, LittleEndian>) -> Result<(), String> {
    let headers = elf.segments().ok_or("it has no segments")?;
    for header in headers.iter().filter(|header| header.p_type == PT_NOTE) {
        let notes = elf
            .segment_data_as_notes(&header)
            .map_err(|_| "its notes are damaged")?;
        for found in notes {
            let Note::Unknown(found) = found else { continue };
            if found.n_type == u64::from(note::TYPE_VERSION)
                && found.name_str().is_ok_and(|name| name == note::NAME)
            {
                let version = <[u8; 4]>::try_from(found.desc).map(u32::from_le_bytes);
                return match version {
                    Ok(abi::VERSION) => Ok(()),
                    Ok(other) => Err(format!(
                        "it speaks version {other} of the interface, not {}",
                        abi::VERSION
                    )),
                    Err(_) => Err("its version note is damaged".into()),
                };
            }
        }
    }
    Err("it carries no pvlab version note".into())
}

/// The symbol table's functions; none where there is no table, or a damaged one.
fn functions(elf: &ElfBytes<'_, LittleEndian>) -> Vec<Symbol> {
    let Ok(Some((table, names))) = elf.symbol_table() else {
        return Vec::new();
    };
    let mut symbols: Vec<_> = table
        .iter()
        .filter(|symbol| symbol.st_symtype() == STT_FUNC)
        .take(MOST_FUNCTIONS)
        .filter_map(|symbol| {
            let name = names
                .get(symbol.st_name as usize)
                .ok()?
                .chars()
                .take(LONGEST_NAME)
                .collect();
            let end = symbol.st_value.saturating_add(symbol.st_size);
            Some(Symbol {
                start: symbol.st_value,
                end,
                name,
            })
        })
        .collect();
    symbols.sort_by_key(|symbol| symbol.start);
    // Assembly does not say how long its functions are: they last until the next one.
    for i in 1..symbols.len() {
        if symbols[i - 1].end == symbols[i - 1].start {
            symbols[i - 1].end = symbols[i].start;
        }
    }
    symbols
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_function_an_address_lies_in() {
        let kernel = Kernel::embedded();
        let main = kernel
            .symbols()
            .iter()
            .find(|symbol| symbol.name.contains("kernel_main"))
            .unwrap();
        assert!(
            kernel.describe(main.start + 1).ends_with("kernel_main+0x1)"),
            "{}",
            kernel.describe(main.start + 1)
        );
        assert_eq!(kernel.describe(1), "0x1");
    }

    #[test]
    fn no_name_fills_a_message() {
        // A function of tuples, each of which is twice the one before: `B` and a number refer back to a
        // place.
        const DIGITS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let mut name = String::from("_RINvC1a1f");
        let mut last = "y".to_owned();
        while name.len() < LONGEST_NAME - 20 {
            let place = name.len() - "_R".len();
            name += &format!("T{last}{last}E");
            let digit = |n: usize| char::from(DIGITS[n]);
            let number = place - 1;
            last = match number / 62 {
                0 => format!("B{}_", digit(number)),
                high => format!("B{}{}_", digit(high), digit(number % 62)),
            };
        }
        name += "E";
        let long = format!("{:#}", rustc_demangle::demangle(&name)).len();
        assert!(
            long > 100_000,
            "the name has only {long} characters, which tests nothing"
        );
        let symbols = vec![Symbol {
            start: 1,
            end: 9,
            name,
        }];
        let kernel = Kernel {
            file: Cow::Borrowed(&[]),
            entry: 1,
            segments: Vec::new(),
            symbols: OnceLock::from(symbols),
        };
        assert!(kernel.describe(5).len() < LONGEST_NAME + 50);
    }

    #[test]
    fn refuses_what_is_not_a_guest() {
        let embedded = &Kernel::embedded().file;
        let refusal = |file: Vec<u8>| Kernel::parse(file.into()).err().expect("must be refused");
        assert!(refusal(b"#!/bin/sh\n".to_vec()).contains("not a 64-bit ELF"));
        assert!(refusal(Vec::new()).contains("not a 64-bit ELF"));
        assert!(refusal(embedded[..64].to_vec()).len() > 5);

        // Another machine, another version, an entry point outside.
        let mut file = embedded.to_vec();
        file[18] = 3;
        assert!(refusal(file).contains("x86-64"));
        let note = embedded
            .windows(8)
            .position(|window| window == b"pvlab\0\0\0")
            .unwrap();
        let mut file = embedded.to_vec();
        file[note + 8] ^= 0x40;
        assert!(
            refusal(file).contains(&format!("version {} ", abi::VERSION ^ 0x40)),
            "names the version it found"
        );
        let mut file = embedded.to_vec();
        file[note] = b'x';
        assert!(refusal(file).contains("no pvlab version note"));
        let mut file = embedded.to_vec();
        file[24..32].copy_from_slice(&0x1000u64.to_le_bytes());
        assert!(refusal(file).contains("entry point 0x1000"));

        // The second segment where the first one is.
        let headers = u64::from_le_bytes(embedded[32..40].try_into().unwrap()) as usize;
        let mut file = embedded.to_vec();
        for address in [16, 24] {
            file.copy_within(headers + address..headers + address + 8, headers + 56 + address);
        }
        assert!(refusal(file).contains("overlap"));

        // A segment of nothing that the loader would nevertheless copy, over the page tables.
        let mut file = embedded.to_vec();
        file[headers + 24..headers + 32].copy_from_slice(&0x1000u64.to_le_bytes());
        file[headers + 40..headers + 48].fill(0);
        assert!(refusal(file).contains("0x1000 lies outside"));

        // More headers than anybody needs, each of which could name the whole file.
        let mut file = embedded.to_vec();
        file[32..40].copy_from_slice(&(embedded.len() as u64).to_le_bytes());
        file[56..58].copy_from_slice(&65u16.to_le_bytes());
        file.resize(embedded.len() + 65 * 56, 0);
        assert!(refusal(file).contains("more than 64 segments"));
    }

    #[test]
    fn no_damaged_file_panics() {
        let embedded = &Kernel::embedded().file;
        for position in 0..256.min(embedded.len()) {
            for value in [0, 0x7f, 0xff] {
                let mut file = embedded.to_vec();
                file[position] = value;
                let _ = Kernel::parse(file.into()).map(|kernel| kernel.describe(KERNEL_BASE));
            }
        }
    }
}
