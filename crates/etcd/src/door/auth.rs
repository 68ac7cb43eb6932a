//! The Auth service: there are no users. Clients are told apart by their certificates.

use tonic::{Request, Response, Status};

use super::Host;
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
    AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse,
};

/// The service, with the methods of the list refused by name. The whole block comes from the macro because
/// the attribute on it must see every method.
macro_rules! service {
    ($($method:ident($request:ty) -> $response:ty, $what:literal;)*) => {
        #[tonic::async_trait]
        impl Auth for Host {
            async fn auth_status(
                &self,
                _: Request<AuthStatusRequest>,
            ) -> Result<Response<AuthStatusResponse>, Status> {
                let header = self.header_now();
                Ok(Response::new(AuthStatusResponse { header, enabled: false, auth_revision: 1 }))
            }

            async fn auth_disable(
                &self,
                _: Request<AuthDisableRequest>,
            ) -> Result<Response<AuthDisableResponse>, Status> {
                // It is disabled.
                Ok(Response::new(AuthDisableResponse { header: self.header_now() }))
            }

            async fn authenticate(
                &self,
                _: Request<AuthenticateRequest>,
            ) -> Result<Response<AuthenticateResponse>, Status> {
                // Clients that were given a name go on without it when they read this text.
                Err(Status::failed_precondition("etcdserver: authentication is not enabled"))
            }

            $(
                async fn $method(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                    Err(Status::unimplemented(concat!(
                        "wharf etcd has no users or roles and does not do ", $what,
                        "; require client certificates with --client-cert-auth instead"
                    )))
                }
            )*
        }
    };
}

service! {
    auth_enable(AuthEnableRequest) -> AuthEnableResponse, "auth enable";
    user_add(AuthUserAddRequest) -> AuthUserAddResponse, "user add";
    user_get(AuthUserGetRequest) -> AuthUserGetResponse, "user get";
    user_list(AuthUserListRequest) -> AuthUserListResponse, "user list";
    user_delete(AuthUserDeleteRequest) -> AuthUserDeleteResponse, "user delete";
    user_change_password(AuthUserChangePasswordRequest) -> AuthUserChangePasswordResponse,
        "user passwd";
    user_grant_role(AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse, "user grant-role";
    user_revoke_role(AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse,
        "user revoke-role";
    role_add(AuthRoleAddRequest) -> AuthRoleAddResponse, "role add";
    role_get(AuthRoleGetRequest) -> AuthRoleGetResponse, "role get";
    role_list(AuthRoleListRequest) -> AuthRoleListResponse, "role list";
    role_delete(AuthRoleDeleteRequest) -> AuthRoleDeleteResponse, "role delete";
    role_grant_permission(AuthRoleGrantPermissionRequest) -> AuthRoleGrantPermissionResponse,
        "role grant-permission";
    role_revoke_permission(AuthRoleRevokePermissionRequest) -> AuthRoleRevokePermissionResponse,
        "role revoke-permission";
}
