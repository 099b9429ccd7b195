//! What a report leaves out: whose it is, and of which machine.

use serde_json::Value;

/// In the place of a name.
const HIDDEN: &str = "…";

/// Names that say nothing about anybody.
const EVERYBODYS: [&str; 4] = ["root", "gptoss", "localhost", "home"];

/// What is taken out of texts.
#[derive(Debug, Default)]
pub(super) struct Private {
    /// Home folders.
    homes: Vec<String>,
    /// Of users and of the machine.
    names: Vec<String>,
}

impl Private {
    /// What of this process and its surroundings is private.
    pub fn here() -> Self {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        let home = variable("HOME");
        let real = std::fs::canonicalize(&home).ok();
        let real = real.map(|path| path.to_string_lossy().into_owned());
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let short = host.split('.').next().unwrap_or_default().to_owned();
        let users = ["USER", "LOGNAME", "SUDO_USER", "DOAS_USER"].map(variable);
        Self::of(
            [home].into_iter().chain(real),
            users.into_iter().chain([host, short]),
        )
    }

    fn of(
        homes: impl IntoIterator<Item = String>,
        names: impl IntoIterator<Item = String>,
    ) -> Self {
        let told = |name: &String| name.len() > 1 && !EVERYBODYS.contains(&name.as_str());
        let homes = homes
            .into_iter()
            .map(|h| h.trim_end_matches('/').to_owned());
        let mut homes: Vec<String> = homes.filter(|home| home.len() > 1).collect();
        // A home is mostly called what its user is.
        let called = homes.iter().filter_map(|home| home.rsplit('/').next());
        let called: Vec<_> = called.map(str::to_owned).collect();
        let mut names: Vec<_> = names.into_iter().chain(called).filter(told).collect();
        // What holds another comes before it.
        homes.sort_by_key(|home| std::cmp::Reverse(home.len()));
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        Self { homes, names }
    }

    /// The text without them.
    pub fn without(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for home in &self.homes {
            text = replaced(&text, home, "~");
        }
        for name in &self.names {
            text = replaced(&text, name, HIDDEN);
        }
        text
    }

    /// Takes them out of every text in a document; keys are ours.
    pub fn clean(&self, document: &mut Value) {
        match document {
            Value::String(text) => *text = self.without(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.clean(item)),
            Value::Object(entries) => entries.values_mut().for_each(|item| self.clean(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// Replaces `name` where it is a word of its own, or one of several joined by `_`.
fn replaced(text: &str, name: &str, by: &str) -> String {
    let inside = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(name) {
        let (before, after) = (&rest[..at], &rest[at + name.len()..]);
        let touched = out.chars().chain(before.chars()).next_back();
        let word = !inside(touched) && !inside(after.chars().next());
        out.push_str(before);
        out.push_str(if word { by } else { name });
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn private() -> Private {
        let own = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        Private::of(
            own(&["/home/alice", "/srv/homes/alice", "/"]),
            own(&["alice", "al", "box.example.org", "box", "root", ""]),
        )
    }

    #[test]
    fn homes_and_names_are_taken_out() {
        for (text, told) in [
            (
                "/home/alice/lib/libonnxruntime.so",
                "~/lib/libonnxruntime.so",
            ),
            ("/srv/homes/alice", "~"),
            ("/home/alice2/x", "/home/alice2/x"),
            ("/data/alice/model of alice", "/data/…/model of …"),
            ("alice-20b, malice", "…-20b, malice"),
            ("tuned_by_alice_2", "tuned_by_…_2"),
            ("box.example.org said no to al", "… said no to …"),
            ("boxes of all", "boxes of all"),
            ("/root is everybody's root", "/root is everybody's root"),
            ("", ""),
        ] {
            assert_eq!(private().without(text), told);
        }
    }

    #[test]
    fn a_home_alone_tells_its_users_name() {
        let private = Private::of(["/home/alice/".to_owned()], []);
        assert_eq!(private.without("/home/alice/lib"), "~/lib");
        assert_eq!(private.without("of alice"), "of …");
        let root = Private::of(["/root".to_owned()], []);
        assert_eq!(root.without("/root/x of root"), "~/x of root");
    }

    #[test]
    fn every_text_of_a_document_is_looked_at() {
        let mut document = json!({"alice": ["alice", {"x": "at box"}], "n": 1});
        private().clean(&mut document);
        assert_eq!(document, json!({"alice": ["…", {"x": "at …"}], "n": 1}));
    }

    #[test]
    fn nothing_of_this_machine_is_left() {
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        if host.len() > 1 && !EVERYBODYS.contains(&host.as_str()) {
            assert!(!Private::here().without(&host).contains(&host));
        }
    }
}
