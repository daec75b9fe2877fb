//! Puts the document together.

use axum::http::Method;
use schema::token::Scope;
use serde_json::{Map, Value, json};

use super::operation::{Operation, Schemas};

/// What a route says of itself, and how its handler tells the rest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub path: &'static str,
    pub method: &'static Method,
    /// None: anybody.
    pub scope: Option<Scope>,
    /// As in `List guests`; in snake case it is the operation's id.
    pub says: &'static str,
    pub describe: fn(&mut Operation),
}

impl Route {
    /// The name that generated clients give the operation.
    pub(crate) fn operation_id(&self) -> String {
        let words: Vec<_> = self
            .says
            .split(|letter: char| !letter.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_ascii_lowercase)
            .collect();
        words.join("_")
    }

    /// The first part of its path.
    fn tag(&self) -> &'static str {
        self.path.split('/').find(|part| !part.is_empty()).unwrap_or_default()
    }
}

/// The document of these routes, which are below `base`.
pub(crate) fn document(routes: &[Route], base: &str) -> Value {
    let examples: Value =
        serde_json::from_str(include_str!("examples.json")).expect("the examples are JSON");
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for route in routes {
        let mut operation = Operation::new(schemas);
        (route.describe)(&mut operation);
        if *route.method == Method::POST {
            operation.repeat_key();
        }
        let path = paths.entry(format!("{base}{}", route.path)).or_insert_with(|| json!({}));
        let example = &examples[route.operation_id()];
        path[route.method.as_str().to_ascii_lowercase()] = told(route, &operation, example);
        schemas = operation.schemas;
    }
    let mut definitions = schemas.input.take_definitions(true);
    definitions.extend(schemas.output.take_definitions(true));
    definitions.insert("Error".to_owned(), error_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "pve-api",
            "description": DESCRIPTION,
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "responses": responses(),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token that `pve-api token create` or `POST /api/v1/tokens` \
                                    made. Its scope is `read`, `write` (and read) or `admin` \
                                    (and write).",
                },
            },
        },
    })
}

const DESCRIPTION: &str = "\
What pve-operator mirrors from Proxmox VE clusters, and templates made from uploaded images. Every \
answer is `{\"code\", \"message\", \"data\"}`, errors too: their `data` has `reason`, one word for \
programs, and `field`, the parameter that is meant. Nothing is left out of an answer: what is absent \
is `null`, and a list without elements is `[]`. Times are RFC 3339, UTC.";

fn told(route: &Route, operation: &Operation, example: &Value) -> Value {
    let mut responses = operation.answers.clone();
    for (status, answer) in &mut responses {
        let of_example = example["status"].as_u64().map(|status| status.to_string());
        if let Some(content) = answer.pointer_mut("/content/application~1json")
            && of_example.as_ref() == Some(status)
        {
            content["example"] = example["answer"].clone();
        }
    }
    let changes = !matches!(*route.method, Method::GET | Method::HEAD | Method::OPTIONS);
    let mut refusals = operation.refusals.clone();
    refusals.extend([400, 429, 503]);
    if route.scope.is_some() {
        refusals.extend([401, 403]);
    }
    if changes {
        refusals.extend([409, 422]);
    }
    for status in refusals {
        let there = format!("#/components/responses/{status}");
        responses.entry(status.to_string()).or_insert_with(|| json!({"$ref": there}));
    }
    let mut told = json!({
        "operationId": route.operation_id(),
        "summary": route.says,
        "tags": [route.tag()],
        "parameters": operation.parameters,
        "responses": responses,
        "security": match route.scope {
            Some(scope) => json!([{"token": [scope.as_str()]}]),
            None => json!([]),
        },
    });
    if let Some(scope) = route.scope {
        told["description"] = match &operation.description {
            Some(text) => format!("{text}\n\nNeeds the scope `{scope}`."),
            None => format!("Needs the scope `{scope}`."),
        }
        .into();
    }
    if let Some(body) = &operation.body {
        told["requestBody"] = body.clone();
        if let (Some(content), false) =
            (told.pointer_mut("/requestBody/content/application~1json"), example["body"].is_null())
        {
            content["example"] = example["body"].clone();
        }
    }
    told
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "description": "Why a request was not answered, and what to do.",
        "properties": {
            "code": {"type": "integer", "description": "The HTTP status."},
            "message": {"type": "string"},
            "data": {
                "type": "object",
                "properties": {
                    "reason": {"type": "string", "description": "One word for programs."},
                    "field": {
                        "type": ["string", "null"],
                        "description": "The parameter that is meant, if it is one.",
                    },
                },
                "required": ["reason", "field"],
            },
        },
        "required": ["code", "message", "data"],
    })
}

/// The errors, each described once.
fn responses() -> Map<String, Value> {
    const ERRORS: [(u16, &str); 16] = [
        (400, "Malformed: the message says what to write instead."),
        (401, "No token, or one that is not valid."),
        (403, "The token's scope does not reach this far."),
        (404, "There is no such thing."),
        (406, "It can not be answered in a form that the client accepts."),
        (408, "The body stopped coming."),
        (409, "Something stands against it: its state, or another of that name."),
        (410, "It was there, and is no more."),
        (412, "A precondition does not hold."),
        (413, "The body is too large."),
        (415, "The body, or the image in it, is of a kind that is not taken."),
        (422, "Well-formed and impossible: the message names what, and why."),
        (423, "Somebody else is at it."),
        (429, "Too much at once: try again after `Retry-After` seconds."),
        (460, "The checksum is not that of the bytes that came."),
        (503, "The database or the image store is away: try again after `Retry-After` seconds."),
    ];
    let retry_after = json!({
        "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}},
    });
    let one = |(status, description): (u16, &str)| {
        let schema = json!({"$ref": "#/components/schemas/Error"});
        let mut response = json!({
            "description": description,
            "content": {"application/json": {"schema": schema}},
        });
        if matches!(status, 429 | 503) {
            response["headers"] = retry_after.clone();
        }
        (status.to_string(), response)
    };
    ERRORS.into_iter().map(one).collect()
}
