//! The socket of one peer. What a bus bounds for its callers is bounded here: how large
//! a message is, and how many calls wait for their answers.
//!
//! A peer that is owed that much, since answers take long or since it does not read
//! them, is not read from until it is owed less: what it goes on to write fills its own
//! socket, and not our memory.

use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::num::NonZeroU32;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot};
use zbus::Message;
use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};

/// Calls that wait for their answers, at most: what dbus-daemon allows on a system bus
/// (`max_replies_per_connection`).
const CALLS: usize = 128;

/// Bytes of calls that wait for their answers, beyond which no other is read.
const BYTES: usize = 32 << 20;

/// Bytes of a message, at most: what dbus-daemon allows on a system bus
/// (`max_message_size`).
const LARGEST: u64 = 32 << 20;

/// Bytes at a message's beginning that say how long it is.
const HEAD: usize = 16;

/// A peer's socket that bounds what it is owed.
pub struct PeerSocket {
    stream: UnixStream,
    admission: oneshot::Receiver<()>,
}

/// Lets a peer in. Nothing but its handshake is read before; without, it must go.
pub struct Admission(oneshot::Sender<()>);

impl Admission {
    /// Has its calls be read.
    pub fn grant(self) {
        // Nobody reads where it has left meanwhile.
        let _ = self.0.send(());
    }
}

impl PeerSocket {
    /// The socket of a peer that is not let in yet.
    pub fn new(stream: UnixStream) -> (PeerSocket, Admission) {
        let (grant, admission) = oneshot::channel();
        (PeerSocket { stream, admission }, Admission(grant))
    }
}

impl Socket for PeerSocket {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Reader, Writer> {
        let (read, write) = self.stream.into_split();
        let owed = Arc::new(Owed::default());
        let reader = Reader {
            socket: Incoming(read),
            admission: Some(self.admission),
            owed: Arc::clone(&owed),
        };
        let socket = Outgoing(write);
        Split::new(reader, Writer { socket, owed })
    }
}

/// Messages from the peer.
#[derive(Debug)]
pub struct Reader {
    socket: Incoming,
    /// Until it is granted.
    admission: Option<oneshot::Receiver<()>>,
    owed: Arc<Owed>,
}

#[async_trait]
impl ReadHalf for Reader {
    async fn receive_message(
        &mut self,
        seq: u64,
        received: &mut Vec<u8>,
        fds: &mut Vec<OwnedFd>,
    ) -> zbus::Result<Message> {
        if let Some(admission) = self.admission.take()
            && admission.await.is_err()
        {
            return Err(io::Error::from(ErrorKind::ConnectionRefused).into());
        }
        self.owed.room().await;
        let Head { length, call } = self.socket.head(received).await?;
        if length > LARGEST {
            let why = format!("a message of {length} bytes; {LARGEST} are the most");
            return Err(io::Error::new(ErrorKind::InvalidData, why).into());
        }
        let wants_answer = call.then(|| ask_for_answer(received));
        let message = self.socket.receive_message(seq, received, fds).await?;
        if let Some(wants_answer) = wants_answer {
            self.owed.add(Call {
                serial: message.primary_header().serial_num(),
                bytes: message.data().len(),
                wants_answer,
            });
        }
        Ok(message)
    }

    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        self.socket.recvmsg(buffer).await
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }
}

/// Messages to the peer.
#[derive(Debug)]
pub struct Writer {
    socket: Outgoing,
    owed: Arc<Owed>,
}

#[async_trait]
impl WriteHalf for Writer {
    async fn send_message(&mut self, message: &Message) -> zbus::Result<()> {
        let Some(serial) = message.header().reply_serial() else {
            return self.socket.send_message(message).await;
        };
        let sent = match self.owed.wants_answer(serial) {
            true => self.socket.send_message(message).await,
            false => Ok(()),
        };
        // A peer that is gone is owed nothing either.
        self.owed.settle(serial);
        sent
    }

    async fn sendmsg(&mut self, buffer: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.socket.sendmsg(buffer, fds).await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.socket.close().await
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }
}

/// The bytes that come in. Descriptors that come with them are thrown away by the
/// kernel: no call takes one.
#[derive(Debug)]
struct Incoming(OwnedReadHalf);

impl Incoming {
    /// Says what begins, whose first bytes are among those received then.
    async fn head(&mut self, received: &mut Vec<u8>) -> io::Result<Head> {
        loop {
            if let Some(head) = received.first_chunk() {
                return Ok(Head::of(head));
            }
            let mut more = [0; HEAD];
            let missing = HEAD - received.len();
            match self.0.read(&mut more[..missing]).await? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => received.extend_from_slice(&more[..n]),
            }
        }
    }
}

#[async_trait]
impl ReadHalf for Incoming {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        Ok((self.0.read(buffer).await?, Vec::new()))
    }
}

/// The bytes that go out, and the streams' descriptors.
#[derive(Debug)]
struct Outgoing(OwnedWriteHalf);

#[async_trait]
impl WriteHalf for Outgoing {
    async fn sendmsg(&mut self, buffer: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let stream: &UnixStream = self.0.as_ref();
        let write = || send(stream, buffer, fds);
        stream.async_io(Interest::WRITABLE, write).await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}

/// Writes what fits, with at most one descriptor.
fn send(stream: &UnixStream, buffer: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(ErrorKind::InvalidInput.into());
    }
    // No signal comes where nobody reads: programs in Rust ignore that one.
    let flags = SendFlags::empty();
    Ok(sendmsg(
        stream,
        &[IoSlice::new(buffer)],
        &mut control,
        flags,
    )?)
}

/// What a message's first bytes say:
///
/// ```text
/// byte 0      l or B, the order of bytes in numbers
/// byte 1      its type; 1 is a call
/// byte 2      flags; the lowest: no answer is wanted
/// bytes 4-7   length of the body
/// bytes 12-15 length of the fields that follow; the body begins at a multiple of 8
/// ```
///
/// Source: D-Bus Specification, "Message Format".
#[derive(Debug, PartialEq, Eq)]
struct Head {
    /// Bytes of the message.
    length: u64,
    /// Whether it is a call.
    call: bool,
}

impl Head {
    fn of(head: &[u8; HEAD]) -> Head {
        let [
            order,
            kind,
            _,
            _,
            b0,
            b1,
            b2,
            b3,
            _,
            _,
            _,
            _,
            f0,
            f1,
            f2,
            f3,
        ] = *head;
        let number = match order {
            b'B' => u32::from_be_bytes,
            _ => u32::from_le_bytes,
        };
        let body = u64::from(number([b0, b1, b2, b3]));
        let fields = u64::from(number([f0, f1, f2, f3]));
        Head {
            length: (HEAD as u64 + fields).next_multiple_of(8) + body,
            call: kind == 1,
        }
    }
}

/// Has a call be answered that wants no answer, which is how we hear that it is done;
/// the answer then goes nowhere. Whether it wanted one.
fn ask_for_answer(head: &mut [u8]) -> bool {
    let Some(flags) = head.get_mut(2) else {
        return true;
    };
    let wanted = *flags & 1 == 0;
    *flags &= !1;
    wanted
}

/// A call that waits for its answer.
#[derive(Debug)]
struct Call {
    /// The peer chooses it: it may be there more than once.
    serial: NonZeroU32,
    bytes: usize,
    wants_answer: bool,
}

/// What a peer is owed.
#[derive(Debug, Default)]
struct Owed {
    calls: Mutex<Vec<Call>>,
    /// Tells the reader, who alone waits.
    settled: Notify,
}

impl Owed {
    fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there may be another call.
    async fn room(&self) {
        while self.is_full() {
            self.settled.notified().await;
        }
    }

    fn is_full(&self) -> bool {
        let calls = self.calls();
        let bytes: usize = calls.iter().map(|call| call.bytes).sum();
        calls.len() >= CALLS || bytes >= BYTES
    }

    fn add(&self, call: Call) {
        self.calls().push(call);
    }

    fn wants_answer(&self, serial: NonZeroU32) -> bool {
        let calls = self.calls();
        let call = calls.iter().find(|call| call.serial == serial);
        call.is_none_or(|call| call.wants_answer)
    }

    fn settle(&self, serial: NonZeroU32) {
        let mut calls = self.calls();
        if let Some(at) = calls.iter().position(|call| call.serial == serial) {
            calls.remove(at);
            self.settled.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use zbus::message::Flags;
    use zbus::wire::{BE, LE};

    use super::*;

    fn call(serial: u32, bytes: usize) -> Call {
        Call {
            serial: NonZeroU32::new(serial).unwrap(),
            bytes,
            wants_answer: true,
        }
    }

    #[tokio::test]
    async fn who_is_owed_too_much_waits() {
        let owed = Arc::new(Owed::default());
        let settle = |serial| owed.settle(NonZeroU32::new(serial).unwrap());
        let has_room = || owed.room().now_or_never().is_some();
        for serial in 1..=CALLS {
            assert!(has_room());
            owed.add(call(serial as u32, 16));
        }
        assert!(!has_room());
        // What nobody asked for settles nothing.
        settle(4711);
        assert!(!has_room());
        let waiting = {
            let owed = Arc::clone(&owed);
            tokio::spawn(async move { owed.room().await })
        };
        tokio::task::yield_now().await;
        settle(77);
        let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        waited.expect("it waits on").unwrap();
        // A serial that is used twice is two calls.
        owed.add(call(1, BYTES));
        settle(1);
        assert!(!has_room());
        settle(1);
        assert!(has_room());
    }

    #[test]
    fn a_messages_first_bytes_say_what_it_is() {
        let path = "/org/gptoss/Daemon1";
        for text in ["", "x", "hello"] {
            let call = Message::method_call(path, "Generate");
            let signal = Message::signal(path, "org.gptoss.Test", "Test");
            for (builder, call) in [(call, true), (signal, false)] {
                for endian in [LE, BE] {
                    let message = builder.clone().endian(endian).build(&text).unwrap();
                    let bytes = message.data();
                    let length = bytes.len() as u64;
                    let head = Head::of(bytes.first_chunk().unwrap());
                    assert_eq!(head, Head { length, call });
                }
            }
        }
        let most = u64::from(u32::MAX);
        assert_eq!(Head::of(&[0xff; HEAD]).length, most + 17 + most);
    }

    #[test]
    fn a_call_that_wants_no_answer_is_answered_to_us_alone() {
        let call = Message::method_call("/a", "B");
        let quiet = call.clone().with_flags(Flags::NO_REPLY_EXPECTED);
        for (builder, wanted) in [(call, true), (quiet, false)] {
            let message = builder.build(&()).unwrap();
            let mut bytes = message.data().to_vec();
            assert_eq!(ask_for_answer(&mut bytes), wanted);
            assert!(ask_for_answer(&mut bytes));
        }
    }
}
