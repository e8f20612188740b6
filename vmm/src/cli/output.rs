//! Where results go: stdout, or a file that is there completely or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::cli::failure::Failure;
use crate::cli::signals::Signals;

/// The destination of a result.
#[derive(Debug)]
pub(super) enum Output {
    /// The process's standard output.
    Stdout,
    /// A pipe, a terminal or another device, which is written directly.
    Device(File),
    /// A regular file, which is replaced in one step.
    File(PathBuf),
}

impl Output {
    /// The destination that `--output` names, with nothing written to it yet. Waits for a named pipe's
    /// reader.
    ///
    /// # Errors
    ///
    /// Bad usage if nothing can be written there.
    pub(super) fn new(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        let refuse = |error: &dyn std::fmt::Display| {
            Failure::usage(format!(
                "cannot write --output '{}': {error}; name a file in a directory that you may write to",
                path.display()
            ))
        };
        // Opened now: it may not be there, or not for us, and the process may lose the right to open it.
        let device = |path: &Path| {
            let opened = OpenOptions::new().append(true).open(path);
            opened.map(Self::Device).map_err(|error| refuse(&error))
        };
        // These may well be regular files, but files that the shell has opened and others are writing.
        if ["/dev/stdout", "/dev/stderr", "/dev/fd", "/proc"]
            .iter()
            .any(|open| path.starts_with(open))
        {
            return device(path);
        }
        // The file itself, not a link to it, is what is to be replaced.
        let target = match path.canonicalize() {
            Ok(target) => target,
            Err(error) if error.kind() == ErrorKind::NotFound && path.file_name().is_some() => {
                path.to_owned()
            }
            Err(error) => return Err(refuse(&error)),
        };
        if target.is_dir() {
            return Err(refuse(&"it is a directory"));
        }
        if target.exists() && !target.is_file() {
            return device(&target);
        }
        // This file has no name, so that it cannot be left behind.
        tempfile::tempfile_in(directory(&target)).map_err(|error| refuse(&error))?;
        Ok(Self::File(target))
    }

    /// The directory that a file is going to be replaced in.
    pub(super) fn directory(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(directory(path)),
            Self::Stdout | Self::Device(_) => None,
        }
    }

    /// Writes `text` there and lets `signals` end the process again.
    ///
    /// # Errors
    ///
    /// [`Failure::Failed`] if it cannot be written. That a pipe's reader has left is not an error.
    pub(super) fn write(&self, text: &str, signals: Signals) -> Result<(), Failure> {
        let written = match self {
            // A file is soon written; better the signal comes after that.
            Self::File(path) => replace(path, text),
            // A pipe may wait for its reader as long as that likes.
            Self::Device(device) => {
                drop(signals);
                let mut device: &File = device;
                device.write_all(text.as_bytes())
            }
            Self::Stdout => {
                drop(signals);
                return print(text);
            }
        };
        check(written)
    }
}

/// Writes `text` to stdout.
///
/// # Errors
///
/// [`Failure::Failed`] if it cannot be written. That a pipe's reader has left is not an error.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    check(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

fn check(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Failed(format!(
            "cannot write the result: {error}; make room, or name another --output"
        ))),
        _ => Ok(()),
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    // A file like any other that the user makes: the umask still applies. Not for reading, which Landlock
    // does not allow.
    let create = |path: &Path| {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o666)
            .open(path)
    };
    let mut file = tempfile::Builder::new().make_in(directory(path), create)?;
    file.write_all(text.as_bytes())?;
    if let Ok(replaced) = fs::metadata(path) {
        file.as_file().set_permissions(replaced.permissions())?;
    }
    file.persist(path)?;
    Ok(())
}

/// The directory that `path` lies in.
fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        let output = Output::new(Some(path)).expect("the directory is writable");
        output
            .write(text, Signals::block().expect("there are file descriptors left"))
            .expect("there is room");
    }

    #[test]
    fn files_are_replaced_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (file, link) = (directory.path().join("out"), directory.path().join("link"));
        write(&file, "one");
        assert_eq!(fs::read_to_string(&file).expect("it was written"), "one");
        std::os::unix::fs::symlink(&file, &link).expect("links are supported");
        write(&link, "two");
        assert_eq!(fs::read_to_string(&file).expect("it was written"), "two");
        assert!(link.is_symlink());
        assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 2);
    }

    #[test]
    fn asking_creates_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        assert!(matches!(
            Output::new(Some(&directory.path().join("out"))),
            Ok(Output::File(_))
        ));
        assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 0);
    }

    #[test]
    fn what_cannot_be_written_is_bad_usage() {
        for path in [
            "",
            "/",
            ".",
            "/nonexistent/out",
            "/dev/null/out",
            "/proc/nope",
            "/dev/fd/nope",
        ] {
            let failure = Output::new(Some(Path::new(path))).expect_err(path);
            assert!(!failure.to_string().contains('\n'), "{failure}");
        }
    }

    #[test]
    fn devices_are_written_directly() {
        for path in ["/dev/null", "/dev/stdout", "/proc/self/fd/1"] {
            assert!(
                matches!(Output::new(Some(Path::new(path))), Ok(Output::Device(_))),
                "{path}"
            );
        }
        write(Path::new("/dev/null"), "text");
    }
}
