//! Thin HTTP API over the mirror's tables; never talks to PVE.

/// The routes.
pub fn router(_: schema::Db) -> axum::Router {
    axum::Router::new()
}
