//! Times one test.

use std::time::{Duration, Instant};

use super::Test;
use super::report::Measured;
use super::samples::Samples;
use super::streamed;
use crate::engine::backend::{Backend, BackendError, SequenceId, Slice, Wanted};
use crate::runtime::{OrtBackend, memory};

/// How the cache is filled up to a test's depth.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    /// With noise, else by computing.
    pub noise: bool,
}

/// Times the test after one run that does not count.
pub(super) fn measure(
    backend: &mut OrtBackend,
    test: Test,
    memory: Memory,
    repetitions: usize,
) -> Result<Measured, BackendError> {
    let mut tokens = Tokens::new(backend.info().vocab_size);
    let mut sequences = Vec::new();
    let result = (0..test.parallel)
        .try_for_each(|_| {
            sequences.push(filled(backend, test.depth, memory, &mut tokens)?);
            Ok(())
        })
        .and_then(|()| repeat(backend, test, &sequences, repetitions, &mut tokens));
    for sequence in sequences {
        backend.close(sequence);
    }
    result
}

/// A sequence of `depth` tokens.
fn filled(
    backend: &mut OrtBackend,
    depth: usize,
    memory: Memory,
    tokens: &mut Tokens,
) -> Result<SequenceId, BackendError> {
    let sequence = backend.open();
    let sequence = sequence.ok_or(BackendError::CacheFull)?;
    if memory.noise {
        backend.append_noise(sequence, depth)?;
    } else {
        feed(backend, sequence, &tokens.take(depth), Wanted::None)?;
    }
    backend.mark(sequence, depth);
    Ok(sequence)
}

fn repeat(
    backend: &mut OrtBackend,
    test: Test,
    sequences: &[SequenceId],
    repetitions: usize,
    tokens: &mut Tokens,
) -> Result<Measured, BackendError> {
    let warm_up = Test {
        generate: test.generate.min(1),
        ..test
    };
    once(backend, warm_up, sequences, tokens)?;
    let stream = streamed::Begun::new(backend);
    let read = backend.experts_read();
    let durations: Vec<Duration> = (0..repetitions)
        .map(|_| once(backend, test, sequences, tokens))
        .collect::<Result<_, _>>()?;
    let steps = (repetitions * test.generate.max(1)) as f64;
    let experts = (backend.experts_read() - read) as f64 / steps;
    let took = durations.iter().sum();
    Ok(Measured {
        test,
        streamed: stream.map(|begun| begun.end(backend, steps, took)),
        samples: Samples::new(test.tokens(), durations),
        resident: memory::resident().unwrap_or_default(),
        experts,
        step_bytes: backend.step_bytes(experts),
    })
}

fn once(
    backend: &mut OrtBackend,
    test: Test,
    sequences: &[SequenceId],
    tokens: &mut Tokens,
) -> Result<Duration, BackendError> {
    for &sequence in sequences {
        backend.rewind(sequence, test.depth);
    }
    let prompt = tokens.take(test.prompt);
    let generated = tokens.take(test.generate * test.parallel);
    let started = Instant::now();
    for &sequence in sequences {
        feed(backend, sequence, &prompt, Wanted::Last)?;
    }
    for step in generated.chunks(test.parallel) {
        let slice = |(&sequence, token): (&SequenceId, _)| Slice {
            sequence,
            tokens: std::slice::from_ref(token),
            wanted: Wanted::Last,
        };
        let slices: Vec<_> = sequences.iter().zip(step).map(slice).collect();
        backend.forward(&slices)?;
    }
    Ok(started.elapsed())
}

/// Appends tokens slice by slice, the last of them with the wanted logits.
fn feed(
    backend: &mut OrtBackend,
    sequence: SequenceId,
    mut tokens: &[u32],
    wanted: Wanted<'_>,
) -> Result<(), BackendError> {
    while !tokens.is_empty() {
        let longest = backend.longest_slice(sequence).clamp(1, tokens.len());
        let (slice, rest) = tokens.split_at(longest);
        backend.forward(&[Slice {
            sequence,
            tokens: slice,
            wanted: if rest.is_empty() {
                wanted
            } else {
                Wanted::None
            },
        }])?;
        tokens = rest;
    }
    Ok(())
}

/// Pseudo-random tokens, the same in every run (xorshift64).
struct Tokens {
    state: u64,
    vocabulary: u64,
}

impl Tokens {
    fn new(vocabulary: usize) -> Self {
        Self {
            state: 0x9e37_79b9_7f4a_7c15,
            vocabulary: vocabulary.max(1) as u64,
        }
    }

    fn take(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> u32 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % self.vocabulary) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stay_inside_the_vocabulary_and_differ() {
        let tokens = Tokens::new(100).take(1000);
        assert!(tokens.iter().all(|&token| token < 100));
        let distinct: std::collections::BTreeSet<_> = tokens.iter().collect();
        assert!(distinct.len() > 90);
    }
}
