//! One answer, from the prompt to the last event.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

use super::conversation::{Said, Turn};
use super::event::{Finish, STREAM_VERSION, StreamEvent, UsageNumbers, WaitingFor};
use super::failure::Failure;
use super::guide::{Forms, Guidance, HarmonyGuide};
use super::host::{Lease, ModelHost};
use super::moments::{Moments, millis};
use super::overflow::{Overflow, oldest_turns, without};
use super::prompt::Prompt;
use super::quota::Place;
use super::reader::{Output, Reader};
use super::stop::StopStrings;
use crate::engine::{
    EngineEvent, FinishReason, GenerationRequest, Guide, Owner, TokenStream, Usage,
};
use crate::harmony::{Channel, Conversation, Parser, Position, Tokenizer, render, render_history};

/// Ends a generation from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// The application asked: `end` with `cancelled`.
    Cancel,
    /// The daemon stops: an `error`.
    Stop,
}

/// A generation at work. Dropping it cancels at once.
#[derive(Debug)]
pub struct Generation {
    events: UnboundedReceiver<StreamEvent>,
    interrupt: watch::Sender<Option<Interrupt>>,
}

/// Ends its generation from anywhere.
#[derive(Debug, Clone)]
pub struct Interrupter(watch::Sender<Option<Interrupt>>);

impl Interrupter {
    /// The generation ends with its usual last event.
    pub fn interrupt(&self, how: Interrupt) {
        self.0.send_if_modified(|now| {
            let first = now.is_none();
            now.get_or_insert(how);
            first
        });
    }
}

impl Generation {
    /// Begins to answer `prompt` with `model`, a name the host has resolved. A
    /// `turn` is committed if the answer ends well, before its last event.
    /// Must be called inside the async runtime.
    pub fn start(
        host: Arc<ModelHost>,
        model: String,
        prompt: Prompt,
        place: Arc<Place>,
        turn: Option<Turn>,
    ) -> Self {
        let (sender, events) = unbounded_channel();
        let interrupt = watch::Sender::new(None);
        let mut interrupted = interrupt.subscribe();
        let arrival = host.next_arrival();
        tokio::spawn(async move {
            let mut work = Work {
                host,
                model,
                arrival,
                owner: place.owner(),
                moments: Moments::begin(),
                accounted: false,
                turn,
                usage: UsageNumbers::default(),
                reader: None,
                output: Output {
                    events: sender.clone(),
                    show_reasoning: prompt.show_reasoning,
                    said: Said::default(),
                    shown: String::new(),
                    stopped: false,
                    cut_off: false,
                },
            };
            let result = tokio::select! {
                biased;
                // Nobody reads any more. What is dropped below cancels.
                () = sender.closed() => return work.note("abandoned"),
                how = interrupted.wait_for(Option::is_some) => {
                    match how.ok().and_then(|how| *how) {
                        Some(Interrupt::Cancel) => Ok(Finish::Cancelled),
                        Some(Interrupt::Stop) => {
                            Err(Failure::Cancelled("the daemon is stopping".into()))
                        }
                        // The generation's handle is gone with its receiver.
                        None => return work.note("abandoned"),
                    }
                }
                result = work.run(prompt, place) => result,
            };
            work.close(result);
        });
        Self { events, interrupt }
    }

    /// The next event; `None` after the last one. Cancel-safe.
    pub async fn next(&mut self) -> Option<StreamEvent> {
        self.events.recv().await
    }

    /// A handle that ends it.
    pub fn interrupter(&self) -> Interrupter {
        Interrupter(self.interrupt.clone())
    }
}

struct Work {
    host: Arc<ModelHost>,
    model: String,
    /// Its place in the order of acceptance, and its name in the log.
    arrival: u64,
    owner: Owner,
    moments: Moments,
    /// Whether the engine has said how long it took.
    accounted: bool,
    /// The session's turn, where it has one.
    turn: Option<Turn>,
    usage: UsageNumbers,
    /// Once there are tokens to read.
    reader: Option<Reader>,
    output: Output,
}

impl Work {
    fn send(&self, event: StreamEvent) {
        self.output.send(event);
    }

    /// The last events.
    fn close(mut self, result: Result<Finish, Failure>) {
        let accepted = self.usage.prompt_tokens > 0;
        let result = match result {
            // Perhaps it could never have been said: then no later turn could be.
            Ok(Finish::Cancelled) if self.turn.is_some() && !accepted => Err(Failure::Cancelled(
                "cancelled before it was accepted; the session is as before".into(),
            )),
            result => result,
        };
        if !self.accounted {
            self.moments.fill(&mut self.usage);
        }
        if let Some(reader) = &mut self.reader {
            self.output.cut_off = matches!(result, Ok(Finish::Cancelled) | Err(_));
            reader.finish(&mut self.output);
            self.output.said.next_call = reader.parser.next_call();
        }
        // Who reads the last event may begin the next turn.
        match self.turn.take() {
            Some(turn) if result.is_ok() => turn.commit(std::mem::take(&mut self.output.said)),
            turn => drop(turn),
        }
        if accepted {
            self.send(StreamEvent::Usage(self.usage));
        }
        self.note(match &result {
            Ok(finish) => finish.as_str(),
            Err(failure) => failure.short_name(),
        });
        match result {
            Ok(finish_reason) => self.send(StreamEvent::End { finish_reason }),
            Err(failure) => self.send(StreamEvent::Error {
                name: failure.name(),
                message: failure.to_string(),
            }),
        }
    }

    /// Counts the request and says in the log what became of it. Never what was
    /// said: errors may quote the application.
    fn note(&self, ended: &'static str) {
        self.host.meters().ended(ended);
        let (usage, request) = (&self.usage, self.arrival);
        let (prompt_tokens, output_tokens) = (usage.prompt_tokens, usage.output_tokens);
        let total_ms = millis(self.moments.elapsed());
        tracing::info!(
            request,
            uid = self.owner.0,
            model = self.model,
            ended,
            prompt_tokens,
            cached_tokens = usage.cached_tokens,
            output_tokens,
            reasoning_tokens = usage.reasoning_tokens,
            queue_ms = usage.queue_ms,
            prefill_ms = usage.prefill_ms,
            decode_ms = usage.decode_ms,
            total_ms,
            "request {request}: {ended} after {prompt_tokens} + {output_tokens} tokens, {total_ms} ms"
        );
    }

    async fn run(&mut self, prompt: Prompt, place: Arc<Place>) -> Result<Finish, Failure> {
        let asked = Instant::now();
        let tokenizer = self.host.tokenizer(&self.model).await?;
        let window = self.host.context_window(&self.model).await?;
        let (ids, prompt) = self.fitted(tokenizer, prompt, window).await?;
        self.check_window(ids.len(), window)?;
        place.add_tokens(ids.len())?;
        self.usage.prompt_tokens = ids.len();

        let lease = self.wait_for_model().await?;
        // The model may have been installed anew meanwhile.
        self.check_window(ids.len(), lease.engine().info().context_window)?;
        let guide = self.guide(&prompt, lease.tokenizer()).await?;
        let waited = asked.elapsed();
        let special = lease.tokenizer().special();
        let starts = |(position, id): (usize, &u32)| (*id == special.start).then_some(position);
        let stream = lease.engine().submit(GenerationRequest {
            owner: place.owner(),
            priority: prompt.priority,
            arrival: self.arrival,
            max_new: prompt.max_output_tokens.unwrap_or(usize::MAX),
            boundaries: ids.iter().enumerate().filter_map(starts).collect(),
            prompt: ids,
            sampling: prompt.sampling,
            stop_tokens: special.stops().to_vec(),
            guide,
        })?;
        self.follow(stream, &lease, StopStrings::new(prompt.stop), waited)
            .await
    }

    /// What holds the model to the request, if anything has to. On a thread that
    /// may block: schemas take milliseconds.
    async fn guide(
        &self,
        prompt: &Prompt,
        tokenizer: &Arc<Tokenizer>,
    ) -> Result<Option<Box<dyn Guide>>, Failure> {
        let settings = prompt.conversation.settings.clone();
        let has_forms = settings.has_tools() || settings.response_format.is_some();
        if !has_forms && prompt.guidance == Guidance::default() {
            return Ok(None);
        }
        // A budget alone needs no grammars, which take long the first time.
        let forms = match has_forms {
            true => {
                let grammars = self.host.grammars(tokenizer).await?;
                blocking(move || Forms::new(&settings, &grammars)).await?
            }
            false => Forms::default(),
        };
        let guide = HarmonyGuide::new(prompt.guidance.clone(), forms, tokenizer);
        Ok(Some(Box::new(guide)))
    }

    /// The prompt's tokens; without the oldest turns where they do not fit and the
    /// application wants it so. A quarter of the window is left for the answer.
    async fn fitted(
        &mut self,
        tokenizer: Arc<Tokenizer>,
        prompt: Prompt,
        window: usize,
    ) -> Result<(Vec<u32>, Prompt), Failure> {
        let reserve = prompt.max_output_tokens.unwrap_or(usize::MAX);
        let room = window - reserve.min(window / 4);
        let (ids, mut prompt) = rendered(Arc::clone(&tokenizer), prompt).await?;
        let used = ids.len();
        if used <= room || prompt.overflow != Overflow::DropOldest {
            return Ok((ids, prompt));
        }
        let turns = oldest_turns(&prompt.conversation.messages);
        if turns.is_empty() {
            return Ok((ids, prompt));
        }
        let all = std::mem::take(&mut prompt.conversation.messages);
        // The fewest that make room, else all of them: halved, as a text takes time.
        let (mut few, mut many) = (0, turns.len() - 1);
        while few < many {
            let middle = few.midpoint(many);
            prompt.conversation.messages = without(&all, turns.get(middle));
            let (ids, same) = rendered(Arc::clone(&tokenizer), prompt).await?;
            prompt = same;
            match ids.len() <= room {
                true => many = middle,
                false => few = middle + 1,
            }
        }
        let dropped = turns.get(few).cloned().unwrap_or_default();
        prompt.conversation.messages = without(&all, Some(&dropped));
        let (ids, prompt) = rendered(tokenizer, prompt).await?;
        self.send(StreamEvent::Overflow {
            used,
            window,
            dropped_messages: dropped.len(),
        });
        if let Some(turn) = &mut self.turn {
            turn.forget(dropped);
        }
        Ok((ids, prompt))
    }

    fn check_window(&self, used: usize, window: usize) -> Result<(), Failure> {
        if used < window {
            return Ok(());
        }
        self.send(StreamEvent::Overflow {
            used,
            window,
            dropped_messages: 0,
        });
        Err(Failure::ContextLengthExceeded { used, window })
    }

    /// Waits until the model is loaded, and says so where that takes time.
    async fn wait_for_model(&self) -> Result<Lease, Failure> {
        let ahead = AtomicUsize::new(0);
        let acquire = self.host.acquire_in_line(&self.model, &ahead);
        tokio::pin!(acquire);
        let soon = tokio::time::timeout(Duration::from_millis(20), &mut acquire);
        if let Ok(lease) = soon.await {
            return Ok(lease?);
        }
        self.send(StreamEvent::Queued {
            position: ahead.load(Ordering::Relaxed),
            waiting_for: WaitingFor::Model,
        });
        Ok(acquire.await?)
    }

    /// Turns the engine's tokens into events until the last.
    async fn follow(
        &mut self,
        mut stream: TokenStream,
        lease: &Lease,
        stop: StopStrings,
        waited: Duration,
    ) -> Result<Finish, Failure> {
        let mut queue_position = 0;
        let first_call = self.turn.as_ref().map_or(1, Turn::first_call);
        let reader = Reader::new(lease.tokenizer(), first_call, stop);
        let reader = self.reader.insert(reader);
        let output = &mut self.output;
        while let Some(event) = stream.next().await {
            match event {
                EngineEvent::Queued { position } => {
                    queue_position = queue_position.max(position);
                    output.send(StreamEvent::Queued {
                        position,
                        waiting_for: WaitingFor::Queue,
                    });
                }
                EngineEvent::Started { cached } => {
                    self.moments.started();
                    self.usage.cached_tokens = cached;
                    output.send(StreamEvent::Start {
                        version: STREAM_VERSION,
                        model: self.model.clone(),
                        prompt_tokens: self.usage.prompt_tokens,
                        cached_tokens: cached,
                        queue_position,
                        context_window: lease.engine().info().context_window,
                    });
                }
                EngineEvent::Token { id, logprobs } => {
                    if self.usage.output_tokens == 0 {
                        self.host.meters().first_token(self.moments.elapsed());
                    }
                    self.moments.token();
                    self.usage.output_tokens += 1;
                    let in_analysis =
                        |parser: &Parser| parser.position() == Position::Text(Channel::Analysis);
                    let before = in_analysis(&reader.parser);
                    reader.token(output, id, logprobs.as_deref());
                    // As the budget counts: what ends it is none of it.
                    if before && in_analysis(&reader.parser) {
                        self.usage.reasoning_tokens += 1;
                    }
                    if output.stopped {
                        // Dropping the stream ends the sequence.
                        return Ok(Finish::Stop);
                    }
                }
                EngineEvent::Done { reason, usage } => {
                    reader.finish(output);
                    let finish = match reason {
                        _ if output.stopped => Finish::Stop,
                        FinishReason::Length => Finish::Length,
                        FinishReason::Stop(_) if !output.said.calls.is_empty() => Finish::ToolCalls,
                        FinishReason::Stop(_) => Finish::Stop,
                    };
                    self.account(&usage, waited);
                    return Ok(finish);
                }
                EngineEvent::Failed(failure) => return Err(failure.into()),
            }
        }
        Err(Failure::BackendFailure("the engine broke".into()))
    }

    fn account(&mut self, usage: &Usage, waited: Duration) {
        self.accounted = true;
        self.usage.queue_ms = millis(waited + usage.queued);
        self.usage.prefill_ms = millis(usage.prefill);
        self.usage.decode_ms = millis(usage.decode);
    }
}

/// Tokens of the prompt that `prompt` makes for an installed model.
///
/// # Errors
/// The model's tokenizer cannot be read, or a message cannot be rendered.
pub async fn count_tokens(
    host: &Arc<ModelHost>,
    model: &str,
    prompt: Prompt,
) -> Result<usize, Failure> {
    let tokenizer = host.tokenizer(model).await?;
    Ok(rendered(tokenizer, prompt).await?.0.len())
}

/// Tokens of a conversation by itself, without the beginning of an answer.
///
/// # Errors
/// As [`count_tokens`].
pub(super) async fn count_history(
    host: &Arc<ModelHost>,
    model: &str,
    conversation: Conversation,
) -> Result<usize, Failure> {
    let tokenizer = host.tokenizer(model).await?;
    blocking(move || Ok(render_history(&tokenizer, &conversation)?.len())).await
}

/// Runs what takes long on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let task = tokio::task::spawn_blocking(work).await;
    task.map_err(|error| Failure::BackendFailure(error.to_string()))?
}

/// The prompt's tokens. On a thread that may block: a long text takes seconds.
async fn rendered(
    tokenizer: Arc<Tokenizer>,
    prompt: Prompt,
) -> Result<(Vec<u32>, Prompt), Failure> {
    blocking(move || {
        let ids = render(&tokenizer, &prompt.conversation)?;
        Ok((ids, prompt))
    })
    .await
}

#[cfg(test)]
#[path = "tests/generation.rs"]
mod tests;
