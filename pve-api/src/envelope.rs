//! The shape of every good answer.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use schema::page::{Listed, Listing};
use serde::Serialize;

/// `{"code":200,"message":"success","data":…}`
#[derive(Debug)]
pub(crate) struct Answer<T>(pub T);

/// One page of a list, and how many there are in all.
#[derive(Debug, Serialize)]
pub(crate) struct List<T> {
    pub total: i64,
    pub list: Vec<T>,
}

impl<V> List<V> {
    pub(crate) fn of<R>(rows: Listing<R>, view: impl FnMut(Listed<R>) -> V) -> Self {
        Self { total: rows.total, list: rows.list.into_iter().map(view).collect() }
    }
}

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        Json(Envelope { code: 200, message: "success", data: self.0 }).into_response()
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
