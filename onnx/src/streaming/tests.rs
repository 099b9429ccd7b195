//! Streams of small files with random bytes.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::proto::{
    DataType, GraphProto, LOCATION_EXTERNAL, ModelProto, NodeProto, StringStringEntryProto,
    TensorProto,
};

const LAYERS: usize = 2;
const EXPERTS: usize = 6;
/// Rows and row length of both projections.
const SHAPES: [(usize, usize); 2] = [(128, 96), (96, 64)];

/// Two layers in a file each, in the order of the published ones.
struct Files {
    folder: TempDir,
    model: ModelProto,
    /// Of each layer its four tensors.
    bytes: Vec<[Vec<u8>; TENSORS]>,
}

/// Bytes that do not repeat (xorshift64).
fn random(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state as u8
}

fn entry(key: &str, value: impl ToString) -> StringStringEntryProto {
    StringStringEntryProto {
        key: Some(key.into()),
        value: Some(value.to_string()),
    }
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (mut nodes, mut initializers, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
        let mut state = 7;
        for layer in 0..LAYERS {
            let location = format!("model-{layer}.safetensors");
            let mut file = File::create(folder.path().join(&location)).unwrap();
            // Behind a head of an odd length, as in published files.
            let mut offset = 1000 + 13 * layer;
            file.write_all(&vec![0xee; offset]).unwrap();
            let mut names = vec![String::new(); 8];
            let mut tensors: [Vec<u8>; TENSORS] = Default::default();
            for (tensor, input) in [(0, 2), (1, 3), (2, 5), (3, 6)] {
                let (rows, k) = SHAPES[tensor / 2];
                let mut dims = vec![EXPERTS, rows, k / 32];
                dims.extend((tensor % 2 == 0).then_some(16));
                let length: usize = dims.iter().product();
                tensors[tensor] = (0..length).map(|_| random(&mut state)).collect();
                file.write_all(&tensors[tensor]).unwrap();
                names[input] = format!("layer {layer}, {tensor}");
                initializers.push(TensorProto {
                    dims: dims.iter().map(|&n| n as i64).collect(),
                    data_type: Some(DataType::Uint8 as i32),
                    name: Some(names[input].clone()),
                    data_location: Some(LOCATION_EXTERNAL),
                    external_data: vec![
                        entry("location", &location),
                        entry("offset", offset),
                        entry("length", length),
                    ],
                    ..TensorProto::default()
                });
                offset += length;
            }
            bytes.push(tensors);
            nodes.push(NodeProto {
                input: names,
                op_type: Some("MoE".into()),
                domain: Some("gptoss".into()),
                ..NodeProto::default()
            });
        }
        let graph = GraphProto {
            node: nodes,
            initializer: initializers,
            ..GraphProto::default()
        };
        Self {
            folder,
            model: ModelProto {
                graph: Some(graph),
                ..ModelProto::default()
            },
            bytes,
        }
    }

    fn locate(&self) -> Result<ExpertFiles, StreamError> {
        ExpertFiles::locate(&self.model, self.folder.path())
    }

    fn stream(&self, slots: u64) -> ExpertStream {
        let files = self.locate().unwrap();
        let memory = slots * files.slot_bytes();
        ExpertStream::new(files, memory).unwrap()
    }

    fn path(&self, layer: usize) -> std::path::PathBuf {
        self.folder
            .path()
            .join(format!("model-{layer}.safetensors"))
    }

    /// Whether these are the bytes of an expert.
    fn check(&self, layer: usize, expert: &Expert<'_>) {
        let tensors = &self.bytes[layer];
        let part = |tensor: usize| {
            let each = tensors[tensor].len() / EXPERTS;
            &tensors[tensor][expert.index * each..][..each]
        };
        assert_eq!(expert.gate_up.blocks(), part(0));
        assert_eq!(expert.gate_up.scales(), part(1));
        assert_eq!(expert.down.blocks(), part(2));
        assert_eq!(expert.down.scales(), part(3));
        assert_eq!((expert.gate_up.rows(), expert.gate_up.k()), SHAPES[0]);
        assert_eq!((expert.down.rows(), expert.down.k()), SHAPES[1]);
    }

    /// Supplies experts of a layer and checks each; gives the sizes of the batches.
    fn supply(
        &self,
        stream: &ExpertStream,
        layer: usize,
        experts: &[usize],
    ) -> Result<Vec<usize>, KernelError> {
        let wanted = experts.iter().map(|&expert| Wanted { expert, tokens: 1 });
        let wanted: Vec<_> = wanted.collect();
        let (mut seen, mut batches) = (Vec::new(), Vec::new());
        let cancel = AtomicBool::new(false);
        stream.layer(layer).supply(&wanted, &cancel, &mut |batch| {
            batch.iter().for_each(|expert| self.check(layer, expert));
            seen.extend(batch.iter().map(|expert| expert.index));
            batches.push(batch.len());
            Ok(())
        })?;
        seen.sort_unstable();
        assert_eq!(seen, experts, "each once");
        Ok(batches)
    }
}

#[test]
fn all_experts_come_through_few_slots() {
    let files = Files::new();
    for slots in [2, 3, 5, 12, 100] {
        let stream = files.stream(slots);
        assert_eq!(stream.slots() as u64, slots.min(12));
        for round in 0..3 {
            for layer in 0..LAYERS {
                let all: Vec<usize> = (0..EXPERTS).collect();
                let batches = files.supply(&stream, layer, &all).unwrap();
                let most = (stream.slots() / 2).max(1);
                assert!(batches.iter().all(|&len| (1..=most).contains(&len)));
                files.supply(&stream, layer, &[1, 4]).unwrap();
            }
            if slots >= 12 && round == 0 {
                assert!(stream.counts().hits >= 4);
            }
        }
        let counts = stream.counts();
        assert_eq!(counts.wanted, 3 * 2 * 8);
        if slots >= 12 {
            assert_eq!(counts.wanted - counts.hits, 12, "each was read once");
        }
        assert!(counts.bytes >= (counts.wanted - counts.hits) * stream.files().expert_bytes());
    }
}

#[test]
fn what_is_in_memory_is_computed_before_anything_is_waited_for() {
    let files = Files::new();
    let stream = files.stream(12);
    files.supply(&stream, 0, &[0, 2, 3]).unwrap();
    let before = stream.counts();
    assert_eq!(files.supply(&stream, 0, &[0, 2, 3]).unwrap(), [3]);
    let counts = stream.counts() - before;
    assert_eq!(
        (counts.hits, counts.bytes, counts.waited),
        (3, 0, Duration::ZERO)
    );
    let batches = files.supply(&stream, 0, &[0, 1, 2, 3]).unwrap();
    assert!(batches[0] >= 3, "{batches:?}");
}

#[test]
fn memory_is_filled_before_the_first_use() {
    let files = Files::new();
    let stream = files.stream(8);
    let read = stream.fill().unwrap();
    assert!(read >= 8 * stream.files().expert_bytes());
    for layer in 0..LAYERS {
        files.supply(&stream, layer, &[0, 1, 2, 3]).unwrap();
    }
    assert_eq!(stream.counts().hits, 8);
    assert_eq!(stream.counts().bytes, read);
}

#[test]
fn a_file_that_has_become_shorter_is_an_error_and_no_wrong_numbers() {
    let files = Files::new();
    let stream = files.stream(3);
    files.supply(&stream, 0, &[5]).unwrap();
    let whole = std::fs::read(files.path(0)).unwrap();
    let file = File::options().write(true).open(files.path(0)).unwrap();
    file.set_len(whole.len() as u64 / 2).unwrap();
    for _ in 0..2 {
        let error = files.supply(&stream, 0, &[0, 1, 2, 3, 4]).unwrap_err();
        let KernelError::Weights(message) = &error else {
            panic!("{error}");
        };
        assert!(message.contains("model-0.safetensors"), "{message}");
    }
    assert!(matches!(stream.fill(), Err(StreamError::Read(_))));
    files.supply(&stream, 1, &[0, 1, 2]).unwrap();
    std::fs::write(files.path(0), whole).unwrap();
    files.supply(&stream, 0, &[0, 1, 2, 3, 4, 5]).unwrap();
}

#[test]
fn an_error_while_computing_ends_the_pass_and_nothing_else() {
    let files = Files::new();
    let stream = files.stream(4);
    let wanted: Vec<_> = (0..EXPERTS)
        .map(|expert| Wanted { expert, tokens: 9 })
        .collect();
    let cancel = AtomicBool::new(false);
    let layer = stream.layer(1);
    let stopped = layer.supply(&wanted, &cancel, &mut |_| Err(KernelError::Cancelled));
    assert!(matches!(stopped, Err(KernelError::Cancelled)));
    files.supply(&stream, 1, &[0, 1, 2, 3, 4, 5]).unwrap();
}

#[test]
fn too_little_memory_is_refused() {
    let files = Files::new();
    let located = files.locate().unwrap();
    let least = 2 * located.slot_bytes();
    let refused = ExpertStream::new(located, least - 1).unwrap_err();
    let StreamError::TooLittle { need, have } = refused else {
        panic!("{refused}");
    };
    assert_eq!((need, have), (least, least - 1));
}

#[test]
fn the_disk_has_a_speed() {
    let files = Files::new();
    let located = files.locate().unwrap();
    assert_eq!((located.layers(), located.experts()), (LAYERS, 12));
    assert!(located.read_speed(2, Duration::from_millis(20)) > 0.0);
    for layer in 0..LAYERS {
        File::create(files.path(layer)).unwrap();
    }
    assert_eq!(located.read_speed(2, Duration::from_millis(20)), 0.0);
}

/// Changes what the model says of its first tensor.
fn refused(change: impl FnOnce(&mut TensorProto)) -> String {
    let mut files = Files::new();
    let graph = files.model.graph.as_mut().unwrap();
    change(&mut graph.initializer[0]);
    files.locate().unwrap_err().to_string()
}

fn say(tensor: &mut TensorProto, key: &str, value: &str) {
    let mut entries = tensor.external_data.iter_mut();
    let found = entries.find(|entry| entry.key.as_deref() == Some(key));
    found.unwrap().value = Some(value.to_owned());
}

#[test]
fn what_a_model_says_of_its_files_is_not_trusted() {
    for location in ["", "/etc/passwd", "../model-0.safetensors", "a/../../b"] {
        let why = refused(|tensor| say(tensor, "location", location));
        assert!(
            why.contains("below the model's folder"),
            "{location}: {why}"
        );
    }
    let why = refused(|tensor| say(tensor, "location", "absent.safetensors"));
    assert!(why.contains("absent.safetensors"), "{why}");
    for offset in ["100000000", "18446744073709551615"] {
        let why = refused(|tensor| say(tensor, "offset", offset));
        assert!(why.contains("behind its file's end"), "{why}");
    }
    let why = refused(|tensor| say(tensor, "offset", "-1"));
    assert!(why.contains("no number"), "{why}");
    let why = refused(|tensor| say(tensor, "length", "16"));
    assert!(why.contains("not that of its dimensions"), "{why}");
    let why = refused(|tensor| tensor.dims[0] = -6);
    assert!(why.contains("not positive"), "{why}");
    let why = refused(|tensor| tensor.dims[1] = i64::MAX);
    assert!(why.contains("not that of its dimensions"), "{why}");
    let why = refused(|tensor| tensor.data_location = None);
    assert!(why.contains("in the model itself"), "{why}");
    let why = refused(|tensor| {
        tensor.dims = vec![12, 64, 3, 16];
    });
    assert!(why.contains("those of its blocks"), "{why}");
    let none = ExpertFiles::locate(&ModelProto::default(), Path::new("/"));
    assert!(matches!(none, Err(StreamError::NoExperts)));
}

#[test]
fn a_link_is_not_followed() {
    let files = Files::new();
    let moved = files.folder.path().join("elsewhere");
    std::fs::rename(files.path(0), &moved).unwrap();
    std::os::unix::fs::symlink(&moved, files.path(0)).unwrap();
    assert!(matches!(files.locate(), Err(StreamError::Open { .. })));
}
