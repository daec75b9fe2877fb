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

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use schema::testing::TestDatabase;
    use schema::token::{self, NewToken};
    use tower::ServiceExt;

    use super::*;
    use crate::{Settings, router_with, v1};

    // C03
    #[tokio::test]
    async fn no_route_is_answered_without_a_token_and_none_that_changes_with_a_reader() {
        let database = TestDatabase::sqlite("routes").await;
        let router = router_with(database.db.clone(), Settings::default());
        let new = NewToken { name: "r", scope: Scope::Read, expires_at: None, creator: None };
        let reader = token::create(&mut database.db.conn().await.unwrap(), &new).await.unwrap();
        let ask = async |method: &Method, path: &str, token: Option<&str>| {
            let path = path.replace("{id}", "1");
            let mut request = Request::builder().method(method).uri(path);
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let request = request.body(Body::empty()).unwrap();
            router.clone().oneshot(request).await.unwrap().status()
        };
        let (_, scopes) = v1().finish();
        assert!(scopes.all().count() > 20);

        for (path, method, scope) in scopes.all() {
            let nobody = ask(method, path, None).await;
            assert_eq!(nobody, StatusCode::UNAUTHORIZED, "{method} {path}");
            assert_eq!(scope > Scope::Read, *method != Method::GET, "{method} {path}");
            let as_reader = ask(method, path, Some(reader.expose())).await;
            assert_eq!(as_reader == StatusCode::FORBIDDEN, scope > Scope::Read, "{method} {path}");
        }
    }
}
