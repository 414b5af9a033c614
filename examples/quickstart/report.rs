//! What the run looked like: the table, the totals and the rates.

use std::time::Duration;

use comfy_table::modifiers::UTF8_ROUND_CORNERS;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

/// A number of records and their payload, and how long they took.
#[derive(Clone, Copy, Default)]
pub(crate) struct Throughput {
    pub(crate) records: u64,
    /// Keys, values and headers, without any framing.
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
}

/// One line of the table.
pub(crate) struct Row {
    pub(crate) partition: i32,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) member: String,
    pub(crate) lag: u64,
}

/// The table of the partitions with its total.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).apply_modifier(UTF8_ROUND_CORNERS);
    table.set_header(["partition", "records", "share", "bytes", "start offset", "end offset", "member", "lag"]);
    let all: u64 = rows.iter().map(|row| row.records).sum();
    for row in rows {
        table.add_row([
            row.partition.to_string(),
            grouped(row.records),
            bar(row.records, all),
            size(row.bytes),
            grouped(row.start.unsigned_abs()),
            grouped(row.end.unsigned_abs()),
            row.member.clone(),
            grouped(row.lag),
        ]);
    }
    let bytes = rows.iter().map(|row| row.bytes).sum();
    let lag: u64 = rows.iter().map(|row| row.lag).sum();
    let blank = String::new;
    let (records, bytes, lag) = (grouped(all), size(bytes), grouped(lag));
    table.add_row(["total".into(), records, blank(), bytes, blank(), blank(), blank(), lag]);
    for column in [1, 3, 4, 5, 7] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// One line of rates.
pub(crate) fn rate(what: &str, t: Throughput) -> String {
    let seconds = t.time.as_secs_f64().max(1e-9);
    let per_second = (t.records as f64 / seconds) as u64;
    let mb_per_second = t.bytes as f64 / 1e6 / seconds;
    format!(
        "{what:<9}{:>11} records {:>10}  in {seconds:>6.2} s   {:>10} records/s   {mb_per_second:>7.1} MB/s",
        grouped(t.records),
        size(t.bytes),
        grouped(per_second)
    )
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn size(bytes: u64) -> String {
    match bytes {
        ..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// A bar of at most twelve blocks.
fn bar(part: u64, whole: u64) -> String {
    const WIDTH: u64 = 12;
    let eighths = (part * WIDTH * 8).checked_div(whole).unwrap_or(0);
    let mut bar = "\u{2588}".repeat((eighths / 8) as usize);
    // U+2588 is the full block, U+2589 to U+258F are seven eighths down to one.
    if let Some(part) = char::from_u32(0x2590 - (eighths % 8) as u32).filter(|_| !eighths.is_multiple_of(8)) {
        bar.push(part);
    }
    bar
}

/// Milliseconds since 1970 as `2018-02-01 12:34:56 UTC` (days to civil date, proleptic Gregorian).
pub(crate) fn date(millis: i64) -> String {
    let seconds = millis.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400) + 719_468, seconds.rem_euclid(86_400));
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}
