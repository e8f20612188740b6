//! What a guest prints reaches the user, whole or with a word on what is missing, and does nothing to a
//! terminal.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::FromRawFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{env, ptr};

use abi::{boot, note, port};
use integration_tests::{alone, command, kvm, one_line};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vmm-under-test");

/// A guest image in a file, which is removed in the end.
struct Image(PathBuf);

impl Image {
    /// A kernel of a dozen instructions that prints `text`, once or for ever.
    fn prints(name: &str, text: &[u8], for_ever: bool) -> Self {
        const HEADERS: usize = 64 + 2 * 56;
        let code_at = boot::KERNEL_BASE + (HEADERS + 24) as u64;
        let mut code = vec![0x48, 0xc7, 0xc6]; // 0: mov rsi, text
        code.extend((code_at as u32 + 64).to_le_bytes());
        code.extend([0x66, 0xba]); // mov dx, CONSOLE
        code.extend(port::CONSOLE.to_le_bytes());
        code.extend([0x8a, 0x06]); // 1: mov al, [rsi]
        code.extend([0x84, 0xc0]); // test al, al
        code.extend([0x74, 0x06]); // jz 2
        code.push(0xee); // out dx, al
        code.extend([0x48, 0xff, 0xc6]); // inc rsi
        code.extend([0xeb, 0xf4]); // jmp 1
        if for_ever {
            code.extend([0xeb, 0xe7]); // 2: jmp 0
        } else {
            code.extend([0x66, 0xba]); // 2: mov dx, EXIT
            code.extend(port::EXIT.to_le_bytes());
            code.extend([0x31, 0xc0]); // xor eax, eax: DONE
            code.push(0xef); // out dx, eax
        }
        assert_eq!(port::exit_code::DONE, 0);
        code.resize(64, 0xf4); // hlt
        code.extend(text);
        code.push(0);

        let mut file = Vec::new();
        file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        file.extend([2_u16, 62].iter().flat_map(|it| it.to_le_bytes())); // executable, x86-64
        file.extend(1_u32.to_le_bytes());
        file.extend([code_at, 64, 0].iter().flat_map(|it| it.to_le_bytes())); // entry, program headers
        file.extend(0_u32.to_le_bytes());
        file.extend([64_u16, 56, 2, 64, 0, 0].iter().flat_map(|it| it.to_le_bytes()));
        let length = (HEADERS + 24 + code.len()) as u64;
        let mut segment = |kind: u32, flags: u32, offset: usize, length: u64| {
            let address = boot::KERNEL_BASE + offset as u64;
            file.extend([kind, flags].iter().flat_map(|it| it.to_le_bytes()));
            let fields = [offset as u64, address, address, length, length, 4];
            file.extend(fields.iter().flat_map(|it| it.to_le_bytes()));
        };
        segment(1, 5, 0, length); // PT_LOAD, read and execute
        segment(4, 4, HEADERS, 24); // PT_NOTE
        file.extend([6, 4, note::TYPE_VERSION].iter().flat_map(|it| it.to_le_bytes()));
        file.extend(b"pvlab\0\0\0");
        file.extend(abi::VERSION.to_le_bytes());
        file.extend(code);
        let path = env::temp_dir().join(format!("pvlab-{name}-{}", std::process::id()));
        fs::write(&path, file).expect("temporary files can be written");
        Self(path)
    }

    /// The command that boots it.
    fn boot(&self, timeout: &str) -> Command {
        let mut command = command(PROGRAM);
        command.args(["boot", "--vcpus", "1", "--timeout", timeout, "--kernel"]);
        command.arg(&self.0);
        command
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Clears the screen, names the window, and goes back to the line's beginning.
const HOSTILE: &[u8] = b"one\r\ntwo\x1b[2J\x1b]0;mine\x07\xff 100 %\rspoofed\n";

#[test]
fn a_pipe_gets_what_the_guest_wrote() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let image = Image::prints("raw", HOSTILE, false);
    let output = image.boot("600s").output().expect("the program can be run");
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.stdout, HOSTILE);
}

/// A new pseudo-terminal: our side and the program's.
fn terminal() -> (File, File) {
    let (mut ours, mut theirs) = (-1, -1);
    // SAFETY: both pointers are valid; names and settings are not asked for.
    let result = unsafe { libc::openpty(&mut ours, &mut theirs, ptr::null_mut(), ptr::null(), ptr::null()) };
    assert_eq!(result, 0, "no pseudo-terminal");
    // SAFETY: the descriptor is new, so nobody else owns it.
    let ours = unsafe { File::from_raw_fd(ours) };
    // SAFETY: likewise.
    (ours, unsafe { File::from_raw_fd(theirs) })
}

#[test]
fn a_terminal_is_safe_from_guests() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let image = Image::prints("escapes", HOSTILE, false);
    let (mut ours, theirs) = terminal();
    let mut command = image.boot("600s");
    let mut child = command
        .stdout(theirs)
        .stderr(Stdio::null())
        .spawn()
        .expect("the program can be run");
    // Its copy of the other side has to be closed for the end to be seen.
    drop(command);
    let mut shown = Vec::new();
    // Reading ends with an error once nobody has the other side open.
    let _ = ours.read_to_end(&mut shown);
    assert_eq!(child.wait().expect("a child can be waited for").code(), Some(0));
    let shown = String::from_utf8(shown).expect("what is shown is UTF-8");
    // The terminal itself makes a newline two characters.
    let expected = "one\r\ntwo\\u{1b}[2J\\u{1b}]0;mine\\u{7}\\xff 100 %\\rspoofed\r\n";
    assert_eq!(shown, expected);
}

#[test]
fn output_that_cannot_be_written_is_not_lost_silently() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let image = Image::prints("full", b"words\n", false);
    for (arguments, words) in [
        ("boot", "console output: No space left on device"),
        (
            "run --vcpus 1 --lock tas --duration 10ms",
            "the result: No space left on device",
        ),
        ("doctor", "the result: No space left on device"),
        ("list", "the result: No space left on device"),
    ] {
        let full = File::options()
            .write(true)
            .open("/dev/full")
            .expect("there is a full device");
        let mut command = match arguments {
            "boot" => image.boot("600s"),
            _ => command(PROGRAM),
        };
        if arguments != "boot" {
            command.args(arguments.split_whitespace());
        }
        let output = command.stdout(full).output().expect("the program can be run");
        assert_eq!(output.status.code(), Some(1), "{arguments}");
        assert!(
            one_line(&output).contains(words),
            "{arguments}: {}",
            one_line(&output)
        );
    }
}

/// However fast the guest is: the file grows by no more than the limit.
#[test]
fn a_flood_does_not_fill_the_disk() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let image = Image::prints("flood", &[b'x'; 1000], true);
    let path = env::temp_dir().join(format!("pvlab-flooded-{}", std::process::id()));
    let file = File::create(&path).expect("temporary files can be written");
    let start = Instant::now();
    let output = image
        .boot("20s")
        .stdout(file)
        .output()
        .expect("the program can be run");
    let seconds = start.elapsed().as_secs() + 1;
    let text = fs::read(&path).expect("it was written");
    fs::remove_file(&path).expect("what was written can be removed");
    assert_eq!(
        output.status.code(),
        Some(1),
        "a guest that does not end has failed"
    );
    let most = (1 << 20) + seconds * (4 << 10) + 1000;
    assert!(
        text.len() as u64 <= most,
        "{} bytes of at most {most}",
        text.len()
    );
    // On a slow machine 20 s may be too short for a flood. The unit tests have no such excuse.
    if text.len() as u64 > 1 << 20 {
        assert!(String::from_utf8_lossy(&text).contains("bytes of console output dropped"));
    }
}
