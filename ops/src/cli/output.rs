//! Everything that is printed goes through here: aligned tables for people, JSON for programs.

use anyhow::Result;
use serde::Serialize;
use std::io::Write;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Standard output in the format that was asked for.
#[derive(Debug)]
pub struct Output {
    format: Format,
}

impl Output {
    pub fn new(format: Format) -> Self {
        Output { format }
    }

    /// Prints a result: its JSON, or the text made of it.
    pub fn show<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        let printed = match self.format {
            Format::Json => serde_json::to_string_pretty(value)?,
            Format::Text => text(value),
        };
        self.raw(with_newline(printed).as_bytes())
    }

    /// Prints a line in text format only: what a program does not need.
    pub fn note(&self, line: impl Into<String>) -> Result<()> {
        match self.format {
            Format::Json => Ok(()),
            Format::Text => self.raw(with_newline(line.into()).as_bytes()),
        }
    }

    /// Prints as it is.
    pub fn raw(&self, bytes: &[u8]) -> Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(())
    }
}

fn with_newline(mut text: String) -> String {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// Rows under headings. Columns are as wide as their widest cell; those of numbers stand to the right.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    columns: usize,
}

impl Table {
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        Table { rows: vec![headings.map(str::to_owned).to_vec()], columns: N }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns);
        self.rows.push(cells.to_vec());
    }

    pub fn render(&self) -> String {
        let mut text = String::new();
        let widths: Vec<usize> = (0..self.columns).map(|c| self.width(c)).collect();
        let right: Vec<bool> = (0..self.columns).map(|c| self.is_number(c)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[column] - cell.chars().count());
                line += if column > 0 { "  " } else { "" };
                line += &match right[column] {
                    true => pad + cell,
                    false => cell.clone() + &pad,
                };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }

    fn width(&self, column: usize) -> usize {
        let widths = self.rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    }

    fn is_number(&self, column: usize) -> bool {
        let mut cells = self.rows[1..].iter().map(|row| &row[column]);
        // "12", "1.5 GiB", "93 %", "-": what begins with a digit or stands for none.
        self.rows.len() > 1
            && cells.all(|cell| {
                let cell = cell.strip_prefix('-').unwrap_or(cell);
                cell.is_empty() || (cell.starts_with(|c: char| c.is_ascii_digit()) && !cell.contains(':'))
            })
    }
}

/// Names and values under each other; rows with an empty value are left out.
pub fn fields<const N: usize>(rows: [(&str, String); N]) -> String {
    let shown = rows.iter().filter(|(_, value)| !value.is_empty());
    let width = shown.clone().map(|(name, _)| name.len()).max().unwrap_or(0);
    shown.map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_right() {
        let mut table = Table::new(["QUEUE", "READY", "NOTE"]);
        table.row(["CERN".into(), "7".into(), "".into()]);
        table.row(["Überlingen".into(), "1234".into(), "paused".into()]);
        let expected = "\
QUEUE       READY  NOTE
CERN            7
Überlingen   1234  paused
";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn an_empty_table_is_its_headings() {
        assert_eq!(Table::new(["A", "B"]).render(), "A  B\n");
    }

    #[test]
    fn addresses_and_dates_stand_left() {
        let mut table = Table::new(["NODE", "API"]);
        table.row(["1".into(), "127.0.0.1:1".into()]);
        table.row(["10".into(), "127.0.0.1:10001".into()]);
        assert_eq!(table.render(), "NODE  API\n   1  127.0.0.1:1\n  10  127.0.0.1:10001\n");
    }

    #[test]
    fn empty_fields_are_left_out() {
        let text = fields([("state", "done".into()), ("reason", String::new()), ("id", "7".into())]);
        assert_eq!(text, "state  done\nid     7\n");
    }
}
