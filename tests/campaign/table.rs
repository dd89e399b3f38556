//! docs/FAULTS.rst: written from the rows, and compared with them.

use std::fmt::Write as _;

use super::{Breaks, Row};

/// What a table of all faults says of itself.
pub(crate) const ALL: &str = "These are all of them.";

/// Returns the table.
pub(crate) fn table(rows: &[Row], tried: usize, places: usize) -> String {
    let mut out = String::from(
        "Faults\n======\n\n\
         .. Written by tests/campaign.rs (PROXMOVE_CAMPAIGN).\n\n\
         Every call of the API and every command on a storage host of a full move (one guest that runs and writes, one disk),\n\
         in turn, was broken in four ways. *crash*: proxmove was killed at that moment. *error*: the call or command was\n\
         refused. *lost answer*: it was carried out, and the connection broke before the answer. *hang*: it was never answered,\n\
         and the operator interrupted twice. Afterwards the same command, run again, finished the move, or ``proxmove abort``\n\
         brought the source back; of both the disks' records and the configuration were compared. A number in parentheses says\n\
         which call of that kind it was; of calls that only read, the first two of each kind are here.\n\n",
    );
    let _ = writeln!(out, "{tried} faults at {places} places. {ALL}\n");
    out.push_str(".. list-table::\n   :header-rows: 1\n   :widths: 14 44 12 10 20\n\n   * - where\n     - what\n     - fault\n     - the run\n     - then\n");
    for row in rows {
        let _ = writeln!(
            out,
            "{}     - {}\n     - {}",
            head(row),
            row.first,
            row.then
        );
    }
    out
}

/// Returns the lines that say what was broken, and how.
fn head(row: &Row) -> String {
    let breaks = match row.breaks {
        Breaks::Crash => "crash",
        Breaks::Error => "error",
        Breaks::LostAnswer => "lost answer",
        Breaks::Hang => "hang",
    };
    let (place, what) = &row.place;
    format!("   * - {place}\n     - ``{what}``\n     - {breaks}\n")
}

/// Returns the rows of which a table says something else, in words, or nothing.
///
/// Which pass the n-th command on a host belongs to depends on how many pre-copies were worth it, so how the run ended
/// that was broken there may be another time and again; that it was broken, and what is said of calls, may not.
pub(crate) fn differences(text: &str, rows: &[Row]) -> Vec<String> {
    let mut found = Vec::new();
    for row in rows {
        let (place, what) = &row.place;
        let seen = format!("     - {}\n     - {}\n", row.first, row.then);
        let known = text.split_once(&head(row)).map(|(_, rest)| rest);
        let on_host = place.contains("-node");
        match known {
            None => found.push(format!("{place} {what} {:?}: no such row", row.breaks)),
            Some(rest) if !on_host && !rest.starts_with(&seen) => {
                let said: Vec<&str> = rest
                    .lines()
                    .take(2)
                    .map(|line| line.trim_matches([' ', '-']))
                    .collect();
                found.push(format!(
                    "{place} {what} {:?}: the table has {said:?}, seen was {:?}, {:?}",
                    row.breaks, row.first, row.then
                ));
            }
            Some(_) => {}
        }
    }
    found
}
