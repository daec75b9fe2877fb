//! `/openapi.json`, and `/docs`: a page that shows it. The page is ours and whole, so that no script
//! of somebody else runs where tokens are typed, and it works where there is no internet.

use std::sync::LazyLock;

use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::IntoResponse;
use bytes::Bytes;

use crate::routes::BASE;

/// The document as it is served, and as it is checked in.
static TEXT: LazyLock<Bytes> = LazyLock::new(|| {
    let document = super::document(crate::v1().described(), BASE);
    let mut text = serde_json::to_string_pretty(&document).expect("a JSON value can be written");
    text.push('\n');
    text.into()
});

/// `GET /openapi.json`
pub(crate) async fn serve() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")], TEXT.clone())
}

/// `GET /docs`
pub(crate) async fn page() -> impl IntoResponse {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                          connect-src 'self'; base-uri 'none'; form-action 'none'; \
                          frame-ancestors 'none'";
    let headers =
        [(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_SECURITY_POLICY, POLICY), REVALIDATE];
    (headers, include_str!("docs.html"))
}

/// `GET /docs/docs.js`
pub(crate) async fn script() -> impl IntoResponse {
    let headers = [(CONTENT_TYPE, "text/javascript; charset=utf-8"), REVALIDATE];
    (headers, include_str!("docs.js"))
}

/// `GET /docs/docs.css`
pub(crate) async fn style() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/css; charset=utf-8"), REVALIDATE], include_str!("docs.css"))
}

const REVALIDATE: (axum::http::HeaderName, &str) = (CACHE_CONTROL, "no-cache");

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;
    use crate::openapi::meaning::meaning;

    fn document() -> Value {
        serde_json::from_slice(&TEXT).unwrap()
    }

    /// Each operation with its path and method.
    fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
        document["paths"].as_object().unwrap().iter().flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().iter();
            methods.map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
        })
    }

    /// `UPDATE_OPENAPI=1` writes the file anew.
    #[test]
    fn the_document_is_the_one_that_is_checked_in() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
        if std::env::var_os("UPDATE_OPENAPI").is_some() {
            std::fs::write(&file, &*TEXT).unwrap();
        }
        let there = std::fs::read(&file).unwrap_or_default();
        assert!(
            there == *TEXT,
            "openapi.json differs: UPDATE_OPENAPI=1 cargo nextest run -p pve-api openapi"
        );
    }

    #[test]
    fn every_parameter_says_what_it_means() {
        let document = document();
        for (path, method, operation) in operations(&document) {
            for parameter in operation["parameters"].as_array().unwrap() {
                let name = parameter["name"].as_str().unwrap();
                assert_ne!(meaning(name), "", "{method} {path} takes {name}: add what it means");
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn follow(document: &Value, at: &Value) {
            match at {
                Value::Object(fields) => {
                    if let Some(there) = fields.get("$ref").and_then(Value::as_str) {
                        let pointer = there.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{there}");
                    }
                    fields.values().for_each(|field| follow(document, field));
                }
                Value::Array(elements) => elements.iter().for_each(|it| follow(document, it)),
                _ => {}
            }
        }
        let document = document();
        follow(&document, &document);
    }

    /// What is answered leaves nothing out, so generated clients need not ask whether it is there.
    #[test]
    fn every_field_of_an_answer_is_always_there() {
        let document = document();
        let template = &document["components"]["schemas"]["DetailView"];
        let required: Vec<_> = template["required"].as_array().unwrap().iter().collect();
        assert_eq!(required.len(), template["properties"].as_object().unwrap().len());
    }
}
