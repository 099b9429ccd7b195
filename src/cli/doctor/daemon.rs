//! The bus, the daemon on it, and whether it has a network.

use std::path::Path;

use super::{Check, Finding};
use crate::cli::CliError;
use crate::cli::daemon::{BusName, Place, block_on, explain};
use crate::cli::error::Spoken;
use crate::cli::messages::message;
use crate::client::{Client, ClientError};

/// Where a system with such namespaces shows the one that we are in.
const OWN_NAMESPACE: &str = "/proc/self/ns/net";

pub(super) fn look(place: &Place) -> Result<Vec<Finding>, CliError> {
    block_on(async { Ok(ask(place).await) })
}

async fn ask(place: &Place) -> Vec<Finding> {
    let client = match place.connect().await {
        Ok(client) => client,
        Err(error) => {
            let advice = match place {
                Place::Bus(BusName::System) => message!("doctor-bus-start"),
                Place::Bus(BusName::Session) => message!("doctor-bus-log-in"),
                Place::Socket(path) => {
                    message!("doctor-socket-start", path = %path.display())
                }
            };
            return vec![Finding::wrong(check(place), error.spoken(), advice)];
        }
    };
    let answers = Finding::good(check(place), message!("doctor-bus-answers"));
    let mut findings = vec![answers];
    match state(&client).await {
        Ok(found) => findings.push(Finding::good(Check::Daemon, found)),
        Err(error) => {
            let refused = matches!(error, ClientError::Refused { .. });
            let error = explain(error, place).to_string();
            let advice = match refused {
                true => message!("doctor-daemon-refuses"),
                false => message!("doctor-daemon-silent"),
            };
            findings.push(Finding::wrong(Check::Daemon, error, advice));
            return findings;
        }
    }
    // Other systems than Linux have no such namespaces.
    if Path::new(OWN_NAMESPACE).exists()
        && let Ok(Some(process)) = client.daemon_process().await
    {
        findings.push(network(process, place));
    }
    findings
}

/// What stands between us and the daemon.
fn check(place: &Place) -> Check {
    match place {
        Place::Bus(_) => Check::Bus,
        Place::Socket(_) => Check::Socket,
    }
}

async fn state(client: &Client) -> Result<String, ClientError> {
    let manager = client.manager();
    let version = manager.version().await?;
    let (state, _) = manager.availability().await?;
    Ok(format!("gptossd {version}, {state}"))
}

/// The machine's daemon has a network namespace of its own, with nothing in it.
fn network(process: u32, place: &Place) -> Finding {
    let theirs = format!("/proc/{process}/ns/net");
    match (
        std::fs::read_link(OWN_NAMESPACE),
        std::fs::read_link(theirs),
    ) {
        (Ok(ours), Ok(theirs)) if ours != theirs => {
            Finding::good(Check::Network, message!("doctor-network-none"))
        }
        (Ok(_), Ok(_)) if !place.is_system() => {
            Finding::good(Check::Network, message!("doctor-network-own"))
        }
        (Ok(_), Ok(_)) => Finding::wrong(
            Check::Network,
            message!("doctor-network-shared"),
            message!("doctor-network-unit"),
        ),
        _ => Finding::note(
            Check::Network,
            message!("doctor-network-unknown"),
            message!("doctor-network-root"),
        ),
    }
}
