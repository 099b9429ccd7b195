//! One file, from the first byte to the proven whole.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt;
use reqwest::header::{CONTENT_RANGE, HeaderMap};
use reqwest::{Response, StatusCode};
use tokio::time::{Instant, timeout, timeout_at};

use super::attempt::{Cut, lost, refused, transient};
use super::{FetchError, Settings, Source, retry};
use crate::model::FileEntry;
use crate::model::incoming::{Begun, Partial, Progress, Wanted, begin, left_there};

/// A connection must bring this much in the stall time to count as alive, so
/// that one byte now and then does not keep it.
const PULSE: u64 = 4 << 10;

/// An attempt must bring this much to count as progress, or finish the file.
const STRIDE: u64 = 64 << 10;

pub(super) struct Transfer {
    pub(super) source: Arc<Source>,
    pub(super) wanted: Wanted,
    pub(super) dir: PathBuf,
    pub(super) settings: Settings,
    pub(super) progress: Arc<dyn Progress>,
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
            && part.length() > 0
        {
            self.progress.resumed(&self.wanted.path, part.length());
            self.progress.position(&self.wanted.path, part.length());
        }
        Ok(begun)
    }

    /// Attempt after attempt.
    async fn drive(&self, mut part: Partial) -> Result<FileEntry, FetchError> {
        let (mut fruitless, mut idle) = (0, 0);
        // Wrong bytes are fetched once more from the start. A part that an earlier
        // process left may have suffered since and does not count as a try.
        let mut chances = if part.length() > 0 { 2 } else { 1 };
        loop {
            let before = part.length();
            let cut = match self.attempt(&mut part).await {
                Ok(()) => match part.check() {
                    Ok(entry) => return self.complete(part, entry).await,
                    Err(why) => Cut::Wrong(why),
                },
                Err(cut) => cut,
            };
            let (why, wait) = match cut {
                Cut::Fatal(error) => return Err(error),
                Cut::Wrong(why) if chances == 0 => {
                    part.delete()?;
                    return Err(self.wrong(why));
                }
                Cut::Wrong(why) => {
                    chances -= 1;
                    part.restart()?;
                    self.progress.position(&self.wanted.path, 0);
                    (format!("{why}; fetching it again from the start"), None)
                }
                Cut::Transient { why, wait } => {
                    let fruitful = part.length() >= before.saturating_add(STRIDE);
                    fruitless = if fruitful { 0 } else { fruitless + 1 };
                    idle = if part.length() > before { 0 } else { idle + 1 };
                    if fruitless > self.settings.retries {
                        return Err(FetchError::Interrupted {
                            path: self.wanted.path.clone(),
                            why,
                            attempts: fruitless,
                        });
                    }
                    (why, wait)
                }
            };
            self.progress.retrying(&self.wanted.path, &why);
            tokio::time::sleep(retry::delay(idle, wait)).await;
        }
    }

    async fn complete(&self, part: Partial, entry: FileEntry) -> Result<FileEntry, FetchError> {
        tokio::task::spawn_blocking(move || part.complete())
            .await
            .map_err(FetchError::task)??;
        self.progress.proven(&entry.path);
        Ok(entry)
    }

    /// Asks for what is missing and appends what comes.
    async fn attempt(&self, part: &mut Partial) -> Result<(), Cut> {
        if part.missing() == 0 && part.length() > 0 {
            return Ok(());
        }
        let asked = self.source.get(&self.wanted, part.length());
        let response = timeout(self.settings.stall, asked)
            .await
            .map_err(|_| transient("the server does not answer"))??;
        self.admit(&response, part)?;
        self.receive(response, part).await
    }

    /// Judges status and headers. A server that ignores the range starts over.
    fn admit(&self, response: &Response, part: &mut Partial) -> Result<(), Cut> {
        match response.status() {
            StatusCode::PARTIAL_CONTENT => match content_range(response.headers()) {
                Some((start, _)) if start != part.length() => Err(Cut::Wrong(format!(
                    "the server sends it from byte {start} when asked for byte {}",
                    part.length()
                ))),
                Some((_, Some(total))) if total != self.wanted.size => Err(self.size(total)),
                _ => Ok(()),
            },
            StatusCode::OK => {
                if let Some(length) = declared_length(response.headers())
                    && length != self.wanted.size
                {
                    return Err(self.size(length));
                }
                if part.length() > 0 {
                    part.restart()?;
                    self.progress.position(&self.wanted.path, 0);
                    let why = "the server cannot resume, so it starts from the beginning";
                    self.progress.retrying(&self.wanted.path, why);
                }
                Ok(())
            }
            StatusCode::RANGE_NOT_SATISFIABLE => Err(Cut::Wrong(format!(
                "the server's file ends before byte {}, its size must be {}",
                part.length(),
                self.wanted.size
            ))),
            status => {
                let what = self.source.name(&self.wanted);
                let headers = response.headers();
                Err(refused(status, headers, &what, &self.source.advice()))
            }
        }
    }

    fn size(&self, found: u64) -> Cut {
        Cut::Wrong(format!(
            "the server's file has {found} bytes and it must have {}",
            self.wanted.size
        ))
    }

    /// Appends the body, never beyond the declared size.
    async fn receive(&self, response: Response, part: &mut Partial) -> Result<(), Cut> {
        let mut body = response.bytes_stream();
        let (mut pulse, mut deadline) = (part.length(), Instant::now() + self.settings.stall);
        loop {
            let next = timeout_at(deadline, body.next()).await.map_err(|_| {
                transient(format!(
                    "the connection stalled for {} s",
                    self.settings.stall.as_secs()
                ))
            })?;
            let bytes = match next {
                None => break,
                Some(Ok(bytes)) => bytes,
                Some(Err(e)) => return Err(lost(e)),
            };
            if bytes.len() as u64 > part.missing() {
                return Err(Cut::Wrong(format!(
                    "the server sends more than its {} bytes",
                    self.wanted.size
                )));
            }
            part.append(&bytes)?;
            self.progress.position(&self.wanted.path, part.length());
            if let Some(limit) = &self.settings.limit {
                // Waiting here is no silence of the server's.
                deadline += limit.wait(bytes.len()).await;
            }
            if part.length() >= pulse + PULSE {
                (pulse, deadline) = (part.length(), Instant::now() + self.settings.stall);
            }
        }
        match part.missing() {
            0 => Ok(()),
            missing => Err(transient(format!(
                "the connection ended {missing} bytes early"
            ))),
        }
    }

    fn wrong(&self, why: String) -> FetchError {
        FetchError::WrongBytes {
            path: self.wanted.path.clone(),
            endpoint: self.source.endpoint().to_owned(),
            why,
        }
    }
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    let length = headers.get(reqwest::header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// First byte and whole size of `bytes A-B/SIZE`; a size of `*` is none.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (span, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let start = span.split_once('-')?.0.trim().parse().ok()?;
    Some((start, total.trim().parse().ok()))
}
