//! Which files a reload may read: the settings' own, and not what else stands beside it.
//!
//! A rule of Landlock is tied to a file, not to its name: where an editor, a package or a ConfigMap puts
//! another file in its place, only a rule for the folder permits that one; and such a rule permits everything
//! below, in /etc also what other programs of the same user keep there, and to root /etc/shadow. So a folder is
//! permitted where it is the settings' own, or where the daemon's user is epmd's own, who may read nothing there
//! that is anybody's secret. Called by `sandbox`, before anything is forbidden.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

/// With more than so much beside the settings, a folder is not theirs alone.
const MOST: usize = 64;
/// The bit of a mode by which everybody may read.
const READ_FOR_ALL: u32 = 0o004;

/// What may be read, or written to.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// The file itself.
    pub(super) files: Vec<PathBuf>,
    /// Folders in which it may be replaced.
    pub(super) folders: Vec<PathBuf>,
}

/// The folder that a file is in.
pub(super) fn of_file(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// What lines may be written to by this name. What is in /proc or /dev is open already, and stays so.
pub(super) fn of_lines(path: &Path) -> Places {
    let mut places = Places::default();
    if path.starts_with("/proc") || path.starts_with("/dev") {
        return places;
    }
    let folder = of_file(path);
    places.folders.push(folder.to_owned());
    // By a link it may be elsewhere, and no file.
    let Ok(target) = fs::canonicalize(path) else {
        return places;
    };
    if fs::canonicalize(folder).is_ok_and(|folder| folder == of_file(&target)) {
        return places;
    }
    if target.is_file() {
        places.folders.push(of_file(&target).to_owned());
    } else {
        places.files.push(target);
    }
    places
}

/// What may be read again of the settings at `path`.
pub(super) fn of(path: &Path, is_service: bool) -> Places {
    let is_epmds_own_user = is_service && !geteuid().is_root();
    let target = fs::canonicalize(path).ok();
    // A pipe (`-config <(...)`), or a file that is gone: there is nothing by this name that could be replaced.
    if target.is_none() && fs::symlink_metadata(path).is_ok() {
        return Places::default();
    }
    // By a link, the file may be replaced at either end.
    let mut folders: Vec<PathBuf> = Vec::new();
    let mut may_be_replaced = true;
    for place in [Some(path), target.as_deref()].into_iter().flatten() {
        let folder = of_file(place);
        if is_epmds_own_user || is_of_its_own(folder, place) {
            folders.push(folder.to_owned());
        } else {
            may_be_replaced = false;
        }
    }
    if !may_be_replaced {
        folders.clear();
    }
    Places {
        files: target.into_iter().collect(),
        folders,
    }
}

/// Whether a folder holds nothing but the settings, copies of them, and what everybody may read.
fn is_of_its_own(folder: &Path, settings: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else {
        return false;
    };
    let name = settings.file_name().unwrap_or_default().as_bytes();
    let mut count = 0;
    entries.flatten().all(|entry| {
        count += 1;
        let is_copy = entry.file_name().as_bytes().starts_with(name);
        // Where Kubernetes keeps what the links of a ConfigMap lead to.
        let is_of_a_volume = entry.file_name().as_bytes().starts_with(b"..");
        let Ok(of) = entry.metadata() else {
            return false;
        };
        let is_harmless = if of.is_dir() {
            is_of_a_volume
        } else {
            is_copy || !of.is_file() || of.mode() & READ_FOR_ALL != 0
        };
        count <= MOST && is_harmless
    })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn write(path: &Path, mode: u32) {
        fs::write(path, "").unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_folder_is_read_again_where_it_is_the_settings_own() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("epmd.toml");
        let is_read = || !of(&path, false).folders.is_empty();
        // The file need not be there yet.
        assert!(is_read());
        write(&path, 0o640);
        write(&tmp.path().join("epmd.toml~"), 0o600);
        write(&tmp.path().join("README"), 0o644);
        assert!(is_read());
        let key = tmp.path().join("key.pem");
        for mode in [0o600, 0o640, 0o440] {
            write(&key, mode);
            assert!(!is_read(), "{mode:o}");
        }
        fs::remove_file(&key).unwrap();
        fs::create_dir(tmp.path().join("ssl")).unwrap();
        assert!(!is_read(), "what is below it could be read as well");
        assert_eq!(of(&path, false).files, [fs::canonicalize(&path).unwrap()]);
    }

    #[test]
    fn a_pipe_needs_no_permission() {
        let (_reader, writer) = std::io::pipe().unwrap();
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer));
        assert!(Path::new(&path).exists());
        let none = of(Path::new(&path), false);
        assert!(none.files.is_empty() && none.folders.is_empty(), "{none:?}");
    }

    #[test]
    fn a_folder_that_many_share_is_not() {
        assert!(of(Path::new("/etc/epmd.toml"), false).folders.is_empty());
        assert!(of(Path::new("/epmd.toml"), false).folders.is_empty());
        // Root could read all of it, service or not.
        if geteuid().is_root() {
            assert!(of(Path::new("/etc/epmd.toml"), true).folders.is_empty());
        }
    }

    #[test]
    fn both_ends_of_a_link_must_be_the_settings_own() {
        let tmp = tempfile::tempdir().unwrap();
        let (here, there) = (tmp.path().join("here"), tmp.path().join("there"));
        fs::create_dir(&here).unwrap();
        fs::create_dir(&there).unwrap();
        write(&there.join("epmd.toml"), 0o640);
        let path = here.join("epmd.toml");
        symlink(there.join("epmd.toml"), &path).unwrap();
        assert_eq!(of(&path, false).folders, [here, there.clone()]);
        write(&there.join("key.pem"), 0o600);
        assert!(of(&path, false).folders.is_empty());
    }

    /// As Kubernetes mounts a ConfigMap: a link to a link, which is exchanged as a whole.
    #[test]
    fn a_config_map_is_a_folder_of_its_own() {
        let tmp = tempfile::tempdir().unwrap();
        let version = tmp.path().join("..2026_11_25_09_00_00.1");
        fs::create_dir(&version).unwrap();
        write(&version.join("epmd.toml"), 0o644);
        symlink(version.file_name().unwrap(), tmp.path().join("..data")).unwrap();
        let path = tmp.path().join("epmd.toml");
        symlink("..data/epmd.toml", &path).unwrap();
        assert_eq!(of(&path, false).folders, [tmp.path().to_owned(), version]);
    }
}
