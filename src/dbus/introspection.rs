//! `org.freedesktop.DBus.Introspectable` of the nodes above the objects that
//! have owners. The library's own shows the whole tree to everybody, and so who
//! has what; this one shows each caller their own.

use std::collections::BTreeSet;
use std::fmt::Write;

use zbus::message::Header;
use zbus::names::InterfaceName;
use zbus::object_server::Interface;
use zbus::{Connection, OwnedObjectPath, fdo, interface};

use super::callers::Callers;
use super::manager::Manager;
use super::{PATH, admin};

const INTERFACE: &str = "org.freedesktop.DBus.Introspectable";

const HEAD: &str = r#"<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
<node>
  <interface name="org.freedesktop.DBus.Peer">
    <method name="Ping"/>
    <method name="GetMachineId">
      <arg type="s" direction="out"/>
    </method>
  </interface>
"#;

/// In the library's place at one node.
struct Introspection {
    callers: Callers,
    path: String,
}

#[interface(
    name = "org.freedesktop.DBus.Introspectable",
    introspection_docs = false
)]
impl Introspection {
    #[zbus(out_args("xml_data"))]
    async fn introspect(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> String {
        let mut xml = String::from(HEAD);
        self.introspect_to_writer(&mut xml, 2);
        fdo::Properties.introspect_to_writer(&mut xml, 2);
        if self.path == PATH {
            let manager = connection.object_server().interface::<_, Manager>(PATH);
            if let Ok(manager) = manager.await {
                manager.get().await.introspect_to_writer(&mut xml, 2);
            }
        }
        let own = self.callers.paths(&header);
        // On a bus the administrator's object is on another connection.
        let admin = self.callers.is_one().then_some(admin::PATH);
        let shown = own.iter().map(|path| path.as_str());
        let shown = shown.chain([PATH]).chain(admin);
        for name in children(&self.path, shown) {
            let _ = writeln!(xml, "  <node name=\"{name}\"/>");
        }
        xml.push_str("</node>\n");
        xml
    }
}

/// The names directly below `node` on the way to these paths.
fn children<'p>(node: &str, paths: impl Iterator<Item = &'p str>) -> BTreeSet<&'p str> {
    let node = node.trim_end_matches('/');
    let below = |path: &'p str| {
        path.strip_prefix(node)?
            .strip_prefix('/')?
            .split('/')
            .next()
    };
    paths.filter_map(below).collect()
}

/// Takes the library's place at the manager and above it.
///
/// # Errors
/// The connection is closed.
pub async fn take_over(connection: &Connection, callers: &Callers) -> zbus::Result<()> {
    cover(connection, callers, "/").await?;
    for (end, _) in PATH.match_indices('/').skip(1) {
        cover(connection, callers, &PATH[..end]).await?;
    }
    cover(connection, callers, PATH).await
}

/// Serves an object that has an owner. The two nodes that lead to it are new
/// with a client's first, and gone with the last.
///
/// # Errors
/// The connection is closed.
pub async fn serve(
    connection: &Connection,
    callers: &Callers,
    path: &OwnedObjectPath,
    object: impl Interface,
) -> zbus::Result<()> {
    connection.object_server().at(path.clone(), object).await?;
    let mut node = path.as_str();
    while let Some((above, _)) = node.rsplit_once('/') {
        if above.len() <= PATH.len() {
            break;
        }
        cover(connection, callers, above).await?;
        node = above;
    }
    Ok(())
}

async fn cover(connection: &Connection, callers: &Callers, path: &str) -> zbus::Result<()> {
    let server = connection.object_server();
    if server.interface::<_, Introspection>(path).await.is_ok() {
        return Ok(());
    }
    // Somebody else may have done it just now.
    let _ = server
        .remove_named(path, InterfaceName::from_static_str(INTERFACE)?)
        .await;
    let ours = Introspection {
        callers: callers.clone(),
        path: path.to_owned(),
    };
    server.at(path, ours).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_below_a_node() {
        let paths = ["/org/gptoss/Daemon1", "/org/gptoss/Daemon1/request/1_2/a"];
        let below = |node| Vec::from_iter(children(node, paths.into_iter()));
        assert_eq!(below("/"), ["org"]);
        assert_eq!(below("/org/gptoss"), ["Daemon1"]);
        assert_eq!(below(PATH), ["request"]);
        assert_eq!(below("/org/gptoss/Daemon1/request"), ["1_2"]);
        assert_eq!(below("/org/gptoss/Daemon1/request/1_2"), ["a"]);
        assert!(below("/org/gptoss/Daemon1/request/1").is_empty());
    }
}
