//! Tables of text: for a terminal, and as Markdown.

/// Rows of cells under a heading each.
#[derive(Debug, Default)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// The headings.
    pub head: Vec<String>,
    /// The rows, as long as the head.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// In columns that line up; the first is flush left, the others right.
    pub fn terminal(&self) -> String {
        let widths: Vec<usize> = (0..self.head.len())
            .map(|column| self.lines().map(|cells| cells[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = format!("{}\n", self.title);
        for cells in self.lines() {
            let padded: Vec<String> = cells
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, &width))| match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                })
                .collect();
            text.push_str(padded.join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    /// As a Markdown table.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = format!("|---{}|\n", "|--:".repeat(self.head.len().saturating_sub(1)));
        let rows: String = self.rows.iter().map(|cells| line(cells)).collect();
        format!("### {}\n\n{}{rule}{rows}", self.title, line(&self.head))
    }

    fn lines(&self) -> impl Iterator<Item = &Vec<String>> {
        std::iter::once(&self.head).chain(&self.rows)
    }
}

/// A number with three digits that count, and a letter for thousands or millions.
pub fn figure(value: f64) -> String {
    let (scaled, letter) = match value.abs() {
        size if size >= 999_500.0 => (value / 1e6, " M"),
        size if size >= 9_995.0 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.0995 => 2,
        _ => 4,
    };
    format!("{scaled:.digits$}{letter}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let texts = [0.0123, 0.5, 7.456, 42.0, 999.6, 8_123.0, 56_789.0, 3_456_000.0].map(figure);
        assert_eq!(texts, ["0.0123", "0.50", "7.46", "42.0", "1000", "8123", "56.8 k", "3.46 M"]);
    }

    #[test]
    fn columns_line_up() {
        let cells = |texts: [&str; 2]| texts.map(str::to_owned).to_vec();
        let table = Table {
            title: "T".into(),
            head: cells(["a", "b"]),
            rows: vec![cells(["long", "1"]), cells(["x", "22"])],
        };
        assert_eq!(table.terminal(), "T\na      b\nlong   1\nx     22\n");
        assert_eq!(table.markdown(), "### T\n\n| a | b |\n|---|--:|\n| long | 1 |\n| x | 22 |\n");
    }
}
