//! A path → the rules files at or below it. Tests of rules (`*.test.yaml`)
//! are none.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::compile::{MAX_FILE_BYTES, SourceFile};

/// Bytes that all files together may have.
const MAX_TOTAL_BYTES: usize = 512 << 20;

/// Which files of a folder to read, and what to call them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// Only files named `*.yaml` or `*.yml`, and no tests (see [`is_test`]);
    /// otherwise all but an editor's own (the reference reads these, too).
    pub only_yaml: bool,
    /// Leave out files and folders whose names begin with a dot. A mounted
    /// Kubernetes ConfigMap holds each file twice without it.
    pub ignore_dot_files: bool,
    /// What to call a file.
    pub names: Names,
}

/// What to call a file in messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// Its path, as it was opened.
    Path,
    /// The reference's runtime key: the path relative to the folder that is
    /// read, `/` written as `.`; only files whose key begins with `prefix`.
    RuntimeKey {
        /// For example `config.`; empty for all files.
        prefix: String,
    },
}

/// Files or folders that could not be read; all of them.
#[derive(Debug)]
pub struct ReadError {
    /// Each path with its reason.
    pub failures: Vec<(PathBuf, io::Error)>,
}

/// The rules files at or below a path, by name, and what cannot be looked at.
#[derive(Debug, Default)]
pub struct Found {
    /// What each is called, and where it is; sorted.
    pub files: Vec<(Arc<str>, PathBuf)>,
    /// Each path with its reason.
    pub failures: Vec<(PathBuf, io::Error)>,
}

/// Looks for a file, or the files of a folder and the folders below it.
///
/// Links to files are followed, links to folders are not entered. What an
/// editor keeps beside a file (see [`is_backup`]) is none.
#[must_use]
pub fn find(path: &Path, options: &ReadOptions) -> Found {
    let mut walk = Walk {
        root: path,
        options,
        found: Found::default(),
    };
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => walk.folders(),
        Ok(_) => walk.file(path.to_owned()),
        Err(error) => walk.found.failures.push((path.to_owned(), error)),
    }
    walk.found.files.sort();
    walk.found
}

/// Reads what [`find`] finds.
///
/// # Errors
/// Anything that cannot be read.
pub fn read(path: &Path, options: &ReadOptions) -> Result<Vec<SourceFile>, ReadError> {
    let Found {
        files: found,
        mut failures,
    } = find(path, options);
    let (mut files, mut total) = (Vec::with_capacity(found.len()), 0);
    for (name, path) in found {
        match read_bytes(&path) {
            Ok(bytes) if total + bytes.len() <= MAX_TOTAL_BYTES => {
                total += bytes.len();
                files.push(SourceFile { name, bytes });
            }
            Ok(_) => {
                let message = format!("all files together exceed {} MiB", MAX_TOTAL_BYTES >> 20);
                let error = io::Error::new(io::ErrorKind::FileTooLarge, message);
                failures.push((path, error));
            }
            Err(error) => failures.push((path, error)),
        }
    }
    if failures.is_empty() {
        return Ok(files);
    }
    failures.sort_by(|a, b| a.0.cmp(&b.0));
    Err(ReadError { failures })
}

/// Whether an editor keeps it beside a file for a while: `x~`, `#x#`, `.#x`,
/// `.x.swp` and its like, and the `4913` with which Vim tries a folder.
#[must_use]
pub fn is_backup(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let is_swap = |name: &[u8]| matches!(name, [b'.', .., b'.', b's', b'v' | b'w', b'a'..=b'z']);
    let is_hash = |name: &[u8]| matches!(name, [b'#', .., b'#'] | [b'.', b'#', ..]);
    name.ends_with(b"~") || is_hash(name) || is_swap(name) || name == b"4913"
}

/// Whether a file is named as one with tests of rules: `NAME.test.yaml` or
/// `NAME.test.yml`.
#[must_use]
pub fn is_test(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let stem = name
        .strip_suffix(b".test.yaml")
        .or_else(|| name.strip_suffix(b".test.yml"));
    stem.is_some_and(|stem| !stem.is_empty())
}

/// Reads one file, whatever it is called; a little more than it may have
/// when it is too large, so that the compiler will say so.
///
/// # Errors
/// Those of the file system.
pub fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    let limit = MAX_FILE_BYTES as u64 + 1;
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

struct Walk<'o> {
    root: &'o Path,
    options: &'o ReadOptions,
    found: Found,
}

// === impl Walk ===

impl Walk<'_> {
    fn folders(&mut self) {
        let mut folders = vec![self.root.to_owned()];
        while let Some(folder) = folders.pop() {
            if let Err(error) = self.folder(&folder, &mut folders) {
                self.found.failures.push((folder, error));
            }
        }
    }

    fn folder(&mut self, folder: &Path, folders: &mut Vec<PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if self.options.ignore_dot_files && name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if self.is_wanted(&path) {
                self.file(path);
            }
        }
        Ok(())
    }

    /// A regular file, or a link to one, or to nothing: that is told.
    fn is_wanted(&self, path: &Path) -> bool {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let yaml = matches!(extension, Some("yaml" | "yml")) && !is_test(path);
        let named = if self.options.only_yaml {
            yaml
        } else {
            !is_backup(path)
        };
        named && fs::metadata(path).map_or(true, |metadata| metadata.is_file())
    }

    fn file(&mut self, path: PathBuf) {
        if let Some(name) = self.name(&path) {
            self.found.files.push((name, path));
        }
    }

    fn name(&self, path: &Path) -> Option<Arc<str>> {
        match &self.options.names {
            Names::Path => Some(path.to_string_lossy().into()),
            Names::RuntimeKey { prefix } => {
                let relative = path.strip_prefix(self.root).unwrap_or(path);
                let key = if relative.as_os_str().is_empty() {
                    path.file_name().unwrap_or_default().to_string_lossy()
                } else {
                    relative.to_string_lossy()
                };
                let key = key.replace(std::path::MAIN_SEPARATOR, ".");
                key.starts_with(prefix.as_str()).then(|| key.into())
            }
        }
    }
}

// === impl ReadOptions ===

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            only_yaml: true,
            ignore_dot_files: true,
            names: Names::Path,
        }
    }
}

impl ReadOptions {
    /// As the reference reads a folder: every file, called by its runtime
    /// key, of which those count that begin with `prefix`.
    #[must_use]
    pub fn reference(prefix: &str, ignore_dot_files: bool) -> Self {
        Self {
            only_yaml: false,
            ignore_dot_files,
            names: Names::RuntimeKey {
                prefix: prefix.to_owned(),
            },
        }
    }
}

// === impl ReadError ===

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (path, error)) in self.failures.iter().enumerate() {
            let separator = if index > 0 { "\n" } else { "" };
            write!(f, "{separator}cannot read {}: {error}", path.display())?;
        }
        Ok(())
    }
}

impl std::error::Error for ReadError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        root
    }

    fn names(root: &Path, options: &ReadOptions) -> Vec<String> {
        let files = read(root, options).unwrap();
        let prefix = format!("{}/", root.display());
        files
            .iter()
            .map(|file| file.name.strip_prefix(&prefix).unwrap_or(&file.name).into())
            .collect()
    }

    #[test]
    fn a_folder_is_read_as_asked() {
        let root = folder(&[
            "b.yaml",
            "a.yml",
            "b.test.yaml",
            "sub/c.yaml",
            "sub/c.test.yml",
            "notes.txt",
            ".d.yaml",
            "..x/b.yaml",
        ]);
        let reference = |prefix, dots| ReadOptions::reference(prefix, dots);
        for (options, expected) in [
            (ReadOptions::default(), "a.yml b.yaml sub/c.yaml"),
            (
                reference("", true),
                "a.yml b.test.yaml b.yaml notes.txt sub.c.test.yml sub.c.yaml",
            ),
            (reference("sub.", true), "sub.c.test.yml sub.c.yaml"),
            (
                reference("", false),
                "..x.b.yaml .d.yaml a.yml b.test.yaml b.yaml notes.txt sub.c.test.yml sub.c.yaml",
            ),
        ] {
            assert_eq!(
                names(root.path(), &options).join(" "),
                expected,
                "{options:?}"
            );
        }
    }

    #[test]
    fn tests_of_rules_are_told_by_their_names() {
        for (name, expected) in [
            ("a/b.test.yaml", true),
            ("b.test.yml", true),
            ("b.yaml", false),
            ("test.yaml", false),
            (".test.yaml", false),
            ("b.test.json", false),
            ("btest.yaml", false),
        ] {
            assert_eq!(is_test(Path::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn what_editors_keep_beside_a_file_is_told_by_its_name() {
        for (name, expected) in [
            ("x.yaml~", true),
            (".x.yaml.swp", true),
            (".x.yaml.swo", true),
            (".x.yaml.svz", true),
            ("#x.yaml#", true),
            (".#x.yaml", true),
            ("4913", true),
            ("x.yaml", false),
            ("x.swp", false),
            (".x.yaml", false),
            ("#x.yaml", false),
            ("49131", false),
        ] {
            assert_eq!(is_backup(Path::new(name)), expected, "{name}");
        }
        let root = folder(&["a.yaml", "a.yaml~", ".a.yaml.swp", "#a.yaml#", "4913", "b"]);
        let read = ReadOptions::reference("", false);
        assert_eq!(names(root.path(), &read), ["a.yaml", "b"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_to_files_are_followed_and_links_to_folders_not_entered() {
        let root = folder(&["real/a.yaml", "rules/b.yaml"]);
        let rules = root.path().join("rules");
        std::os::unix::fs::symlink(root.path().join("real/a.yaml"), rules.join("l.yaml")).unwrap();
        std::os::unix::fs::symlink(root.path().join("real"), rules.join("folder")).unwrap();
        std::os::unix::fs::symlink(root.path().join("real"), rules.join("folder.yaml")).unwrap();
        assert_eq!(names(&rules, &ReadOptions::default()), ["b.yaml", "l.yaml"]);

        std::os::unix::fs::symlink("nowhere", rules.join("gone.yaml")).unwrap();
        let error = read(&rules, &ReadOptions::default()).unwrap_err();
        assert!(error.to_string().contains("gone.yaml"), "{error}");
    }

    #[test]
    fn a_single_file_is_read_whatever_its_name() {
        let root = folder(&["rules.txt"]);
        let path = root.path().join("rules.txt");
        assert_eq!(read(&path, &ReadOptions::default()).unwrap().len(), 1);
        let key = &read(&path, &ReadOptions::reference("", true)).unwrap()[0].name;
        assert_eq!(&**key, "rules.txt");
        assert!(read(&root.path().join("missing"), &ReadOptions::default()).is_err());
    }
}
