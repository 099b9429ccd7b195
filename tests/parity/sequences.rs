//! Several sequences in one cache: each as if it were alone.

use gptoss::engine::backend::{Backend, BackendError, SequenceId, Slice, Wanted};
use gptoss::runtime::{Options, OrtBackend};
use gptoss_onnx::export::Target;

use super::harness;

/// Tokens that no reference depends on, other ones for each `seed`.
fn tokens(seed: u32, count: usize) -> Vec<u32> {
    let mix = |i: u32| (i + 7 * seed).wrapping_mul(2_654_435_761) >> 12;
    (0..count as u32).map(|i| mix(i) % 1000).collect()
}

fn load(options: Options) -> OrtBackend {
    harness::start();
    OrtBackend::load(&harness::revision("grid64", options.target), options).unwrap()
}

fn several(exact: bool) -> OrtBackend {
    load(Options {
        sequences: 4,
        prefill_chunk: 256,
        ..harness::whole(Target::Cpu, exact)
    })
}

fn slice(sequence: SequenceId, tokens: &[u32]) -> Slice<'_> {
    Slice {
        sequence,
        tokens,
        wanted: Wanted::Last,
    }
}

fn feed(backend: &mut OrtBackend, sequence: SequenceId, tokens: &[u32]) -> Vec<f32> {
    let mut row = Vec::new();
    for chunk in tokens.chunks(256) {
        let logits = backend.forward(&[slice(sequence, chunk)]).unwrap();
        row = logits.last().unwrap().to_vec();
    }
    row
}

/// Largest difference of two rows.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    let each = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    each.fold(0.0, f32::max)
}

/// Sums are taken in another order where tokens meet, so that rows agree up to
/// rounding; exactly, with activations that are not rounded to int8.
#[test]
fn sequences_together_compute_what_each_does_alone() {
    let mut backend = several(true);
    let prompts = [tokens(1, 300), tokens(2, 40), tokens(3, 177)];
    let alone = prompts.clone().map(|prompt| {
        let sequence = backend.open().unwrap();
        feed(&mut backend, sequence, &prompt);
        let row = feed(&mut backend, sequence, &[5, 6, 7]);
        backend.close(sequence);
        row
    });
    let ids = [(); 3].map(|()| backend.open().unwrap());
    // The second and third begin while the first is in its prompt.
    feed(&mut backend, ids[0], &prompts[0][..200]);
    let mixed = [
        slice(ids[0], &prompts[0][200..]),
        slice(ids[1], &prompts[1]),
        slice(ids[2], &prompts[2]),
    ];
    let logits = backend.forward(&mixed).unwrap();
    assert_eq!(logits.rows().len(), 3);
    let mut rows = Vec::new();
    for token in [[5], [6], [7]] {
        let step = ids.map(|id| slice(id, &token));
        let logits = backend.forward(&step).unwrap();
        rows = logits.rows().map(<[f32]>::to_vec).collect();
    }
    for (row, alone) in rows.iter().zip(&alone) {
        let worst = difference(row, alone);
        println!("together and alone: {worst:e}");
        assert!(worst < 1e-3, "{worst}");
    }
}

#[test]
fn a_fork_goes_on_and_leaves_the_other_as_it_was() {
    let mut backend = several(false);
    let prompt = tokens(1, 300);
    let first = backend.open().unwrap();
    feed(&mut backend, first, &prompt[..256]);
    backend.mark(first, 230);
    feed(&mut backend, first, &prompt[256..]);
    let expected = feed(&mut backend, first, &[9]);

    // At the end, bit for bit; what the fork writes does not reach the first.
    let fork = backend.fork(first, 301).unwrap();
    assert_eq!(backend.length(fork), 301);
    feed(&mut backend, fork, &tokens(4, 100));
    backend.rewind(first, 300);
    assert_eq!(backend.length(first), 300);
    assert_eq!(feed(&mut backend, first, &[9]), expected);

    // In the middle, from the mark.
    let middle = backend.fork(first, 240).unwrap();
    let from = backend.length(middle);
    assert!((230..=240).contains(&from), "{from}");
    feed(&mut backend, middle, &prompt[from..]);
    let again = feed(&mut backend, middle, &[9]);
    let worst = difference(&again, &expected);
    assert!(worst < 0.5, "int8 activations, cut elsewhere: {worst}");
    for sequence in [first, fork, middle] {
        backend.close(sequence);
        assert_eq!(backend.length(sequence), 0);
    }
}

/// Deep in a sequence the window has moved on, and the way back is the mark.
#[test]
fn a_mark_is_the_way_back_in_a_long_sequence() {
    let mut backend = load(Options {
        sequences: 2,
        context: 2048,
        prefill_chunk: 128,
        ..harness::whole(Target::Cpu, true)
    });
    let prompt = tokens(1, 1000);
    let feed = |backend: &mut OrtBackend, sequence, tokens: &[u32]| {
        let mut row = Vec::new();
        for chunk in tokens.chunks(100) {
            let logits = backend.forward(&[slice(sequence, chunk)]).unwrap();
            row = logits.last().unwrap().to_vec();
        }
        row
    };
    let sequence = backend.open().unwrap();
    feed(&mut backend, sequence, &prompt[..400]);
    backend.mark(sequence, 400);
    let expected = feed(&mut backend, sequence, &prompt[400..]);
    assert_eq!(backend.length(sequence), 1000);
    backend.rewind(sequence, 450);
    assert_eq!(backend.length(sequence), 400);
    let again = feed(&mut backend, sequence, &prompt[400..]);
    assert_eq!(again, expected, "the same cut, bit for bit");
    backend.rewind(sequence, 399);
    assert_eq!(backend.length(sequence), 0, "nothing was marked before");
}

#[test]
fn a_full_cache_is_told_and_closing_helps() {
    let mut backend = load(Options {
        sequences: 2,
        context: 512,
        cache_positions: Some(512),
        prefill_chunk: 512,
        ..harness::whole(Target::Cpu, false)
    });
    let [first, second] = [(); 2].map(|()| backend.open().unwrap());
    let prompt = tokens(1, 400);
    backend.forward(&[slice(first, &prompt)]).unwrap();
    let full = backend.forward(&[slice(second, &prompt)]).map(|_| ());
    assert!(matches!(full, Err(BackendError::CacheFull)));
    assert_eq!(backend.length(second), 0);
    backend.close(first);
    backend.forward(&[slice(second, &prompt)]).unwrap();
}

#[test]
fn slices_that_make_no_sense_are_refused() {
    let mut backend = several(false);
    let sequence = backend.open().unwrap();
    let refused = |backend: &mut OrtBackend, slices: &[Slice<'_>]| {
        let error = backend.forward(slices).map(|_| ());
        assert!(
            matches!(error, Err(BackendError::Provider(_))),
            "{slices:?}"
        );
    };
    refused(&mut backend, &[]);
    refused(&mut backend, &[slice(sequence, &[])]);
    refused(
        &mut backend,
        &[slice(sequence, &[1]), slice(sequence, &[2])],
    );
    refused(&mut backend, &[slice(sequence, &[1; 257])]);
    assert_eq!(backend.length(sequence), 0);
}

/// The export of stock operators has room for one.
#[test]
fn a_cache_without_blocks_holds_one_sequence() {
    let mut backend = load(harness::whole(Target::Portable, false));
    assert_eq!(backend.info().sequences, 1);
    let sequence = backend.open().unwrap();
    assert!(backend.open().is_none());
    backend.forward(&[slice(sequence, &[1, 2, 3])]).unwrap();
    assert!(backend.fork(sequence, 2).is_none());
    backend.rewind(sequence, 2);
    assert_eq!(backend.length(sequence), 2);
    backend.close(sequence);
    assert!(backend.open().is_some());
}
