//! Where rules are: from there to compiled rules, or to what is wrong.

use std::path::PathBuf;

use thiserror::Error;

use super::{
    Options, Problems, ReadError, ReadOptions, SourceFile, compile,
    files::{self, Found},
};
use crate::engine::rules::RuleSet;

/// Where rules are, and how to read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesSource {
    /// File or folder; `None` is an empty configuration.
    pub path: Option<PathBuf>,
    /// How to read it.
    pub read: ReadOptions,
    /// How to compile it.
    pub compile: Options,
}

/// Why there are no rules.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Files or folders cannot be read.
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    /// There are mistakes in them.
    #[error("the rules are not right\n{0}")]
    Mistakes(Problems),
    /// The same, told as the reference does.
    #[error("{}", .0.compat_lines().join("\n"))]
    CompatMistakes(Problems),
    /// There were rules, and now there is no file.
    #[error(
        "{} holds no rules any more; what was loaded before stays in force \
         (--rules-may-vanish lets rules go)",
        .0.display()
    )]
    Vanished(PathBuf),
}

// === impl RulesSource ===

impl RulesSource {
    /// The files that there are now, not read.
    #[must_use]
    pub fn find(&self) -> Found {
        match &self.path {
            Some(path) => files::find(path, &self.read),
            None => Found::default(),
        }
    }

    /// Reads all files.
    ///
    /// # Errors
    /// Anything that cannot be read.
    pub fn read(&self) -> Result<Vec<SourceFile>, ReadError> {
        match &self.path {
            Some(path) => files::read(path, &self.read),
            None => Ok(vec![]),
        }
    }

    /// Makes rules of what was read.
    ///
    /// # Errors
    /// All mistakes of all files.
    pub fn compile(&self, files: &[SourceFile]) -> Result<RuleSet, LoadError> {
        compile(files, &self.compile).map_err(|problems| {
            if self.compile.compat {
                LoadError::CompatMistakes(problems)
            } else {
                LoadError::Mistakes(problems)
            }
        })
    }
}

// === impl LoadError ===

impl LoadError {
    /// The file or folder that was named for rules is not there, or nobody
    /// may read it.
    #[must_use]
    pub fn is_about_all_of(&self, source: &RulesSource) -> bool {
        let Self::Unreadable(error) = self else {
            return false;
        };
        let mut paths = error.failures.iter().map(|(path, _)| Some(path));
        paths.any(|path| path == source.path.as_ref())
    }
}
