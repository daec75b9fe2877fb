//! The OpenAPI document: what each route takes and answers, told by the types of its handler.
//!
//! ```text
//! handler's signature --Input, Output--> Operation --+
//! route: path, method, scope, what it says ----------+--> document --> /openapi.json, /docs
//! examples.json: answers that tests have seen -------+
//! ```
//!
//! A handler takes only what tells of itself ([`Input`]) and answers only what does ([`Output`]),
//! so nothing can be served that is not described. The same document is checked in as
//! `pve-api/openapi.json`.

mod document;
mod meaning;
mod operation;
mod page;

pub(crate) use document::{Route, document};
pub(crate) use operation::{Described, Input, Operation, Output};
pub(crate) use page::{page, script, serve, style};
