//! The shape of every good answer.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use schema::page::Listing;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use crate::openapi::{Operation, Output};

/// `{"code":200,"message":"success","data":…}`
#[derive(Debug)]
pub(crate) struct Answer<T>(pub T);

/// One page of a list, and how many there are in all.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
pub(crate) struct List<T> {
    /// Null where the page goes on `after` a row.
    pub total: Option<i64>,
    pub list: Vec<T>,
}

impl<V> List<V> {
    pub(crate) fn of<R>(rows: Listing<R>, view: impl FnMut(R) -> V) -> Self {
        Self { total: rows.total, list: rows.list.into_iter().map(view).collect() }
    }
}

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        Json(Envelope { code: 200, message: "success", data: self.0 }).into_response()
    }
}

impl<T: JsonSchema> Output for Answer<T> {
    fn describe(operation: &mut Operation) {
        let data = operation.schema_of_output::<T>();
        operation.answers(&json!({
            "type": "object",
            "properties": {
                "code": {"type": "integer", "const": 200},
                "message": {"type": "string", "const": "success"},
                "data": data,
            },
            "required": ["code", "message", "data"],
        }));
    }
}

/// What answers and errors have in common.
#[derive(Serialize)]
pub(crate) struct Envelope<'a, T> {
    /// The HTTP status.
    pub code: u16,
    pub message: &'a str,
    pub data: T,
}
