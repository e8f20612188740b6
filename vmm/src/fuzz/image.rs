//! A file that is to be booted: parsed, mapped, loaded, and asked for its functions.

use abi::PAGE_SIZE;
use abi::boot::{HOLE, KERNEL_BASE};
use abi::note::{NAME, TYPE_VERSION};
use vm_memory::{Bytes, GuestAddress};

use super::{Input, Target};
use crate::error::Error;
use crate::kernel::Kernel;
use crate::layout::{self, Layout};
use crate::memory::GuestMemory;
use crate::page_tables;

pub(super) const TARGET: Target = Target {
    name: "image",
    run: image,
    seeds,
};

const MEMORY: u64 = 8 << 20;
const VCPUS: u32 = 2;

/// A guest of two instructions, with a note, some zeroed data and a symbol table.
fn seeds() -> Vec<Vec<u8>> {
    let words = |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|word| word.to_le_bytes()).collect() };
    let header = |kind: u64, flags: u64| kind | flags << 32;
    let (text, note, sections, names) = (64 + 3 * 56, 256, 512, 320);
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    file.extend(words(&[KERNEL_BASE + text, 64, sections]));
    // Flags; sizes and counts of the headers; the names' section.
    file.extend(b"\0\0\0\0\x40\0\x38\0\x03\0\x40\0\x03\0\x02\0");
    file.extend(words(&[
        header(1, 5),
        0,
        KERNEL_BASE,
        KERNEL_BASE,
        256,
        256,
        PAGE_SIZE,
    ]));
    let data = KERNEL_BASE + PAGE_SIZE;
    file.extend(words(&[
        header(1, 6),
        note,
        data,
        data,
        256,
        5 * PAGE_SIZE,
        PAGE_SIZE,
    ]));
    file.extend(words(&[header(4, 4), note, data, data, 24, 24, 4]));
    file.extend(b"\x0f\x0b\xf4");
    file.resize(note as usize, 0);
    for word in [NAME.len() as u32 + 1, 4, TYPE_VERSION] {
        file.extend(word.to_le_bytes());
    }
    file.extend(b"pvlab\0\0\0");
    file.extend(abi::VERSION.to_le_bytes());
    file.resize(names as usize, 0);
    file.extend(b"\0start\0_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE\0");
    file.resize(400, 0);
    let symbol = |name: u64, at: u64, size: u64| words(&[name | 0x12 << 32 | 1 << 48, at, size]);
    file.extend([symbol(1, KERNEL_BASE, 0), symbol(7, KERNEL_BASE + text, 3)].concat());
    file.resize(sections as usize, 0);
    file.extend([0; 64]);
    file.extend(words(&[header(0, 2), 0, 0, 400, 48, header(2, 0), 8, 24]));
    file.extend(words(&[header(0, 3), 0, 0, names, 80, 0, 1, 0]));
    // What went wrong once, or could have: words at places of that file.
    let header = |n: usize, word: usize| 64 + 56 * n + 8 * word;
    let patches: [&[(usize, u64)]; 4] = [
        &[],
        // A segment without memory, to be loaded over the page tables.
        &[(header(1, 2), 0x2000), (header(1, 3), 0x2000), (header(1, 5), 0)],
        // A function that ends after the last address; a segment that does.
        &[(416, u64::MAX)],
        &[
            (header(1, 2), HOLE - 1),
            (header(1, 3), HOLE - 1),
            (header(1, 5), u64::MAX),
        ],
    ];
    let patched = patches.map(|patch| {
        let mut input = [vec![0], file.clone()].concat();
        for (at, word) in patch {
            input[1 + at..][..8].copy_from_slice(&word.to_le_bytes());
        }
        input
    });
    // And the embedded guest, with a byte changed.
    [patched.to_vec(), vec![vec![0xff, 24, 0, 0, 0, 1]]].concat()
}

#[test]
fn the_seed_is_a_guest() {
    let kernel = Kernel::parse(seeds()[0][1..].to_vec().into()).expect("it has all a guest needs");
    assert_eq!(kernel.end(), KERNEL_BASE + 6 * PAGE_SIZE);
    assert!(
        kernel
            .describe(kernel.entry())
            .ends_with("(core::fmt::Write::write_fmt+0x0)")
    );
    assert!(kernel.describe(KERNEL_BASE + 5).ends_with("(start+0x5)"));
}

fn image(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else {
        return;
    };
    let file = match kind {
        0xff => {
            let mut file = Kernel::embedded().file().to_vec();
            let mut input = Input(rest);
            while !input.is_empty() {
                let at = input.u32() as usize % file.len();
                file[at] = input.u8();
            }
            file
        }
        _ => rest.to_vec(),
    };
    let kernel = match Kernel::parse(file.into()) {
        Ok(kernel) => kernel,
        Err(why) => {
            assert!(!why.is_empty() && !why.contains('\n'), "{why:?}");
            return;
        }
    };
    for address in [
        0,
        kernel.entry(),
        kernel.end(),
        KERNEL_BASE,
        KERNEL_BASE + 0x123,
        u64::MAX,
    ] {
        // A name has at most 512 characters, each of up to four bytes.
        let text = kernel.describe(address);
        assert!(text.len() < 4 << 10, "{} bytes", text.len());
    }
    let layout = match Layout::new(MEMORY, VCPUS, kernel.end()) {
        Ok(layout) => layout,
        Err(Error::Usage(_)) => return,
        Err(error) => panic!("{error}"),
    };
    let memory = GuestMemory::new(&layout.ram).expect("the host has some");
    let cr3 = page_tables::build(&memory, &layout, &kernel).expect("there is room for them");
    let before = tables(&memory);
    if let Err(error) = kernel.load(&memory) {
        assert!(matches!(error, Error::Usage(_)), "{error}");
    }
    assert!(
        before == tables(&memory),
        "the image was loaded over the page tables"
    );
    check(&memory, &layout, cr3);
}

/// Where the page tables of so little memory are, with some room above. (All that is below the kernel would
/// be slow.)
fn tables(memory: &GuestMemory) -> Vec<u8> {
    let mut bytes = vec![0; 64 << 10];
    let below = memory.backend().read_slice(&mut bytes, GuestAddress(0));
    below.expect("it is memory");
    bytes
}

/// Mapped is what is memory, one to one; and the pages that are to fault do.
fn check(memory: &GuestMemory, layout: &Layout, cr3: u64) {
    for page in (0..MEMORY + PAGE_SIZE).step_by(PAGE_SIZE as usize) {
        match page_tables::walk(memory, cr3, page) {
            Some((frame, _)) => {
                assert!(page != 0 && page < MEMORY, "{page:#x}");
                assert!(
                    page - frame < layout::LARGE_PAGE,
                    "{page:#x} is mapped to {frame:#x}"
                );
            }
            None => assert!(
                page < layout::end(layout.cpu_areas) || page >= MEMORY,
                "{page:#x}"
            ),
        }
    }
    for vcpu in 0..VCPUS {
        let guard = layout.cpu_area(vcpu).base - PAGE_SIZE;
        assert_eq!(page_tables::walk(memory, cr3, guard), None);
    }
}
