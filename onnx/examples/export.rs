//! Exports a checkpoint without a store:
//!
//! ```text
//! cargo run --release -p gptoss-onnx --example export -- CHECKPOINT_DIR cpu|portable
//! ```
//!
//! Writes `CHECKPOINT_DIR/<target>/` and prints size and SHA-256 of each file.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use gptoss_onnx::checkpoint::Checkpoint;
use gptoss_onnx::export::{Target, export};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(dir), Some(target), None) = (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: export CHECKPOINT_DIR cpu|portable".into());
    };
    let dir = PathBuf::from(dir);
    let target: Target = target.to_string_lossy().parse()?;
    let start = Instant::now();
    let checkpoint = Checkpoint::open(&dir)?;
    eprintln!("validated in {:.1} s", start.elapsed().as_secs_f64());
    let report = export(
        &checkpoint,
        target,
        &dir.join(target.name()),
        &mut |_, _| (),
    )?;
    eprintln!("exported in {:.1} s", start.elapsed().as_secs_f64());
    if let Some(experts) = report.experts {
        eprintln!(
            "experts of {} layers quantized from {} to {}, relative RMS error {:.4}",
            experts.layers, experts.from, experts.to, experts.relative_rms_error
        );
    }
    for (name, size, sha256) in report.files {
        println!("{sha256}  {size:>12}  {name}");
    }
    Ok(())
}
