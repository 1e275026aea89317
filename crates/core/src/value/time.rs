//! Times: whole milliseconds since the Unix epoch, RFC 3339 on the wire.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::ser::{self, Serializer};
use serde::{Deserialize, Serialize};

/// A moment in whole milliseconds, the only precision used internally. Years 0 to 9999, the range
/// of RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// An error: the text is no RFC 3339 time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an RFC 3339 time")]
pub struct InvalidTime;

impl Timestamp {
    /// The earliest time, 0000-01-01T00:00:00.000Z.
    pub const MIN: Self = Self(-62_167_219_200_000);
    /// The latest time, 9999-12-31T23:59:59.999Z.
    pub const MAX: Self = Self(253_402_300_799_999);

    /// Creates a time from milliseconds since the Unix epoch, if the year is from 0 to 9999.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Option<Self> {
        if millis >= Self::MIN.0 && millis <= Self::MAX.0 { Some(Self(millis)) } else { None }
    }

    /// Converts a time of the operating system, truncated to the millisecond, if the year is from 0
    /// to 9999.
    #[must_use]
    pub fn from_system_time(time: std::time::SystemTime) -> Option<Self> {
        let nanos = match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => i128::try_from(after.as_nanos()).ok()?,
            Err(before) => -i128::try_from(before.duration().as_nanos()).ok()?,
        };
        i64::try_from(nanos.div_euclid(1_000_000)).ok().and_then(Self::from_millis)
    }

    /// Returns the milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Moves the time by `millis`, clamped to the range.
    #[must_use]
    pub fn plus_millis(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis).clamp(Self::MIN.0, Self::MAX.0))
    }

    /// Parses any RFC 3339 time and truncates it to milliseconds.
    ///
    /// # Errors
    /// [`InvalidTime`] for anything else, ISO 8601 forms outside RFC 3339 included.
    pub fn parse(text: &str) -> Result<Self, InvalidTime> {
        if !has_rfc3339_shape(text.as_bytes()) {
            return Err(InvalidTime);
        }
        // The calendar library's instants end a day before year 9999 does; its civil times do not.
        let (civil, rest) = text.split_at(19);
        let number = |range: std::ops::Range<usize>| {
            text[range].bytes().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'))
        };
        let civil: jiff::civil::DateTime =
            civil.to_ascii_uppercase().parse().map_err(|_| InvalidTime)?;
        let minutes = number(11..13) * 60 + number(14..16);
        let seconds = minutes * 60 + i64::from(civil.second());
        let zone = rest.find(['Z', 'z', '+', '-']).ok_or(InvalidTime)?;
        let fraction = rest[..zone].bytes().skip(1).chain(std::iter::repeat(b'0')).take(3);
        let fraction = fraction.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        let offset = match &rest.as_bytes()[zone..] {
            [sign, h1, h2, b':', m1, m2] => {
                let two = |a: u8, b: u8| i64::from(a - b'0') * 10 + i64::from(b - b'0');
                let (hours, minutes) = (two(*h1, *h2), two(*m1, *m2));
                if hours > 23 || minutes > 59 {
                    return Err(InvalidTime);
                }
                (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
            }
            _ => 0,
        };
        let days =
            days_of(i64::from(civil.year()), i64::from(civil.month()), i64::from(civil.day()));
        let seconds = days * 86_400 + seconds - offset * 60;
        Self::from_millis(seconds * 1_000 + fraction).ok_or(InvalidTime)
    }
}

/// Returns the days since the Unix epoch, after Howard Hinnant's `days_from_civil`.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Checks the grammar of RFC 3339, section 5.6, but not the values: the library checks the
/// calendar.
fn has_rfc3339_shape(text: &[u8]) -> bool {
    let digits = |range: std::ops::Range<usize>| {
        text.get(range).is_some_and(|part| part.iter().all(u8::is_ascii_digit))
    };
    let at = |index: usize, one_of: &[u8]| text.get(index).is_some_and(|b| one_of.contains(b));
    let date_and_time = digits(0..4)
        && at(4, b"-")
        && digits(5..7)
        && at(7, b"-")
        && digits(8..10)
        && at(10, b"Tt ")
        && digits(11..13)
        && at(13, b":")
        && digits(14..16)
        && at(16, b":")
        && digits(17..19);
    if !date_and_time {
        return false;
    }
    let mut rest = &text[19..];
    if let [b'.', fraction @ ..] = rest {
        let count = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
        if count == 0 || count > 9 {
            return false;
        }
        rest = &fraction[count..];
    }
    match rest {
        b"Z" | b"z" => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => [h1, h2, m1, m2].iter().all(|b| b.is_ascii_digit()),
        _ => false,
    }
}

impl Timestamp {
    /// Formats the time as `YYYY-MM-DDTHH:MM:SS.mmmZ`, without the formatting machinery, because a
    /// feed page has a thousand times.
    fn text(self) -> [u8; 24] {
        // Civil date from days, after Howard Hinnant's `civil_from_days`
        // (https://howardhinnant.github.io/date_algorithms.html).
        let days = self.0.div_euclid(86_400_000);
        let in_day = self.0.rem_euclid(86_400_000);
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let day_of_era = z.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        for (range, value) in [
            (0..4, year),
            (5..7, month),
            (8..10, day),
            (11..13, in_day / 3_600_000),
            (14..16, in_day / 60_000 % 60),
            (17..19, in_day / 1_000 % 60),
            (20..23, in_day % 1_000),
        ] {
            let mut left = value.unsigned_abs();
            for digit in text[range].iter_mut().rev() {
                *digit = b'0' + u8::try_from(left % 10).unwrap_or(0);
                left /= 10;
            }
        }
        text
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).map_err(|_| fmt::Error)?)
    }
}

impl std::str::FromStr for Timestamp {
    type Err = InvalidTime;
    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        Self::parse(text)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(std::str::from_utf8(&self.text()).map_err(ser::Error::custom)?)
        } else {
            serializer.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TimeVisitor;
        impl Visitor<'_> for TimeVisitor {
            type Value = Timestamp;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                Timestamp::parse(text).map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, millis: i64) -> Result<Timestamp, E> {
                Timestamp::from_millis(millis).ok_or_else(|| E::custom(InvalidTime))
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(TimeVisitor)
        } else {
            deserializer.deserialize_i64(TimeVisitor)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn any_rfc3339_time_is_normalised_to_milliseconds_in_utc() {
        for (given, normal) in [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000Z"),
            ("2026-01-02t03:04:05.123456z", "2026-01-02T03:04:05.123Z"),
            ("2026-01-02 03:04:05.9999+02:30", "2026-01-02T00:34:05.999Z"),
            ("1969-12-31T23:59:59.9999Z", "1969-12-31T23:59:59.999Z"),
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000Z"),
            ("2024-02-29T23:59:59.001Z", "2024-02-29T23:59:59.001Z"),
            ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
            ("9999-12-31T23:59:59.9999Z", "9999-12-31T23:59:59.999Z"),
            ("9999-12-31T23:59:59.999+00:01", "9999-12-31T23:58:59.999Z"),
            ("0000-01-01T00:00:00-00:30", "0000-01-01T00:30:00.000Z"),
            ("2016-12-31T23:59:60.5Z", "2016-12-31T23:59:59.500Z"),
        ] {
            assert_eq!(Timestamp::parse(given).unwrap().to_string(), normal, "{given}");
        }
    }

    #[test]
    fn what_is_not_rfc3339_is_refused() {
        for bad in [
            "",
            "2026-01-02",
            "2026-01-02T03:04Z",
            "2026-01-02T03:04:05",
            "20260102T030405Z",
            "2026-13-02T03:04:05Z",
            "2026-02-30T03:04:05Z",
            "2026-01-02T03:04:05.Z",
            "2026-01-02T03:04:05Z[UTC]",
            "+002026-01-02T03:04:05Z",
            "2026-01-02T03:04:05+0200",
            "9999-12-31T23:59:59-01:00",
            "0000-01-01T00:00:00+00:01",
            "2026-01-02T24:00:00Z",
            "2026-01-02T23:60:00Z",
            "2026-01-02T03:04:61Z",
            "2026-01-02T03:04:05+24:00",
            "2026-01-02T03:04:05+23:60",
            "2026-00-02T03:04:05Z",
            "2026-01-00T03:04:05Z",
            "2023-02-29T03:04:05Z",
            "2026-01-02T03:04:05.1234567890Z",
            "2026-01-02T03:04:05Z ",
            "２026-01-02T03:04:05Z",
        ] {
            assert_eq!(Timestamp::parse(bad), Err(InvalidTime), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn printing_and_reading_agree_with_the_calendar_library(
            millis in Timestamp::MIN.0..=Timestamp::MAX.0
        ) {
            let time = Timestamp::from_millis(millis).unwrap();
            prop_assert_eq!(Timestamp::parse(&time.to_string()), Ok(time));
        }

        #[test]
        fn reading_agrees_with_the_calendar_library_where_that_has_an_instant(
            millis in Timestamp::MIN.0..=jiff::Timestamp::MAX.as_millisecond(),
            offset in -1_439i64..=1_439,
        ) {
            let instant = jiff::Timestamp::from_millisecond(millis).unwrap();
            let shown = Timestamp::from_millis(millis).unwrap().plus_millis(offset * 60_000);
            let sign = if offset < 0 { '-' } else { '+' };
            let (hours, minutes) = (offset.abs() / 60, offset.abs() % 60);
            let text = shown.to_string().replace('Z', &format!("{sign}{hours:02}:{minutes:02}"));
            if let Ok(parsed) = text.parse::<jiff::Timestamp>() {
                prop_assert_eq!(Timestamp::parse(&text).unwrap().0, parsed.as_millisecond());
                if shown.0 == millis + offset * 60_000 {
                    prop_assert_eq!(parsed, instant);
                }
            }
        }

        #[test]
        fn the_last_two_days_of_the_range_are_read(
            before_the_end in 0..=2 * 86_400_000i64
        ) {
            let time = Timestamp::MAX.plus_millis(-before_the_end);
            prop_assert_eq!(Timestamp::parse(&time.to_string()), Ok(time));
        }

        #[test]
        fn reading_never_panics(text in "\\PC{0,40}") {
            let _ = Timestamp::parse(&text);
        }
    }
}
