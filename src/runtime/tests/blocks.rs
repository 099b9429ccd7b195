//! The block tables against a model of them that copies everything.

use proptest::prelude::*;

use super::*;

const SEEN: usize = 128;
const CHUNK: usize = 200;

/// What each block holds: for each position the token that was written, as the
/// kernels would write it.
#[derive(Default)]
struct Memory {
    full: BTreeMap<u32, Vec<Option<u32>>>,
    window: BTreeMap<u32, Vec<Option<u32>>>,
}

impl Memory {
    fn pool(&mut self, window: bool) -> &mut BTreeMap<u32, Vec<Option<u32>>> {
        match window {
            true => &mut self.window,
            false => &mut self.full,
        }
    }

    fn copy(&mut self, copy: BlockCopy) {
        let pool = self.pool(copy.window);
        let content = pool.get(&copy.from).cloned();
        pool.insert(copy.to, content.unwrap_or_else(|| vec![None; BLOCK]));
    }

    /// Writes `token` at `position`, in the table that begins at the sequence's
    /// block `first`.
    fn write(&mut self, window: bool, table: &[u32], first: usize, position: usize, token: u32) {
        let block = table[position / BLOCK - first];
        let pool = self.pool(window);
        let content = pool.entry(block).or_insert_with(|| vec![None; BLOCK]);
        content[position % BLOCK] = Some(token);
    }

    fn read(&mut self, window: bool, table: &[u32], first: usize, position: usize) -> Option<u32> {
        let block = table[position / BLOCK - first];
        self.pool(window).get(&block)?[position % BLOCK]
    }
}

/// The tables with their memory, and beside each sequence what it should be.
struct World {
    sequences: Sequences,
    memory: Memory,
    expected: BTreeMap<u32, Vec<u32>>,
    token: u32,
}

impl World {
    fn new(positions: usize) -> Self {
        let sizes = PoolSizes::new(positions, Some(SEEN), 2, CHUNK);
        Self {
            sequences: Sequences::new(sizes, Some(SEEN)),
            memory: Memory::default(),
            expected: BTreeMap::new(),
            token: 0,
        }
    }

    fn open(&mut self) -> u32 {
        let id = self.sequences.open();
        self.expected.insert(id, Vec::new());
        id
    }

    fn fork(&mut self, id: u32, position: usize) -> u32 {
        let fork = self.sequences.fork(id, position);
        let length = self.sequences.length(fork);
        assert!(length <= position.min(self.expected[&id].len()));
        let tokens = self.expected[&id][..length].to_vec();
        self.expected.insert(fork, tokens);
        fork
    }

    fn rewind(&mut self, id: u32, position: usize) {
        self.sequences.rewind(id, position);
        let length = self.sequences.length(id);
        let expected = self.expected.get_mut(&id).unwrap();
        assert!(length <= expected.len() && (length <= position || position >= expected.len()));
        expected.truncate(length);
    }

    fn close(&mut self, id: u32) {
        self.sequences.close(id);
        self.expected.remove(&id);
    }

    /// Feeds new tokens; whether there was room. What attention would see is as
    /// it should be.
    fn feed(&mut self, slices: &[(u32, usize)]) -> bool {
        let mut copies = Vec::new();
        let reserved = self.sequences.reserve(slices, &mut copies);
        for copy in copies {
            self.memory.copy(copy);
        }
        if reserved.is_err() {
            return false;
        }
        for &(id, tokens) in slices {
            let past = self.sequences.length(id);
            let expected = self.expected.get_mut(&id).unwrap();
            assert_eq!(past, expected.len());
            let (full, window) = self.sequences.tables(id);
            let first = first_block(past, SEEN);
            for position in past..past + tokens {
                self.token += 1;
                expected.push(self.token);
                self.memory.write(false, full, 0, position, self.token);
                self.memory.write(true, window, first, position, self.token);
            }
            for (position, token) in expected.iter().enumerate() {
                assert_eq!(self.memory.read(false, full, 0, position), Some(*token));
                if position + SEEN > past {
                    let seen = self.memory.read(true, window, first, position);
                    assert_eq!(seen, Some(*token), "position {position} after {past}");
                }
            }
        }
        for &(id, tokens) in slices {
            self.sequences.advance(id, tokens);
        }
        true
    }

    /// Every block is free or someone's, as often as it is referred to.
    fn check(&self) {
        let mut full = vec![0; self.sequences.full.references.len()];
        let mut window = vec![0; self.sequences.window.references.len()];
        for sequence in self.sequences.open.values() {
            let marks = sequence.marks.iter().flat_map(|mark| &mark.window.blocks);
            sequence
                .full
                .blocks
                .iter()
                .for_each(|&b| full[b as usize] += 1);
            let windows = sequence.window.blocks.iter().chain(marks);
            windows.for_each(|&b| window[b as usize] += 1);
        }
        for (pool, counted) in [
            (&self.sequences.full, full),
            (&self.sequences.window, window),
        ] {
            assert_eq!(pool.references, counted);
            let mut free = pool.free.clone();
            free.sort_unstable();
            let unused = (0..counted.len()).filter(|&b| counted[b] == 0);
            assert!(free.into_iter().map(|b| b as usize).eq(unused));
        }
    }
}

#[derive(Debug, Clone)]
enum Action {
    Open,
    Fork(usize, usize),
    Rewind(usize, usize),
    Close(usize),
    Feed(usize, usize),
    Both(usize),
    Mark(usize, usize),
}

fn action() -> impl Strategy<Value = Action> {
    let which = 0usize..8;
    prop_oneof![
        1 => Just(Action::Open),
        2 => (which.clone(), 0usize..900).prop_map(|(i, p)| Action::Fork(i, p)),
        2 => (which.clone(), 0usize..900).prop_map(|(i, p)| Action::Rewind(i, p)),
        1 => which.clone().prop_map(Action::Close),
        6 => (which.clone(), 1..=CHUNK).prop_map(|(i, n)| Action::Feed(i, n)),
        2 => (1..=CHUNK).prop_map(Action::Both),
        3 => (which, 0..CHUNK).prop_map(|(i, back)| Action::Mark(i, back)),
    ]
}

proptest! {
    #[test]
    fn no_sequence_sees_another(actions in prop::collection::vec(action(), 1..60)) {
        let mut world = World::new(2000);
        for action in actions {
            let ids: Vec<u32> = world.expected.keys().copied().collect();
            let pick = |i: usize| ids.get(i % ids.len().max(1)).copied();
            match action {
                Action::Open => drop(world.open()),
                Action::Fork(i, position) => if let Some(id) = pick(i) {
                    world.fork(id, position);
                }
                Action::Rewind(i, position) => if let Some(id) = pick(i) {
                    world.rewind(id, position);
                }
                Action::Close(i) => if let Some(id) = pick(i) {
                    world.close(id);
                }
                Action::Feed(i, tokens) => if let Some(id) = pick(i) {
                    world.feed(&[(id, tokens)]);
                }
                Action::Both(tokens) => if let [first, .., last] = ids[..] {
                    world.feed(&[(first, 1), (last, tokens)]);
                }
                Action::Mark(i, back) => if let Some(id) = pick(i) {
                    let length = world.sequences.length(id);
                    world.sequences.mark(id, length.saturating_sub(back));
                }
            }
            world.check();
        }
    }
}

#[test]
fn a_window_costs_the_same_however_long_the_sequence() {
    let mut world = World::new(20_000);
    let id = world.open();
    let mut most = 0;
    for _ in 0..80 {
        assert!(world.feed(&[(id, CHUNK)]));
        most = most.max(world.sequences.tables(id).1.len());
    }
    assert_eq!(world.sequences.tables(id).0.len(), 16_000 / BLOCK);
    assert!(most <= (SEEN + CHUNK).div_ceil(BLOCK) + 1, "{most}");
}

#[test]
fn marks_are_the_way_back() {
    let mut world = World::new(20_000);
    let id = world.open();
    for step in 0..10 {
        assert!(world.feed(&[(id, CHUNK)]));
        if step == 3 {
            world.sequences.mark(id, 750);
        }
    }
    for (wish, reached) in [
        (2000, 2000),
        (1900, 1900),
        (1500, 750),
        (750, 750),
        (749, 0),
    ] {
        let fork = world.fork(id, wish);
        assert_eq!(world.sequences.length(fork), reached, "{wish}");
        assert!(world.feed(&[(fork, 100)]));
        world.close(fork);
        world.check();
    }
    world.rewind(id, 1000);
    assert_eq!(world.sequences.length(id), 750);
    assert!(world.feed(&[(id, 10)]));
    world.close(id);
    world.check();
    assert_eq!(world.sequences.full.free.len(), 20_000usize.div_ceil(BLOCK));
}

#[test]
fn old_marks_go_before_a_sequence_starves() {
    let mut world = World::new(100_000);
    let mut ids = Vec::new();
    for _ in 0..12 {
        let id = world.open();
        for _ in 0..6 {
            assert!(world.feed(&[(id, CHUNK)]));
            let length = world.sequences.length(id);
            world.sequences.mark(id, length);
        }
        ids.push(id);
    }
    world.check();
    let marks = |id: &u32| world.sequences.open[id].marks.len();
    assert!(ids.iter().map(marks).sum::<usize>() < 72);
    // The ends are still there.
    for &id in &ids {
        let fork = world.fork(id, 1200);
        assert_eq!(world.sequences.length(fork), 1200);
        world.close(fork);
    }
}

#[test]
fn a_full_pool_is_said_and_changes_nothing() {
    let mut world = World::new(10 * BLOCK);
    let (first, second) = (world.open(), world.open());
    for _ in 0..3 {
        assert!(world.feed(&[(first, CHUNK)]));
    }
    assert!(!world.feed(&[(first, 1), (second, 1)]));
    world.check();
    assert_eq!(world.sequences.length(first), 3 * CHUNK);
    assert!(world.feed(&[(first, 1)]), "its last block has room");
    world.close(first);
    assert!(world.feed(&[(second, CHUNK)]));
}

#[test]
fn without_windows_there_is_one_pool() {
    let sizes = PoolSizes::new(1000, None, 4, CHUNK);
    assert_eq!((sizes.full, sizes.window), (16, 0));
    let mut sequences = Sequences::new(sizes, None);
    let id = sequences.open();
    sequences.reserve(&[(id, 900)], &mut Vec::new()).unwrap();
    sequences.advance(id, 900);
    let fork = sequences.fork(id, 333);
    assert_eq!(sequences.length(fork), 333);
    let mut copies = Vec::new();
    sequences.reserve(&[(fork, 1)], &mut copies).unwrap();
    assert_eq!(copies.len(), 1, "the block that both go on in");
    assert!(sequences.reserve(&[(id, 900)], &mut copies).is_err());
    sequences.retreat(fork);
    sequences.close(id);
    sequences.close(fork);
    assert_eq!(sequences.full.free.len(), 16);
}
