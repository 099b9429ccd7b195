//! The bus, the daemon on it, and whether it has a network.

use super::{Check, Finding};
use crate::cli::CliError;
use crate::cli::daemon::{BusName, block_on, explain};
use crate::cli::error::Spoken;
use crate::cli::messages::message;
use crate::client::{Client, ClientError};

pub(super) fn look(bus: BusName) -> Result<Vec<Finding>, CliError> {
    block_on(async { Ok(ask(bus).await) })
}

async fn ask(bus: BusName) -> Vec<Finding> {
    let client = match Client::connect(bus.into()).await {
        Ok(client) => client,
        Err(error) => {
            let advice = match bus {
                BusName::System => message!("doctor-bus-start"),
                BusName::Session => message!("doctor-bus-log-in"),
            };
            return vec![Finding::wrong(Check::Bus, error.spoken(), advice)];
        }
    };
    let mut findings = vec![Finding::good(Check::Bus, message!("doctor-bus-answers"))];
    match state(&client).await {
        Ok(found) => findings.push(Finding::good(Check::Daemon, found)),
        Err(error) => {
            let refused = matches!(error, ClientError::Refused { .. });
            let error = explain(error, bus).to_string();
            let advice = match refused {
                true => message!("doctor-daemon-refuses"),
                false => message!("doctor-daemon-silent"),
            };
            findings.push(Finding::wrong(Check::Daemon, error, advice));
            return findings;
        }
    }
    if let Ok(process) = client.daemon_process().await {
        findings.push(network(process, bus));
    }
    findings
}

async fn state(client: &Client) -> Result<String, ClientError> {
    let manager = client.manager();
    let version = manager.version().await?;
    let (state, _) = manager.availability().await?;
    Ok(format!("gptossd {version}, {state}"))
}

/// The machine's daemon has a network namespace of its own, with nothing in it.
fn network(process: u32, bus: BusName) -> Finding {
    let namespace = |of: String| std::fs::read_link(format!("/proc/{of}/ns/net"));
    match (namespace("self".into()), namespace(process.to_string())) {
        (Ok(ours), Ok(theirs)) if ours != theirs => {
            Finding::good(Check::Network, message!("doctor-network-none"))
        }
        (Ok(_), Ok(_)) if matches!(bus, BusName::Session) => {
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
