//! Rules from files: loaded at the start, and again when the files change.
//!
//! Files are looked at every so often (`watch.rs`). Once they have changed and
//! settled, they are read and compiled on a thread of its own, and the whole
//! of them goes to the [`Rulebook`]; or what is wrong with them does, and the
//! rules before stay. Files with the same bytes as at the last try are left
//! alone.
//!
//! Rules may come from a management server instead, which goes through the
//! same [`Rulebook`].

use std::{sync::Arc, time::Duration};

use ring::digest::{SHA256, SHA256_OUTPUT_LEN};
use tokio::{sync::mpsc, time::sleep};

use crate::{
    aside::aside,
    config::{LoadError, RulesSource, SourceFile},
    rulebook::Rulebook,
    watch::{Look, Watch},
};

/// From one try to the next while files cannot be read: that may pass without
/// a trace on the files.
const UNREADABLE_RETRY: Duration = Duration::from_secs(5);

/// What to do when rules change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// From one look at the files to the next; zero for none at all.
    /// `--rules-poll`, default 500 ms.
    pub poll: Duration,
    /// When all files are gone the rules go, too. `--rules-may-vanish`.
    pub may_vanish: bool,
}

/// Loads rules from files into the rulebook.
#[derive(Debug)]
pub struct Reload {
    config: Config,
    source: RulesSource,
    rulebook: Arc<Rulebook>,
}

/// What became of a try that was none the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// Other rules are in force now; this many files hold them.
    New(usize),
    /// The files are as they were at the last try.
    Same,
}

/// What the files held at the last try; `None` if they could not be read.
pub type Tried = Option<[u8; SHA256_OUTPUT_LEN]>;

/// The files as they looked before they were read.
pub type FilesWatch = Watch<Box<dyn Fn() -> u64 + Send + Sync>>;

// === impl Reload ===

impl Reload {
    /// Nothing is loaded yet.
    #[must_use]
    pub fn new(config: Config, source: RulesSource, rulebook: Arc<Rulebook>) -> Self {
        Self {
            config,
            source,
            rulebook,
        }
    }

    /// Looks at the files; to be done before they are read, so that no change
    /// is missed. `None` where nobody shall look. Blocks.
    #[must_use]
    pub fn watch(&self) -> Option<FilesWatch> {
        if self.config.poll.is_zero() || self.source.path.is_none() {
            return None;
        }
        let source = self.source.clone();
        let look = Box::new(move || look(&source));
        Some(Watch::new(self.config.poll, look))
    }

    /// Loads what there is, unless that has been tried. Blocks.
    ///
    /// # Errors
    /// What is wrong with it; the rulebook has not been told.
    pub fn load(&self, tried: &mut Tried) -> Result<Loaded, LoadError> {
        let before = tried.take();
        let files = self.source.read()?;
        *tried = Some(digest(&files));
        if *tried == before {
            return Ok(Loaded::Same);
        }
        if let Some(path) = self.source.path.clone()
            && files.is_empty()
            && !self.config.may_vanish
            && self.rulebook.loads().domains > 0
        {
            return Err(LoadError::Vanished(path));
        }
        let rules = self.source.compile(&files)?;
        self.rulebook.adopt(rules);
        Ok(Loaded::New(files.len()))
    }

    /// Loads again whenever the files of `watch` change or `asked` says so;
    /// for ever. `tried` is what was loaded before, if anything.
    pub async fn run(
        self,
        mut watch: Option<FilesWatch>,
        mut asked: mpsc::Receiver<()>,
        mut tried: Tried,
    ) {
        let this = Arc::new(self);
        loop {
            let unreadable = tried.is_none();
            tokio::select! {
                () = changed(&mut watch) => {}
                Some(()) = asked.recv() => tracing::info!("asked to load rules"),
                () = sleep(UNREADABLE_RETRY), if unreadable && watch.is_some() => {}
            }
            tried = Arc::clone(&this).again(tried).await;
        }
    }

    /// Loads while event loops go on.
    async fn again(self: Arc<Self>, mut tried: Tried) -> Tried {
        let this = Arc::clone(&self);
        let load = move || {
            match this.load(&mut tried) {
                Ok(Loaded::New(_)) => {}
                Ok(Loaded::Same) => tracing::debug!("the rules files hold what they held"),
                Err(error) => this.rulebook.refuse(error),
            }
            tried
        };
        match aside(load).await {
            Ok(tried) => tried.unwrap_or_default(),
            Err(error) => {
                let trouble = format_args!("no thread to load rules: {error}");
                self.rulebook.refuse(trouble);
                None
            }
        }
    }
}

async fn changed(watch: &mut Option<FilesWatch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

fn look(source: &RulesSource) -> u64 {
    let found = source.find();
    let mut look = Look::default();
    for (_, path) in &found.files {
        look.file(path);
    }
    for (path, _) in &found.failures {
        look.file(path);
    }
    look.sum()
}

/// Of names and contents, each with its length, so that no two sets of files
/// are the same text.
fn digest(files: &[SourceFile]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut context = ring::digest::Context::new(&SHA256);
    for file in files {
        for part in [file.name.as_bytes(), &file.bytes] {
            context.update(&part.len().to_le_bytes());
            context.update(part);
        }
    }
    let mut sum = [0; SHA256_OUTPUT_LEN];
    sum.copy_from_slice(context.finish().as_ref());
    sum
}
