//! The reason why JSON is not of a type's form, as a value instead of serde's sentence.
//!
//! An error that names its field for programs does so in the alternate form (`{:#}`) of its
//! message: it is all of an error that serde passes on.

use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer, StringDeserializer};
use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde_json::Value;

use crate::cursor::InvalidCursor;

/// The first problem of a malformed object.
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
    /// A text is no cursor.
    #[error("{InvalidCursor}")]
    Cursor,
    /// The value at the path of the error is wrong.
    #[error("a value is malformed")]
    Value,
}

impl Problem {
    /// Finds the problem that keeps `json` from being a `T`, by a second, slower parse. `None` if it
    /// is a `T`, or no JSON.
    #[must_use]
    pub fn of<T: DeserializeOwned>(json: &[u8]) -> Option<Self> {
        let mut source = serde_json::Deserializer::from_slice(json);
        T::deserialize(Tree::deserialize(&mut source).ok()?).err()
    }

    /// The field of the object at the error's path that the problem is about.
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

/// A JSON value that keeps fields that an object has more than once.
enum Tree {
    Leaf(Value),
    Array(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Null))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut elements: A) -> Result<Tree, A::Error> {
        let mut array = Vec::new();
        while let Some(element) = elements.next_element()? {
            array.push(element);
        }
        Ok(Tree::Array(array))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut object = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            object.push(entry);
        }
        Ok(Tree::Object(object))
    }
}

impl<'de> Deserializer<'de> for Tree {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self {
            Self::Leaf(Value::String(text)) => visitor.visit_string(text),
            Self::Leaf(leaf) => leaf.deserialize_any(visitor).map_err(|_| Problem::Value),
            Self::Array(array) => SeqDeserializer::new(array.into_iter()).deserialize_any(visitor),
            Self::Object(object) => {
                MapDeserializer::new(object.into_iter()).deserialize_any(visitor)
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self {
            Self::Leaf(Value::Null) => visitor.visit_none(),
            some => visitor.visit_some(some),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match self {
            Self::Leaf(Value::String(text)) => {
                let text: StringDeserializer<Problem> = text.into_deserializer();
                text.deserialize_enum(name, variants, visitor)
            }
            // The protocol has no variant with fields.
            _ => Err(Problem::Value),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl IntoDeserializer<'_, Problem> for Tree {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}
