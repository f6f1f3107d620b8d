//! Files that change under a running process: rules, certificates.
//!
//! They are looked at now and then instead of being watched by the kernel:
//! that sees edits in place, renames, swapped links anywhere on the way (as a
//! mounted Kubernetes ConfigMap or Secret does it) and network file systems
//! alike, and costs a `stat` for each file.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

/// What files look like from outside, as a number that changes with any of
/// their names, sizes, times or inodes.
#[derive(Clone, Debug, Default)]
pub struct Look(DefaultHasher);

/// Notices that files have changed.
#[derive(Debug)]
pub struct Watch<F> {
    look: Arc<F>,
    every: Duration,
    seen: u64,
}

// === impl Look ===

impl Look {
    /// Takes in one file, links followed; that there is none counts, too.
    pub fn file(&mut self, path: &Path) {
        path.hash(&mut self.0);
        match fs::metadata(path) {
            Ok(file) => {
                let time = (
                    file.mtime(),
                    file.mtime_nsec(),
                    file.ctime(),
                    file.ctime_nsec(),
                );
                (file.dev(), file.ino(), file.len(), time).hash(&mut self.0);
            }
            Err(error) => error.kind().hash(&mut self.0),
        }
    }

    /// The number.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.0.finish()
    }
}

// === impl Watch ===

impl<F: Fn() -> u64 + Send + Sync + 'static> Watch<F> {
    /// Looks with `look`, which may block, `every` so often. What there is
    /// now counts as seen.
    #[must_use]
    pub fn new(every: Duration, look: F) -> Self {
        let seen = look();
        Self {
            look: Arc::new(look),
            every,
            seen,
        }
    }

    /// Waits until there is another look than at the last time, and it has
    /// stayed the same from one look to the next: whoever writes is done.
    pub async fn changed(&mut self) {
        let mut tick = interval(self.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        let mut last = self.seen;
        loop {
            tick.tick().await;
            let look = Arc::clone(&self.look);
            let Ok(now) = tokio::task::spawn_blocking(move || look()).await else {
                continue;
            };
            if now == last && now != self.seen {
                self.seen = now;
                return;
            }
            last = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_counts_once_it_has_settled() {
        // What is seen at each look, the first at the beginning.
        let seen = [1, 1, 2, 3, 3, 3, 1];
        let looks = AtomicU64::new(0);
        let mut watch = Watch::new(Duration::from_millis(500), move || {
            let look = looks.fetch_add(1, Ordering::Relaxed);
            seen.get(usize::try_from(look).unwrap())
                .copied()
                .unwrap_or(1)
        });
        let begun = tokio::time::Instant::now();
        watch.changed().await;
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
        watch.changed().await;
        assert_eq!(watch.seen, 1);
    }

    #[test]
    fn every_kind_of_change_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let look = || {
            let mut look = Look::default();
            look.file(&path);
            look.sum()
        };
        let mut sums = vec![look()];
        let mut then = |change: &dyn Fn()| {
            change();
            sums.push(look());
        };
        then(&|| fs::write(&path, "one").unwrap());
        then(&|| fs::write(&path, "longer").unwrap());
        then(&|| {
            fs::write(folder.path().join("b"), "longer").unwrap();
            fs::rename(folder.path().join("b"), &path).unwrap();
        });
        then(&|| {
            fs::remove_file(&path).unwrap();
            fs::write(folder.path().join("c"), "longer").unwrap();
            std::os::unix::fs::symlink("c", &path).unwrap();
        });
        let before = sums.len();
        sums.dedup();
        assert_eq!(sums.len(), before);
    }
}
