//! The interface as it is described and as other clients see it.

use std::path::Path;
use std::process::Command;

use gptoss::client::{Client, Options};

use crate::harness::{Daemon, ask, outcome, wait_for_start};

const SHIPPED: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/systemd/org.gptoss.Daemon1.xml"
);

/// The description of one interface, line by line, without indentation.
fn interface(xml: &str, name: &str) -> Vec<String> {
    let begin = format!("<interface name=\"{name}\">");
    let mut xml = xml.to_owned();
    while let Some(start) = xml.find("<!--") {
        let end = xml[start..].find("-->").unwrap() + start + 3;
        xml.replace_range(start..end, "");
    }
    let lines = xml.lines().map(str::trim).filter(|l| !l.is_empty());
    let lines = lines.skip_while(|l| *l != begin);
    let mut found = Vec::new();
    for line in lines {
        found.push(line.to_owned());
        if line == "</interface>" {
            return found;
        }
    }
    panic!("no {name} in {xml}");
}

async fn introspect(connection: &zbus::Connection, service: &str, path: &str) -> String {
    let reply = connection
        .call_method(
            Some(service),
            path,
            Some("org.freedesktop.DBus.Introspectable"),
            "Introspect",
            &(),
        )
        .await
        .unwrap();
    reply.body().deserialize().unwrap()
}

#[tokio::test]
async fn the_shipped_description_is_the_daemons() {
    let daemon = Daemon::start("[[answers]]\nprefill-delay-ms = 3600000");
    let client = daemon.client().await;
    let mut answer = ask(&client, "x", Options::default()).await;
    wait_for_start(&mut answer).await;
    let raw = daemon.bus.connect().await;
    let shipped = std::fs::read_to_string(SHIPPED).unwrap();
    let request = answer.request().inner().path().to_string();
    let session = client.create_session(&Options::default()).await.unwrap();
    let session = session.proxy().inner().path().to_string();
    for (path, name) in [
        ("/org/gptoss/Daemon1", "org.gptoss.Daemon1.Manager"),
        (session.as_str(), "org.gptoss.Daemon1.Session"),
        (request.as_str(), "org.gptoss.Daemon1.Request"),
    ] {
        let live = introspect(&raw, "org.gptoss.Daemon1", path).await;
        assert_eq!(interface(&shipped, name), interface(&live, name), "{live}");
    }
    let (admin, path) = ("org.gptoss.Admin1", "/org/gptoss/Admin1");
    let shipped = std::fs::read_to_string(SHIPPED.replace("Daemon1", "Admin1")).unwrap();
    let live = introspect(&raw, admin, path).await;
    assert_eq!(
        interface(&shipped, admin),
        interface(&live, admin),
        "{live}"
    );
}

/// Every path that introspection shows to this connection.
async fn tree(connection: &zbus::Connection) -> Vec<String> {
    let (mut found, mut todo) = (Vec::new(), vec![String::from("/")]);
    while let Some(path) = todo.pop() {
        let xml = introspect(connection, "org.gptoss.Daemon1", &path).await;
        for name in xml.split("<node name=\"").skip(1) {
            let name = name.split('"').next().unwrap();
            todo.push(format!("{}/{name}", path.trim_end_matches('/')));
        }
        found.push(path);
    }
    found
}

#[tokio::test]
async fn introspection_shows_each_their_own() {
    let daemon = Daemon::start("[[answers]]\nprefill-delay-ms = 3600000");
    let connection = daemon.bus.connect().await;
    let client = Client::over(connection.clone()).await.unwrap();
    let mut answer = ask(&client, "x", Options::default()).await;
    wait_for_start(&mut answer).await;
    let options = Options::default().set("handle-token", "diary");
    let session = client.create_session(&options).await.unwrap();
    let session = session.proxy().inner().path().to_string();
    let request = answer.request().inner().path().to_string();

    let own = tree(&connection).await;
    for path in ["/org/gptoss/Daemon1", &session, &request] {
        assert!(own.iter().any(|shown| shown == path), "{path}: {own:?}");
    }
    let stranger = daemon.bus.connect().await;
    let manager = ["/", "/org", "/org/gptoss", "/org/gptoss/Daemon1"];
    assert_eq!(tree(&stranger).await, manager);
    for path in [&session, &request] {
        // Nor do the nodes that lead there, to whoever guesses them.
        let sender = path.rsplit_once('/').unwrap().0;
        let kind = sender.rsplit_once('/').unwrap().0;
        for node in [kind, sender] {
            let shown = introspect(&stranger, "org.gptoss.Daemon1", node).await;
            assert!(!shown.contains("<node name="), "{node}: {shown}");
        }
    }
}

/// `busctl` and `gdbus`, where they are installed.
#[tokio::test]
async fn other_clients_can_call() {
    let daemon = Daemon::start("");
    let address = format!("--address={}", daemon.bus.address);
    let object = ["org.gptoss.Daemon1", "/org/gptoss/Daemon1"];
    if Path::new("/usr/bin/busctl").exists() {
        let mut busctl = Command::new("busctl");
        busctl.arg(&address).arg("call").args(object).args([
            "org.gptoss.Daemon1.Manager",
            "Generate",
            "aa{sv}a{sv}",
            "1",
            "2",
            "role",
            "s",
            "user",
            "content",
            "s",
            "hello",
            "1",
            "temperature",
            "d",
            "0",
        ]);
        let (code, stdout, stderr) = outcome(&busctl.output().unwrap());
        assert_eq!(code, 0, "{stderr}");
        assert!(
            stdout.starts_with("oh \"/org/gptoss/Daemon1/request/"),
            "{stdout}"
        );
    }
    if Path::new("/usr/bin/gdbus").exists() {
        let mut gdbus = Command::new("gdbus");
        gdbus
            .args(["call", "--address", &daemon.bus.address])
            .args(["--dest", object[0], "--object-path", object[1]])
            .args(["--method", "org.gptoss.Daemon1.Manager.CountTokens"])
            .args(["[{'role': <'user'>, 'content': <'hello'>}]", "{}"]);
        let (code, stdout, stderr) = outcome(&gdbus.output().unwrap());
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.starts_with("(uint32 "), "{stdout}");
    }
}
