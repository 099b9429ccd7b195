//! The backend's contract: rewinding, cancelling, refusing.

use std::time::{Duration, Instant};

use gptoss::engine::backend::{Backend, BackendError, Solo, Wanted};
use gptoss::runtime::{
    self, Options, OrtBackend, Provider, ProviderChoice, Quarantine, RuntimeError,
};
use gptoss_onnx::export::{self, Target};
use gptoss_onnx::nano::{self, Golden};

use super::harness;

/// Tokens that no reference depends on.
fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| i * 37 % 1000).collect()
}

fn last_row(backend: &mut Solo<OrtBackend>, tokens: &[u32]) -> Vec<f32> {
    let logits = backend.forward(tokens, Wanted::Last).unwrap();
    logits.last().unwrap().to_vec()
}

#[test]
fn is_send() {
    fn send<T: Send>() {}
    send::<OrtBackend>();
}

#[test]
fn rewinding_forgets_what_came_after() {
    let mut backend = harness::load("grid64", harness::whole(Target::Cpu, false));
    let prompt = tokens(300);
    let (shared, rest) = prompt.split_at(200);
    backend.forward(shared, Wanted::None).unwrap();
    let first = last_row(&mut backend, rest);
    assert_eq!(backend.length(), 300);

    backend.rewind(200);
    last_row(&mut backend, &[7; 150]);
    backend.rewind(200);
    assert_eq!(backend.length(), 200);
    let again = last_row(&mut backend, rest);
    assert_eq!(
        first, again,
        "the same tokens after the same prefix, bit for bit"
    );

    backend.rewind(1000);
    assert_eq!(backend.length(), 300, "rewinding never goes forward");
}

#[test]
fn long_slices_are_split_like_several_calls() {
    let chunked = Options {
        prefill_chunk: 48,
        ..harness::whole(Target::Cpu, false)
    };
    let mut backend = harness::load("grid64", chunked);
    let prompt = tokens(200);
    let wanted = [0, 47, 48, 150, 199];
    let at_once = backend.forward(&prompt, Wanted::At(&wanted)).unwrap();
    let at_once = at_once.values.to_vec();
    assert_eq!(at_once.len(), wanted.len() * backend.info().vocab_size);

    backend.rewind(0);
    let mut separately = Vec::new();
    for (i, slice) in prompt.chunks(48).enumerate() {
        let here: Vec<usize> = (0..slice.len())
            .filter(|j| wanted.contains(&(i * 48 + j)))
            .collect();
        separately.extend_from_slice(backend.forward(slice, Wanted::At(&here)).unwrap().values);
    }
    assert_eq!(at_once, separately);
}

#[test]
fn nothing_wanted_gives_no_rows() {
    let mut backend = harness::load("grid64", harness::whole(Target::Cpu, false));
    assert_eq!(
        backend
            .forward(&[1, 2, 3], Wanted::None)
            .unwrap()
            .rows()
            .len(),
        0
    );
    assert_eq!(backend.forward(&[], Wanted::Last).unwrap().rows().len(), 0);
    assert_eq!(
        backend.forward(&[4], Wanted::At(&[])).unwrap().rows().len(),
        0
    );
    assert_eq!(backend.length(), 4);
    assert_eq!(backend.forward(&[5], Wanted::Last).unwrap().rows().len(), 1);
}

#[test]
fn refusals_leave_the_sequence_as_it_was() {
    let small = Options {
        context: 64,
        ..harness::whole(Target::Cpu, false)
    };
    let mut backend = harness::load("grid64", small);
    assert_eq!(backend.info().context_window, 64);
    backend.forward(&tokens(60), Wanted::None).unwrap();

    let error = backend
        .forward(&tokens(5), Wanted::Last)
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(
        error,
        BackendError::ContextExceeded {
            wanted: 65,
            window: 64
        }
    ));
    let error = backend
        .forward(&[3, 1024], Wanted::Last)
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(error, BackendError::InvalidToken(1024)));
    for positions in [&[2usize][..], &[1, 0], &[1, 1]] {
        assert!(backend.forward(&[3, 4], Wanted::At(positions)).is_err());
    }
    assert_eq!(backend.length(), 60);
    let row = last_row(&mut backend, &[9, 9, 9, 9]);

    backend.rewind(0);
    let whole = [tokens(60), vec![9; 4]].concat();
    let fresh = last_row(&mut backend, &whole);
    let close = row.iter().zip(&fresh).all(|(a, b)| (a - b).abs() < 0.5);
    assert!(close, "the cache is whole after the refusals");
}

#[test]
fn cancelled_until_reset() {
    let mut backend = harness::load("grid64", harness::whole(Target::Cpu, false));
    let cancel = backend.backend().cancel_handle();
    backend.forward(&[1, 2, 3], Wanted::None).unwrap();
    cancel.cancel();
    for _ in 0..2 {
        let error = backend.forward(&[4], Wanted::Last).map(|_| ()).unwrap_err();
        assert!(matches!(error, BackendError::Cancelled));
        assert_eq!(backend.length(), 3);
    }
    cancel.reset();
    assert_eq!(backend.forward(&[4], Wanted::Last).unwrap().rows().len(), 1);
}

/// One chunk of many tokens with the slow float32 operators, interrupted soon
/// after it began.
#[test]
fn a_running_chunk_is_cancelled() {
    let one_chunk = Options {
        context: 4096,
        prefill_chunk: 4096,
        ..harness::whole(Target::Cpu, true)
    };
    let mut backend = harness::load("grid64", one_chunk);
    let prompt = tokens(2500);
    let started = Instant::now();
    let uncancelled = last_row(&mut backend, &prompt);
    let whole_run = started.elapsed();

    backend.rewind(0);
    let cancel = backend.backend().cancel_handle();
    let (begun, begins) = std::sync::mpsc::channel();
    let canceller = std::thread::spawn(move || {
        begins.recv().unwrap();
        // The stimulus: a moment well inside the run.
        std::thread::sleep(whole_run / 10);
        cancel.cancel();
        (Instant::now(), cancel)
    });
    begun.send(()).unwrap();
    let error = backend
        .forward(&prompt, Wanted::Last)
        .map(|_| ())
        .unwrap_err();
    let returned = Instant::now();
    assert!(matches!(error, BackendError::Cancelled), "{error}");
    assert_eq!(backend.length(), 0);
    let (cancelled, handle) = canceller.join().unwrap();
    let latency = returned.saturating_duration_since(cancelled);
    println!("cancelled after {latency:?} in a run of {whole_run:?}");
    assert!(latency < whole_run.max(Duration::from_millis(50)) / 2);

    handle.reset();
    assert_eq!(last_row(&mut backend, &prompt), uncancelled, "bit for bit");
}

#[test]
fn a_missing_export_says_how_to_make_one() {
    harness::start();
    let empty = tempfile::tempdir().unwrap();
    let error = OrtBackend::load(empty.path(), Options::default())
        .err()
        .unwrap();
    assert!(error.to_string().contains("gptoss-ctl export"), "{error}");
}

#[test]
fn a_damaged_export_is_an_error() {
    harness::start();
    let source = harness::revision("grid64", Target::Portable);
    let broken = tempfile::tempdir().unwrap();
    let target = broken.path().join("portable");
    std::fs::create_dir(&target).unwrap();
    let model = std::fs::read(source.join("portable/model.onnx")).unwrap();
    let load = |bytes: &[u8]| {
        std::fs::write(target.join("model.onnx"), bytes).unwrap();
        let options = harness::whole(Target::Portable, false);
        OrtBackend::load(broken.path(), options).err().unwrap()
    };
    let foreign = |error: RuntimeError| matches!(error, RuntimeError::Model(_));
    assert!(foreign(load(b"")));
    assert!(foreign(load(&model[..model.len() / 2])));
    let weights_missing = load(&model);
    assert!(
        weights_missing.to_string().contains("weights.bin"),
        "{weights_missing}"
    );
}

/// A cache that the provider allocates, and runs that may not be empty, as on a GPU.
#[test]
fn a_cache_of_the_providers_is_the_same() {
    let ids = tokens(150);
    let [ours, providers] = [false, true].map(|provider_cache| {
        let mut backend = harness::load(
            "grid64",
            Options {
                provider_cache,
                prefill_chunk: 64,
                ..harness::whole(Target::CudaInt4, false)
            },
        );
        backend.forward(&ids[..140], Wanted::None).unwrap();
        backend.rewind(130);
        backend.forward(&ids[130..149], Wanted::At(&[])).unwrap();
        last_row(&mut backend, &ids[149..])
    });
    assert_eq!(ours, providers);
}

#[test]
fn the_cpu_passes_its_self_test() {
    harness::start();
    let report = runtime::choose(ProviderChoice::Cpu, &Quarantine::default(), &[]).unwrap();
    assert_eq!(
        (report.provider, report.rejected),
        (Provider::Cpu, Vec::new())
    );
}

/// The Python wheel's library has no CUDA: asked for by name it is an error,
/// otherwise the processor takes over and the reason is kept.
#[test]
fn a_provider_that_is_not_there_is_told() {
    harness::start();
    let compiled = runtime::library::loaded().unwrap().providers;
    if compiled.iter().any(|name| name == "CUDAExecutionProvider") {
        return;
    }
    let error = runtime::choose(ProviderChoice::Cuda, &Quarantine::default(), &[]).unwrap_err();
    assert!(matches!(
        &error,
        RuntimeError::ProviderUnusable {
            provider: Provider::Cuda,
            ..
        }
    ));
    let report = runtime::choose(ProviderChoice::Auto, &Quarantine::default(), &[]).unwrap();
    assert_eq!(report.provider, Provider::Cpu);
    let (provider, reason) = &report.rejected[0];
    assert_eq!(*provider, Provider::Cuda);
    assert!(reason.contains("not enabled in this build"), "{reason}");
}

/// The embedded model's logits with room to spare below the tolerance that a
/// self-test allows.
#[test]
fn nano_gives_its_golden_logits() {
    harness::start();
    let golden = nano::golden();
    let model = export::in_memory(&nano::checkpoint().unwrap(), Target::Cpu).unwrap();
    let backend =
        OrtBackend::from_model(&model, None, &harness::whole(Target::Cpu, false)).unwrap();
    let mut backend = Solo::new(backend).unwrap();
    let logits = backend
        .forward(&golden.ids, Wanted::At(&golden.positions))
        .unwrap();
    let distance = golden.distance(logits.rows());
    println!("nano on the CPU: distance {distance:.4}");
    assert!(distance <= Golden::tolerance("cpu"), "{distance}");
}
