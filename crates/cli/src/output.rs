//! Standard output: what a command was asked for, and nothing else. Everything said beside it goes to the
//! log or to standard error.

use std::io::{self, ErrorKind, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};

/// Writes text and flushes it. A reader that has gone away (`caelum nodes | head`) has seen enough.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write to standard output"),
    }
}

/// Writes text to standard error: what a command says beside what it was asked for.
pub fn complain(text: &str) {
    // Nobody is left to tell when standard error is gone.
    drop(io::stderr().lock().write_all(text.as_bytes()));
}

/// Says on a terminal's standard error what takes a while.
pub fn progress(text: &str) {
    if io::stderr().is_terminal() {
        complain(&format!("{text}\n"));
    }
}

/// Text in which nothing moves the cursor or changes colours: names come from machines that nobody vouches for.
pub fn plain(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

/// Rows under headings, columns aligned with two spaces between them.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect()).collect();
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> =
            cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut out = line(&mut headings.iter().copied());
    for row in &rows {
        out.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_owned(), "b".to_owned()], vec!["größer".to_owned(), String::new()]];
        assert_eq!(table(&["x", "y"], &rows), "x       y\na       b\ngrößer\n");
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        let shown = table(&["NAME"], &[vec!["a\u{1b}[2Jb\nc\u{9b}".to_owned()]]);
        assert_eq!(shown, "NAME\na\u{fffd}[2Jb\u{fffd}c\u{fffd}\n");
    }
}
