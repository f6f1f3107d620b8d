//! Work that takes long, away from event loops and behind them: where both
//! want a core, whoever answers a call has it.

use std::{io, thread};

use tokio::sync::oneshot;

/// How much less such work matters, in steps of `nice`: it gets a tenth of a
/// core that is wanted all the time, and all of one that is not.
#[cfg(target_os = "linux")]
const STEPS_BACK: i32 = 10;

/// Does it on a thread of its own; `None` if it panics.
///
/// # Errors
/// The operating system gives no thread.
pub async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let (done, result) = oneshot::channel();
    thread::Builder::new()
        .name("aside".to_owned())
        .spawn(move || {
            step_back();
            // Nobody waits for it when the process goes down.
            let _ = done.send(work());
        })?;
    Ok(result.await.ok())
}

/// On Linux a thread may be less important than its process.
#[cfg(target_os = "linux")]
fn step_back() {
    use rustix::process::{getpriority_process, setpriority_process};

    let stepped = getpriority_process(None)
        .and_then(|before| setpriority_process(None, before.saturating_add(STEPS_BACK)));
    if let Err(error) = stepped {
        tracing::debug!(%error, "work aside goes on with the usual priority");
    }
}

#[cfg(not(target_os = "linux"))]
fn step_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_its_own_thread_steps_back() {
        let here = || std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let niceness = |stat: String| {
            let fields = stat.rsplit(')').next().unwrap().to_owned();
            fields
                .split_whitespace()
                .nth(16)
                .unwrap()
                .parse::<i32>()
                .unwrap()
        };
        let before = niceness(here());
        let there = aside(move || niceness(here())).await.unwrap().unwrap();
        assert_eq!(there, (before + STEPS_BACK).min(19));
        assert_eq!(niceness(here()), before);
        assert_eq!(aside(|| panic!("as it should")).await.unwrap(), None::<()>);
    }
}
