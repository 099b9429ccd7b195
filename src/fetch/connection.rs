//! One request for bytes of a file, and what they are put into.

use std::sync::{Mutex, MutexGuard};

use futures_util::StreamExt;
use reqwest::header::{CONTENT_RANGE, HeaderMap};
use reqwest::{Response, StatusCode};
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout, timeout_at};

use super::attempt::{Cut, lost, refused, transient};
use super::transfer::Transfer;
use crate::model::StoreError;
use crate::model::incoming::{Partial, Span};

/// A connection must bring this much in the stall time to count as alive, so
/// that one byte now and then does not keep it.
const PULSE: u64 = 4 << 10;

/// Whether a server gives ranges of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ranges {
    /// It was not asked yet.
    Unknown,
    /// It has given one.
    Given,
    /// It does not, or not reliably, or nobody wants any: one connection does it all.
    Unused,
}

/// Why a request ended before it had brought its span.
#[derive(Debug)]
pub(super) enum Stop {
    /// As with any request.
    Cut(Cut),
    /// The server does not give ranges as it should: why, in words.
    Unranged(String),
}

impl From<Cut> for Stop {
    fn from(cut: Cut) -> Self {
        Self::Cut(cut)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Cut(error.into())
    }
}

/// What all connections of a file have in common. They are polled by one task, so that
/// nobody ever waits for the lock.
#[derive(Debug)]
pub(super) struct Shared {
    inner: Mutex<Inner>,
    /// Told when the server has given a range.
    pub(super) given: Notify,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) part: Partial,
    pub(super) ranges: Ranges,
}

impl Shared {
    pub(super) fn new(part: Partial, ranges: Ranges) -> Self {
        Self {
            inner: Mutex::new(Inner { part, ranges }),
            given: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn into_part(self) -> Partial {
        let inner = self.inner.into_inner();
        inner.unwrap_or_else(|e| e.into_inner()).part
    }
}

/// A request for a span.
pub(super) struct Connection<'a> {
    pub(super) transfer: &'a Transfer,
    pub(super) shared: &'a Shared,
    pub(super) span: Span,
    /// Bytes it has brought.
    pub(super) brought: u64,
}

impl Connection<'_> {
    /// Asks for the span and writes what comes; then takes over what windows have
    /// behind it.
    pub(super) async fn run(&mut self) -> Result<(), Stop> {
        let brought = self.attempt().await;
        self.transfer.absorb(self.shared).await?;
        brought
    }

    async fn attempt(&mut self) -> Result<(), Stop> {
        let (transfer, span) = (self.transfer, self.span);
        let is_rest = span.to == transfer.wanted.size;
        // Nothing needs to be said of where the file itself ends.
        let one = self.shared.lock().ranges == Ranges::Unused;
        let end = (!one || !is_rest).then_some(span.to);
        let asked = transfer.source.get(&transfer.wanted, span.from, end);
        let response = timeout(transfer.settings.stall, asked)
            .await
            .map_err(|_| transient("the server does not answer"))??;
        let (at, to) = self.admit(&response)?;
        self.receive(response, at, to).await
    }

    /// Judges status and headers. Which byte comes first, and where to stop: a server
    /// that ignores the range starts over.
    fn admit(&self, response: &Response) -> Result<(u64, u64), Stop> {
        let transfer = self.transfer;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                self.admit_range(response.headers())?;
                Ok((self.span.from, self.span.to))
            }
            StatusCode::OK => {
                if let Some(length) = declared_length(response.headers())
                    && length != transfer.wanted.size
                {
                    return Err(self.size(length).into());
                }
                self.admit_whole()
            }
            StatusCode::RANGE_NOT_SATISFIABLE => Err(Cut::Wrong(format!(
                "the server's file ends before byte {}, its size must be {}",
                self.span.from, transfer.wanted.size
            ))
            .into()),
            status => {
                let what = transfer.source.name(&transfer.wanted);
                let advice = transfer.source.advice();
                Err(refused(status, response.headers(), &what, &advice).into())
            }
        }
    }

    /// Only what begins where it should is a range.
    fn admit_range(&self, headers: &HeaderMap) -> Result<(), Stop> {
        let mut inner = self.shared.lock();
        let is_alone = inner.ranges == Ranges::Unused;
        let from = self.span.from;
        match content_range(headers) {
            Some((start, _)) if start != from => {
                let why =
                    format!("the server sends it from byte {start} when asked for byte {from}");
                Err(match is_alone {
                    true => Cut::Wrong(why).into(),
                    false => Stop::Unranged(why),
                })
            }
            Some((_, Some(total))) if total != self.transfer.wanted.size => {
                Err(self.size(total).into())
            }
            Some(_) if !is_alone => {
                inner.ranges = Ranges::Given;
                self.shared.given.notify_one();
                Ok(())
            }
            Some(_) => Ok(()),
            None if is_alone => Ok(()),
            None => Err(Stop::Unranged(
                "the server does not say which bytes it sends".into(),
            )),
        }
    }

    /// All of the file comes, whatever was asked for.
    fn admit_whole(&self) -> Result<(u64, u64), Stop> {
        let transfer = self.transfer;
        let path = &transfer.wanted.path;
        let mut inner = self.shared.lock();
        match inner.ranges {
            Ranges::Given => {
                let why = "the server sends all of it when asked for a range";
                return Err(Stop::Unranged(why.into()));
            }
            Ranges::Unknown => {
                inner.ranges = Ranges::Unused;
                let why = "the server gives no ranges of it; it comes over one connection";
                transfer.progress.retrying(path, why);
            }
            Ranges::Unused => {}
        }
        if inner.part.length() > 0 {
            inner.part.restart()?;
            transfer.progress.position(path, 0);
            let why = "the server cannot resume, so it starts from the beginning";
            transfer.progress.retrying(path, why);
        }
        // Nothing of this answer can be left out.
        inner.part.remove_windows()?;
        Ok((0, transfer.wanted.size))
    }

    fn size(&self, found: u64) -> Cut {
        Cut::Wrong(format!(
            "the server's file has {found} bytes and it must have {}",
            self.transfer.wanted.size
        ))
    }

    /// Writes the body, from the byte `at` and never beyond `to`.
    async fn receive(&mut self, response: Response, mut at: u64, to: u64) -> Result<(), Stop> {
        let transfer = self.transfer;
        let stall = transfer.settings.stall;
        let mut body = response.bytes_stream();
        let (mut pulse, mut deadline) = (at, Instant::now() + stall);
        loop {
            let next = timeout_at(deadline, body.next()).await.map_err(|_| {
                transient(format!("the connection stalled for {} s", stall.as_secs()))
            })?;
            let mut bytes = match next {
                None => break,
                Some(Ok(bytes)) => bytes,
                Some(Err(e)) => return Err(lost(e).into()),
            };
            if bytes.len() as u64 > to - at {
                if to == transfer.wanted.size {
                    return Err(
                        Cut::Wrong(format!("the server sends more than its {to} bytes")).into(),
                    );
                }
                // The rest was not asked for.
                bytes.truncate((to - at) as usize);
            }
            if bytes.is_empty() && at == to {
                break;
            }
            let present = {
                let part = &mut self.shared.lock().part;
                part.write(&self.span, at, &bytes)?;
                part.present()
            };
            at += bytes.len() as u64;
            self.brought += bytes.len() as u64;
            transfer.progress.position(&transfer.wanted.path, present);
            if let Some(limit) = &transfer.settings.limit {
                // Waiting here is no silence of the server's.
                deadline += limit.wait(bytes.len()).await;
            }
            if at >= pulse + PULSE {
                (pulse, deadline) = (at, Instant::now() + stall);
            }
        }
        match to - at {
            0 => Ok(()),
            missing => Err(transient(format!("the connection ended {missing} bytes early")).into()),
        }
    }
}

impl Transfer {
    /// Takes over what the part has reached of the windows, bit by bit, so that the
    /// connections are served meanwhile.
    pub(super) async fn absorb(&self, shared: &Shared) -> Result<(), StoreError> {
        while shared.lock().part.absorb()? > 0 {
            yield_now().await;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_in_headers() {
        let range = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, text.parse().unwrap());
            content_range(&headers)
        };
        assert_eq!(range("bytes 5-9/100"), Some((5, Some(100))));
        assert_eq!(range("bytes 5-9/*"), Some((5, None)));
        for odd in ["bytes */100", "5-9/100", "bytes -5/9", "lines 5-9/100"] {
            assert_eq!(range(odd), None, "{odd}");
        }
        assert_eq!(content_range(&HeaderMap::new()), None);
    }
}
