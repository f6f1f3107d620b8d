//! Texts that cost something to make and to hold, for clients that ask often
//! or do not read what they asked for.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// A text is made anew when the last one is older.
const FRESH: Duration = Duration::from_secs(1);
/// Texts that are held at once, by whoever has not read his.
const MOST_HELD: usize = 4;

/// A text, made away from the event loops, one at a time.
pub(crate) struct Page {
    make: Arc<dyn Fn() -> String + Send + Sync>,
    held: Arc<Semaphore>,
    making: Semaphore,
    last: Mutex<Option<(Instant, Bytes)>>,
}

/// Gives its permit back when nobody has the text any more.
struct Held {
    text: String,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

// === impl Page ===

impl Page {
    /// What `make` says; it may take its time.
    pub(crate) fn new(make: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self {
            make: Arc::new(make),
            held: Arc::new(Semaphore::new(MOST_HELD)),
            making: Semaphore::new(1),
            last: Mutex::default(),
        }
    }

    /// The text: a new one, or the last where that is fresh or too many are
    /// held. `None` when making it has failed.
    pub(crate) async fn get(&self) -> Option<Bytes> {
        let _turn = self.making.acquire().await.ok()?;
        let last = self.last();
        let permit = match &last {
            Some((made, _)) if made.elapsed() < FRESH => None,
            _ => Arc::clone(&self.held).try_acquire_owned().ok(),
        };
        let Some(permit) = permit else {
            return last.map(|(_, text)| text);
        };
        let make = Arc::clone(&self.make);
        let made = tokio::task::spawn_blocking(move || make()).await;
        let text = Bytes::from_owner(Held {
            text: made.ok()?,
            _permit: permit,
        });
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((Instant::now(), text.clone()));
        Some(text)
    }

    fn last(&self) -> Option<(Instant, Bytes)> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn not_more_texts_are_held_than_may_be() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let page = Page::new(move || count.fetch_add(1, Ordering::Relaxed).to_string());
        let mut held = vec![];
        for number in 0..MOST_HELD {
            held.push(page.get().await.unwrap());
            assert_eq!(held[number], number.to_string());
            assert_eq!(page.get().await.unwrap(), held[number]);
            tokio::time::advance(FRESH).await;
        }
        assert_eq!(page.get().await.unwrap(), held[MOST_HELD - 1]);
        held.remove(0);
        assert_eq!(page.get().await.unwrap(), MOST_HELD.to_string());
    }
}
