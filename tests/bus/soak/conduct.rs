//! What one client does, and what it must see whatever the others do.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gptoss::client::{Answer, Client, ClientError, Message, Options, RequestProxy, StreamEvent};
use zbus::OwnedObjectPath;

use crate::harness::{LONG, all, finish, refusal, text, user};

/// How often everything happened.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub answered: u64,
    pub conversed: u64,
    pub cancelled: u64,
    pub dropped: u64,
    pub left: u64,
    pub slow: u64,
    pub cut_off: u64,
    pub counted: u64,
    pub invalid: u64,
    pub foreign: u64,
    pub refused: u64,
}

impl Tally {
    pub fn plus(self, other: Tally) -> Tally {
        Tally {
            answered: self.answered + other.answered,
            conversed: self.conversed + other.conversed,
            cancelled: self.cancelled + other.cancelled,
            dropped: self.dropped + other.dropped,
            left: self.left + other.left,
            slow: self.slow + other.slow,
            cut_off: self.cut_off + other.cut_off,
            counted: self.counted + other.counted,
            invalid: self.invalid + other.invalid,
            foreign: self.foreign + other.foreign,
            refused: self.refused + other.refused,
        }
    }

    /// A run in which nobody tried something has not shown that it works.
    pub fn says_that_everything_happened(&self) {
        let all = [
            self.answered,
            self.conversed,
            self.cancelled,
            self.dropped,
            self.left,
            self.slow,
            self.counted,
            self.invalid,
            self.foreign,
        ];
        assert!(all.iter().all(|n| *n > 0), "{self}");
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} answered, {} conversations, {} cancelled, {} streams dropped, {} left the bus, \
             {} read slowly ({} of them cut off), {} counted, {} invalid, {} tried another's, \
             {} refused by a limit",
            self.answered,
            self.conversed,
            self.cancelled,
            self.dropped,
            self.left,
            self.slow,
            self.cut_off,
            self.counted,
            self.invalid,
            self.foreign,
            self.refused
        )
    }
}

/// Where the users' requests can be read by everyone, as if paths were no secrets.
#[derive(Debug, Default)]
pub struct Board(Mutex<[Option<OwnedObjectPath>; 4]>);

impl Board {
    fn post(&self, user: usize, answer: &Answer) {
        let path = answer.request().inner().path().to_owned();
        self.0.lock().unwrap()[user] = Some(path.into());
    }

    fn of_another(&self, user: usize) -> Option<OwnedObjectPath> {
        self.0.lock().unwrap()[(user + 1) % 4].clone()
    }
}

struct Someone {
    address: String,
    board: Arc<Board>,
    user: usize,
    number: u64,
    random: fastrand::Rng,
    connection: zbus::Connection,
    client: Client,
    questions: u64,
    tally: Tally,
}

/// A client's life until `until`.
pub async fn live(
    address: String,
    board: Arc<Board>,
    user: usize,
    number: u64,
    until: Instant,
) -> Tally {
    let connection = connect(&address).await;
    let client = Client::over(connection.clone()).await.unwrap();
    let mut someone = Someone {
        address,
        board,
        user,
        number,
        random: fastrand::Rng::with_seed(number),
        connection,
        client,
        questions: 0,
        tally: Tally::default(),
    };
    while Instant::now() < until {
        match someone.act().await {
            Ok(()) => {}
            Err(ClientError::Refused { name, .. }) if name.ends_with("LimitsExceeded") => {
                someone.tally.refused += 1;
            }
            Err(other) => panic!("client {number}: {other}"),
        }
        let pause = someone.random.u64(0..400);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    someone.tally
}

async fn connect(address: &str) -> zbus::Connection {
    let builder = zbus::connection::Builder::address(address);
    builder.build().await.unwrap()
}

type Done = Result<(), ClientError>;

impl Someone {
    async fn act(&mut self) -> Done {
        match self.random.u32(0..14) {
            0..=3 => self.ask().await,
            4..=5 => self.converse().await,
            6 => self.cancel("slow").await,
            7 => {
                self.cancel(&format!("long-prompt {}", "x".repeat(5000)))
                    .await
            }
            8 => self.drop_the_stream().await,
            9 => self.leave().await,
            10 => self.read_slowly().await,
            11 => self.count().await,
            12 => self.talk_nonsense().await,
            _ => self.meddle().await,
        }
    }

    /// Something that nobody else says.
    fn question(&mut self) -> String {
        self.questions += 1;
        format!(
            "client {} asks for the {}th time",
            self.number, self.questions
        )
    }

    fn options(&mut self) -> Options {
        match self.random.u32(0..4) {
            0 => Options::default().set("priority", "background"),
            _ => Options::default(),
        }
    }

    async fn generate(&mut self, text: &str) -> Result<Answer, ClientError> {
        let options = self.options();
        let answer = self.client.generate(&user(text), &options).await?;
        self.board.post(self.user, &answer);
        Ok(answer)
    }

    async fn ask(&mut self) -> Done {
        let question = self.question();
        let mut answer = self.generate(&question).await?;
        let events = all(&mut answer).await;
        if self.refused(&events) {
            return Ok(());
        }
        self.tally.answered += 1;
        is_the_answer_to(&question, &events);
        Ok(())
    }

    /// Two turns, and another second turn in a fork.
    async fn converse(&mut self) -> Done {
        let session = self.client.create_session(&Options::default()).await?;
        let (first, second, other) = (self.question(), self.question(), self.question());
        for question in [&first, &second] {
            let mut answer = session.prompt(&user(question), &self.options()).await?;
            let events = all(&mut answer).await;
            if self.refused(&events) {
                return session.close().await;
            }
            is_the_answer_to(question, &events);
        }
        let fork = session.fork(&Options::default()).await?;
        let mut answer = fork.prompt(&user(&other), &self.options()).await?;
        let events = all(&mut answer).await;
        if !self.refused(&events) {
            is_the_answer_to(&other, &events);
            let said = |messages: Vec<Message>| -> Vec<String> {
                let asked = messages.into_iter().filter(|m| m.role == "user");
                asked.map(|m| m.content).collect()
            };
            let mine = session.history(&Options::default()).await?;
            let forked = fork.history(&Options::default()).await?;
            assert_eq!(said(mine), [&*first, &*second]);
            assert_eq!(said(forked), [&*first, &*second, &*other]);
            self.tally.conversed += 1;
        }
        fork.close().await?;
        session.close().await
    }

    async fn cancel(&mut self, question: &str) -> Done {
        let mut answer = self.generate(question).await?;
        let mut events = Vec::new();
        for _ in 0..self.random.usize(0..20) {
            match answer.next().await? {
                Some(event) => events.push(event),
                None => break,
            }
        }
        // It may have ended meanwhile.
        let _ = answer.cancel().await;
        events.extend(all(&mut answer).await);
        if self.refused(&events) {
            return Ok(());
        }
        orderly(&events);
        assert!(
            ["cancelled", "stop"].contains(&finish(&events)),
            "{events:?}"
        );
        let said = text(&events, "final");
        let whole = match question {
            "slow" => "abcdefghij".repeat(1000),
            _ => "read".into(),
        };
        assert!(whole.starts_with(&said), "{said:?}");
        self.tally.cancelled += 1;
        Ok(())
    }

    async fn drop_the_stream(&mut self) -> Done {
        let mut answer = self.generate("slow").await?;
        for _ in 0..self.random.usize(0..20) {
            answer.next().await?;
        }
        self.tally.dropped += 1;
        Ok(())
    }

    /// Leaves the bus in the middle of things, and comes back.
    async fn leave(&mut self) -> Done {
        let _session = self.client.create_session(&Options::default()).await?;
        let mut answer = self.generate("slow").await?;
        answer.next().await?;
        self.connection.clone().close().await.unwrap();
        self.connection = connect(&self.address).await;
        self.client = Client::over(self.connection.clone()).await?;
        self.tally.left += 1;
        Ok(())
    }

    async fn read_slowly(&mut self) -> Done {
        let mut answer = self.generate("flood").await?;
        let mut events = Vec::new();
        let deadline = Instant::now() + LONG;
        let pause = self.random.u64(0..20);
        while let Some(event) = answer.next().await? {
            events.push(event);
            if events.len().is_multiple_of(16) {
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            assert!(Instant::now() < deadline, "no end in time");
        }
        if self.refused(&events) {
            return Ok(());
        }
        let said = text(&events, "final");
        let whole = "0123456789".repeat(400);
        match events.last() {
            Some(StreamEvent::Error { name, .. }) if name.ends_with("SlowConsumer") => {
                assert!(whole.starts_with(&said), "{said:?}");
                self.tally.cut_off += 1;
            }
            _ => {
                orderly(&events);
                assert_eq!(finish(&events), "stop");
                assert_eq!(said, whole);
            }
        }
        self.tally.slow += 1;
        Ok(())
    }

    async fn count(&mut self) -> Done {
        let question = self.question();
        let messages = user(&question);
        let options = Options::default();
        let count = self.client.count_tokens(&messages, &options).await?;
        assert!(count as usize > question.len());
        self.tally.counted += 1;
        Ok(())
    }

    async fn talk_nonsense(&mut self) -> Done {
        let options = Options::default().set("temperature", "hot");
        let refused = self.client.generate(&user("x"), &options).await;
        assert_eq!(refusal(refused).0, "InvalidArgs");
        self.tally.invalid += 1;
        Ok(())
    }

    /// Another user's request can't be touched, and it can't be told whether
    /// there is one.
    async fn meddle(&mut self) -> Done {
        let Some(path) = self.board.of_another(self.user) else {
            return Ok(());
        };
        let request = RequestProxy::builder(&self.connection)
            .path(path)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        let refused = request.cancel().await.map_err(ClientError::from);
        let (name, _) = refusal(refused);
        let names = [
            "UnknownObject",
            "UnknownMethod",
            "UnknownInterface",
            "AccessDenied",
        ];
        assert!(names.contains(&name.as_str()), "{name}");
        self.tally.foreign += 1;
        Ok(())
    }

    /// Whether a limit was in the way, which is said in the stream where it is
    /// found out late.
    fn refused(&mut self, events: &[StreamEvent]) -> bool {
        let refused = matches!(events.last(), Some(StreamEvent::Error { name, .. })
            if name.ends_with("LimitsExceeded"));
        self.tally.refused += u64::from(refused);
        refused
    }
}

fn is_the_answer_to(question: &str, events: &[StreamEvent]) {
    orderly(events);
    assert_eq!(finish(events), "stop");
    assert_eq!(text(events, "final"), format!("You said: {question}"));
}

/// Waiting, the start, text, what it took, the end: nothing twice, nothing lost.
fn orderly(events: &[StreamEvent]) {
    let stage = |event: &StreamEvent| match event {
        StreamEvent::Queued { .. } => 0,
        StreamEvent::Start { .. } => 1,
        StreamEvent::Delta { .. } => 2,
        StreamEvent::Usage(_) => 3,
        StreamEvent::End { .. } => 4,
        other => panic!("{other:?} in {events:?}"),
    };
    let stages: Vec<_> = events.iter().map(stage).collect();
    assert!(stages.is_sorted(), "{events:?}");
    for once in [1, 3, 4] {
        let times = stages.iter().filter(|s| **s == once).count();
        // Who cancels while waiting sees no start.
        assert!(times <= 1, "{events:?}");
        assert!(times == 1 || finish(events) == "cancelled", "{events:?}");
    }
}
