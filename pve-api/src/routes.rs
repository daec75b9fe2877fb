//! Routes and what one may do with which token: a route can not be made without its scope.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{delete, get, post};
use schema::token::Scope;

use crate::Api;

/// Routes under construction.
#[derive(Debug)]
pub(crate) struct Routes {
    router: Router<Api>,
    scopes: HashMap<(String, Method), Scope>,
}

/// The scope that each method of each route needs.
#[derive(Clone, Debug)]
pub(crate) struct Scopes(Arc<HashMap<(String, Method), Scope>>);

impl Scopes {
    pub(crate) fn of(&self, path: &str, method: &Method) -> Option<Scope> {
        // HEAD is answered by what answers GET.
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.0.get(&(path.to_owned(), method.clone())).copied()
    }

    #[cfg(test)]
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &Method, Scope)> {
        self.0.iter().map(|((path, method), scope)| (path.as_str(), method, *scope))
    }
}

/// Where routes are nested.
pub(crate) const BASE: &str = "/api/v1";

impl Routes {
    pub(crate) fn new() -> Self {
        Self { router: Router::new(), scopes: HashMap::new() }
    }

    pub(crate) fn get<H, T>(mut self, scope: Scope, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        self.router = self.router.route(path, get(handler));
        self.needs(scope, path, Method::GET)
    }

    pub(crate) fn post<H, T>(mut self, scope: Scope, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        self.router = self.router.route(path, post(handler));
        self.needs(scope, path, Method::POST)
    }

    pub(crate) fn delete<H, T>(mut self, scope: Scope, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        self.router = self.router.route(path, delete(handler));
        self.needs(scope, path, Method::DELETE)
    }

    fn needs(mut self, scope: Scope, path: &str, method: Method) -> Self {
        self.scopes.insert((format!("{BASE}{path}"), method), scope);
        self
    }

    pub(crate) fn finish(self) -> (Router<Api>, Scopes) {
        (self.router, Scopes(Arc::new(self.scopes)))
    }
}
