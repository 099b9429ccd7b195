//! Clients that mean harm, or know no better: each gets a typed error, and
//! nobody else notices.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use gptoss::client::{Client, ClientError, Message, Options};
use zbus::{Connection, Variant};

use crate::harness::{Daemon, LONG, NAME, all, ask, finish, refusal, text, user};
use crate::stress::{descriptors, quiet};

const MANAGER: (&str, &str) = ("/org/gptoss/Daemon1", "org.gptoss.Daemon1.Manager");

/// Someone with nothing to hide is served as ever.
async fn others_are_served(daemon: &Daemon) {
    let client = daemon.client().await;
    let events = all(&mut ask(&client, "hello", Options::default()).await).await;
    assert_eq!(text(&events, "final"), "You said: hello");
    assert_eq!(finish(&events), "stop");
}

/// Calls a method; gives the short name of the error it must answer with.
async fn refused<B>(connection: &Connection, object: (&str, &str), method: &str, body: &B) -> String
where
    B: serde::Serialize + zbus::DynamicType,
{
    let call = connection.call_method(Some(NAME), object.0, Some(object.1), method, body);
    let reply = tokio::time::timeout(LONG, call).await.expect("no answer");
    refusal(reply.map_err(ClientError::from)).0
}

#[tokio::test]
async fn messages_as_large_as_the_bus_lets_through() {
    let daemon = Daemon::start("");
    let client = daemon.client().await;
    let large = "x".repeat(31 << 20);
    let answer = client.generate(&user(&large), &Options::default()).await;
    let (name, message) = refusal(answer);
    assert_eq!(name, "LimitsExceeded", "{message}");
    assert!(message.contains("limits.prompt-bytes"), "{message}");
    // In the places that no limit of text is about.
    for (key, expected) in [
        ("model", "InvalidArgs"),
        ("handle-token", "InvalidArgs"),
        ("priority", "InvalidArgs"),
        ("tools", "LimitsExceeded"),
        ("response-schema", "LimitsExceeded"),
    ] {
        let options = Options::default().set(key, large.as_str());
        let (name, message) = refusal(client.generate(&user("x"), &options).await);
        assert_eq!(name, expected, "{key}");
        assert!(
            message.len() < 1000,
            "{key}: an error need not say it all again"
        );
    }
    let unknown = Options::default().set("unknown", large.as_str());
    client.generate(&user("x"), &unknown).await.unwrap();
    let many = vec![Message::new("user", ""); 200_000];
    let counted = client.count_tokens(&many, &Options::default()).await;
    assert!(counted.unwrap() > 200_000);
    // More than the bus carries ends the connection of whoever sends it.
    let doomed = daemon.client().await;
    let larger = "x".repeat(33 << 20);
    let (messages, options) = (user(&larger), Options::default());
    let answer = doomed.generate(&messages, &options);
    let answer = tokio::time::timeout(LONG, answer).await;
    assert!(answer.expect("no answer").is_err());
    others_are_served(&daemon).await;
}

/// The options, and the types the API gives them.
const OPTIONS: [(&str, &str); 18] = [
    ("model", "s"),
    ("reasoning-effort", "s"),
    ("max-output-tokens", "u"),
    ("max-reasoning-tokens", "u"),
    ("temperature", "d"),
    ("top-p", "d"),
    ("min-p", "d"),
    ("top-k", "u"),
    ("seed", "t"),
    ("stop", "as"),
    ("logprobs", "u"),
    ("tools", "s"),
    ("tool-choice", "s"),
    ("response-schema", "s"),
    ("priority", "s"),
    ("handle-token", "s"),
    ("show-reasoning", "b"),
    ("on-overflow", "s"),
];

/// One value of each type that anyone could send.
fn values() -> Vec<Variant<'static>> {
    vec![
        "text".into(),
        1u8.into(),
        true.into(),
        1i16.into(),
        1u16.into(),
        1i32.into(),
        1u32.into(),
        1i64.into(),
        1u64.into(),
        1.0f64.into(),
        vec!["a", "b"].into(),
        vec![1u32].into(),
        Variant::from(("x", 1u32)),
        Variant::from(HashMap::from([("a", "b")])),
        Variant::Variant(Box::new("text".into())),
        Variant::from(zbus::ObjectPath::from_static_str_unchecked("/x")),
    ]
}

type Dictionary = HashMap<&'static str, Variant<'static>>;

fn message() -> Dictionary {
    HashMap::from([("role", "user".into()), ("content", "x".into())])
}

/// The path of a new session of this connection's.
async fn open_session(connection: &Connection) -> String {
    let client = Client::over(connection.clone()).await.unwrap();
    let session = client.create_session(&Options::default()).await.unwrap();
    session.proxy().inner().path().to_string()
}

#[tokio::test]
async fn every_wrong_type_everywhere() {
    let daemon = Daemon::start("");
    let raw = daemon.bus.connect().await;
    let path = open_session(&raw).await;
    let session = (path.as_str(), "org.gptoss.Daemon1.Session");
    for (key, signature) in OPTIONS {
        for value in values() {
            if value.value_signature() == signature {
                continue;
            }
            let what = format!("{key}: {}", value.value_signature());
            let options: Dictionary = HashMap::from([(key, value)]);
            let asked = (vec![message()], &options);
            for method in ["Generate", "CountTokens"] {
                assert_eq!(
                    refused(&raw, MANAGER, method, &asked).await,
                    "InvalidArgs",
                    "{what}"
                );
            }
            for method in ["CreateSession", "Prewarm"] {
                let name = refused(&raw, MANAGER, method, &(&options,)).await;
                assert_eq!(name, "InvalidArgs", "{method} {what}");
            }
            assert_eq!(
                refused(&raw, session, "Prompt", &asked).await,
                "InvalidArgs",
                "{what}"
            );
        }
    }
    for key in ["role", "content", "channel", "name", "recipient", "call-id"] {
        for value in values() {
            if value.value_signature() == "s" {
                continue;
            }
            let mut wrong = message();
            wrong.insert(key, value);
            let asked = (vec![wrong], Dictionary::new());
            for (object, method) in [(MANAGER, "CountTokens"), (session, "Prompt")] {
                assert_eq!(
                    refused(&raw, object, method, &asked).await,
                    "InvalidArgs",
                    "{key}"
                );
            }
        }
    }
    others_are_served(&daemon).await;
}

#[tokio::test]
async fn every_method_with_every_wrong_body() {
    let daemon = Daemon::start("");
    let raw = daemon.bus.connect().await;
    let path = open_session(&raw).await;
    let session = (path.as_str(), "org.gptoss.Daemon1.Session");
    let methods = [
        (MANAGER, "Generate"),
        (MANAGER, "CreateSession"),
        (MANAGER, "CountTokens"),
        (MANAGER, "Prewarm"),
        (session, "Prompt"),
        (session, "SubmitToolResults"),
        (session, "History"),
        (session, "Fork"),
    ];
    for (object, method) in methods {
        for value in values() {
            let name = refused(&raw, object, method, &(&value, &value)).await;
            assert_eq!(name, "InvalidArgs", "{method}({})", value.value_signature());
        }
        assert_eq!(
            refused(&raw, object, method, &()).await,
            "InvalidArgs",
            "{method}()"
        );
    }
    assert_eq!(
        refused(&raw, MANAGER, "Destroy", &()).await,
        "UnknownMethod"
    );
    let nowhere = (
        "/org/gptoss/Daemon1/request/1_1/x",
        "org.gptoss.Daemon1.Request",
    );
    assert_eq!(refused(&raw, nowhere, "Cancel", &()).await, "UnknownObject");
    // Properties are not for writing.
    let set = ("org.gptoss.Daemon1.Manager", "Version", Variant::from("9"));
    let properties = (MANAGER.0, "org.freedesktop.DBus.Properties");
    let name = refused(&raw, properties, "Set", &set).await;
    assert!(
        ["PropertyReadOnly", "UnknownProperty"].contains(&&*name),
        "{name}"
    );
    others_are_served(&daemon).await;
}

#[tokio::test]
async fn ten_thousand_sessions() {
    let daemon = Daemon::start("");
    let greedy = daemon.client().await;
    let mut sessions = 0;
    for _ in 0..10_000 {
        match greedy.create_session(&Options::default()).await {
            Ok(_) => sessions += 1,
            refused => {
                let (name, message) = refusal(refused);
                assert_eq!(name, "LimitsExceeded", "{message}");
                assert!(message.contains("limits.sessions-per-user"), "{message}");
            }
        }
    }
    assert_eq!(sessions, 32, "the default limit");
    others_are_served(&daemon).await;
    drop(greedy);
    quiet(&daemon, None).await;
    let again = daemon.client().await;
    again.create_session(&Options::default()).await.unwrap();
}

/// The bus grants a connection 512 match rules: clients must not need one each.
#[tokio::test]
async fn more_clients_than_the_bus_grants_match_rules() {
    more_descriptors();
    let daemon = Daemon::start("");
    let mut clients = Vec::new();
    for _ in 0..700 {
        let client = daemon.client().await;
        let counted = client.count_tokens(&user("x"), &Options::default()).await;
        assert!(counted.unwrap() > 1);
        clients.push(client);
    }
    others_are_served(&daemon).await;
}

/// This process may open as many files as it is allowed to allow itself.
fn more_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[tokio::test]
async fn streams_that_nobody_reads_or_closes() {
    let daemon = Daemon::start("");
    let client = daemon.client().await;
    all(&mut ask(&client, "x", Options::default()).await).await;
    let before = quiet(&daemon, None).await;
    let mut unread = Vec::new();
    while unread.len() < 300 {
        match client.generate(&user("x"), &Options::default()).await {
            Ok(answer) => unread.push(answer),
            // Until one of them has ended.
            refused => assert_eq!(refusal(refused).0, "LimitsExceeded"),
        }
    }
    // This client has its ends still; the daemon has none of its own.
    quiet(&daemon, Some(before)).await;
    for answer in &mut unread {
        assert_eq!(text(&all(answer).await, "final"), "You said: x");
    }
}

#[tokio::test]
async fn descriptors_that_come_with_a_call() {
    let daemon = Daemon::start("");
    let raw = daemon.bus.connect().await;
    others_are_served(&daemon).await;
    let before = quiet(&daemon, None).await;
    let null = std::fs::File::open("/dev/null").unwrap();
    for _ in 0..100 {
        let keys = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let fds = keys.map(|key| (key, Variant::from(zbus::Fd::from(null.as_fd()))));
        let options = HashMap::from(fds);
        let body = (vec![message()], options);
        let reply = raw.call_method(Some(NAME), MANAGER.0, Some(MANAGER.1), "CountTokens", &body);
        let count: u32 = reply.await.unwrap().body().deserialize().unwrap();
        assert!(count > 1);
    }
    quiet(&daemon, Some(before)).await;
}

/// Sends calls and reads no answer: the bus keeps them, then has enough of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_calls_that_nobody_reads_the_answers_of() {
    let daemon = Daemon::start("");
    let before = {
        others_are_served(&daemon).await;
        quiet(&daemon, None).await
    };
    let address = daemon.bus.address.clone();
    let flood = tokio::task::spawn_blocking(move || flood(&address));
    while !flood.is_finished() {
        others_are_served(&daemon).await;
    }
    let socket = flood.await.unwrap();
    others_are_served(&daemon).await;
    drop(socket);
    quiet(&daemon, Some(before)).await;
    assert_eq!(descriptors(&daemon), before);
}

fn flood(address: &str) -> UnixStream {
    let path = address.strip_prefix("unix:path=").unwrap();
    let path = path.split(',').next().unwrap();
    let mut socket = UnixStream::connect(path).unwrap();
    socket.set_write_timeout(Some(LONG)).unwrap();
    let uid = rustix::process::geteuid().as_raw().to_string();
    let uid: String = uid.bytes().map(|b| format!("{b:02x}")).collect();
    write!(socket, "\0AUTH EXTERNAL {uid}\r\n").unwrap();
    let mut word = [0; 256];
    let read = socket.read(&mut word).unwrap();
    assert!(word[..read].starts_with(b"OK"));
    socket.write_all(b"BEGIN\r\n").unwrap();
    let hello = zbus::Message::method_call("/org/freedesktop/DBus", "Hello")
        .destination("org.freedesktop.DBus")
        .interface("org.freedesktop.DBus")
        .build(&());
    socket.write_all(hello.unwrap().data()).unwrap();
    let call = zbus::Message::method_call(MANAGER.0, "CountTokens")
        .destination(NAME)
        .interface(MANAGER.1)
        .build(&(vec![message()], Dictionary::new()));
    let call = call.unwrap();
    for _ in 0..20_000 {
        // The bus may have had enough.
        if socket.write_all(call.data()).is_err() {
            break;
        }
    }
    socket
}
