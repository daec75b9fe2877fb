//! Tokens and privileges. Methods without a token's id mean the first token.

use std::sync::Arc;

use super::{Sim, secret_from};
use crate::world::Token;

impl Sim {
    /// Adds a token, or replaces the one of that id.
    pub fn put_token(&self, token: Token) {
        self.edit(|world| world.tokens.insert(token.id.clone(), Arc::new(token)));
    }

    /// Gives the first token a new secret and returns it; the old one is a 401 at once.
    pub fn rotate_token(&self) -> String {
        let fresh = self.edit(|world| {
            world.serial += 1;
            secret_from(self.shared.config.seed, world.serial)
        });
        self.change_token(&self.token_id, |token| token.secret.clone_from(&fresh));
        fresh
    }

    /// Revokes the first token: 401 from now on.
    pub fn revoke_token(&self) {
        self.change_token(&self.token_id, |token| token.revoked = true);
    }

    /// Takes back [`Sim::revoke_token`].
    pub fn restore_token(&self) {
        self.change_token(&self.token_id, |token| token.revoked = false);
    }

    /// Grants privileges (`VM.Audit`, …) on a path and below.
    pub fn grant(&self, path: &str, privileges: &[&str]) {
        self.change_token(&self.token_id, |token| token.grant(path, privileges));
    }

    /// Takes privileges away on a path and everywhere below.
    pub fn withdraw(&self, path: &str, privileges: &[&str]) {
        self.change_token(&self.token_id, |token| token.withdraw(path, privileges));
    }

    /// Changes a token's rights, by id.
    ///
    /// # Panics
    ///
    /// If there is no such token.
    pub fn change_token(&self, id: &str, change: impl FnOnce(&mut Token)) {
        self.edit(|world| {
            let token =
                world.tokens.get_mut(id).unwrap_or_else(|| panic!("there is no token {id}"));
            change(Arc::make_mut(token));
        });
    }
}
