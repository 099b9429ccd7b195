//! The reference logits of `NAME.ref.npz`; README.md beside it describes them.

use std::fs::File;
use std::path::PathBuf;

use ndarray::{Array1, Array2};
use ndarray_npy::NpzReader;

/// One prompt with what the reference implementation makes of it.
pub struct Case {
    pub ids: Vec<u32>,
    /// Positions of `logits`, indexes into `ids`.
    pub positions: Vec<usize>,
    pub logits: Array2<f32>,
    /// The reference's greedy continuation.
    pub greedy: Vec<u32>,
    /// By how much each of its tokens beats the runner-up.
    pub margins: Vec<f32>,
    /// Logits along the continuation: row `t` is what `greedy[t]` came from.
    pub continuation_logits: Array2<f32>,
}

impl Case {
    /// The prompt with its continuation, without the continuation's last token.
    pub fn with_continuation(&self) -> Vec<u32> {
        let fed = &self.greedy[..self.greedy.len() - 1];
        [self.ids.as_slice(), fed].concat()
    }

    /// The positions of `continuation_logits` in `with_continuation`.
    pub fn continuation_positions(&self) -> Vec<usize> {
        let first = self.ids.len() - 1;
        (first..first + self.greedy.len()).collect()
    }

    /// Whether a greedy continuation is the reference's, up to the first token
    /// where the reference itself was within `tolerance` of choosing another.
    pub fn accepts(&self, continuation: &[u32], tolerance: f32) -> bool {
        let pairs = self.greedy.iter().zip(continuation);
        match pairs.zip(&self.margins).find(|((a, b), _)| a != b) {
            Some((_, margin)) => *margin <= tolerance,
            None => true,
        }
    }
}

/// The folder this test's data lies in.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parity")
}

/// Every prompt of the checkpoint `name`.
pub fn cases(name: &str) -> Vec<Case> {
    let file = File::open(folder().join(format!("{name}.ref.npz"))).unwrap();
    let mut archive = NpzReader::new(file).unwrap();
    let prompts = archive.names().unwrap();
    let count = prompts.iter().filter(|name| name.ends_with("_ids")).count();
    assert!(count > 0);
    (0..count).map(|i| case(&mut archive, i)).collect()
}

fn case(archive: &mut NpzReader<File>, i: usize) -> Case {
    let mut numbers = |what: &str| -> Vec<u32> {
        let array: Array1<i64> = archive.by_name(&format!("p{i}_{what}")).unwrap();
        array.iter().map(|&n| u32::try_from(n).unwrap()).collect()
    };
    let (ids, positions, greedy) = (numbers("ids"), numbers("pos"), numbers("greedy"));
    let margins: Array1<f32> = archive.by_name(&format!("p{i}_margin")).unwrap();
    Case {
        ids,
        positions: positions.into_iter().map(|p| p as usize).collect(),
        logits: archive.by_name(&format!("p{i}_logits")).unwrap(),
        greedy,
        margins: margins.to_vec(),
        continuation_logits: archive.by_name(&format!("p{i}_tflogits")).unwrap(),
    }
}
