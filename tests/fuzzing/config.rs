//! `config`: a file of any bytes, by the way on which the daemon reads it: it is in force or refused
//! with messages, and what is kept of it for a restart says the same again.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;

use hardened_epmd::config::{Invocation, Snapshot, Sources, show};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A file may be wrong in every line; what is said of it is bounded by its own length all the same.
const MOST_SAID_FOR_A_BYTE: usize = 2000;

/// The file, in memory alone, and what leads to it.
struct Place {
    file: File,
    sources: Sources,
}

thread_local! {
    static PLACE: RefCell<Place> = RefCell::new(Place::new());
}

pub fn run(bytes: &[u8]) {
    PLACE.with_borrow_mut(|place| place.load(bytes));
}

impl Place {
    fn new() -> Self {
        let file = memfd_create("epmd.toml", MFdFlags::empty()).expect("a file in memory");
        let file = File::from(file);
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let words = ["-config".into(), OsString::from(path)].into_iter();
        let invocation = Invocation::parse(words, |_| None).expect("a command line");
        let sources = invocation.sources;
        Self { file, sources }
    }

    fn load(&mut self, bytes: &[u8]) {
        self.file.set_len(0).expect("an empty file");
        self.file.rewind().expect("the file's beginning");
        self.file.write_all(bytes).expect("a written file");
        match self.sources.load_and_keep() {
            Ok((settings, snapshot)) => {
                let kept = snapshot.to_bytes().expect("a snapshot");
                let kept = Snapshot::from_bytes(&kept).expect("the same snapshot");
                assert_eq!(kept, snapshot);
                let again = kept.settings().expect("the same settings");
                assert_eq!(show(&again), show(&settings));
            }
            Err(errors) => {
                assert!(errors.iter().next().is_some(), "refused without a reason");
                let said = errors.to_string();
                assert!(said.len() <= MOST_SAID_FOR_A_BYTE * (bytes.len() + 1));
                let unseen = |c: char| c.is_control() && c != '\n' && c != '\t';
                assert!(!said.contains(unseen), "{said:?}");
            }
        }
    }
}
