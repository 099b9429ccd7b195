//! Drafts verified by a real model: the same tokens with and without.

use gptoss::engine::{
    Engine, EngineEvent, EngineSettings, GenerationRequest, Owner, Priority, Sampling,
};
use gptoss::runtime::OrtBackend;
use gptoss_onnx::export::{self, Target};
use gptoss_onnx::nano;

use super::harness;

/// What nano says after each prompt, and how many steps that took.
fn answers(speculate: bool, sampling: &Sampling, prompts: &[Vec<u32>]) -> (Vec<Vec<u32>>, u64) {
    let model = export::in_memory(&nano::checkpoint().unwrap(), Target::Cpu).unwrap();
    let options = harness::whole(Target::Cpu, true);
    let backend = OrtBackend::from_model(&model, None, &options).unwrap();
    let settings = EngineSettings {
        speculate,
        ..EngineSettings::default()
    };
    let engine = Engine::start(Box::new(backend), settings).unwrap();
    let answer = |prompt: &Vec<u32>| {
        let mut stream = engine
            .submit(GenerationRequest {
                owner: Owner(0),
                priority: Priority::Interactive,
                arrival: 0,
                prompt: prompt.clone(),
                boundaries: Vec::new(),
                max_new: 60,
                sampling: sampling.clone(),
                stop_tokens: Vec::new(),
                guide: None,
            })
            .unwrap();
        let events = std::iter::from_fn(|| stream.blocking_next());
        let id = |event| match event {
            EngineEvent::Token { id, .. } => Some(id),
            EngineEvent::Failed(failure) => panic!("{failure}"),
            _ => None,
        };
        events.filter_map(id).collect()
    };
    let answers = prompts.iter().map(answer).collect();
    (answers, engine.heartbeat())
}

/// What it read before, again and again: greedily, and by chance with a seed.
#[test]
fn a_draft_changes_no_token() {
    harness::start();
    let golden = nano::golden();
    let prompts: Vec<Vec<u32>> = [8, 20, 50]
        .map(|length| golden.ids[..length].repeat(3))
        .to_vec();
    let seeded = Sampling {
        seed: Some(7),
        ..Sampling::default()
    };
    for sampling in [Sampling::greedy(), seeded] {
        let (plain, steps) = answers(false, &sampling, &prompts);
        let (drafted, fewer) = answers(true, &sampling, &prompts);
        println!("{steps} steps without drafts, {fewer} with");
        assert_eq!(plain, drafted);
        assert!(plain.iter().all(|answer| answer.len() == 60));
        assert!(fewer <= steps);
    }
}
