//! Four users with 64 clients that ask, fork, cancel, read slowly, leave without
//! a word and try what is another's, for half an hour. Then everything must be as
//! it was. Not part of every run: `make test-soak`, as root.

mod conduct;
mod fairness;
mod probe;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gptoss::client::Options;
use rustix::fs::Uid;

use crate::harness::{Daemon, all, ask};
use crate::pressure::Pressure;
use crate::stress::quiet;
use crate::system;
use conduct::{Board, Tally};

/// Users whom every system knows, as the bus must know them: daemon, bin, sys and
/// nobody.
const USERS: [u32; 4] = [1, 2, 3, 65534];

/// Clients of each of them.
const CLIENTS: usize = 16;

/// How much more memory than after the warm-up is none lost: what the allocator
/// keeps in pieces that hold something still.
const SLACK: f64 = 1.10;

/// Three run together: four users can't have a place each.
fn script() -> String {
    let answer = |when: &str, text: &str, times: usize, delays: &str| {
        let text = text.repeat(times);
        format!(
            "[[answers]]\nwhen = {when:?}\ntext = '<|channel|>final<|message|>{text}'\n{delays}\n"
        )
    };
    [
        "context-window = 20000\nsequences = 3\n".to_owned(),
        answer("slow", "abcdefghij", 1000, "token-delay-ms = 1"),
        answer("long-prompt", "read", 1, "prefill-delay-ms = 5"),
        answer("flood", "0123456789", 400, ""),
        answer("share-short", "abcde", 20, "token-delay-ms = 1"),
        answer("share-long", "abcde", 120, "token-delay-ms = 1"),
    ]
    .concat()
}

const CONFIG: &str = "[limits]\nrequests-per-user = 48\nsessions-per-user = 48\nqueue = 500\n\
                      spool-bytes = 16384\ntokens-per-user = 100000000";

/// How long each part takes.
struct Plan {
    warm_up: Duration,
    mixed: Duration,
    fair: Duration,
}

impl Plan {
    /// Half an hour, or `GPTOSS_SOAK_SECONDS`.
    fn read() -> Plan {
        let seconds = std::env::var("GPTOSS_SOAK_SECONDS");
        let seconds = seconds.map_or(1800, |s| s.parse().expect("GPTOSS_SOAK_SECONDS: a number"));
        let part = |share: f64| Duration::from_secs(seconds).mul_f64(share);
        Plan {
            // Until the prefix cache is full and the allocator has its pieces.
            warm_up: part(0.3),
            mixed: part(0.6),
            fair: part(0.1),
        }
    }
}

/// Runs `work` on a thread that is another user's: credentials belong to threads,
/// and the bus asks for those of the one that connects.
fn as_user<T, F>(uid: u32, work: impl FnOnce() -> F + Send + 'static) -> JoinHandle<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    std::thread::spawn(move || {
        let uid = Uid::from_raw(uid);
        let changed = rustix::thread::set_thread_res_uid(uid, uid, uid);
        changed.expect("this check becomes four users, which takes root");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(work())
    })
}

/// Every client does whatever comes to its mind until `until`.
fn mixed(address: &str, board: &Arc<Board>, round: u64, until: Instant) -> Vec<JoinHandle<Tally>> {
    let users = USERS.into_iter().enumerate();
    users
        .map(|(user, uid)| {
            let (address, board) = (address.to_owned(), Arc::clone(board));
            as_user(uid, move || async move {
                let clients = (0..CLIENTS).map(|client| {
                    let number = round * 1000 + (user * CLIENTS + client) as u64;
                    conduct::live(address.clone(), Arc::clone(&board), user, number, until)
                });
                let tallies = futures_util::future::join_all(clients).await;
                tallies.into_iter().fold(Tally::default(), Tally::plus)
            })
        })
        .collect()
}

fn together(users: Vec<JoinHandle<Tally>>) -> Tally {
    let joined = users.into_iter().map(|user| user.join().unwrap());
    joined.fold(Tally::default(), Tally::plus)
}

/// Memory of the daemon that is its own once it has dropped what it keeps for prompts
/// to come and given back what was freed, in KiB. How much it holds of freed memory
/// while it works is the allocator's: more where more threads have met.
async fn lasting_memory(daemon: &Daemon, pressure: &mut Pressure) -> u64 {
    let working = memory(daemon);
    let client = daemon.client().await;
    pressure.drop_caches(&client).await;
    // The model's thread takes this up when it is done with that.
    all(&mut ask(&client, "x", Options::default()).await).await;
    let lasting = memory(daemon);
    println!("{working} KiB, {lasting} KiB of it lasting");
    lasting
}

/// Memory of the daemon that is its own, in KiB.
fn memory(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let number = line.and_then(|l| l.split_whitespace().next());
    number.unwrap().parse().unwrap()
}

#[test]
#[ignore = "takes half an hour, and root"]
fn nothing_leaks_and_everyone_has_a_share() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let plan = Plan::read();
    let (daemon, mut pressure) =
        runtime.block_on(async { system::start_with(&script(), CONFIG, Pressure::watched_by) });
    let _polkit = runtime.block_on(system::polkit_that_grants(&daemon));
    let address = daemon.bus.address.clone();
    let board = Arc::new(Board::default());

    let tally = together(mixed(&address, &board, 0, Instant::now() + plan.warm_up));
    println!("warm-up: {tally}");
    let open = runtime.block_on(quiet(&daemon, None));
    let before = runtime.block_on(lasting_memory(&daemon, &mut pressure));
    println!("start: {before} KiB, {open} descriptors");

    let stop = Arc::new(AtomicBool::new(false));
    let probe = probe::start(address.clone(), Arc::clone(&stop));
    let until = Instant::now() + plan.mixed;
    let users = mixed(&address, &board, 1, until);
    let minute = Duration::from_secs(60).min(plan.mixed);
    while Instant::now() + minute < until {
        std::thread::sleep(minute);
        println!("{:>6} KiB", memory(&daemon));
    }
    let tally = together(users);
    stop.store(true, Ordering::Relaxed);
    let latency = probe.join().unwrap();
    println!("mixed: {tally}");
    println!("{latency}");

    let shares = fairness::measure(&address, Instant::now() + plan.fair);
    let (least, most) = fairness::report(&shares);

    let open = (open, runtime.block_on(quiet(&daemon, Some(open))));
    let after = runtime.block_on(lasting_memory(&daemon, &mut pressure));
    println!("end: {after} KiB, {} descriptors", open.1);
    assert_eq!(open.0, open.1);
    assert!(after as f64 <= before as f64 * SLACK, "{before} -> {after}");
    assert!(least >= most * 0.9, "the shares differ: {least} and {most}");
    tally.says_that_everything_happened();
}
