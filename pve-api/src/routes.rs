//! Routes, what one may do with which token, and what they say of themselves: a route can not be made
//! without its scope and its description.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, on};
use schema::token::Scope;

use crate::Api;
use crate::openapi::{Described, Route};

/// Routes under construction.
#[derive(Debug)]
pub(crate) struct Routes {
    router: Router<Api>,
    all: Vec<Route>,
}

/// The scope that each method of each route needs.
#[derive(Clone, Debug)]
pub(crate) struct Scopes(Arc<HashMap<(String, Method), Scope>>);

impl Scopes {
    pub(crate) fn of(&self, path: &str, method: &Method) -> Option<Scope> {
        if let Some(scope) = self.0.get(&(path.to_owned(), method.clone())) {
            return Some(*scope);
        }
        // HEAD is answered by what answers GET, unless it has a route of its own.
        let get = (*method == Method::HEAD).then(|| (path.to_owned(), Method::GET))?;
        self.0.get(&get).copied()
    }
}

/// Where routes are nested.
pub(crate) const BASE: &str = "/api/v1";

/// Each takes what a token needs, the path, and what the route does, in the imperative: in snake
/// case that is the operation's id.
macro_rules! methods {
    ($($name:ident = $method:ident;)*) => {$(
        pub(crate) fn $name<H, T, A>(
            self,
            scope: Scope,
            path: &'static str,
            says: &'static str,
            handler: H,
        ) -> Self
        where
            H: Handler<T, Api> + Described<A>,
            T: 'static,
        {
            self.add(Some(scope), &Method::$method, path, says, handler)
        }
    )*};
}

impl Routes {
    pub(crate) fn new() -> Self {
        Self { router: Router::new(), all: Vec::new() }
    }

    methods! {
        get = GET;
        head = HEAD;
        post = POST;
        put = PUT;
        patch = PATCH;
        delete = DELETE;
    }

    /// What anybody may ask: it is answered without a token.
    pub(crate) fn options<H, T, A>(self, path: &'static str, says: &'static str, handler: H) -> Self
    where
        H: Handler<T, Api> + Described<A>,
        T: 'static,
    {
        self.add(None, &Method::OPTIONS, path, says, handler)
    }

    fn add<H, T, A>(
        mut self,
        scope: Option<Scope>,
        method: &'static Method,
        path: &'static str,
        says: &'static str,
        handler: H,
    ) -> Self
    where
        H: Handler<T, Api> + Described<A>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("all of ours are known to axum");
        self.router = self.router.route(path, on(filter, handler));
        self.all.push(Route { path, method, scope, says, describe: H::describe });
        self
    }

    /// What each says of itself.
    pub(crate) fn described(&self) -> &[Route] {
        &self.all
    }

    pub(crate) fn finish(self) -> (Router<Api>, Scopes) {
        let scoped = self.all.iter().filter_map(|route| {
            let scope = route.scope?;
            Some(((format!("{BASE}{}", route.path), route.method.clone()), scope))
        });
        (self.router, Scopes(Arc::new(scoped.collect())))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use schema::testing::TestDatabase;
    use schema::token::{self, NewToken};
    use tower::ServiceExt;

    use super::*;
    use crate::{Settings, router_with, v1};

    /// Every method of every path of ours, and every token: 401 without one, 403 below the scope
    /// of the route, and something else from there on. A path and method without a route is a 404
    /// or a 405 whoever asks, so nothing is served that is not in the table.
    // C03
    #[tokio::test]
    async fn every_route_answers_each_scope_as_the_table_says() {
        let database = TestDatabase::sqlite("routes").await;
        let router = router_with(database.db.clone(), Settings::default());
        let make = async |name, scope| {
            let new = NewToken { name, scope, expires_at: None, creator: None };
            token::create(&mut database.db.conn().await.unwrap(), &new).await.unwrap()
        };
        // Rows with the id 1 are what the requests are about, and some of them end it.
        make("spare", Scope::Read).await;
        let mut tokens = Vec::new();
        for scope in Scope::ALL.iter().copied() {
            tokens.push((scope, make(scope.as_str(), scope).await));
        }
        let ask = async |method: &Method, path: &str, token: Option<&str>| {
            let path = format!("{BASE}{}", path.replace("{id}", "1"));
            let mut request = Request::builder().method(method).uri(path);
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let request = request.body(Body::empty()).unwrap();
            router.clone().oneshot(request).await.unwrap().status()
        };
        let all = v1();
        let table = all.described();
        assert!(table.len() > 20);
        let paths: BTreeSet<_> = table.iter().map(|route| route.path).collect();
        let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

        for path in paths {
            for method in &methods {
                let route = table.iter().find(|it| it.path == path && it.method == method);
                let Some(route) = route else {
                    let status = ask(method, path, None).await;
                    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
                    continue;
                };
                let Some(needed) = route.scope else { continue };
                let changes = *method != Method::GET || WRITERS.contains(&path);
                assert_eq!(needed > Scope::Read, changes || ADMINS.contains(&path));
                let nobody = ask(method, path, None).await;
                assert_eq!(nobody, StatusCode::UNAUTHORIZED, "{method} {path}");
                for (scope, token) in &tokens {
                    let status = ask(method, path, Some(token.expose())).await;
                    let refused = status == StatusCode::FORBIDDEN;
                    assert_eq!(refused, *scope < needed, "{method} {path} as {scope}: {status}");
                    assert_ne!(status, StatusCode::UNAUTHORIZED, "{method} {path} as {scope}");
                }
            }
        }
    }

    /// What is read by those alone who go on with it.
    const WRITERS: [&str; 1] = ["/files/{id}"];

    /// What is read by administrators alone.
    const ADMINS: [&str; 2] = ["/audit", "/tokens"];

    #[test]
    fn every_operation_has_a_name_of_its_own() {
        let routes = v1();
        let names: BTreeSet<_> =
            routes.described().iter().map(crate::openapi::Route::operation_id).collect();
        assert_eq!(names.len(), routes.described().len(), "{names:?}");
    }
}
