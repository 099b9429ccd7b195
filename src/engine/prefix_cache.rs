//! Sequences that have ended and stay in the backend's cache, for prompts that
//! begin like them.

use super::backend::{Backend, SequenceId};
use super::request::Owner;

/// A sequence that others may begin like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub owner: Owner,
    pub sequence: SequenceId,
    /// Its tokens in the cache.
    pub tokens: &'a [u32],
}

impl Candidate<'_> {
    /// Tokens that `owner`'s `prompt` can take over. At least one is left to
    /// compute, for its logits.
    fn shared(&self, owner: Owner, prompt: &[u32]) -> usize {
        if self.owner != owner {
            return 0;
        }
        let same = |(a, b): &(&u32, &u32)| a == b;
        let shared = self.tokens.iter().zip(prompt).take_while(same).count();
        shared.min(prompt.len().saturating_sub(1))
    }
}

#[derive(Debug)]
struct Entry {
    owner: Owner,
    sequence: SequenceId,
    tokens: Vec<u32>,
}

/// The sequences, the one used longest ago first.
#[derive(Debug, Default)]
pub(super) struct PrefixCache {
    entries: Vec<Entry>,
}

/// Most sequences that are kept; each costs little but the blocks that it does
/// not share, and those are given up when they are needed.
const ENTRIES: usize = 64;

impl PrefixCache {
    /// Keeps a sequence that has ended. One that begins like it is not needed
    /// any more.
    pub fn keep(
        &mut self,
        backend: &mut dyn Backend,
        owner: Owner,
        sequence: SequenceId,
        tokens: Vec<u32>,
    ) {
        self.entries.retain(|entry| {
            let superseded = entry.owner == owner && tokens.starts_with(&entry.tokens);
            if superseded {
                backend.close(entry.sequence);
            }
            !superseded
        });
        if tokens.is_empty() {
            backend.close(sequence);
            return;
        }
        self.entries.push(Entry {
            owner,
            sequence,
            tokens,
        });
        if self.entries.len() > ENTRIES {
            self.give_up_one(backend);
        }
    }

    /// Gives up the sequence used longest ago; `false` if there is none.
    pub fn give_up_one(&mut self, backend: &mut dyn Backend) -> bool {
        if self.entries.is_empty() {
            return false;
        }
        let entry = self.entries.remove(0);
        backend.close(entry.sequence);
        true
    }

    /// Begins a sequence for `prompt` with what another of `owner`'s has in the
    /// cache, a kept one or one of `running`; how much that is, the backend
    /// tells. `None` where the backend has no sequence to give.
    pub fn begin(
        &mut self,
        backend: &mut dyn Backend,
        owner: Owner,
        prompt: &[u32],
        running: &[Candidate<'_>],
    ) -> Option<SequenceId> {
        let kept = self.entries.iter().map(|entry| Candidate {
            owner: entry.owner,
            sequence: entry.sequence,
            tokens: &entry.tokens,
        });
        let all = kept.chain(running.iter().copied());
        let shared = all.map(|c| (c.shared(owner, prompt), c.sequence));
        let best = shared.max_by_key(|(shared, _)| *shared);
        let best = best.filter(|(shared, _)| *shared > 0);
        if let Some((shared, sequence)) = best {
            let entry = self.entries.iter().position(|e| e.sequence == sequence);
            if let Some(fork) = backend.fork(sequence, shared) {
                if let Some(entry) = entry {
                    self.entries[entry..].rotate_left(1);
                }
                return Some(fork);
            }
            if let Some(entry) = entry {
                let entry = self.entries.remove(entry);
                backend.rewind(entry.sequence, shared);
                return Some(entry.sequence);
            }
        }
        loop {
            if let Some(sequence) = backend.open() {
                return Some(sequence);
            }
            if !self.give_up_one(backend) {
                return None;
            }
        }
    }
}
