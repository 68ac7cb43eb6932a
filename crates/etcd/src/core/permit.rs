//! Users and roles: their changes, and what each user may do to keys and leases.

use std::sync::Arc;

use bytes::Bytes;

use super::Core;
use super::record::Record;
use crate::auth::{Access, Auth, AuthError, Caller, Change};
use crate::error::StoreError;
use crate::kv::LeaseId;
use crate::range::KeyRange;
use crate::store::{Delete, Op, Put, Txn};

impl Core {
    /// Users and roles as they are, staged changes included.
    pub(crate) fn auth(&self) -> &Arc<Auth> {
        &self.auth
    }

    /// Changes users or roles, or whether users are asked for.
    pub(crate) fn change_auth(
        &mut self,
        caller: &Caller,
        change: Change,
    ) -> Result<(), StoreError> {
        self.auth.admin(caller)?;
        for row in self.auth.decide(change)? {
            self.stage(&Record::Auth(row.clone()));
            Arc::make_mut(&mut self.auth).apply(row);
        }
        Ok(())
    }

    /// Whether the caller may do everything that a transaction could come to.
    pub(crate) fn permit(&self, caller: &Caller, txn: &Txn) -> Result<(), AuthError> {
        if *caller == Caller::Owner || !self.auth.is_enabled() {
            return Ok(());
        }
        for compare in &txn.when {
            self.auth.may(caller, Access::Read, &compare.keys)?;
        }
        for op in txn.then.iter().chain(&txn.otherwise) {
            match op {
                Op::Range(range) => self.auth.may(caller, Access::Read, &range.keys)?,
                Op::Put(put) => self.permit_put(caller, put)?,
                Op::Delete(Delete { keys, previous }) => {
                    if *previous {
                        self.auth.may(caller, Access::Read, keys)?;
                    }
                    self.auth.may(caller, Access::Write, keys)?;
                }
                Op::Txn(txn) => self.permit(caller, txn)?,
            }
        }
        Ok(())
    }

    fn permit_put(&self, caller: &Caller, put: &Put) -> Result<(), AuthError> {
        let key = KeyRange::Key(put.key.clone());
        self.auth.may(caller, Access::Write, &key)?;
        // Whoever attaches a key to a lease must be able to revoke it.
        if let Some(lease) = put.lease {
            self.permit_lease(caller, Access::Write, lease)?;
        }
        if put.previous {
            self.auth.may(caller, Access::Read, &key)?;
        }
        Ok(())
    }

    /// Whether the caller may do so to every key of a lease.
    pub(crate) fn permit_lease(
        &self,
        caller: &Caller,
        access: Access,
        id: LeaseId,
    ) -> Result<(), AuthError> {
        self.auth.known(caller)?;
        if self.auth.admin(caller).is_ok() {
            return Ok(());
        }
        let held = self.leases.get(id);
        for key in held.iter().flat_map(|held| &held.keys) {
            let key = KeyRange::Key(Bytes::copy_from_slice(key));
            self.auth.may(caller, access, &key)?;
        }
        Ok(())
    }
}
