//! What a process has used of the processor, to the nanosecond, from the
//! operating system. Linux only: elsewhere there is nothing to read.

use std::{collections::HashMap, fs, path::Path};

/// Time on the processor of each thread, in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CpuTime(HashMap<String, u64>);

// === impl CpuTime ===

impl CpuTime {
    /// Of all threads of a process that are alive; `None` when the operating
    /// system does not tell.
    pub(crate) fn of_process(pid: u32) -> Option<Self> {
        Self::of_tasks(Path::new(&format!("/proc/{pid}/task")))
    }

    fn of_tasks(folder: &Path) -> Option<Self> {
        let threads = fs::read_dir(folder).ok()?.flatten().filter_map(|thread| {
            let used = read(&thread.path().join("schedstat"))?;
            Some((thread.file_name().to_string_lossy().into_owned(), used))
        });
        let threads: HashMap<_, _> = threads.collect();
        (!threads.is_empty()).then_some(Self(threads))
    }

    /// What has been used since `earlier`. A thread that has ended in between
    /// takes its part with it.
    pub(crate) fn since(&self, earlier: &Self) -> u64 {
        let used = |(thread, now): (&String, &u64)| {
            let before = earlier.0.get(thread).copied().unwrap_or_default();
            now.saturating_sub(before)
        };
        self.0.iter().map(used).sum()
    }
}

/// What the calling thread has used, in nanoseconds.
pub(crate) fn of_this_thread() -> Option<u64> {
    read(Path::new("/proc/thread-self/schedstat"))
}

/// The first of the three numbers.
fn read(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(threads: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (thread, text) in threads {
            fs::create_dir(folder.path().join(thread)).unwrap();
            fs::write(folder.path().join(thread).join("schedstat"), text).unwrap();
        }
        folder
    }

    #[test]
    fn threads_are_added_up() {
        let before = folder(&[("10", "100 5 1\n"), ("11", "50 5 1\n"), ("12", "9 0 0")]);
        let after = folder(&[("10", "175 5 1\n"), ("11", "50 5 1\n"), ("13", "7 0 0")]);
        let before = CpuTime::of_tasks(before.path()).unwrap();
        let after = CpuTime::of_tasks(after.path()).unwrap();
        assert_eq!(after.since(&before), 75 + 7);
    }

    #[test]
    fn what_cannot_be_read_is_not_there() {
        let garbage = folder(&[("10", "many")]);
        assert_eq!(CpuTime::of_tasks(garbage.path()), None);
        assert_eq!(CpuTime::of_tasks(&garbage.path().join("gone")), None);
    }
}
