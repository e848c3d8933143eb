//! A comparison for people.

use std::fmt::{Display, Formatter, Result, Write as _};

use super::{Comparison, Move, Name};
use crate::report::quantity;

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for (name, [before, after]) in &self.circumstances {
            writeln!(f, "not the same: {name}: {before} → {after}")?;
        }
        if !self.circumstances.is_empty() {
            writeln!(f)?;
        }
        let head = ["workload", "what", "before", "after", "change", "spread", ""].map(str::to_owned);
        let rows: Vec<[String; 7]> = std::iter::once(head).chain(self.moved.iter().map(row)).collect();
        if rows.len() > 1 {
            let widths: Vec<usize> =
                (0..7).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
            for row in &rows {
                let mut line = String::new();
                for (column, (text, width)) in row.iter().zip(&widths).enumerate() {
                    // Words to the left, figures to the right.
                    if matches!(column, 0 | 1 | 6) {
                        let _ = write!(line, "{text:<width$}  ");
                    } else {
                        let _ = write!(line, "{text:>width$}  ");
                    }
                }
                writeln!(f, "{}", line.trim_end())?;
            }
            writeln!(f)?;
        }
        write!(f, "{} moved beyond the noise, {} did not", self.moved.len(), self.unmoved)?;
        if self.undecided > 0 {
            write!(f, " ({} of them have too few rounds to tell)", self.undecided)?;
        }
        writeln!(f, ".")?;
        for (which, names) in [("first", &self.only_before), ("second", &self.only_after)] {
            if !names.is_empty() {
                let names: Vec<String> = names.iter().map(Name::to_string).collect();
                writeln!(f, "Only in the {which}: {}.", names.join("; "))?;
            }
        }
        Ok(())
    }
}

impl Display for Name {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let gap = if self.figure.is_empty() { "" } else { " " };
        write!(f, "{}{gap}{} of {}", self.workload, self.figure, self.cell)
    }
}

fn row(moved: &Move) -> [String; 7] {
    let Name { workload, figure, cell } = &moved.name;
    let value = |value: f64| match moved.unit.as_str() {
        "ratio" => format!("×{value:.3}"),
        unit => quantity(value, unit),
    };
    [
        format!("{workload} {figure}").trim_end().to_owned(),
        cell.to_string(),
        value(moved.before),
        value(moved.after),
        format!("{:+.1} %", moved.shift * 100.0),
        format!("±{:.1} %", moved.spread * 100.0),
        if moved.is_better { "better" } else { "worse" }.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Cell;

    #[test]
    fn columns_stand_below_each_other() {
        let name = |figure: &str, peer: &str| Name {
            workload: "connect".into(),
            figure: figure.into(),
            cell: Cell::bare(peer),
        };
        let moved = |name, unit: &str, before, after| Move {
            name,
            unit: unit.into(),
            before,
            after,
            shift: after / before - 1.0,
            spread: 0.012,
            is_better: after < before,
        };
        let comparison = Comparison {
            moved: vec![
                moved(name("p50", "fairlead-packet"), "ratio", 1.2, 1.08),
                moved(name("", "direct"), "ns", 38_600.0, 41_000.0),
            ],
            unmoved: 7,
            undecided: 0,
            only_before: vec![name("p99", "ipvs")],
            only_after: Vec::new(),
            circumstances: [("kernel".to_owned(), ["6.1".to_owned(), "6.18".to_owned()])].into(),
        };
        let expected = "not the same: kernel: 6.1 → 6.18\n\
            \n\
            workload     what              before   after   change  spread\n\
            connect p50  fairlead-packet   ×1.200  ×1.080  -10.0 %  ±1.2 %  better\n\
            connect      direct           38.6 µs   41 µs   +6.2 %  ±1.2 %  worse\n\
            \n\
            2 moved beyond the noise, 7 did not.\n\
            Only in the first: connect p99 of ipvs.\n";
        assert_eq!(comparison.to_string(), expected);
    }
}
