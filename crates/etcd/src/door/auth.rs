//! The Auth service: users, roles, and signing in.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::Host;
use crate::auth::{AuthError, Caller, Change};
use crate::proto::authpb::permission;
use crate::proto::etcdserverpb::auth_server::Auth;
use crate::proto::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse,
    AuthRoleAddRequest, AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse,
    AuthRoleGetRequest, AuthRoleGetResponse, AuthRoleGrantPermissionRequest,
    AuthRoleGrantPermissionResponse, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, AuthStatusRequest,
    AuthStatusResponse, AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest,
    AuthUserChangePasswordResponse, AuthUserDeleteRequest, AuthUserDeleteResponse,
    AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse,
    AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse, ResponseHeader,
};
use crate::wire::{auth_status, status};

/// Bytes of a password that bcrypt looks at; etcd refuses longer ones in these words.
const LONGEST: usize = 72;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Auth for Host {
    async fn auth_enable(&self, r: Request<AuthEnableRequest>) -> Answer<AuthEnableResponse> {
        let header = self.change(r, |_| Change::Enable).await?;
        Ok(Response::new(AuthEnableResponse { header }))
    }

    async fn auth_disable(&self, r: Request<AuthDisableRequest>) -> Answer<AuthDisableResponse> {
        let header = self.change(r, |_| Change::Disable).await?;
        self.tokens.clear();
        Ok(Response::new(AuthDisableResponse { header }))
    }

    async fn auth_status(&self, _: Request<AuthStatusRequest>) -> Answer<AuthStatusResponse> {
        let auth = self.store.settled_auth().await.map_err(|e| status(&e))?;
        Ok(Response::new(AuthStatusResponse {
            header: self.header_now(),
            enabled: auth.is_enabled(),
            auth_revision: auth.revision(),
        }))
    }

    async fn authenticate(&self, r: Request<AuthenticateRequest>) -> Answer<AuthenticateResponse> {
        let AuthenticateRequest { name, password } = r.into_inner();
        loop {
            let checked = self.check_password(&name, password.clone()).await?;
            let token = self.tokens.give(&name, self.store.now())?;
            // What changed meanwhile may have been the password.
            if self.store.auth().revision() == checked {
                return Ok(Response::new(AuthenticateResponse {
                    header: self.header_now(),
                    token,
                }));
            }
            self.tokens.take_back(&token);
        }
    }

    async fn user_add(&self, r: Request<AuthUserAddRequest>) -> Answer<AuthUserAddResponse> {
        // Before the work of a hash is spent on somebody who may not ask for it.
        self.admin(&r)?;
        let asked = r.get_ref();
        let no_password = asked.options.is_some_and(|o| o.no_password);
        let password = match no_password {
            true => Bytes::new(),
            false => self.hash(asked.password.clone()).await?,
        };
        let add = |r: AuthUserAddRequest| Change::AddUser { name: r.name, password, no_password };
        let header = self.change(r, add).await?;
        Ok(Response::new(AuthUserAddResponse { header }))
    }

    async fn user_get(&self, r: Request<AuthUserGetRequest>) -> Answer<AuthUserGetResponse> {
        let (caller, r) = self.asked(r)?;
        let auth = self.store.settled_auth().await.map_err(|e| status(&e))?;
        let own = matches!(&caller, Caller::User { name, .. } if **name == *r.name);
        if !own {
            auth.admin(&caller).map_err(auth_status)?;
        }
        let roles = auth.user(&r.name).map_err(auth_status)?.roles.clone();
        Ok(Response::new(AuthUserGetResponse { header: self.header_now(), roles }))
    }

    async fn user_list(&self, r: Request<AuthUserListRequest>) -> Answer<AuthUserListResponse> {
        self.admin(&r)?;
        let auth = self.store.settled_auth().await.map_err(|e| status(&e))?;
        let users = auth.users().map(|(name, _)| name.clone()).collect();
        Ok(Response::new(AuthUserListResponse { header: self.header_now(), users }))
    }

    async fn user_delete(
        &self,
        r: Request<AuthUserDeleteRequest>,
    ) -> Answer<AuthUserDeleteResponse> {
        let name = r.get_ref().name.clone();
        let header = self.change(r, |r| Change::DeleteUser { name: r.name }).await?;
        self.tokens.forget(&name);
        Ok(Response::new(AuthUserDeleteResponse { header }))
    }

    async fn user_change_password(
        &self,
        r: Request<AuthUserChangePasswordRequest>,
    ) -> Answer<AuthUserChangePasswordResponse> {
        self.admin(&r)?;
        let asked = r.get_ref();
        let name = asked.name.clone();
        // A client may bring the hash itself.
        let password = match asked.password.is_empty() {
            false => self.hash(asked.password.clone()).await?,
            true => BASE64_STANDARD
                .decode(&asked.hashed_password)
                .map_err(|_| auth_status(AuthError::NoPassword))?
                .into(),
        };
        let change = |r: AuthUserChangePasswordRequest| Change::Password { name: r.name, password };
        let header = self.change(r, change).await?;
        self.tokens.forget(&name);
        Ok(Response::new(AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        r: Request<AuthUserGrantRoleRequest>,
    ) -> Answer<AuthUserGrantRoleResponse> {
        let grant = |r: AuthUserGrantRoleRequest| Change::GrantRole { user: r.user, role: r.role };
        let header = self.change(r, grant).await?;
        Ok(Response::new(AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        r: Request<AuthUserRevokeRoleRequest>,
    ) -> Answer<AuthUserRevokeRoleResponse> {
        let revoke =
            |r: AuthUserRevokeRoleRequest| Change::RevokeRole { user: r.name, role: r.role };
        let header = self.change(r, revoke).await?;
        Ok(Response::new(AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(&self, r: Request<AuthRoleAddRequest>) -> Answer<AuthRoleAddResponse> {
        let header = self.change(r, |r| Change::AddRole { name: r.name }).await?;
        Ok(Response::new(AuthRoleAddResponse { header }))
    }

    async fn role_get(&self, r: Request<AuthRoleGetRequest>) -> Answer<AuthRoleGetResponse> {
        let (caller, r) = self.asked(r)?;
        let auth = self.store.settled_auth().await.map_err(|e| status(&e))?;
        let held = matches!(&caller, Caller::User { name, .. }
            if auth.user(name).is_ok_and(|user| user.roles.contains(&r.role)));
        if !held {
            auth.admin(&caller).map_err(auth_status)?;
        }
        let perm = auth.role(&r.role).map_err(auth_status)?.key_permission.clone();
        Ok(Response::new(AuthRoleGetResponse { header: self.header_now(), perm }))
    }

    async fn role_list(&self, r: Request<AuthRoleListRequest>) -> Answer<AuthRoleListResponse> {
        self.admin(&r)?;
        let auth = self.store.settled_auth().await.map_err(|e| status(&e))?;
        let roles = auth.roles().map(|(name, _)| name.clone()).collect();
        Ok(Response::new(AuthRoleListResponse { header: self.header_now(), roles }))
    }

    async fn role_delete(
        &self,
        r: Request<AuthRoleDeleteRequest>,
    ) -> Answer<AuthRoleDeleteResponse> {
        let header = self.change(r, |r| Change::DeleteRole { name: r.role }).await?;
        Ok(Response::new(AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        r: Request<AuthRoleGrantPermissionRequest>,
    ) -> Answer<AuthRoleGrantPermissionResponse> {
        let kind = r.get_ref().perm.as_ref().map_or(0, |p| p.perm_type);
        if permission::Type::try_from(kind).is_err() {
            return Err(Status::invalid_argument("etcdserver: unknown type of permission"));
        }
        let grant =
            |r: AuthRoleGrantPermissionRequest| Change::Grant { role: r.name, permission: r.perm };
        let header = self.change(r, grant).await?;
        Ok(Response::new(AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        r: Request<AuthRoleRevokePermissionRequest>,
    ) -> Answer<AuthRoleRevokePermissionResponse> {
        let revoke = |r: AuthRoleRevokePermissionRequest| Change::Revoke {
            role: r.role,
            key: r.key,
            end: r.range_end,
        };
        let header = self.change(r, revoke).await?;
        Ok(Response::new(AuthRoleRevokePermissionResponse { header }))
    }
}

impl Host {
    async fn change<T>(
        &self,
        request: Request<T>,
        change: impl FnOnce(T) -> Change,
    ) -> Result<Option<ResponseHeader>, Status> {
        let (caller, request) = self.asked(request)?;
        let changed = self.store.change_auth(&caller, change(request));
        changed.await.map_err(|e| status(&e))?;
        Ok(self.header_now())
    }

    /// Whether the password is the user's; gives the revision of users at which it was.
    async fn check_password(&self, name: &str, password: String) -> Result<u64, Status> {
        let auth = self.store.settled_auth().await.map_err(|e| status(&e))?;
        if !auth.is_enabled() {
            return Err(auth_status(AuthError::NotEnabled));
        }
        let user = auth.user(name).map_err(|_| auth_status(AuthError::Failed))?;
        if user.options.is_some_and(|o| o.no_password) {
            return Err(auth_status(AuthError::NoPassword));
        }
        let hash = String::from_utf8_lossy(&user.password).into_owned();
        // It is meant to take long; threads that serve others must not wait for it.
        let fits = password.len() <= LONGEST;
        let check = move || match fits {
            true => bcrypt::verify(password, &hash),
            false => Ok(false),
        };
        let checked = tokio::task::spawn_blocking(check).await;
        match checked {
            Ok(Ok(true)) => Ok(auth.revision()),
            // What is stored may be no hash, if an administrator brought one.
            Ok(Ok(false) | Err(_)) => Err(auth_status(AuthError::Failed)),
            Err(e) => Err(Status::internal(format!("check the password: {e}"))),
        }
    }

    async fn hash(&self, password: String) -> Result<Bytes, Status> {
        if password.len() > LONGEST {
            return Err(Status::unknown("bcrypt: password length exceeds 72 bytes"));
        }
        let cost = self.users.bcrypt_cost;
        let work = move || bcrypt::hash_with_result(password, cost);
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(hash)) => Ok(hash.format_for_version(bcrypt::Version::TwoA).into()),
            Ok(Err(e)) => Err(Status::unknown(format!("bcrypt: {e}"))),
            Err(e) => Err(Status::internal(format!("hash the password: {e}"))),
        }
    }
}
