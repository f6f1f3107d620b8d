//! Paths → test files.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use crate::config::files::is_test;

/// A file to run, or a path that gives none.
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// Why it cannot be run.
    pub(super) unreadable: Option<String>,
}

/// The files named, and those below the folders named: each once, those of a
/// folder sorted. As with rules, names with a dot in front are left out, and
/// links to folders are not entered.
pub(super) fn test_files(paths: &[PathBuf]) -> Vec<Found> {
    let mut found = vec![];
    for path in paths {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => found.extend(below(path)),
            Ok(_) if is_test(path) => found.push(Found::runnable(path.clone())),
            Ok(_) => {
                let reason = "not named as test files are: NAME.test.yaml or NAME.test.yml";
                found.push(Found::unreadable(path.clone(), reason.to_owned()));
            }
            Err(error) => found.push(Found::unreadable(path.clone(), cannot_read(&error))),
        }
    }
    let mut seen = HashSet::new();
    found.retain(|it| seen.insert(same(&it.path)));
    found
}

/// Equal for paths to the same file; links have their own place, and so
/// their own rules beside them.
fn same(path: &Path) -> PathBuf {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    folder.join(path.file_name().unwrap_or_default())
}

pub(super) fn cannot_read(error: &io::Error) -> String {
    format!("cannot read it: {error}")
}

fn below(root: &Path) -> Vec<Found> {
    let mut folders = vec![root.to_owned()];
    let mut found = vec![];
    while let Some(folder) = folders.pop() {
        if let Err(error) = look_into(&folder, &mut folders, &mut found) {
            found.push(Found::unreadable(folder, cannot_read(&error)));
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn look_into(folder: &Path, folders: &mut Vec<PathBuf>, found: &mut Vec<Found>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            folders.push(path);
        } else if is_test(&path) {
            found.push(Found::runnable(path));
        }
    }
    Ok(())
}

// === impl Found ===

impl Found {
    fn runnable(path: PathBuf) -> Self {
        Self {
            path,
            unreadable: None,
        }
    }

    fn unreadable(path: PathBuf, reason: String) -> Self {
        Self {
            path,
            unreadable: Some(reason),
        }
    }
}
