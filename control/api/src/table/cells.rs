//! Cells that many kinds share: the name, ages, counts, lists with an end.

use jiff::Timestamp;
use serde_json::Value;

use crate::kind::Column;
use crate::object::Object;
use crate::selector::Selector;

/// The first column of most kinds.
pub const NAME: Column = Column {
    name: "Name",
    r#type: "string",
    format: "name",
    description: "Name must be unique within a namespace. It is primarily intended for creation idempotence and \
                  configuration definition. Cannot be updated.",
    priority: 0,
    cell: |object, _| object.name().into(),
};

/// The last of the columns always shown.
pub const AGE: Column =
    text("Age", "CreationTimestamp is the server time when this object was created, in UTC.", |object, now| {
        since(object.at(&["metadata", "creationTimestamp"]), now).into()
    });

/// A column of text, always shown.
pub const fn text(name: &'static str, description: &'static str, cell: fn(&Object, i64) -> Value) -> Column {
    Column { name, r#type: "string", format: "", description, priority: 0, cell }
}

/// A column of numbers, always shown.
pub const fn integer(name: &'static str, description: &'static str, cell: fn(&Object, i64) -> Value) -> Column {
    Column { name, r#type: "integer", format: "", description, priority: 0, cell }
}

/// A column of text, shown with `-o wide`.
pub const fn wide(name: &'static str, description: &'static str, cell: fn(&Object, i64) -> Value) -> Column {
    Column { name, r#type: "string", format: "", description, priority: 1, cell }
}

/// The age of a time in the API's form: `5s`, `2m10s`, `3d4h`; `<unknown>` for none.
pub fn since(time: Option<&Value>, now: i64) -> String {
    match time.and_then(Value::as_str).and_then(seconds) {
        Some(then) => duration(now - then),
        None => "<unknown>".to_owned(),
    }
}

/// Seconds since the Unix epoch of a time in the API's form.
pub fn seconds(time: &str) -> Option<i64> {
    time.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

/// A span as people read it, with at most two units and never more than about three digits.
pub fn duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |large: i64, unit: &str, small: i64, sub: &str| {
        if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit}{small}{sub}") }
    };
    let (minutes, hours, days, years) = (seconds / MINUTE, seconds / HOUR, seconds / DAY, seconds / YEAR);
    match seconds {
        // Clocks may differ a little; a span further in the future is not believed.
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % MINUTE, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, "d", hours % 24, "h"),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => two(years, "y", days % 365, "d"),
        _ => format!("{years}y"),
    }
}

/// The number at a path, or 0.
pub fn number(object: &Object, path: &[&str]) -> Value {
    object.at(path).and_then(Value::as_i64).unwrap_or(0).into()
}

/// The text at a path, or `none`.
pub fn text_or(object: &Object, path: &[&str], none: &str) -> Value {
    match object.str_at(path) {
        "" => none.into(),
        text => text.into(),
    }
}

/// How many entries the list or map at a path has.
pub fn count(object: &Object, path: &[&str]) -> usize {
    match object.at(path) {
        Some(Value::Array(list)) => list.len(),
        Some(Value::Object(map)) => map.len(),
        _ => 0,
    }
}

/// Up to three texts, and how many more there are.
pub fn first_three(all: &[String], none: &str) -> String {
    match all.len() {
        0 => none.to_owned(),
        1..=3 => all.join(","),
        more => format!("{} + {} more...", all[..3].join(","), more - 3),
    }
}

/// The `spec.selector` of a workload, `<none>` if there is none.
pub fn selector(object: &Object, path: &[&str]) -> Value {
    match Selector::from_label_selector(object.at(path)) {
        Ok(Some(selector)) if selector.is_everything() => "<everything>".into(),
        Ok(Some(selector)) => selector.labels_text().into(),
        Ok(None) => "<none>".into(),
        Err(_) => "<error>".into(),
    }
}

/// Names (`field` = `name`) or images of a template's containers, joined by commas.
pub fn containers(object: &Object, field: &str) -> Value {
    let list = object.at(&["spec", "template", "spec", "containers"]).and_then(Value::as_array);
    let texts: Vec<&str> = list.into_iter().flatten().filter_map(|one| one.get(field)?.as_str()).collect();
    texts.join(",").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectls() {
        let rows = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (130, "2m10s"),
            (599, "9m59s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600, "8h"),
            (47 * 3600 + 3599, "47h"),
            (48 * 3600, "2d"),
            (52 * 3600, "2d4h"),
            (8 * 86400, "8d"),
            (729 * 86400, "729d"),
            (730 * 86400, "2y"),
            (731 * 86400, "2y1d"),
            (8 * 365 * 86400, "8y"),
        ];
        for (seconds, text) in rows {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
        assert_eq!(since(None, 5), "<unknown>");
        assert_eq!(since(Some(&"1970-01-01T00:00:10Z".into()), 15), "5s");
    }
}
