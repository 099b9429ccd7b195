//! What happens to a conversation that does not fit the context window.

use std::ops::Range;
use std::str::FromStr;

use super::failure::Failure;
use crate::harmony::{Message, Role};

/// What an application wants where its conversation has become too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// An error with both counts.
    #[default]
    Refuse,
    /// The oldest turns are forgotten until the rest fits.
    DropOldest,
}

impl FromStr for Overflow {
    type Err = Failure;

    fn from_str(name: &str) -> Result<Self, Failure> {
        match name {
            "error" => Ok(Self::Refuse),
            "drop-oldest" => Ok(Self::DropOldest),
            other => Err(Failure::InvalidArgs(format!(
                "unknown on-overflow {other:?}: use error or drop-oldest"
            ))),
        }
    }
}

/// What may be forgotten: which messages the first of the oldest turns are, the first
/// two, and so on, all but the present one. Instructions at the beginning stay, and
/// several things that the user said in a row are one turn's.
pub fn oldest_turns(messages: &[Message]) -> Vec<Range<usize>> {
    let instruction = |m: &&Message| matches!(m.role, Role::System | Role::Developer);
    let first = messages.iter().take_while(instruction).count();
    let user = |m: &Message| m.role == Role::User;
    let pairs = messages.windows(2).enumerate().skip(first);
    let begins = pairs.filter_map(|(index, pair)| match pair {
        [before, after] if !user(before) && user(after) => Some(index + 1),
        _ => None,
    });
    begins.map(|end| first..end).collect()
}

/// All messages but these.
pub fn without(messages: &[Message], forgotten: Option<&Range<usize>>) -> Vec<Message> {
    let forgotten = forgotten.cloned().unwrap_or_default();
    let kept = |(index, message): (usize, &Message)| {
        (!forgotten.contains(&index)).then(|| message.clone())
    };
    messages.iter().enumerate().filter_map(kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harmony::Channel;

    #[test]
    fn turns_go_and_instructions_stay() {
        let mut messages = vec![
            Message::system("be kind"),
            Message::user("one"),
            Message::user("and a half"),
            Message::function_call("call_1", "f", "{}"),
            Message::tool_result("call_1", None, "x"),
            Message::assistant(Channel::Final, "1"),
            Message::user("two"),
            Message::assistant(Channel::Final, "2"),
            Message::user("three"),
        ];
        assert_eq!(oldest_turns(&messages), [1..6, 1..8]);
        messages.drain(1..8);
        assert!(oldest_turns(&messages).is_empty(), "the present turn stays");
        assert!(oldest_turns(&[]).is_empty());
    }

    #[test]
    fn names() {
        assert_eq!("error".parse::<Overflow>().unwrap(), Overflow::Refuse);
        assert_eq!(
            "drop-oldest".parse::<Overflow>().unwrap(),
            Overflow::DropOldest
        );
        assert!("forget".parse::<Overflow>().is_err());
    }
}
