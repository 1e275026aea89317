//! Cursors: positions in a feed, and the form in which the server creates them.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use crate::id::ChangeId;
use crate::time::Timestamp;

/// A position in a feed: ordered by time, then by change id, byte by byte.
///
/// On the wire it is base64url without padding of
/// `{"version":1,"changedAt":"…","changeId":"…"}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    /// The server's time of the position.
    pub changed_at: Timestamp,
    /// The id that distinguishes positions of one instant.
    pub change_id: ChangeId,
}

/// An error: the text is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct InvalidCursor;

impl InvalidCursor {
    /// The code of the error, and the alternate form of its message.
    pub const NAME: &'static str = "invalid_cursor";
}

impl fmt::Display for InvalidCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if f.alternate() { Self::NAME } else { "Invalid cursor" })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireCursor {
    version: u8,
    changed_at: Timestamp,
    change_id: ChangeId,
}

/// The greatest length of a cursor on the wire: 128 bytes of id, each escaped, and the rest.
const MAX_WIRE_BYTES: usize = 1_536;

impl Cursor {
    /// Encodes the cursor for the wire.
    #[must_use]
    pub fn encode(&self) -> String {
        let wire = WireCursor {
            version: 1,
            changed_at: self.changed_at,
            change_id: self.change_id.clone(),
        };
        let json = serde_json::to_vec(&wire).expect("a struct of strings serializes");
        URL_SAFE_NO_PAD.encode(json)
    }

    /// Decodes the wire form of a cursor.
    ///
    /// # Errors
    /// [`InvalidCursor`] for anything else.
    pub fn decode(text: &str) -> Result<Self, InvalidCursor> {
        if text.len() > MAX_WIRE_BYTES {
            return Err(InvalidCursor);
        }
        let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCursor)?;
        let wire: WireCursor = serde_json::from_slice(&json).map_err(|_| InvalidCursor)?;
        if wire.version != 1 {
            return Err(InvalidCursor);
        }
        Ok(Self { changed_at: wire.changed_at, change_id: wire.change_id })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.changed_at, self.change_id)
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&self.encode())
        } else {
            (self.changed_at, &self.change_id).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
            Self::decode(&text).map_err(de::Error::custom)
        } else {
            let (changed_at, change_id) = Deserialize::deserialize(deserializer)?;
            Ok(Self { changed_at, change_id })
        }
    }
}

/// Identifies a life of a database, from one start of a server on it to the next. A position that
/// the database handed out in one epoch is never handed out again in another, even if the database
/// was restored between them.
///
/// An epoch is the millisecond at which it began, with random low bits, so that two servers started
/// from one backup get different epochs even if their clocks are behind it. It has 48 bits; the
/// epochs of one database ascend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Epoch(u64);

impl Epoch {
    const LIMIT: u64 = 1 << 48;
    const CHANCE_BITS: u32 = 16;

    /// The number of bits below the milliseconds of the second.
    const FINE_BITS: u32 = 6;

    /// Returns the first epoch of a database created at `now`.
    #[must_use]
    pub fn first(now: Timestamp) -> Self {
        let millis = now.as_millis().rem_euclid(1_000).unsigned_abs();
        Self::of(Self::second(now), millis << Self::FINE_BITS)
    }

    /// Returns the epoch that begins at `now` and follows `before`. `chance` distinguishes it from
    /// others that begin at the same time.
    #[must_use]
    pub fn following(before: Self, now: Timestamp, chance: u16) -> Self {
        let chance = u64::from(chance);
        let present = Self::first(now);
        if present > before {
            return Self(present.0 | chance & ((1 << Self::FINE_BITS) - 1));
        }
        Self::of((before.0 >> Self::CHANCE_BITS) + 1, chance)
    }

    /// The time of the second after this epoch began; an epoch that begins then follows this one.
    #[must_use]
    pub fn next_second(self) -> Timestamp {
        let second = i64::try_from((self.0 >> Self::CHANCE_BITS) + 1).unwrap_or(0);
        Timestamp::from_millis(second * 1_000).unwrap_or(Timestamp::MAX)
    }

    fn second(now: Timestamp) -> u64 {
        u64::try_from(now.as_millis() / 1_000).unwrap_or(0)
    }

    fn of(second: u64, chance: u64) -> Self {
        let last = (Self::LIMIT - 1) >> Self::CHANCE_BITS;
        Self(second.min(last) << Self::CHANCE_BITS | chance)
    }

    /// Checks the epoch in an answer; `seen` is the last epoch seen before it.
    ///
    /// # Errors
    /// [`EarlierEpoch`] if it is earlier: the server lacks answers that it gave itself.
    pub fn check(seen: Option<Self>, told: Option<Self>) -> Result<(), EarlierEpoch> {
        match (seen, told) {
            (Some(seen), Some(told)) if told < seen => Err(EarlierEpoch { seen, told }),
            _ => Ok(()),
        }
    }

    /// Creates an epoch from its stored number; `None` if the number is out of range.
    #[must_use]
    pub const fn from_u64(value: u64) -> Option<Self> {
        if value < Self::LIMIT { Some(Self(value)) } else { None }
    }

    /// The number to store.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

/// An error: an answer has an earlier epoch than one seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is {} after an answer of {}: another server or an older copy of its database answers; see to \
     it that one database is served under this address, and begin a new epoch on it",
    .told.as_u64(), .seen.as_u64()
)]
pub struct EarlierEpoch {
    /// The epoch that was seen before.
    pub seen: Epoch,
    /// The epoch of the answer.
    pub told: Epoch,
}

impl From<Epoch> for u64 {
    fn from(epoch: Epoch) -> Self {
        epoch.0
    }
}

impl TryFrom<u64> for Epoch {
    type Error = &'static str;

    fn try_from(value: u64) -> Result<Self, Self::Error> {
        Self::from_u64(value).ok_or("has more than 48 bits")
    }
}

/// A [`ChangeId`] in our server's form: an epoch and a counter, both of fixed width, so that byte
/// order is commit order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The epoch of the feed.
    pub epoch: Epoch,
    /// The number of the entry in the feed, from 1.
    pub counter: u64,
}

impl Position {
    /// The id on the wire: `<12 hex digits>-<16 hex digits>`.
    #[must_use]
    pub fn change_id(self) -> ChangeId {
        ChangeId::new(self.to_string()).expect("hex digits and a dash make an id")
    }

    /// Reads an id that our server created; `None` for any other.
    #[must_use]
    pub fn parse(id: &ChangeId) -> Option<Self> {
        let (epoch, counter) = id.as_str().as_bytes().split_first_chunk::<12>()?;
        let counter: &[u8; 16] = counter.strip_prefix(b"-")?.try_into().ok()?;
        Some(Self { epoch: Epoch::from_u64(hex(epoch)?)?, counter: hex(counter)? })
    }

    /// The cursor at this position.
    #[must_use]
    pub fn at(self, changed_at: Timestamp) -> Cursor {
        Cursor { changed_at, change_id: self.change_id() }
    }
}

/// Reads up to 16 hex digits, in lower case.
fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value * 16 + u64::from(digit))
    })
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}-{:016x}", self.epoch.0, self.counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cursor(at: i64, id: &str) -> Cursor {
        Cursor {
            changed_at: Timestamp::from_millis(at).unwrap(),
            change_id: ChangeId::new(id).unwrap(),
        }
    }

    #[test]
    fn a_cursor_has_one_form_on_the_wire() {
        let text = cursor(0, "a").encode();
        assert_eq!(
            String::from_utf8(URL_SAFE_NO_PAD.decode(&text).unwrap()).unwrap(),
            r#"{"version":1,"changedAt":"1970-01-01T00:00:00.000Z","changeId":"a"}"#
        );
        assert_eq!(Cursor::decode(&text), Ok(cursor(0, "a")));
    }

    #[test]
    fn anything_else_is_an_invalid_cursor() {
        let encode = |json: &str| URL_SAFE_NO_PAD.encode(json);
        for bad in [
            String::new(),
            "!!!".into(),
            format!("{}=", cursor(0, "a").encode()),
            encode("{}"),
            encode(r#"{"version":2,"changedAt":"1970-01-01T00:00:00.000Z","changeId":"a"}"#),
            encode(r#"{"version":1,"changedAt":"yesterday","changeId":"a"}"#),
            encode(r#"{"version":1,"changedAt":"1970-01-01T00:00:00.000Z","changeId":""}"#),
            "A".repeat(10_000),
        ] {
            assert_eq!(Cursor::decode(&bad), Err(InvalidCursor), "{bad}");
        }
    }

    #[test]
    fn a_cursor_is_only_so_long_on_the_wire() {
        let padded = |bytes: usize| {
            let mut json =
                r#"{"version":1,"changedAt":"1970-01-01T00:00:00.000Z","changeId":"a"}"#.to_owned();
            json.push_str(&" ".repeat(bytes - json.len()));
            URL_SAFE_NO_PAD.encode(json)
        };
        let longest = padded(MAX_WIRE_BYTES / 4 * 3);
        assert_eq!(longest.len(), MAX_WIRE_BYTES);
        assert_eq!(Cursor::decode(&longest), Ok(cursor(0, "a")));
        assert_eq!(Cursor::decode(&padded(MAX_WIRE_BYTES / 4 * 3 + 3)), Err(InvalidCursor));
    }

    #[test]
    fn an_epoch_has_48_bits() {
        let last = (1 << 48) - 1;
        let epoch = Epoch::from_u64(last).unwrap();
        assert_eq!(epoch.as_u64(), last);
        assert_eq!(Epoch::from_u64(last + 1), None);
        let following = Epoch::following(epoch, Timestamp::MAX, u16::MAX);
        assert_eq!(following, epoch, "and stays within them");
        assert_eq!(Epoch::first(Timestamp::from_millis(-1).unwrap()).as_u64(), 999 << 6);
    }

    #[test]
    fn an_id_that_another_server_made_is_no_position() {
        let parse = |text: &str| Position::parse(&ChangeId::new(text).unwrap());
        assert!(parse("000000000007-000000000000000f").is_some());
        for other in [
            "000000000007-000000000000000F",
            "000000000007-00000000000000f",
            "000000000007-0000000000000000f",
            "000000000007_000000000000000f",
            "+00000000007-000000000000000f",
            "7-f",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn an_epoch_follows_another_within_the_second() {
        let at = |millis| Timestamp::from_millis(millis).unwrap();
        let lost = Epoch::following(Epoch::first(at(10_000)), at(12_100), u16::MAX);
        let restored = Epoch::following(Epoch::first(at(10_000)), at(12_101), 0);
        assert!(lost < restored, "whatever chance says");
        assert!(Epoch::first(lost.next_second()) > lost);
        assert!(Epoch::following(lost, at(12_100), 0) > lost, "even within a millisecond");
    }

    #[test]
    fn two_restorations_of_one_backup_have_different_epochs() {
        let at = |millis| Timestamp::from_millis(millis).unwrap();
        let first = Epoch::first(at(10_999));
        let (one, other) =
            (Epoch::following(first, at(12_000), 9), Epoch::following(first, at(13_000), 8));
        assert!(first < one && one < other);
        let behind = |chance| Epoch::following(first, at(5), chance);
        assert!(behind(0) > first, "a clock that stepped back");
        assert_ne!(behind(1), behind(2), "and stays behind the backup");
        let of_milliseconds = Epoch::from_u64(1_790_000_000_000).unwrap();
        assert!(Epoch::following(of_milliseconds, at(1_790_000_000_000), 0) > of_milliseconds);
    }

    proptest! {
        #[test]
        fn a_cursor_survives_the_wire(millis in -62_167_219_200_000i64..253_402_300_799_999, id in "[!-~é]{1,60}") {
            let cursor = cursor(millis, &id);
            prop_assert_eq!(Cursor::decode(&cursor.encode()), Ok(cursor));
        }

        #[test]
        fn decoding_never_panics(text in "\\PC{0,200}") {
            let _ = Cursor::decode(&text);
        }

        #[test]
        fn byte_order_is_commit_order(a in (0u64..1 << 48, any::<u64>()), b in (0u64..1 << 48, any::<u64>())) {
            let position = |(epoch, counter)| Position { epoch: Epoch::from_u64(epoch).unwrap(), counter };
            let (a, b) = (position(a), position(b));
            prop_assert_eq!(a.cmp(&b), a.change_id().cmp(&b.change_id()));
            prop_assert_eq!(Position::parse(&a.change_id()), Some(a));
        }
    }
}
