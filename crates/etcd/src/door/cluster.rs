//! The Cluster service of a cluster with one member.

use tonic::{Request, Response, Status};

use super::Host;
use crate::proto::etcdserverpb::cluster_server::Cluster;
use crate::proto::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};

#[tonic::async_trait]
impl Cluster for Host {
    async fn member_add(
        &self,
        r: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        self.admin(&r)?;
        Err(alone("member add"))
    }

    async fn member_remove(
        &self,
        r: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        self.admin(&r)?;
        Err(alone("member remove"))
    }

    async fn member_update(
        &self,
        r: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        self.admin(&r)?;
        Err(alone("member update"))
    }

    async fn member_list(
        &self,
        r: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        self.known(&r)?;
        let member = Member {
            id: self.member_id,
            name: self.member.name.clone(),
            peer_ur_ls: self.member.peer_urls.clone(),
            client_ur_ls: self.member.client_urls.clone(),
            is_learner: false,
        };
        let members = vec![member];
        Ok(Response::new(MemberListResponse { header: self.header_now(), members }))
    }

    async fn member_promote(
        &self,
        r: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        self.admin(&r)?;
        Err(alone("member promote"))
    }
}

/// Refuses what needs a second member.
pub(super) fn alone(what: &str) -> Status {
    Status::unimplemented(format!(
        "wharf etcd is one member and does not do {what}; for more members restore a snapshot into an etcd cluster"
    ))
}
