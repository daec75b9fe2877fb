//! A field of a `PATCH`: left out it keeps what there is, `null` clears it, a value is set.

use schema::user_change::Change;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};

use crate::error::ApiError;

/// Give it `#[serde(default)]`: what is left out is kept.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Field<T>(Change<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Option::deserialize(deserializer)?.map_or(Change::Clear, Change::Set)))
    }
}

impl<T: JsonSchema> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Field_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Option::<T>::json_schema(generator)
    }
}

impl<T> Field<T> {
    /// The change, if its value passes.
    pub(crate) fn checked<U>(
        self,
        check: impl FnOnce(T) -> Result<U, ApiError>,
    ) -> Result<Change<U>, ApiError> {
        Ok(match self.0 {
            Change::Keep => Change::Keep,
            Change::Clear => Change::Clear,
            Change::Set(value) => Change::Set(check(value)?),
        })
    }

    /// Of a column that always has a value.
    pub(crate) fn never_null(self, field: &'static str) -> Result<Option<T>, ApiError> {
        match self.0 {
            Change::Keep => Ok(None),
            Change::Set(value) => Ok(Some(value)),
            Change::Clear => {
                let message = format!("{field} is null; give a value or leave {field} out");
                Err(ApiError::invalid(field, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Patch {
        #[serde(default)]
        appid: Field<String>,
    }

    #[test]
    fn left_out_null_and_a_value_are_three_things() {
        let appid = |json| {
            let patch: Patch = serde_json::from_str(json).unwrap();
            patch.appid.checked(Ok).unwrap()
        };

        assert_eq!(appid("{}"), Change::Keep);
        assert_eq!(appid(r#"{"appid":null}"#), Change::Clear);
        assert_eq!(appid(r#"{"appid":"shop"}"#), Change::Set("shop".to_owned()));
        assert!(Field::<bool>(Change::Clear).never_null("is_schedulable").is_err());
    }
}
