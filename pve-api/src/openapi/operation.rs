//! One operation while its description is put together.

use std::collections::BTreeSet;
use std::future::Future;

use axum::extract::State;
use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::ReplaceBoolSchemas;
use serde_json::{Map, Value, json};

use super::meaning::meaning;
use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;

/// Something that a handler takes from a request.
pub(crate) trait Input {
    fn describe(operation: &mut Operation);
}

/// What a handler answers when all is well.
pub(crate) trait Output {
    fn describe(operation: &mut Operation);
}

/// A handler of which all inputs and the output tell of themselves. `A` is the tuple of inputs, and
/// is found by the compiler.
pub(crate) trait Described<A> {
    fn describe(operation: &mut Operation);
}

macro_rules! described {
    ($($input:ident),+) => {
        impl<F, Answering, O, $($input),+> Described<($($input,)+)> for F
        where
            F: Fn($($input),+) -> Answering,
            Answering: Future<Output = Result<O, ApiError>>,
            O: Output,
            $($input: Input,)+
        {
            fn describe(operation: &mut Operation) {
                $($input::describe(operation);)+
                O::describe(operation);
            }
        }
    };
}
described!(A);
described!(A, B);
described!(A, B, C);
described!(A, B, C, D);
described!(A, B, C, D, E);
described!(A, B, C, D, E, G);

impl Input for State<Api> {
    fn describe(_: &mut Operation) {}
}

impl Input for Caller {
    fn describe(_: &mut Operation) {}
}

/// The schemas that operations share.
pub(super) struct Schemas {
    /// What is read may leave out what may be null; what is written leaves out nothing.
    pub(super) input: SchemaGenerator,
    pub(super) output: SchemaGenerator,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let mut bools = ReplaceBoolSchemas::default();
        bools.skip_additional_properties = true;
        let settings = || {
            SchemaSettings::draft2020_12()
                .with(|settings| {
                    settings.definitions_path = "/components/schemas".into();
                    settings.meta_schema = None;
                })
                // Generators of clients do not know that `true` is a schema.
                .with_transform(bools.clone())
        };
        Self {
            input: settings().for_deserialize().into_generator(),
            output: settings().for_serialize().into_generator(),
        }
    }
}

/// What is known of one operation.
pub(crate) struct Operation {
    pub(super) schemas: Schemas,
    pub(super) parameters: Vec<Value>,
    pub(super) body: Option<Value>,
    pub(super) answers: Map<String, Value>,
    /// Statuses of the errors that it may answer.
    pub(super) refusals: BTreeSet<u16>,
    /// What its one line can not say.
    pub(super) description: Option<String>,
}

impl Operation {
    pub(super) fn new(schemas: Schemas) -> Self {
        Self {
            schemas,
            parameters: Vec::new(),
            body: None,
            answers: Map::new(),
            refusals: BTreeSet::new(),
            description: None,
        }
    }

    pub(crate) fn schema_of_input<T: JsonSchema>(&mut self) -> Value {
        self.schemas.input.subschema_for::<T>().to_value()
    }

    pub(crate) fn schema_of_output<T: JsonSchema>(&mut self) -> Value {
        self.schemas.output.subschema_for::<T>().to_value()
    }

    pub(crate) fn query_parameter(&mut self, name: &str, schema: &Value) {
        self.parameter("query", name, schema, false);
    }

    pub(crate) fn path_parameter(&mut self, name: &str, schema: &Value) {
        self.parameter("path", name, schema, true);
    }

    pub(crate) fn header(&mut self, name: &str, schema: &Value, required: bool) {
        self.parameter("header", name, schema, required);
    }

    /// What every POST takes, whatever its handler does: see [`crate::idempotency`].
    pub(super) fn repeat_key(&mut self) {
        let schema = json!({"type": "string", "pattern": "^[!-~]{1,255}$"});
        self.header("Idempotency-Key", &schema, false);
    }

    fn parameter(&mut self, place: &str, name: &str, schema: &Value, required: bool) {
        self.parameters.push(json!({
            "name": name, "in": place, "required": required, "schema": schema,
            "description": meaning(name),
        }));
    }

    /// What the request carries.
    pub(crate) fn body(&mut self, media_type: &str, schema: &Value) {
        self.body = Some(json!({"required": true, "content": {media_type: {"schema": schema}}}));
    }

    /// What it answers when all is well, as JSON.
    pub(crate) fn answers(&mut self, schema: &Value) {
        let content = json!({"application/json": {"schema": schema}});
        self.answers_with(200, "What was asked for.", json!({"content": content}));
    }

    /// An answer of another kind: `rest` has `content` or `headers`, or is empty.
    pub(crate) fn answers_with(&mut self, status: u16, description: &str, mut rest: Value) {
        rest["description"] = description.into();
        self.answers.insert(status.to_string(), rest);
    }

    /// That this error is possible.
    pub(crate) fn refuses(&mut self, status: u16) {
        self.refusals.insert(status);
    }

    /// What its one line can not say.
    pub(crate) fn explain(&mut self, text: impl Into<String>) {
        self.description = Some(text.into());
    }
}
