//! JSON values, as metadata and details have them.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;
use vfs_sync_ffi::Error;

use crate::Result;

/// A JSON value. Lists and objects are JSON text, for the application's own JSON library.
#[derive(Debug, Clone, PartialEq, Deserialize, uniffi::Enum)]
#[serde(from = "Value")]
pub enum JsonValue {
    /// The value `null`; as metadata it removes the key.
    Null,
    /// A truth value.
    Bool(bool),
    /// A number without a fraction that 64 bits hold.
    Int(i64),
    /// Any other number.
    Double(f64),
    /// A text.
    Text(String),
    /// The JSON text of a list or an object.
    Nested(String),
}

impl From<Value> for JsonValue {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(value), _) => Self::Int(value),
                (None, Some(value)) => Self::Double(value),
                (None, None) => Self::Text(number.to_string()),
            },
            Value::String(value) => Self::Text(value),
            Value::Array(_) | Value::Object(_) => Self::Nested(value.to_string()),
        }
    }
}

/// Returns values as JSON; what JSON cannot hold is refused by its name.
pub(crate) fn object(values: HashMap<String, JsonValue>) -> Result<Value> {
    let value = |(key, json): (String, JsonValue)| {
        let wrong = |what: String| Error::invalid(format!("the value of `{key}` {what}"));
        let value = match json {
            JsonValue::Null => Value::Null,
            JsonValue::Bool(value) => value.into(),
            JsonValue::Int(value) => value.into(),
            JsonValue::Double(value) if value.is_finite() => value.into(),
            JsonValue::Double(value) => {
                return Err(wrong(format!("is {value}, which JSON has not")));
            }
            JsonValue::Text(value) => value.into(),
            JsonValue::Nested(text) => serde_json::from_str(&text)
                .map_err(|reason| wrong(format!("is no JSON: {reason}")))?,
        };
        Ok((key, value))
    };
    Ok(Value::Object(values.into_iter().map(value).collect::<Result<_, Error>>()?))
}

/// Returns the fields of an object.
pub(crate) fn fields(object: serde_json::Map<String, Value>) -> HashMap<String, JsonValue> {
    object.into_iter().map(|(key, value)| (key, value.into())).collect()
}
