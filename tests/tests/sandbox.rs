//! The sandbox stops what it is there to stop, on every thread, and nothing else: guests run in it, for
//! anybody who may open `/dev/kvm`.
//!
//! A violation ends the process, so tests start this program again, as a [`child`] that violates.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use std::{env, ptr, thread};

use abi::config::{LockKind, Workload};
use integration_tests::{alone, command, config, kvm, one_line, vmm};
use vmm::sandbox::{Files, Landlock, confine};
use vmm::{Io, Kernel, PlantedFault, Vm};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vmm-under-test");

/// Tells the child what to do.
const ROLE: &str = "PVLAB_SANDBOX_ROLE";

/// Runs [`child`] in a process of its own.
fn violate(role: &str) -> Output {
    Command::new(env::current_exe().expect("a program knows itself"))
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env_remove("RUST_BACKTRACE")
        .output()
        .expect("a program can run itself")
}

/// The child must be stopped in `class` at `call`, with the line and the code that say so.
fn is_stopped(role: &str, class: &str, call: i64) {
    let output = violate(role);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{role}: {said}");
    let expected = format!("vmm: thread class {class} made system call {call} (");
    let line = said.lines().find(|line| line.starts_with(&expected));
    let line = line.unwrap_or_else(|| panic!("{role}: no '{expected}' in: {said}"));
    assert!(
        line.contains("this is a bug, please report it") && line.contains("--no-sandbox"),
        "{line}"
    );
    assert!(!said.contains("SURVIVED"), "{role}: {said}");
}

/// Does what [`ROLE`] says. Without it, as one test of many, nothing.
#[test]
fn child() {
    let role = env::var(ROLE).unwrap_or_default();
    let mut arguments = role.split(' ');
    match arguments.next() {
        Some("vcpu") => {
            let [number, a, b, c] =
                [(); 4].map(|()| arguments.next().and_then(|it| it.parse().ok()).unwrap_or(0));
            let fault = PlantedFault::SystemCall(number as i64, [a, b, c]);
            launch_idle(Box::new(io::sink()), Some(fault));
        }
        Some("console") => launch_idle(Box::new(Opens), None),
        Some("panicking-console") => launch_idle(Box::new(Panics), None),
        Some("control") => {
            confine(&Files::default()).expect("this kernel has seccomp");
            match arguments.next() {
                Some("spawn") => drop(Command::new("/bin/true").spawn()),
                Some("connect") => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
                _ => drop(Command::new("/bin/true").exec()),
            }
        }
        Some("files") => use_files(arguments.next().expect("a directory")),
        _ => return,
    }
    eprintln!("SURVIVED");
}

/// A launch whose guest prints something.
fn launch_idle(console: Box<dyn Write + Send>, fault: Option<PlantedFault>) {
    let mut config = config(Workload::Panic, LockKind::Tas, 2, 2);
    config.planted_fault = fault;
    let io = Io {
        stop: None,
        console,
        input: None,
    };
    Vm::new(&config, Kernel::embedded())
        .and_then(|vm| vm.run(io))
        .expect("it can be launched");
}

/// A console that opens a file.
struct Opens;

impl Write for Opens {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        File::open("/dev/null")?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A console with a bug.
struct Panics;

impl Write for Panics {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        panic!("on purpose")
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_vcpu_thread_that_was_taken_over_can_do_little() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let code = libc::PROT_READ | libc::PROT_EXEC;
    for (number, arguments) in [
        (libc::SYS_openat, String::new()),
        (libc::SYS_execve, String::new()),
        (
            libc::SYS_socket,
            format!("{} {}", libc::AF_INET, libc::SOCK_STREAM),
        ),
        (libc::SYS_clone, String::new()),
        (libc::SYS_ptrace, String::new()),
        (libc::SYS_kill, "1 0".into()),
        (libc::SYS_mmap, format!("0 4096 {code}")),
        // Typing on the user's terminal, and another VM.
        (libc::SYS_ioctl, format!("0 {}", libc::TIOCSTI)),
        (libc::SYS_ioctl, format!("3 {}", 0xae01)),
    ] {
        is_stopped(&format!("vcpu {number} {arguments}"), "vcpu", number);
    }
    // What is not forbidden does no harm: so it is the filter that stops the others.
    let harmless = violate(&format!("vcpu {}", libc::SYS_gettid));
    assert!(String::from_utf8_lossy(&harmless.stderr).contains("SURVIVED"));
}

#[test]
fn the_console_s_thread_can_only_write() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    is_stopped("console", "console", libc::SYS_openat);
    // A panic of it is not swallowed by its filter.
    let output = violate("panicking-console");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("on purpose") && !said.contains("system call"),
        "{said}"
    );
}

#[test]
fn the_program_cannot_start_others_or_talk_to_a_network() {
    is_stopped("control exec", "control", libc::SYS_execve);
    is_stopped("control connect", "control", libc::SYS_socket);
    // The C library blocks all signals while it starts a program, so the kernel kills the process itself.
    let output = violate("control spawn");
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
}

/// Opens what it may, and what it may not.
fn use_files(directory: &str) {
    let (ours, read) = (format!("{directory}/ours"), format!("{directory}/read"));
    let files = Files {
        read: Some(Path::new(&read)),
        replace_in: Some(Path::new(&ours)),
    };
    if confine(&files).expect("this kernel has seccomp") == Landlock::None {
        let _ = writeln!(io::stderr(), "NO LANDLOCK");
        return;
    }
    let refused =
        |result: io::Result<()>| result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
    let create = |path: &str| File::options().write(true).create_new(true).open(path).map(drop);
    assert!(fs::read(&read).is_ok());
    assert!(create(&format!("{ours}/new")).is_ok());
    assert!(fs::rename(format!("{ours}/new"), format!("{ours}/old")).is_ok());
    assert!(fs::read("/proc/self/status").is_ok());
    assert!(refused(fs::read(format!("{ours}/old")).map(drop)));
    assert!(refused(fs::read(format!("{directory}/secret")).map(drop)));
    assert!(refused(create(&format!("{directory}/elsewhere"))));
    assert!(refused(fs::write(&read, "")));
    assert!(refused(fs::remove_file(&read)));
    assert!(fs::rename(format!("{ours}/old"), format!("{directory}/old")).is_err());
}

#[test]
fn files_nobody_asked_for_are_out_of_reach() {
    let directory = env::temp_dir().join(format!("pvlab-sandbox-{}", std::process::id()));
    fs::create_dir_all(directory.join("ours")).expect("temporary directories can be made");
    for name in ["read", "secret"] {
        fs::write(directory.join(name), "text").expect("temporary files can be written");
    }
    let output = violate(&format!("files {}", directory.display()));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    fs::remove_dir_all(&directory).expect("what was made can be removed");
    if said.contains("NO LANDLOCK") {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED files: this kernel has no Landlock, or it is switched off"
        );
        return;
    }
    assert!(said.contains("SURVIVED"), "{said}");
}

/// Starts a run that prints until it is killed, and waits until all of its threads are at work.
fn start_babbling(arguments: &[&str]) -> Child {
    let child = command(PROGRAM)
        .args(["run", "--vcpus", "2", "--workload", "babble", "--timeout", "24h"])
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program can be run");
    // Threads are confined before they enter the guest, or write: who has given its CPU up so often does that.
    let switches = |status: &String| {
        let count = |name| field(status, name).parse::<u64>().unwrap_or_default();
        count("voluntary_ctxt_switches") + count("nonvoluntary_ctxt_switches")
    };
    for _ in 0..6000 {
        let threads = threads(&child);
        let at_work = |name: &str, least: u64| {
            threads
                .iter()
                .any(|status| field(status, "Name") == name && switches(status) >= least)
        };
        if at_work("vcpu-0", 20) && at_work("console", 20) && at_work("vcpu-1", 1) {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    child
}

/// The `status` of each of its threads.
fn threads(child: &Child) -> Vec<String> {
    let tasks =
        fs::read_dir(format!("/proc/{}/task", child.id())).expect("a child that was not waited for is there");
    let read = |entry: io::Result<fs::DirEntry>| fs::read_to_string(entry.ok()?.path().join("status")).ok();
    tasks.filter_map(read).collect()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim()
}

#[test]
fn every_thread_of_a_run_is_confined_unless_the_user_says_otherwise() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for (arguments, mode, privileges) in [(&[][..], "2", "1"), (&["--no-sandbox"][..], "0", "0")] {
        let mut child = start_babbling(arguments);
        let threads = threads(&child);
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
        let names: Vec<_> = threads.iter().map(|status| field(status, "Name")).collect();
        for name in ["console", "vcpu-0", "vcpu-1"] {
            assert!(names.contains(&name), "no thread {name}: {names:?}");
        }
        for status in &threads {
            let name = field(status, "Name");
            assert_eq!(field(status, "Seccomp"), mode, "{arguments:?}: {name}");
            assert_eq!(field(status, "NoNewPrivs"), privileges, "{arguments:?}: {name}");
        }
        // A vCPU's thread has a filter of its own beside the program's.
        if let Some(filters) = threads
            .iter()
            .map(|it| (field(it, "Name"), field(it, "Seccomp_filters")))
            .find(|it| it.0 == "vcpu-0")
        {
            assert!(
                mode == "0" || filters.1 == "2" || filters.1.is_empty(),
                "{filters:?}"
            );
        }
    }
}

#[test]
fn the_doctor_tells_how_vmm_is_confined() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for (arguments, words) in [("doctor", "seccomp"), ("doctor --no-sandbox", "none")] {
        let output = vmm(PROGRAM, arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.starts_with("sandbox "));
        assert!(
            line.is_some_and(|line| line.contains(words)),
            "{arguments}: {text}"
        );
        assert_eq!(output.status.code(), Some(0), "{arguments}");
    }
}

/// Turns the result of a system call into Rust's.
fn done(result: i32) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Puts a device that everybody may use in place of the machine's `/dev/kvm`, for this process alone.
fn replace_kvm(devices: &CStr, device: &CStr) -> io::Result<()> {
    let mount = |what: &CStr, to: &CStr, kind: &CStr, flags| {
        // SAFETY: all strings end with a zero, and no file system used here needs data.
        done(unsafe { libc::mount(what.as_ptr(), to.as_ptr(), kind.as_ptr(), flags, ptr::null()) })
    };
    // SAFETY: has no memory effects.
    done(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    mount(c"none", c"/", c"none", libc::MS_REC | libc::MS_PRIVATE)?;
    mount(c"none", devices, c"tmpfs", 0)?;
    const KVM: (u32, u32) = (10, 232);
    // SAFETY: the string ends with a zero.
    done(unsafe { libc::mknod(device.as_ptr(), libc::S_IFCHR, libc::makedev(KVM.0, KVM.1)) })?;
    // SAFETY: likewise.
    done(unsafe { libc::chmod(device.as_ptr(), 0o666) })?;
    mount(device, c"/dev/kvm", c"none", libc::MS_BIND)
}

/// Becomes nobody, in no group.
fn drop_privileges() -> io::Result<()> {
    const NOBODY: u32 = 65534;
    // SAFETY: no groups are read from no pointer.
    done(unsafe { libc::setgroups(0, ptr::null()) })?;
    // SAFETY: has no preconditions.
    done(unsafe { libc::setresgid(NOBODY, NOBODY, NOBODY) })?;
    // SAFETY: has no preconditions.
    done(unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) })
}

/// As nobody, with nothing but access to `/dev/kvm`.
#[test]
fn the_default_experiment_needs_no_privileges() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    // SAFETY: has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    if !root && fs::metadata("/dev/kvm").is_ok() {
        // Then every other test is this one.
        let _ = writeln!(
            io::stderr(),
            "SKIPPED the_default_experiment_needs_no_privileges: not root anyway"
        );
        return;
    }
    let directory = env::temp_dir().join(format!("pvlab-nobody-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("temporary directories can be made");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).expect("they are ours");
    // Opened here, because nobody may not find the way to it.
    let program = File::open(PROGRAM).expect("the program is there");
    let mut command = command(&format!("/proc/self/fd/{}", program.as_raw_fd()));
    command
        .args([
            "run",
            "--vcpus",
            "2",
            "--duration",
            "100ms",
            "--timeout",
            "600s",
            "--format",
            "json",
            "--output",
            "out",
        ])
        .current_dir(&directory);
    fs::create_dir(directory.join("dev")).expect("it is ours");
    let path = |name: &str| CString::new(format!("{}/{name}", directory.display())).expect("no zeroes");
    let (devices, device) = (path("dev"), path("dev/kvm"));
    let become_nobody = move || replace_kvm(&devices, &device).and_then(|()| drop_privileges());
    // SAFETY: the closure makes system calls and allocates nothing, so it may run between fork and exec.
    unsafe { command.pre_exec(become_nobody) };
    let output = command.output();
    let written = fs::read_to_string(directory.join("out"));
    fs::remove_dir_all(&directory).expect("what was made can be removed");
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            let _ = writeln!(
                io::stderr(),
                "SKIPPED the_default_experiment_needs_no_privileges: {error}"
            );
            return;
        }
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    // On a busy machine a vCPU may not have had a turn.
    assert!(
        said.lines().all(|line| line.starts_with("vmm: warning: ")),
        "{said}"
    );
    assert!(written.is_ok_and(|text| text.contains("\"completed\"")));
}

/// The program on a kernel where a system call fails, as on one that lacks it or in a container that
/// forbids it.
fn without(call: i64, error: i32, arguments: &str) -> Output {
    let statement = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    // What only looks at the number needs no more than these.
    let program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ, 0, 1, call as u32),
        statement(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ERRNO | error as u32),
        statement(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let forbid = move || {
        let filter = libc::sock_fprog {
            len: program.len() as u16,
            filter: program.as_ptr().cast_mut(),
        };
        // SAFETY: a request without pointers.
        done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
        // SAFETY: the kernel copies a program of that length from there.
        done(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) })
    };
    let mut command = command(PROGRAM);
    command.args(arguments.split_whitespace());
    // SAFETY: the closure makes system calls and allocates nothing, so it may run between fork and exec.
    unsafe { command.pre_exec(forbid) };
    command.output().expect("the program can be run")
}

/// What it said on stderr, and its exit code.
fn said(output: &Output) -> (String, Option<i32>) {
    (
        String::from_utf8_lossy(&output.stderr).into_owned(),
        output.status.code(),
    )
}

/// Where threads may not be bound to CPUs, guests run nevertheless, and the result says what it is not.
#[test]
fn a_host_that_forbids_binding_is_told_of() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let run = "run --vcpus 2 --lock tas --duration 50ms --timeout 600s";
    let (said, code) = said(&without(libc::SYS_sched_setaffinity, libc::EPERM, run));
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("did not let 2 vCPU threads be bound to their CPUs"),
        "{said}"
    );
}

#[test]
fn a_kernel_without_landlock_is_told_of_and_will_do() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let output = without(libc::SYS_landlock_create_ruleset, libc::ENOSYS, "doctor");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output).0);
    assert!(text.contains("seccomp; no Landlock"), "{text}");
}

#[test]
fn a_kernel_without_seccomp_will_do_only_if_the_user_says_so() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let run = "run --vcpus 1 --lock tas --duration 10ms --timeout 600s";
    let output = without(libc::SYS_seccomp, libc::ENOSYS, run);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        one_line(&output).contains("--no-sandbox"),
        "{}",
        one_line(&output)
    );
    let (said, code) = said(&without(
        libc::SYS_seccomp,
        libc::ENOSYS,
        &format!("{run} --no-sandbox"),
    ));
    assert_eq!(code, Some(0), "{said}");
}
