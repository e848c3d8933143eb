//! `fairlead status`: what the node daemon says of itself.

use anyhow::{Context, Result};
use fairlead_proto::admin::v1::StatusRequest;

use crate::layout::Layout;
use crate::{Daemon, Output, admin};

/// Arguments of `fairlead status`.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    daemon: Daemon,
    /// How to print it.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Asks and prints.
pub(crate) async fn run(arguments: StatusArguments) -> Result<()> {
    let layout = arguments.daemon.layout()?;
    let facts = facts(&layout).await?;
    match arguments.output {
        Output::Json => {
            let object: serde_json::Map<_, _> = facts.into_iter().map(|(name, value)| (name, value.into())).collect();
            println!("{:#}", serde_json::Value::Object(object));
        }
        Output::Table => print!("{}", table(&facts)),
    }
    Ok(())
}

/// Name and value of every fact, in the daemon's order.
pub(crate) async fn facts(layout: &Layout) -> Result<Vec<(String, String)>> {
    let mut client = admin::connect(&layout.socket()).await?;
    let reply = client.status(StatusRequest {}).await.context("the node daemon does not tell its status")?;
    Ok(reply.into_inner().facts.into_iter().map(|fact| (fact.name, fact.value)).collect())
}

fn table(facts: &[(String, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_one_column() {
        let facts = [("node".to_owned(), "n1".to_owned()), ("revision".to_owned(), "7".to_owned())];
        assert_eq!(table(&facts), "node      n1\nrevision  7\n");
    }
}
