//! The reason why JSON does not fit a type, as a value instead of serde's sentence.
//!
//! An error names its field for programs in the alternate form (`{:#}`) of its message: serde
//! passes on nothing else of an error.

use std::cell::Cell;
use std::fmt;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use crate::cursor::InvalidCursor;

/// The first problem found in a malformed object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The object lacks a field.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The object has a field more than once.
    #[error("{0} is there more than once")]
    Duplicate(&'static str),
    /// A field of the object does not fit the others.
    #[error("{0} is malformed")]
    Field(String),
    /// The text is not a cursor.
    #[error("{InvalidCursor}")]
    Cursor,
    /// The value at the path of the error is wrong, or not JSON.
    #[error("a value is malformed")]
    Value,
}

impl Problem {
    /// Finds the first problem that prevents `json` from being a `T`, by a second, slower parse
    /// that ends there. `None` if it is a `T`.
    #[must_use]
    pub fn of<T: DeserializeOwned>(json: &[u8]) -> Option<Self> {
        let mut source = serde_json::Deserializer::from_slice(json);
        T::deserialize(Typed(&mut source)).err()
    }

    /// The field that the problem concerns, in the object at the error's path.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Missing(field) | Self::Duplicate(field) => Some(field),
            Self::Field(field) => Some(field),
            Self::Cursor | Self::Value => None,
        }
    }
}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let name = format!("{message:#}");
        if name == InvalidCursor::NAME {
            Self::Cursor
        } else if name == message.to_string() {
            Self::Value
        } else {
            Self::Field(name)
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field)
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::Duplicate(field)
    }
}

/// Writes the message of an error about `field`; its alternate form is the field alone.
pub(crate) fn write_field(
    f: &mut fmt::Formatter<'_>,
    field: &str,
    problem: &dyn fmt::Display,
) -> fmt::Result {
    if f.alternate() { f.write_str(field) } else { write!(f, "{field} {problem}") }
}

/// Runs `parse`, which fails with the parser's own error, and returns the problem that it left in
/// the slot.
fn caught<T, E>(parse: impl FnOnce(&Cell<Option<Problem>>) -> Result<T, E>) -> Result<T, Problem> {
    let slot = Cell::new(None);
    parse(&slot).map_err(|_| slot.take().unwrap_or(Problem::Value))
}

/// A wrapper around a deserializer, a visitor or a seed that forwards every call, with [`Problem`]
/// as the error. Within the parser's own calls, the problem travels in the slot.
struct Typed<D>(D);

struct Within<'a, T> {
    inner: T,
    slot: &'a Cell<Option<Problem>>,
}

impl<T> Within<'_, T> {
    /// Leaves the problem for [`caught`].
    fn leave<V, E: de::Error>(self, run: impl FnOnce(T) -> Result<V, Problem>) -> Result<V, E> {
        run(self.inner).map_err(|problem| {
            self.slot.set(Some(problem));
            E::custom("")
        })
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Typed<D> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, inner: V) -> Result<V::Value, Problem> {
        caught(|slot| self.0.deserialize_any(Within { inner, slot }))
    }

    fn deserialize_option<V: Visitor<'de>>(self, inner: V) -> Result<V::Value, Problem> {
        caught(|slot| self.0.deserialize_option(Within { inner, slot }))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        inner: V,
    ) -> Result<V::Value, Problem> {
        caught(|slot| self.0.deserialize_newtype_struct(name, Within { inner, slot }))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        inner: V,
    ) -> Result<V::Value, Problem> {
        caught(|slot| self.0.deserialize_enum(name, variants, Within { inner, slot }))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, inner: V) -> Result<V::Value, Problem> {
        caught(|slot| self.0.deserialize_ignored_any(Within { inner, slot }))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Within<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<V::Value, E> {
        self.leave(|visitor| visitor.visit_bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<V::Value, E> {
        self.leave(|visitor| visitor.visit_i64(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<V::Value, E> {
        self.leave(|visitor| visitor.visit_u64(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<V::Value, E> {
        self.leave(|visitor| visitor.visit_f64(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<V::Value, E> {
        self.leave(|visitor| visitor.visit_str(value))
    }

    fn visit_borrowed_str<E: de::Error>(self, value: &'de str) -> Result<V::Value, E> {
        self.leave(|visitor| visitor.visit_borrowed_str(value))
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.leave(|visitor| visitor.visit_unit())
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.leave(|visitor| visitor.visit_none())
    }

    fn visit_some<D: Deserializer<'de>>(self, some: D) -> Result<V::Value, D::Error> {
        self.leave(|visitor| visitor.visit_some(Typed(some)))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, of: D) -> Result<V::Value, D::Error> {
        self.leave(|visitor| visitor.visit_newtype_struct(Typed(of)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<V::Value, A::Error> {
        self.leave(|visitor| visitor.visit_seq(Typed(elements)))
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        self.leave(|visitor| visitor.visit_map(Typed(entries)))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<V::Value, A::Error> {
        self.leave(|visitor| visitor.visit_enum(Typed(variant)))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Within<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.leave(|seed| seed.deserialize(Typed(deserializer)))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Typed<A> {
    type Error = Problem;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        inner: S,
    ) -> Result<Option<S::Value>, Problem> {
        caught(|slot| self.0.next_element_seed(Within { inner, slot }))
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Typed<A> {
    type Error = Problem;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        inner: S,
    ) -> Result<Option<S::Value>, Problem> {
        caught(|slot| self.0.next_key_seed(Within { inner, slot }))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, inner: S) -> Result<S::Value, Problem> {
        caught(|slot| self.0.next_value_seed(Within { inner, slot }))
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Typed<A> {
    type Error = Problem;
    type Variant = Typed<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        inner: S,
    ) -> Result<(S::Value, Self::Variant), Problem> {
        let (name, variant) = caught(|slot| self.0.variant_seed(Within { inner, slot }))?;
        Ok((name, Typed(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Typed<A> {
    type Error = Problem;

    fn unit_variant(self) -> Result<(), Problem> {
        self.0.unit_variant().map_err(|_| Problem::Value)
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, inner: S) -> Result<S::Value, Problem> {
        caught(|slot| self.0.newtype_variant_seed(Within { inner, slot }))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, inner: V) -> Result<V::Value, Problem> {
        caught(|slot| self.0.tuple_variant(len, Within { inner, slot }))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        inner: V,
    ) -> Result<V::Value, Problem> {
        caught(|slot| self.0.struct_variant(fields, Within { inner, slot }))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::cursor::Cursor;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Outer {
        inner: Vec<Inner>,
        at: Option<Cursor>,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Inner {
        count: u64,
    }

    fn of(json: &str) -> Option<Problem> {
        Problem::of::<Outer>(json.as_bytes())
    }

    #[test]
    fn the_first_problem_is_found_whatever_comes_after_it() {
        assert_eq!(of(r#"{"inner":[{"count":1}],"at":null}"#), None);
        for end in ["", "]", "],", r#"],"at":"#, r#"],"at":{}}"#, "#"] {
            let json = format!(r#"{{"inner":[{{"count":1}},{{}}{end}"#);
            assert_eq!(of(&json), Some(Problem::Missing("count")), "{json}");
            let json = format!(r#"{{"inner":[{{"count":1,"count":2}}{end}"#);
            assert_eq!(of(&json), Some(Problem::Duplicate("count")), "{json}");
            let json = format!(r#"{{"at":"none","inner":[{end}"#);
            assert_eq!(of(&json), Some(Problem::Cursor), "{json}");
        }
        for json in [r#"{"inner":[{"count":-1}]}"#, r#"{"inner":[7]}"#, "[", "", r#"{"inner":"#] {
            assert_eq!(of(json), Some(Problem::Value), "{json}");
        }
    }
}
