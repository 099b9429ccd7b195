//! Which blocks of the paged key/value cache are whose.
//!
//! Layers that see everything take their blocks from one pool, layers with a
//! sliding window from another; a block of a pool is the same place in the
//! tensors of all its layers. A sequence keeps all its blocks of the first pool
//! and only the last few of the second, so going back is possible
//!
//! ```text
//!            mark              mark        first kept      length
//! window  ----[===]-------------[===]---------[===============]
//! full    [===================================================]
//!         any position behind the first kept, else a mark, else 0
//! ```
//!
//! Blocks are counted references: sequences that begin alike, and marks, share
//! them. Whoever writes to a shared block copies it first.

use std::collections::BTreeMap;
use std::ops::Range;

use gptoss_onnx::kernels::attention::BLOCK;

/// Most marks of a sequence.
const MARKS: usize = 16;
/// Marks that the window pool has room for, besides what sequences need.
const SPARE_MARKS: usize = 32;

/// Index of the block that a token's window begins in.
fn first_block(position: usize, window: usize) -> usize {
    (position + 1).saturating_sub(window) / BLOCK
}

/// Blocks with counted references.
#[derive(Debug)]
struct Pool {
    references: Vec<u32>,
    free: Vec<u32>,
}

impl Pool {
    fn new(blocks: usize) -> Self {
        Self {
            references: vec![0; blocks],
            // The lowest first, so that memory never used is never touched.
            free: (0..blocks as u32).rev().collect(),
        }
    }

    fn take(&mut self) -> Option<u32> {
        let block = self.free.pop()?;
        self.references[block as usize] = 1;
        Some(block)
    }

    fn share(&mut self, blocks: &[u32]) {
        for &block in blocks {
            self.references[block as usize] += 1;
        }
    }

    fn release(&mut self, blocks: &[u32]) {
        for &block in blocks {
            let references = &mut self.references[block as usize];
            *references -= 1;
            if *references == 0 {
                self.free.push(block);
            }
        }
    }

    fn is_shared(&self, block: u32) -> bool {
        self.references[block as usize] > 1
    }
}

/// Blocks that follow one another in a sequence, the first of them its
/// `first`th.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Run {
    first: usize,
    blocks: Vec<u32>,
}

impl Run {
    /// How many of the next `tokens` tokens' blocks must be taken; one more
    /// where the block that goes on is shared.
    fn missing(&self, pool: &Pool, length: usize, tokens: usize) -> usize {
        let have = self.first + self.blocks.len();
        let goes_on = !length.is_multiple_of(BLOCK);
        let copied = goes_on && self.blocks.last().is_some_and(|&b| pool.is_shared(b));
        (length + tokens).div_ceil(BLOCK).saturating_sub(have) + usize::from(copied)
    }

    /// Takes what is [`missing`](Self::missing), which `pool` must have; gives
    /// the block to be copied.
    fn extend(&mut self, pool: &mut Pool, length: usize, tokens: usize) -> Option<(u32, u32)> {
        let mut copy = None;
        if !length.is_multiple_of(BLOCK)
            && let Some(last) = self.blocks.last_mut()
            && pool.is_shared(*last)
            && let Some(fresh) = pool.take()
        {
            copy = Some((*last, fresh));
            pool.release(&[*last]);
            *last = fresh;
        }
        while self.first + self.blocks.len() < (length + tokens).div_ceil(BLOCK) {
            match pool.take() {
                Some(block) => self.blocks.push(block),
                None => break,
            }
        }
        copy
    }

    /// Gives up what lies before the sequence's block `first`.
    fn drop_before(&mut self, pool: &mut Pool, first: usize) {
        let count = first.saturating_sub(self.first).min(self.blocks.len());
        pool.release(&self.blocks[..count]);
        self.blocks.drain(..count);
        self.first = self.first.max(first);
    }

    /// Gives up what lies behind `length` positions.
    fn truncate(&mut self, pool: &mut Pool, length: usize) {
        let keep = length.div_ceil(BLOCK).saturating_sub(self.first);
        if let Some(behind) = self.blocks.get(keep..) {
            pool.release(behind);
            self.blocks.truncate(keep);
        }
    }

    /// Shares the sequence's blocks `range`, if all of them are here.
    fn part(&self, pool: &mut Pool, range: Range<usize>) -> Option<Run> {
        let start = range.start.checked_sub(self.first)?;
        let blocks = self.blocks.get(start..start + range.len())?.to_vec();
        pool.share(&blocks);
        Some(Run {
            first: range.start,
            blocks,
        })
    }
}

/// What it takes to go on from a position.
#[derive(Debug, Clone)]
struct Mark {
    position: usize,
    window: Run,
}

#[derive(Debug, Default)]
struct Sequence {
    length: usize,
    full: Run,
    window: Run,
    /// In the order of their positions.
    marks: Vec<Mark>,
}

/// A block whose content goes to another before anything else happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockCopy {
    /// Of layers with a sliding window, else of the others.
    pub window: bool,
    pub from: u32,
    pub to: u32,
}

/// The pools have no blocks left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exhausted;

/// How large the pools are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PoolSizes {
    /// Blocks for layers that see everything.
    pub full: usize,
    /// Blocks for layers with a sliding window.
    pub window: usize,
}

impl PoolSizes {
    /// For `positions` in all, and `sequences` that are fed at most `chunk`
    /// tokens at once.
    pub fn new(positions: usize, window: Option<usize>, sequences: usize, chunk: usize) -> Self {
        let each = |window: usize| (window + chunk).div_ceil(BLOCK) + 1;
        let marks = |window: usize| SPARE_MARKS * (window.div_ceil(BLOCK) + 1);
        Self {
            full: positions.div_ceil(BLOCK),
            window: window.map_or(0, |w| sequences * each(w) + marks(w)),
        }
    }
}

/// The sequences of a paged cache.
#[derive(Debug)]
pub(super) struct Sequences {
    full: Pool,
    window: Pool,
    /// Positions that a token sees in layers with a sliding window; more than
    /// there are where no layer has one.
    seen: usize,
    open: BTreeMap<u32, Sequence>,
    next: u32,
}

impl Sequences {
    pub fn new(sizes: PoolSizes, window: Option<usize>) -> Self {
        Self {
            full: Pool::new(sizes.full),
            window: Pool::new(sizes.window),
            seen: window.unwrap_or(usize::MAX),
            open: BTreeMap::new(),
            next: 0,
        }
    }

    fn has_windows(&self) -> bool {
        self.seen != usize::MAX
    }

    /// Blocks in use and blocks there are, for layers that see everything.
    pub fn full_use(&self) -> (usize, usize) {
        let total = self.full.references.len();
        (total - self.full.free.len(), total)
    }

    /// Blocks that nobody uses, in layers that see everything and in those with
    /// a window.
    pub fn free(&self) -> (&[u32], &[u32]) {
        (&self.full.free, &self.window.free)
    }

    /// Begins an empty sequence.
    pub fn open(&mut self) -> u32 {
        self.insert(Sequence::default())
    }

    fn insert(&mut self, sequence: Sequence) -> u32 {
        let id = self.next;
        self.next += 1;
        self.open.insert(id, sequence);
        id
    }

    /// Tokens of a sequence, 0 where there is none of that number.
    pub fn length(&self, id: u32) -> usize {
        self.open.get(&id).map_or(0, |sequence| sequence.length)
    }

    /// Gives up a sequence.
    pub fn close(&mut self, id: u32) {
        if let Some(sequence) = self.open.remove(&id) {
            self.full.release(&sequence.full.blocks);
            self.window.release(&sequence.window.blocks);
            for mark in sequence.marks {
                self.window.release(&mark.window.blocks);
            }
        }
    }

    /// A new sequence that begins like the first tokens of `id`, `position` of
    /// them if it can go on from there, else fewer.
    pub fn fork(&mut self, id: u32, position: usize) -> u32 {
        let Some(from) = self.open.get(&id) else {
            return self.open();
        };
        let (length, window) = resume(from, &mut self.window, self.seen, position);
        let full = from.full.part(&mut self.full, 0..length.div_ceil(BLOCK));
        let marks = from.marks.iter().filter(|mark| mark.position <= length);
        let marks: Vec<Mark> = marks.cloned().collect();
        for mark in &marks {
            self.window.share(&mark.window.blocks);
        }
        self.insert(Sequence {
            length,
            full: full.unwrap_or_default(),
            window,
            marks,
        })
    }

    /// Shortens a sequence to `position` tokens if it can go on from there,
    /// else to fewer.
    pub fn rewind(&mut self, id: u32, position: usize) {
        let Some(sequence) = self.open.get_mut(&id) else {
            return;
        };
        if position >= sequence.length {
            return;
        }
        let (length, window) = resume(sequence, &mut self.window, self.seen, position);
        let before = std::mem::replace(&mut sequence.window, window);
        self.window.release(&before.blocks);
        sequence.full.truncate(&mut self.full, length);
        sequence.length = length;
        let kept = sequence.marks.partition_point(|m| m.position <= length);
        for mark in sequence.marks.drain(kept..) {
            self.window.release(&mark.window.blocks);
        }
    }

    /// Keeps what it takes to come back to `position`; no effect where that is
    /// gone already.
    pub fn mark(&mut self, id: u32, position: usize) {
        let Some(sequence) = self.open.get_mut(&id).filter(|s| position <= s.length) else {
            return;
        };
        let place = sequence.marks.partition_point(|m| m.position < position);
        let there = sequence.marks.get(place).map(|mark| mark.position);
        if position == 0 || there == Some(position) || self.seen == usize::MAX {
            return;
        }
        let needed = first_block(position, self.seen)..position.div_ceil(BLOCK);
        if let Some(window) = sequence.window.part(&mut self.window, needed) {
            sequence.marks.insert(place, Mark { position, window });
        }
        if sequence.marks.len() > MARKS {
            drop_mark(sequence, &mut self.window);
        }
    }

    /// Makes room for the next tokens of each sequence, of which none comes
    /// twice. Nothing has changed after an error but that marks may be gone.
    pub fn reserve(
        &mut self,
        slices: &[(u32, usize)],
        copies: &mut Vec<BlockCopy>,
    ) -> Result<(), Exhausted> {
        let needed = |this: &Self, of: fn(&Sequence) -> &Run, pool: &Pool| -> usize {
            let slices = slices.iter();
            let found = slices.filter_map(|(id, tokens)| Some((this.open.get(id)?, tokens)));
            found
                .map(|(sequence, &tokens)| of(sequence).missing(pool, sequence.length, tokens))
                .sum()
        };
        if needed(self, |s| &s.full, &self.full) > self.full.free.len() {
            return Err(Exhausted);
        }
        if self.has_windows() {
            for (id, _) in slices {
                if let Some(sequence) = self.open.get_mut(id) {
                    let first = first_block(sequence.length, self.seen);
                    sequence.window.drop_before(&mut self.window, first);
                }
            }
            while needed(self, |s| &s.window, &self.window) > self.window.free.len() {
                self.give_up_a_window()?;
            }
        }
        for &(id, tokens) in slices {
            let Some(sequence) = self.open.get_mut(&id) else {
                continue;
            };
            let length = sequence.length;
            let copy = |window| move |(from, to)| BlockCopy { window, from, to };
            let copied = sequence.full.extend(&mut self.full, length, tokens);
            copies.extend(copied.map(copy(false)));
            if self.seen != usize::MAX {
                let copied = sequence.window.extend(&mut self.window, length, tokens);
                copies.extend(copied.map(copy(true)));
            }
        }
        Ok(())
    }

    /// The reserved tokens are in the cache.
    pub fn advance(&mut self, id: u32, tokens: usize) {
        if let Some(sequence) = self.open.get_mut(&id) {
            sequence.length += tokens;
        }
    }

    /// They are not: what was reserved goes back.
    pub fn retreat(&mut self, id: u32) {
        if let Some(sequence) = self.open.get_mut(&id) {
            let length = sequence.length;
            sequence.full.truncate(&mut self.full, length);
            sequence.window.truncate(&mut self.window, length);
        }
    }

    /// The blocks of a sequence, in layers that see everything and in those
    /// with a window.
    pub fn tables(&self, id: u32) -> (&[u32], &[u32]) {
        match self.open.get(&id) {
            Some(sequence) => (&sequence.full.blocks, &sequence.window.blocks),
            None => (&[], &[]),
        }
    }

    /// Drops what some sequence keeps of its windows only to come back to: what
    /// the last run left, then a mark of the sequence that has most.
    fn give_up_a_window(&mut self) -> Result<(), Exhausted> {
        let mut sequences = self.open.values_mut();
        let idle = sequences.find(|s| s.window.first < first_block(s.length, self.seen));
        if let Some(sequence) = idle {
            let first = first_block(sequence.length, self.seen);
            sequence.window.drop_before(&mut self.window, first);
            return Ok(());
        }
        let most = self.open.values_mut().max_by_key(|s| s.marks.len());
        let sequence = most.filter(|s| !s.marks.is_empty()).ok_or(Exhausted)?;
        drop_mark(sequence, &mut self.window);
        Ok(())
    }
}

/// Where at most a sequence can be resumed up to `position`, with its window.
fn resume(from: &Sequence, pool: &mut Pool, seen: usize, position: usize) -> (usize, Run) {
    let position = position.min(from.length);
    if seen == usize::MAX {
        return (position, Run::default());
    }
    let needed = first_block(position, seen)..position.div_ceil(BLOCK);
    if let Some(window) = from.window.part(pool, needed) {
        return (position, window);
    }
    let before = from.marks.iter().rev().find(|m| m.position <= position);
    before.map_or((0, Run::default()), |mark| {
        pool.share(&mark.window.blocks);
        (mark.position, mark.window.clone())
    })
}

/// Drops the mark that leaves the smallest gap, not the last one if there are
/// others.
fn drop_mark(sequence: &mut Sequence, pool: &mut Pool) {
    let marks = &sequence.marks;
    let gap = |&i: &usize| {
        let before = i.checked_sub(1).map_or(0, |i| marks[i].position);
        marks.get(i + 1).map_or(usize::MAX, |next| next.position) - before
    };
    if let Some(index) = (0..marks.len()).min_by_key(gap) {
        let mark = sequence.marks.remove(index);
        pool.release(&mark.window.blocks);
    }
}

#[cfg(test)]
#[path = "tests/blocks.rs"]
mod tests;
