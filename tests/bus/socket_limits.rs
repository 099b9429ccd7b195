//! What peers on the daemon's socket may not do to it, or to each other.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use gptoss::client::{Client, ClientError};
use zbus::Variant;
use zbus::message::Flags;

use crate::harness::LONG;
use crate::socket::Peerless;

/// Reads until the daemon closes its end.
fn closed(mut stream: UnixStream) {
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{e}"),
    }
}

#[tokio::test]
async fn peers_that_say_nothing_or_nonsense_keep_nobody_out() {
    let daemon = Peerless::start("");
    let connect = || UnixStream::connect(&daemon.socket).unwrap();
    for nonsense in [
        &b"\n"[..],
        b"\0\n",
        b"\0AUTH\r\n\xff\xff\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = connect();
        stream.write_all(nonsense).unwrap();
        closed(stream);
        daemon.answers().await;
    }
    // Authenticated, and then no D-Bus.
    let mut stream = connect();
    stream
        .write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
        .unwrap();
    stream.write_all(&[0xff; 64]).unwrap();
    closed(stream);
    // More than may be silent at a time: the oldest go.
    let mut silent: Vec<_> = (0..200).map(|_| connect()).collect();
    let begun = Instant::now();
    daemon.answers().await;
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "they were waited for"
    );
    let last = silent.pop().unwrap();
    silent.into_iter().take(100).for_each(closed);
    // The last ones go after a while.
    closed(last);
    assert!(begun.elapsed() < LONG);
    daemon.answers().await;
}

#[tokio::test]
async fn connections_are_counted() {
    let daemon = Peerless::with("", "[socket]\nconnections = 3");
    let mut clients = Vec::new();
    for _ in 0..3 {
        let client = daemon.client().await;
        client.manager().version().await.unwrap();
        clients.push(client);
    }
    let one_more = async {
        let client = Client::connect_socket(&daemon.socket).await?;
        Ok(client.manager().version().await?)
    };
    let one_more = tokio::time::timeout(LONG, one_more)
        .await
        .expect("it stays");
    assert!(matches!(one_more, Err(ClientError::Unreachable(_))));
    for client in &clients {
        client.manager().version().await.unwrap();
    }
    clients.pop();
    let free = async {
        loop {
            let Ok(client) = Client::connect_socket(&daemon.socket).await else {
                continue;
            };
            if client.manager().version().await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(LONG, free)
        .await
        .expect("no room after one left");
}

/// A peer that calls and calls, and waits for no answer.
#[tokio::test]
async fn a_flood_of_calls_holds_nobody_up() {
    let daemon = Peerless::start("");
    let flooding = daemon.raw().await;
    let message = zbus::Message::method_call("/org/gptoss/Daemon1", "Get")
        .interface("org.freedesktop.DBus.Properties")
        .build(&("org.gptoss.Daemon1.Manager", "Version"))
        .unwrap();
    let flood = tokio::spawn(async move {
        for _ in 0..20_000 {
            if flooding.send(&message).await.is_err() {
                return;
            }
        }
    });
    for _ in 0..20 {
        let begun = Instant::now();
        daemon.answers().await;
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    flood.abort();
    daemon.answers().await;
}

/// A connection that nobody reads from but whoever has it.
fn unread(daemon: &Peerless) -> UnixStream {
    let mut stream = UnixStream::connect(&daemon.socket).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.set_write_timeout(Some(LONG)).unwrap();
    stream
        .write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
        .unwrap();
    // `DATA`, and `OK` with an id.
    let (mut lines, mut byte) = (0, [0]);
    while lines < 2 {
        stream.read_exact(&mut byte).unwrap();
        lines += usize::from(byte == *b"\n");
    }
    stream
}

/// Reads a message and throws it away; its type.
fn skip_message(stream: &mut UnixStream) -> u8 {
    let mut head = [0; 16];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[0], b'l');
    let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap()) as usize;
    let rest = (16 + number(12)).next_multiple_of(8) + number(4) - 16;
    stream.read_exact(&mut vec![0; rest]).unwrap();
    head[1]
}

/// What nobody reads waits with its writer, not in the daemon's memory.
#[tokio::test]
async fn who_does_not_read_is_not_read_from() {
    const CALLS: usize = 2048;
    let daemon = Peerless::start("");
    for flags in [Flags::empty(), Flags::NO_REPLY_EXPECTED] {
        let mut stream = unread(&daemon);
        let model = "x".repeat(8192);
        let call = zbus::Message::method_call("/org/gptoss/Admin1", "Load")
            .interface("org.gptoss.Admin1")
            .with_flags(flags)
            .endian(zbus::wire::LE)
            .build(&(&model, HashMap::<&str, Variant<'_>>::new()))
            .unwrap();
        let calls = call.data().repeat(CALLS);
        if flags == Flags::NO_REPLY_EXPECTED {
            // Nothing is owed where nothing is wanted.
            stream.write_all(&calls).unwrap();
            daemon.answers().await;
            continue;
        }
        stream
            .set_write_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let mut written = 0;
        let error = loop {
            match stream.write(&calls[written..]) {
                Ok(0) => panic!("all was read"),
                Ok(n) => written += n,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        assert!(written < calls.len() / 2, "{written} of {}", calls.len());
        daemon.answers().await;
        // It reads after all, and gets every answer.
        stream.set_write_timeout(Some(LONG)).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let rest = calls[written..].to_vec();
        let writing = std::thread::spawn(move || writer.write_all(&rest).unwrap());
        let mut answers = 0;
        while answers < CALLS {
            // There are signals besides.
            answers += usize::from(matches!(skip_message(&mut stream), 2 | 3));
        }
        writing.join().unwrap();
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_its_connection_alone() {
    let daemon = Peerless::start("");
    let other = daemon.client().await;
    for length in [33u32 << 20, u32::MAX] {
        let mut stream = unread(&daemon);
        let mut head = [b'l', 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        head[4..8].copy_from_slice(&length.to_le_bytes());
        // The body need not come for it to be known.
        stream.write_all(&head).unwrap();
        closed(stream);
    }
    other.manager().version().await.unwrap();
}
