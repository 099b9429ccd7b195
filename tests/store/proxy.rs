//! Proxies.

use crate::harness::{FAILED, Outcome, TINY, World};

/// A server that is not there.
const NOWHERE: &str = "127.0.0.3:1";

/// A pull from it, with these variables.
fn pull_through(world: &World, variables: &[(&str, &str)]) -> Outcome {
    let catalog = world.path("catalog.toml");
    let mut command = world.command(&[
        "pull",
        TINY,
        "--endpoint",
        &format!("http://{NOWHERE}"),
        "--retries",
        "0",
        "--catalog",
        catalog.to_str().unwrap(),
    ]);
    command.envs(variables.iter().copied());
    command.output().unwrap().into()
}

#[test]
fn proxies_of_the_environment_are_used() {
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let world = World::new();
        let proxy = world.mirror.url();
        pull_through(&world, &[(name, &proxy)]).ok();
        world.assert_installed();
        assert!(world.mirror.requests() >= world.files.len(), "{name}");
    }
    let world = World::new();
    let proxy = world.mirror.url();
    let excepted = [("HTTP_PROXY", &proxy[..]), ("NO_PROXY", "127.0.0.3")];
    pull_through(&world, &excepted).fails(FAILED, &[NOWHERE]);
    assert_eq!(world.mirror.requests(), 0);
}
