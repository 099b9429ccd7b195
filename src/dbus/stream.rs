//! From a generation to its reader's socket.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::session::{Failure, Generation, Place, StreamEvent};

/// How long a reader has to take what is left once the request has ended.
const LINGER: Duration = Duration::from_secs(30);

/// How often a reader that closed its writing side alone is looked after.
const HALF_CLOSED_POLL: Duration = Duration::from_millis(50);

/// Lines that wait for the reader.
#[derive(Debug, Default)]
struct Spool {
    bytes: Vec<u8>,
    /// How many of them are written.
    written: usize,
}

impl Spool {
    fn waiting(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    fn advance(&mut self, n: usize) {
        self.written += n;
        if self.written >= self.bytes.len() {
            self.bytes.clear();
            self.written = 0;
        } else if self.written > self.bytes.len() / 2 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }
}

/// Writes the generation's events to `socket` until the last one is written,
/// the reader closes its end, or `presence` closes: the caller left the bus.
/// Returning drops the generation, which cancels it.
///
/// At most `limit` bytes wait for the reader; more end the request as
/// `SlowConsumer`. The `place` in its user's quota is given up when the reader
/// has all but the last event: who reads that may ask again.
pub async fn pump(
    generation: Generation,
    socket: UnixStream,
    limit: usize,
    mut presence: watch::Receiver<()>,
    place: Arc<Place>,
) {
    let mut generation = Some(generation);
    let mut spool = Spool::default();
    let mut last: Option<(StreamEvent, Arc<Place>)> = None;
    let mut place = Some(place);
    let mut deadline = Instant::now();
    loop {
        if spool.waiting().is_empty()
            && let Some((event, place)) = last.take()
        {
            drop(place);
            event.write_lines(&mut spool.bytes);
        }
        if generation.is_none() && spool.waiting().is_empty() {
            return;
        }
        tokio::select! {
            biased;
            _ = presence.changed() => return,
            () = closed(&socket) => return,
            ready = socket.writable(), if !spool.waiting().is_empty() => {
                if ready.is_err() {
                    return;
                }
                match socket.try_write(spool.waiting()) {
                    Ok(n) => spool.advance(n),
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
            event = next(&mut generation), if generation.is_some() => {
                let ended = match event {
                    Some(event) if event.is_last() => {
                        last = place.take().map(|place| (event, place));
                        true
                    }
                    Some(event) => {
                        event.write_lines(&mut spool.bytes);
                        false
                    }
                    // Its task broke; the end of file says so.
                    None => true,
                };
                if ended || overrun(&mut spool, limit) {
                    generation = None;
                    deadline = Instant::now() + LINGER;
                }
            }
            () = tokio::time::sleep_until(deadline), if generation.is_none() => return,
        }
    }
}

async fn next(generation: &mut Option<Generation>) -> Option<StreamEvent> {
    match generation {
        Some(generation) => generation.next().await,
        None => std::future::pending().await,
    }
}

/// Whether too much waits; the spool then ends with the error that says so.
fn overrun(spool: &mut Spool, limit: usize) -> bool {
    let waiting = spool.waiting().len();
    if waiting <= limit {
        return false;
    }
    let failure = Failure::SlowConsumer(waiting);
    let last = StreamEvent::Error {
        name: failure.name(),
        message: failure.to_string(),
    };
    last.write_lines(&mut spool.bytes);
    true
}

/// Waits until the reader has closed its end. What it writes is thrown away;
/// that it closed its writing side alone does not count.
async fn closed(socket: &UnixStream) {
    let mut ignored = [0; 256];
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        match socket.try_read(&mut ignored) {
            Ok(0) if hung_up(socket) => return,
            Ok(0) => tokio::time::sleep(HALF_CLOSED_POLL).await,
            Ok(_) => tokio::task::yield_now().await,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Whether both directions are closed.
fn hung_up(socket: &UnixStream) -> bool {
    let fd = socket.as_fd();
    let mut fds = [PollFd::new(&fd, PollFlags::empty())];
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let polled = poll(&mut fds, Some(&now));
    let [fd] = &fds;
    polled.is_ok() && fd.revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spool_keeps_what_is_not_written() {
        let mut spool = Spool::default();
        spool.bytes.extend_from_slice(b"0123456789");
        spool.advance(4);
        assert_eq!(spool.waiting(), b"456789");
        spool.advance(3);
        assert_eq!(spool.waiting(), b"789");
        assert_eq!(spool.written, 0, "what is written is given back");
        spool.bytes.extend_from_slice(b"ab");
        spool.advance(5);
        assert!(spool.waiting().is_empty());
    }

    #[test]
    fn an_overrun_ends_with_the_error() {
        let mut spool = Spool::default();
        spool.bytes.extend_from_slice(&[b'x'; 100]);
        assert!(!overrun(&mut spool, 100));
        spool.bytes.push(b'\n');
        assert!(overrun(&mut spool, 100));
        let text = String::from_utf8(spool.bytes).unwrap();
        assert!(text.ends_with('\n') && text.contains("SlowConsumer"));
    }

    #[tokio::test]
    async fn closing_one_direction_is_not_leaving() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let theirs = theirs.into_std().unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let wait = tokio::time::timeout(Duration::from_millis(120), closed(&ours));
        assert!(wait.await.is_err());
        drop(theirs);
        closed(&ours).await;
    }
}
