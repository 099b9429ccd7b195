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

/// Forgets the oldest turn: what stands between the instructions at the
/// beginning and the second thing that the user said. Says which messages that
/// were; `None` if there is one turn alone, which is the present one.
pub fn drop_oldest(messages: &mut Vec<Message>) -> Option<Range<usize>> {
    let instruction = |m: &&Message| matches!(m.role, Role::System | Role::Developer);
    let first = messages.iter().take_while(instruction).count();
    // Several user messages in a row are one turn's.
    let turn = messages.get(first..)?;
    let asked = turn.iter().take_while(|m| m.role == Role::User).count();
    let answer = turn.get(asked..)?;
    let next = answer.iter().position(|m| m.role == Role::User)?;
    let turn = first..first + asked + next;
    messages.drain(turn.clone());
    Some(turn)
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
        assert_eq!(drop_oldest(&mut messages), Some(1..6));
        let texts = |messages: &[Message]| -> Vec<String> {
            messages.iter().map(|m| m.content.clone()).collect()
        };
        assert_eq!(texts(&messages), ["be kind", "two", "2", "three"]);
        assert_eq!(drop_oldest(&mut messages), Some(1..3));
        assert_eq!(texts(&messages), ["be kind", "three"]);
        assert_eq!(drop_oldest(&mut messages), None, "the present turn stays");
        assert_eq!(messages.len(), 2);
        assert_eq!(drop_oldest(&mut Vec::new()), None);
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
