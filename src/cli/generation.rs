//! How answers are made: what `run` and `chat` share of their arguments.

use super::daemon::Place;
use crate::client::Options;

/// Arguments that say how the model answers, and where the daemon is.
#[derive(Debug, Clone, clap::Args)]
pub struct GenerationArgs {
    /// How long the model may think: low, medium or high.
    #[arg(long, value_name = "EFFORT", value_parser = EFFORTS)]
    pub effort: Option<String>,
    /// Instructions, before everything else.
    #[arg(long, visible_alias = "system", value_name = "TEXT")]
    pub instructions: Option<String>,
    /// Most tokens to generate for an answer.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// Most tokens of reasoning; then the answer begins.
    #[arg(long, value_name = "N")]
    pub max_reasoning_tokens: Option<u32>,
    /// 0 always takes the most probable token.
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// Makes a sampled answer repeatable.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Where the daemon is.
    #[command(flatten)]
    pub place: Place,
}

/// The values of `--effort`.
pub const EFFORTS: [&str; 3] = ["low", "medium", "high"];

impl GenerationArgs {
    /// The options of a request, but for its model.
    pub fn options(&self) -> Options {
        Options::default()
            .set_some("reasoning-effort", self.effort.as_deref())
            .set_some("max-output-tokens", self.max_tokens)
            .set_some("max-reasoning-tokens", self.max_reasoning_tokens)
            .set_some("temperature", self.temperature)
            .set_some("seed", self.seed)
    }
}
