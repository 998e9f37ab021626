//! Rows of a CSV file, as RFC 4180 has them: cells separated by commas, in quotes where they have commas,
//! quotes or line ends.

use std::path::Path;

use super::super::error::DatasetError;
use crate::store::RegularFile;

/// Largest file. A row for each image of ImageNet takes 50 MB.
const MAX_FILE: u32 = 1 << 30;

/// Most cells of a row, so that a file of commas takes a small multiple of its size.
const MAX_CELLS: usize = 1000;

/// A row: the number of its line, from 1, and its cells.
pub(super) type Row = (usize, Vec<String>);

/// The rows of a file that are not blank.
///
/// # Errors
/// When it cannot be read, is not UTF-8, or a quoted cell does not end.
pub(super) fn rows(path: &Path) -> Result<Vec<Row>, DatasetError> {
    let mut text = Vec::new();
    RegularFile::open(path)?.read_whole(&mut text, MAX_FILE, "a CSV file")?;
    let error = |line: usize, what: &str| {
        let what = format!("line {line}: {what}");
        DatasetError::Description { path: path.into(), what }
    };
    let text = str::from_utf8(&text).map_err(|utf8| {
        let line = text[..utf8.valid_up_to()].split(|&byte| byte == b'\n').count();
        error(line, "it is not UTF-8; convert the file")
    })?;
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    parse(text).map_err(|(line, what)| error(line, what))
}

/// The rows of a text, or the number of a line and what is wrong with it.
fn parse(text: &str) -> Result<Vec<Row>, (usize, &'static str)> {
    const UNFINISHED: &str = "a quoted cell does not end; fix the line";
    const TOO_WIDE: &str = "it has more than 1000 columns; remove those that are not needed";
    let (mut rows, mut rest, mut line) = (Vec::new(), text, 1);
    while !rest.is_empty() {
        let (started, mut row) = (line, Vec::new());
        loop {
            rest = rest.trim_start_matches([' ', '\t']);
            let mut cell = String::new();
            if let Some(quoted) = rest.strip_prefix('"') {
                (cell, rest) = quoted_cell(quoted).ok_or((line, UNFINISHED))?;
                line += cell.matches('\n').count();
            }
            // What follows a quoted part belongs to the cell, as Python's reader has it.
            let end = rest.find([',', '\n']).unwrap_or(rest.len());
            if row.len() == MAX_CELLS {
                return Err((line, TOO_WIDE));
            }
            row.push(cell + rest[..end].trim());
            let goes_on = rest[end..].starts_with(',');
            rest = rest.get(end + 1..).unwrap_or_default();
            if !goes_on {
                break;
            }
        }
        line += 1;
        row.shrink_to_fit();
        if row.iter().any(|cell: &String| !cell.is_empty()) {
            rows.push((started, row));
        }
    }
    Ok(rows)
}

/// The content of a quoted cell behind its first quote, and what follows it. `None` if it does not end.
fn quoted_cell(text: &str) -> Option<(String, &str)> {
    let (mut cell, mut rest) = (String::new(), text);
    loop {
        let (before, after) = rest.split_once('"')?;
        cell.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                cell.push('"');
                rest = more;
            }
            None => return Some((cell, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(text: &str) -> Vec<Vec<String>> {
        parse(text).unwrap().into_iter().map(|(_, cells)| cells).collect()
    }

    #[test]
    fn cells_may_be_quoted_and_rows_may_end_in_either_way() {
        assert_eq!(cells("a,b\r\nc,d"), [["a", "b"], ["c", "d"]]);
        assert_eq!(cells("a, b \n\n c ,\n"), [["a", "b"], ["c", ""]]);
        assert_eq!(cells("\"a,\"\"b\"\"\",c\n\"x\ny\",z"), [["a,\"b\"", "c"], ["x\ny", "z"]]);
        assert_eq!(cells(""), Vec::<Vec<String>>::new());
        assert_eq!(parse("a\nb,\"c\nd").unwrap_err().0, 2);
        assert_eq!(cells(&",x".repeat(999))[0].len(), 1000);
        let (line, what) = parse(&format!("a,b\n{}", ",".repeat(1000))).unwrap_err();
        assert!(line == 2 && what.contains("more than 1000 columns"), "{what}");
        let lines: Vec<_> = parse("a\n\"x\ny\"\nz").unwrap().into_iter().map(|row| row.0).collect();
        assert_eq!(lines, [1, 2, 4]);
    }
}
