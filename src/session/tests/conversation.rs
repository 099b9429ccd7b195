//! Turns without a model.

use super::*;

fn user(content: &str) -> MessageParts {
    MessageParts {
        role: "user".into(),
        content: content.into(),
        ..MessageParts::default()
    }
}

fn session() -> Arc<Session> {
    Session::new("m".into(), 8192, Options::default(), 1000).unwrap()
}

fn result(call_id: &str) -> ToolResult {
    ToolResult {
        call_id: call_id.into(),
        content: "18 degrees".into(),
    }
}

/// A session whose model has called two tools, and a third in a form that
/// could not be delivered.
fn calling() -> Arc<Session> {
    let session = session();
    let (_, turn) = session
        .prompt(vec![user("weather?")], Options::default())
        .unwrap();
    let call = |id: &str| Message::function_call(id, "weather", "{}");
    turn.commit(Said {
        messages: vec![call("call_1"), call("call_2"), call("call_3")],
        calls: vec!["call_1".into(), "call_2".into()],
        next_call: 4,
    });
    session
}

fn mismatch(session: &Arc<Session>, results: Vec<ToolResult>) -> String {
    match session.tool_results(results, Options::default()) {
        Err(Failure::ToolResultMismatch(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_turn_that_is_dropped_never_was() {
    let session = session();
    let (prompt, turn) = session
        .prompt(vec![user("one")], Options::default())
        .unwrap();
    assert_eq!(prompt.conversation.messages, [Message::user("one")]);
    assert!(session.idle_since().is_none());
    let busy = session.prompt(vec![user("two")], Options::default());
    assert!(matches!(busy, Err(Failure::SessionBusy)), "{busy:?}");
    drop(turn);
    assert!(session.idle_since().is_some());
    assert_eq!(session.history(true), []);
}

#[test]
fn what_was_said_is_part_of_the_next_prompt() {
    let session = session();
    let (_, turn) = session
        .prompt(vec![user("one")], Options::default())
        .unwrap();
    turn.commit(Said {
        messages: vec![
            Message::assistant(Channel::Analysis, "hm"),
            Message::assistant(Channel::Final, "1"),
        ],
        ..Said::default()
    });
    let (prompt, _turn) = session
        .prompt(vec![user("two")], Options::default())
        .unwrap();
    let messages = prompt.conversation.messages.iter();
    let texts: Vec<_> = messages.map(|m| m.content.as_str()).collect();
    assert_eq!(texts, ["one", "hm", "1", "two"]);
    assert_eq!(session.history(false).len(), 2, "without analysis");
}

#[test]
fn results_must_match_the_calls() {
    let session = calling();
    let waiting = session.prompt(vec![user("and?")], Options::default());
    let Err(Failure::ToolResultMismatch(message)) = waiting else {
        panic!("{waiting:?}");
    };
    assert!(message.contains("call_1, call_2"), "{message}");
    assert!(mismatch(&session, vec![]).contains("no results"));
    assert!(mismatch(&session, vec![result("call_1")]).contains("call_2"));
    let twice = vec![result("call_1"), result("call_2"), result("call_1")];
    assert!(mismatch(&session, twice).contains("two results"));
    let foreign = vec![result("call_1"), result("call_2"), result("call_9")];
    assert!(mismatch(&session, foreign).contains("call_9"));

    // Nothing of that counted.
    let both = vec![result("call_2"), result("call_1")];
    let (_, turn) = session.tool_results(both, Options::default()).unwrap();
    assert_eq!(turn.first_call(), 4);
    turn.commit(Said::default());
    assert!(mismatch(&session, vec![result("call_1")]).contains("no call"));
    session
        .prompt(vec![user("and now?")], Options::default())
        .unwrap();
}

#[test]
fn a_call_that_could_not_be_delivered_may_have_a_result() {
    let session = calling();
    let all = ["call_1", "call_2", "call_3"].map(result).to_vec();
    session.tool_results(all, Options::default()).unwrap();
}

#[test]
fn a_fork_waits_for_the_same_results_and_goes_its_own_way() {
    let session = calling();
    let fork = session.fork(Options::default()).unwrap();
    let both = || vec![result("call_1"), result("call_2")];
    let (_, turn) = fork.tool_results(both(), Options::default()).unwrap();
    turn.commit(Said::default());
    assert_eq!(fork.history(false).len(), 6);
    assert_eq!(session.history(false).len(), 4);
    session.tool_results(both(), Options::default()).unwrap();
}

#[test]
fn the_sessions_options_hold_where_the_turn_has_none() {
    let options = Options {
        temperature: Some(0.25),
        top_k: Some(7),
        ..Options::default()
    };
    let session = Session::new("m".into(), 8192, options, 1000).unwrap();
    let own = Options {
        top_k: Some(9),
        ..Options::default()
    };
    let (prompt, _turn) = session.prompt(vec![user("x")], own).unwrap();
    assert_eq!(prompt.sampling.temperature, 0.25);
    assert_eq!(prompt.sampling.top_k, 9);
    let wrong = Options {
        temperature: Some(-1.0),
        ..Options::default()
    };
    assert!(Session::new("m".into(), 8192, wrong.clone(), 1000).is_err());
    assert!(session.fork(wrong).is_err());
}

#[test]
fn the_history_counts_as_text() {
    let session = Session::new("m".into(), 8192, Options::default(), 10).unwrap();
    let (_, turn) = session
        .prompt(vec![user("123456")], Options::default())
        .unwrap();
    turn.commit(Said::default());
    let more = session.prompt(vec![user("123456")], Options::default());
    assert!(matches!(more, Err(Failure::LimitsExceeded(_))), "{more:?}");
    session.prompt(vec![user("1")], Options::default()).unwrap();
}

#[tokio::test]
async fn no_turn_begins_once_it_is_closed() {
    let session = session();
    session.close();
    session.closed().await;
    let late = session.prompt(vec![user("x")], Options::default());
    assert!(matches!(late, Err(Failure::Cancelled(_))), "{late:?}");
}

/// An application that lost its session gives the next one all that was said.
#[test]
fn calls_of_an_earlier_session_keep_their_ids() {
    let before = calling();
    let history = before.history(true);
    let session = session();
    let (_, turn) = session.prompt(history, Options::default()).unwrap();
    assert_eq!(turn.first_call(), 4);
    drop(turn);
    let mut odd = user("x");
    odd.call_id = Some(format!("call_{}", u64::MAX));
    let (_, turn) = session.prompt(vec![odd], Options::default()).unwrap();
    assert_eq!(turn.first_call(), 1);
}

/// The call of a tool that the model was trained with is on the channel of its
/// thoughts; the history without them can still be given back.
#[test]
fn a_history_without_thoughts_has_its_calls() {
    let session = session();
    let (_, turn) = session
        .prompt(vec![user("2 + 2?")], Options::default())
        .unwrap();
    let mut call = Message::function_call("call_1", "f", "print(2 + 2)");
    call.recipient = Some("python".into());
    call.channel = Some(Channel::Analysis);
    let thought = Message::assistant(Channel::Analysis, "I compute.");
    turn.commit(Said {
        messages: vec![thought, call],
        calls: vec!["call_1".into()],
        next_call: 2,
    });
    let history = session.history(false);
    let recipients: Vec<_> = history.iter().map(|m| m.recipient.as_deref()).collect();
    assert_eq!(recipients, [None, Some("python")]);
}
