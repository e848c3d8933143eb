//! `fairlead explain`: asks the daemon what would become of a packet, and prints its answer as a table.

use anyhow::{Context, Result, bail};
use fairlead_proto::admin::v1::ExplainRequest;
use serde_json::Value;

use crate::{Daemon, Output, admin};

/// Arguments of `fairlead explain`.
#[derive(Debug, clap::Args)]
#[command(override_usage = "fairlead explain [OPTIONS] SRC[:PORT] -> DST:PORT[/PROTO]")]
pub(crate) struct ExplainArguments {
    /// `SRC[:PORT] -> DST:PORT/PROTO`; the arrow may be left out (a shell wants it quoted). Addresses of IPv6 with a port
    /// stand in brackets. The destination may be a Service: `NAMESPACE/NAME:PORT`.
    #[arg(value_name = "PACKET", required = true, num_args = 1..)]
    packet: Vec<String>,
    /// Where the packet starts: `uplink`, `host`, `pod` (the source's), `pod/NAME` or `pod/NAMESPACE/NAME`; as the source
    /// suggests when absent.
    #[arg(long, value_name = "ORIGIN", default_value = "")]
    from: String,
    #[command(flatten)]
    daemon: Daemon,
    /// How to print it.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Asks and prints.
pub(crate) async fn run(arguments: ExplainArguments) -> Result<()> {
    let (source, destination) = packet(&arguments.packet)?;
    let layout = arguments.daemon.layout()?;
    let mut client = admin::connect(&layout.socket()).await?;
    let request = ExplainRequest { source, destination, from: arguments.from };
    let reply = client.explain(request).await.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    let explanation: Value =
        serde_json::from_slice(&reply.into_inner().json).context("the daemon's answer is no JSON")?;
    match arguments.output {
        Output::Json => println!("{explanation:#}"),
        Output::Table => print!("{}", table(&explanation)),
    }
    Ok(())
}

/// Source and destination, out of as many words as the shell made of them.
fn packet(words: &[String]) -> Result<(String, String)> {
    let line = words.join(" ");
    let line = line.replace("->", " ");
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        [source, destination] => Ok((source.to_owned(), destination.to_owned())),
        _ => bail!("`{}` is no packet: SRC[:PORT] -> DST:PORT/PROTO", words.join(" ")),
    }
}

/// The steps, the endpoints there were to choose from, and the verdict.
fn table(explanation: &Value) -> String {
    let mut out = String::new();
    let list = |name: &str| explanation[name].as_array().cloned().unwrap_or_default();
    let steps: Vec<Vec<String>> =
        list("steps").iter().map(|step| vec![text(&step["title"]), text(&step["detail"])]).collect();
    out.push_str(&columns(&steps));
    let candidates = list("candidates");
    if !candidates.is_empty() {
        let heading = ["", "ENDPOINT", "STATE", "LOCAL", "WEIGHT"].map(str::to_owned).to_vec();
        let row = |end: &Value| {
            let chosen = if end["chosen"] == true { "*" } else { "" };
            let local = if end["local"] == true { "yes" } else { "no" };
            vec![chosen.to_owned(), text(&end["address"]), text(&end["state"]), local.to_owned(), text(&end["weight"])]
        };
        let rows: Vec<_> = std::iter::once(heading).chain(candidates.iter().map(row)).collect();
        out.push('\n');
        out.push_str(&columns(&rows));
    }
    let last = [("verdict", "verdict"), ("reason", "reason")];
    let last: Vec<_> = last
        .iter()
        .filter(|(key, _)| !text(&explanation[*key]).is_empty())
        .map(|(key, title)| vec![(*title).to_owned(), text(&explanation[*key])])
        .collect();
    out.push('\n');
    out.push_str(&columns(&last));
    out
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Rows in columns as wide as their widest cell; the last one is as long as it is.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_two_words_with_or_without_an_arrow() {
        let words = |line: &str| packet(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let expected = ("10.0.0.1:7".to_owned(), "10.96.0.1:80/tcp".to_owned());
        for line in ["10.0.0.1:7 -> 10.96.0.1:80/tcp", "10.0.0.1:7 10.96.0.1:80/tcp", "10.0.0.1:7->10.96.0.1:80/tcp"] {
            assert_eq!(words(line).unwrap(), expected, "{line}");
        }
        assert!(words("10.0.0.1").is_err());
        assert!(words("a -> b -> c").is_err());
    }

    #[test]
    fn steps_candidates_and_verdict_stand_in_columns() {
        let explanation = serde_json::json!({
            "steps": [{ "title": "service", "detail": "default/web" }, { "title": "flow", "detail": "none" }],
            "candidates": [{ "address": "10.0.0.1:80", "state": "active", "local": true, "weight": 1, "chosen": true }],
            "verdict": "rewrite",
        });
        let expected = "service  default/web\nflow     none\n\n   ENDPOINT     STATE   LOCAL  WEIGHT\n*  10.0.0.1:80  active  yes    1\n\nverdict  rewrite\n";
        assert_eq!(table(&explanation), expected);
    }
}
