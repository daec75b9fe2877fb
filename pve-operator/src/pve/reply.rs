//! The envelope around every answer: `{"data": …}`.

use std::error::Error;

use serde::{
    Deserialize,
    de::{DeserializeOwned, Error as _},
};
use serde_json::Value;

use super::PveError;

/// A list of which every element that could be read is there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listed<T> {
    pub rows: Vec<T>,
    /// How many elements could not be read. Unless it is 0, absence from `rows` proves nothing.
    pub skipped: usize,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), skipped: 0 }
    }
}

#[derive(Deserialize)]
struct Envelope {
    data: Value,
    #[serde(default)]
    total: Value,
}

/// Reads `data` as `T`.
pub(crate) fn one<T: DeserializeOwned>(request: &str, body: &[u8]) -> Result<T, PveError> {
    let envelope: Envelope = read(request, body)?;
    serde_json::from_value(envelope.data).map_err(|error| decode_error(request, error.into()))
}

/// Reads `data` as a list, and leaves out what is not a `T`.
pub(crate) fn list<T: DeserializeOwned>(request: &str, body: &[u8]) -> Result<Listed<T>, PveError> {
    let envelope: Envelope = read(request, body)?;
    let Value::Array(elements) = envelope.data else {
        let error = serde_json::Error::custom("data is not a list");
        return Err(decode_error(request, error.into()));
    };
    Ok(each(elements))
}

/// Reads `data` as a list that may be `null` instead, and `total` beside it.
pub(crate) fn list_or_null<T: DeserializeOwned>(
    request: &str,
    body: &[u8],
) -> Result<(Option<Listed<T>>, Option<u64>), PveError> {
    let envelope: Envelope = read(request, body)?;
    let total = envelope.total.as_u64();
    match envelope.data {
        Value::Null => Ok((None, total)),
        Value::Array(elements) => Ok((Some(each(elements)), total)),
        _ => Err(decode_error(request, serde_json::Error::custom("data is not a list").into())),
    }
}

/// Reads the elements that are a `T`.
pub(crate) fn each<T: DeserializeOwned>(elements: Vec<Value>) -> Listed<T> {
    let mut listed = Listed { rows: Vec::with_capacity(elements.len()), skipped: 0 };
    for element in elements {
        match serde_json::from_value(element) {
            Ok(row) => listed.rows.push(row),
            Err(_) => listed.skipped += 1,
        }
    }
    listed
}

fn read<'a, T: Deserialize<'a>>(request: &str, body: &'a [u8]) -> Result<T, PveError> {
    serde_json::from_slice(body).map_err(|error| decode_error(request, error.into()))
}

pub(crate) fn decode_error(request: &str, source: Box<dyn Error + Send + Sync>) -> PveError {
    PveError::Decode { request: request.to_owned(), source: source.into() }
}
