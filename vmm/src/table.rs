//! Text in columns.

/// Where the cells of a column stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// At its left edge, as words do.
    Left,
    /// At its right edge, as numbers do.
    Right,
}

/// `rows` in columns two spaces apart, each as wide as its widest cell, a line each.
///
/// A row of one cell is a heading, which may be as wide as it likes. Every character is taken to be one
/// column wide, as those of this program are.
pub(crate) fn render(columns: &[Align], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter(|row| row.len() > 1)
            .filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(columns)
            .zip(&widths)
            .map(|((cell, align), &width)| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_do_not_trail() {
        let rows = [
            ["lock", "wait", "ok"],
            ["qspinlock", "1.2 µs", ""],
            ["tas", "30 ms", "BROKEN"],
        ];
        let rows = rows.map(|row| row.map(String::from).to_vec());
        let text = render(&[Align::Left, Align::Right, Align::Left], &rows);
        assert_eq!(
            text,
            "lock         wait  ok\nqspinlock  1.2 µs\ntas         30 ms  BROKEN\n"
        );
    }

    #[test]
    fn headings_do_not_widen_columns() {
        let rows = [
            vec!["a long heading".to_owned()],
            vec!["a".to_owned(), "b".to_owned()],
        ];
        assert_eq!(
            render(&[Align::Left, Align::Left], &rows),
            "a long heading\na  b\n"
        );
    }

    #[test]
    fn nothing_makes_nothing() {
        assert_eq!(render(&[], &[]), "");
        assert_eq!(render(&[Align::Left], &[vec![]]), "\n");
    }
}
