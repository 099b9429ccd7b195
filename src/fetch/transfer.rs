//! One file, from the first byte to the proven whole, over as many connections as are
//! free.
//!
//! Its own connection brings what is missing first, and so does each further one: all
//! of them take the next gap of a window's length, never two the same. Which of them is
//! at the part's end appends to the part, the others write windows ahead of it
//! ([`Partial`]). A server that gives no ranges, a small file, or a setting of one
//! connection leaves it at the first, which then asks for all that is missing.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::attempt::Cut;
use super::connection::{Connection, Ranges, Shared, Stop};
use super::{FetchError, Settings, Source, retry};
use crate::model::FileEntry;
use crate::model::incoming::{Begun, Partial, Progress, Span, Wanted, begin, left_there};

/// An attempt must bring this much to count as progress, or finish its span.
const STRIDE: u64 = 64 << 10;

pub(super) struct Transfer {
    pub(super) source: Arc<Source>,
    pub(super) wanted: Wanted,
    pub(super) dir: PathBuf,
    pub(super) settings: Settings,
    pub(super) progress: Arc<dyn Progress>,
    /// Connections that no file has for its own.
    pub(super) spare: Arc<Semaphore>,
}

/// A request that came to its end.
struct Ended {
    /// None for the file's own connection.
    lent: Option<OwnedSemaphorePermit>,
    span: Span,
    brought: u64,
    result: Result<(), Stop>,
}

impl Transfer {
    /// Fetches and proves the file, unless it is there already.
    pub(super) async fn run(self) -> Result<FileEntry, FetchError> {
        match self.prepare().await? {
            Begun::Proven(entry) => {
                self.progress.position(&entry.path, entry.size);
                self.progress.proven(&entry.path);
                Ok(entry)
            }
            Begun::Part(part) => self.drive(*part).await,
        }
    }

    /// Proves the file where it is there, else opens its part. Reads all there
    /// is, so it runs where that is allowed to take long.
    async fn prepare(&self) -> Result<Begun, FetchError> {
        let (dir, wanted) = (self.dir.clone(), self.wanted.clone());
        let there = left_there(&dir, &wanted);
        if there > 0 {
            self.progress.checking(&wanted.path, there);
        }
        let begun = tokio::task::spawn_blocking(move || begin(&dir, &wanted))
            .await
            .map_err(FetchError::task)??;
        if let Begun::Part(part) = &begun
            && part.present() > 0
        {
            self.progress.resumed(&self.wanted.path, part.present());
            self.progress.position(&self.wanted.path, part.present());
        }
        Ok(begun)
    }

    /// Fetches what is missing until it is right.
    async fn drive(&self, part: Partial) -> Result<FileEntry, FetchError> {
        // Wrong bytes are fetched once more from the start. A part that an earlier
        // process left may have suffered since and does not count as a try.
        let mut chances = if part.present() > 0 { 2 } else { 1 };
        let ranges = match self.settings.is_wide(self.wanted.size) {
            true => Ranges::Unknown,
            false => Ranges::Unused,
        };
        let shared = Shared::new(part, ranges);
        loop {
            let why = match Round::new(self, &shared).run().await? {
                Some(why) => why,
                None => {
                    let checked = shared.lock().part.check();
                    match checked {
                        Ok(entry) => return self.complete(shared.into_part(), entry).await,
                        Err(why) => why,
                    }
                }
            };
            let mut inner = shared.lock();
            if chances == 0 {
                inner.part.delete()?;
                return Err(self.wrong(why));
            }
            chances -= 1;
            inner.part.restart()?;
            // The fewer ways there are for the bytes, the fewer can be wrong.
            inner.ranges = Ranges::Unused;
            self.progress.position(&self.wanted.path, 0);
            let again = format!("{why}; fetching it again from the start");
            self.progress.retrying(&self.wanted.path, &again);
        }
    }

    async fn complete(&self, part: Partial, entry: FileEntry) -> Result<FileEntry, FetchError> {
        tokio::task::spawn_blocking(move || part.complete())
            .await
            .map_err(FetchError::task)??;
        self.progress.proven(&entry.path);
        Ok(entry)
    }

    fn wrong(&self, why: String) -> FetchError {
        FetchError::WrongBytes {
            path: self.wanted.path.clone(),
            endpoint: self.source.endpoint().to_owned(),
            why,
        }
    }
}

/// Request after request until nothing is missing.
struct Round<'a> {
    transfer: &'a Transfer,
    shared: &'a Shared,
    /// What requests are under way for.
    taken: Vec<Span>,
    /// The file's own connection has nothing to do.
    is_free: bool,
    /// It rests until then, after a failure.
    own_rest: Instant,
    /// No further connection is opened until then, after a failure of one.
    lent_rest: Instant,
    /// Attempts in a row that brought next to nothing, of the file's own connection.
    fruitless: u32,
    /// Attempts in a row without any byte, of its own and of the further ones.
    own_idle: u32,
    lent_idle: u32,
}

impl<'a> Round<'a> {
    fn new(transfer: &'a Transfer, shared: &'a Shared) -> Self {
        let now = Instant::now();
        Self {
            transfer,
            shared,
            taken: Vec::new(),
            is_free: true,
            own_rest: now,
            lent_rest: now,
            fruitless: 0,
            own_idle: 0,
            lent_idle: 0,
        }
    }

    /// Brings all that is missing. None where it is there, else why it cannot be right.
    async fn run(mut self) -> Result<Option<String>, FetchError> {
        self.transfer.absorb(self.shared).await?;
        let mut running = FuturesUnordered::new();
        loop {
            let now = Instant::now();
            if self.is_free
                && self.own_rest <= now
                && let Some(span) = self.take()
            {
                self.is_free = false;
                running.push(self.request(span, None));
            }
            let more = self.gap().is_some();
            if running.is_empty() && !more {
                return Ok(None);
            }
            let widens = more && self.ranges() == Ranges::Given;
            tokio::select! {
                Some(ended) = running.next() => {
                    match self.ended(ended)? {
                        Next::GoOn => {}
                        Next::Wrong(why) => return Ok(Some(why)),
                        Next::Alone => {
                            // What they have brought so far is right and stays.
                            running.clear();
                            self.taken.clear();
                            self.is_free = true;
                            self.transfer.absorb(self.shared).await?;
                        }
                    }
                }
                Ok(permit) = self.transfer.spare.clone().acquire_owned(),
                    if widens && self.lent_rest <= now =>
                {
                    if let Some(span) = self.take() {
                        running.push(self.request(span, Some(permit)));
                    }
                }
                () = sleep_until(self.lent_rest), if widens && self.lent_rest > now => {}
                () = sleep_until(self.own_rest), if self.is_free && self.own_rest > now => {}
                () = self.shared.given.notified() => {}
            }
        }
    }

    fn ranges(&self) -> Ranges {
        self.shared.lock().ranges
    }

    /// What is to be asked for next.
    fn gap(&self) -> Option<Span> {
        let inner = self.shared.lock();
        let window = match inner.ranges {
            Ranges::Unused => None,
            Ranges::Unknown | Ranges::Given => Some(self.transfer.settings.window),
        };
        inner.part.gap(&self.taken, window)
    }

    fn take(&mut self) -> Option<Span> {
        let span = self.gap()?;
        self.taken.push(span);
        Some(span)
    }

    /// A request for a span, over a connection that is lent or over the file's own.
    fn request(
        &self,
        span: Span,
        lent: Option<OwnedSemaphorePermit>,
    ) -> impl Future<Output = Ended> + use<'a> {
        let mut connection = Connection {
            transfer: self.transfer,
            shared: self.shared,
            span,
            brought: 0,
        };
        async move {
            let result = connection.run().await;
            Ended {
                lent,
                span,
                brought: connection.brought,
                result,
            }
        }
    }

    /// What follows from the end of a request.
    fn ended(&mut self, ended: Ended) -> Result<Next, FetchError> {
        let Ended {
            lent,
            span,
            brought,
            result,
        } = ended;
        self.taken.retain(|taken| *taken != span);
        let is_own = lent.is_none();
        self.is_free |= is_own;
        if result.is_ok() || brought >= STRIDE {
            self.fruitless = 0;
        }
        let (why, wait) = match result {
            Ok(()) => {
                *self.idle(is_own) = 0;
                return Ok(Next::GoOn);
            }
            Err(Stop::Unranged(why)) => return Ok(self.alone(&why)),
            Err(Stop::Cut(Cut::Wrong(why))) => return Ok(Next::Wrong(why)),
            Err(Stop::Cut(Cut::Fatal(error @ FetchError::Store(_)))) => return Err(error),
            // It may be so for ranges, or for so many at once: one connection finds out.
            Err(Stop::Cut(Cut::Fatal(error))) if self.ranges() == Ranges::Given => {
                return Ok(self.alone(&error.to_string()));
            }
            Err(Stop::Cut(Cut::Fatal(error))) => return Err(error),
            Err(Stop::Cut(Cut::Transient { why, wait })) => (why, wait),
        };
        let idle = match brought {
            0 => *self.idle(is_own) + 1,
            _ => 0,
        };
        *self.idle(is_own) = idle;
        let rest = Instant::now() + retry::delay(idle, wait);
        if is_own {
            self.fruitless += u32::from(brought < STRIDE);
            self.own_rest = rest;
        } else {
            self.lent_rest = rest;
        }
        let wanted = &self.transfer.wanted;
        if self.fruitless > self.transfer.settings.retries {
            return Err(FetchError::Interrupted {
                path: wanted.path.clone(),
                why,
                attempts: self.fruitless,
            });
        }
        self.transfer.progress.retrying(&wanted.path, &why);
        Ok(Next::GoOn)
    }

    fn idle(&mut self, is_own: bool) -> &mut u32 {
        match is_own {
            true => &mut self.own_idle,
            false => &mut self.lent_idle,
        }
    }

    /// Leaves the file to one connection.
    fn alone(&self, why: &str) -> Next {
        self.shared.lock().ranges = Ranges::Unused;
        let path = &self.transfer.wanted.path;
        let told = format!("{why}; it comes over one connection");
        self.transfer.progress.retrying(path, &told);
        Next::Alone
    }
}

/// How a round goes on.
enum Next {
    GoOn,
    /// The file's own connection does it alone.
    Alone,
    /// What was brought cannot be right: why, in words.
    Wrong(String),
}
