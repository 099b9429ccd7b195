//! The bus, the daemon on it, and whether it has a network.

use super::Finding;
use crate::cli::CliError;
use crate::cli::daemon::{BusName, block_on, explain};
use crate::client::{Client, ClientError};

pub(super) fn look(bus: BusName) -> Result<Vec<Finding>, CliError> {
    block_on(async { Ok(ask(bus).await) })
}

async fn ask(bus: BusName) -> Vec<Finding> {
    let client = match Client::connect(bus.into()).await {
        Ok(client) => client,
        Err(error) => {
            let advice = match bus {
                BusName::System => "start dbus: `systemctl start dbus`",
                BusName::Session => "log in to a session, or use `dbus-run-session`",
            };
            return vec![Finding::wrong("bus", error.to_string(), advice)];
        }
    };
    let mut findings = vec![Finding::good("bus", "it answers")];
    match state(&client).await {
        Ok(found) => findings.push(Finding::good("daemon", found)),
        Err(error) => {
            let refused = matches!(error, ClientError::Refused { .. });
            let error = explain(error, bus).to_string();
            findings.push(match refused {
                true => Finding::wrong(
                    "daemon",
                    error,
                    "`adduser NAME gptoss` lets someone in who is not at the screen",
                ),
                false => Finding::wrong("daemon", error, "`journalctl -u gptossd` has its words"),
            });
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
            Finding::good("network", "the daemon has an empty namespace of its own")
        }
        (Ok(_), Ok(_)) if matches!(bus, BusName::Session) => Finding::good(
            "network",
            "the daemon holds no HTTP or TLS client; a user's own has no namespace of its own",
        ),
        (Ok(_), Ok(_)) => Finding::wrong(
            "network",
            "the daemon shares the machine's network",
            "its unit has been changed: `systemctl cat gptossd` should show PrivateNetwork=yes",
        ),
        _ => Finding::note(
            "network",
            "the daemon belongs to another user",
            "root may look: `sudo gptoss-ctl doctor`",
        ),
    }
}
