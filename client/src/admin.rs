//! The operator's objects: queues, shares, users, time-outs, settings.

use crate::client::{Client, admin};
use crate::error::{Error, Result};
use moso_proto::v1::{AuditList, AuditRequest, Object, ObjectKey, PutObjectRequest};
use serde::Serialize;

impl Client {
    /// Creates or changes an object; kinds and their types are in [`proto::object`](crate::proto::object).
    /// `expected_version`: 0 when it must not exist, the version that was read when it must not have changed since,
    /// `None` to write over anything.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::VersionMismatch`](crate::Code::VersionMismatch) when the expectation fails. A
    /// repeat after a lost answer may fail so although the first try took effect: read the object again.
    pub async fn put_object(
        &self,
        kind: &str,
        name: &str,
        object: &impl Serialize,
        expected_version: Option<u64>,
    ) -> Result<Object> {
        let json = serde_json::to_string(object)
            .map_err(|error| Error::invalid(format!("the {kind} is not JSON: {error}")))?;
        let request = PutObjectRequest {
            kind: kind.into(),
            name: name.into(),
            json,
            expected_version,
            author: self.options().author.clone(),
        };
        self.call(None, request, |node, call| async move { admin(&node).put_object(call).await }).await
    }

    /// Reads an object.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::NotFound`](crate::Code::NotFound) when there is none.
    pub async fn get_object(&self, kind: &str, name: &str) -> Result<Object> {
        self.call(None, key(kind, name), |node, call| async move { admin(&node).get_object(call).await }).await
    }

    /// All objects of a kind, by name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_objects(&self, kind: &str) -> Result<Vec<Object>> {
        let list =
            self.call(None, key(kind, ""), |node, call| async move { admin(&node).list_objects(call).await }).await?;
        Ok(list.objects)
    }

    /// Deletes an object, `expected_version` as of [`put_object`](Self::put_object).
    ///
    /// # Errors
    /// As [`put_object`](Self::put_object), and [`Code::NotFound`](crate::Code::NotFound) when there is none.
    pub async fn delete_object(&self, kind: &str, name: &str, expected_version: Option<u64>) -> Result<Object> {
        let request = PutObjectRequest {
            kind: kind.into(),
            name: name.into(),
            json: String::new(),
            expected_version,
            author: self.options().author.clone(),
        };
        self.call(None, request, |node, call| async move { admin(&node).delete_object(call).await }).await
    }

    /// The versions of an object that the cluster still holds, newest first.
    ///
    /// # Errors
    /// As [`get_object`](Self::get_object).
    pub async fn object_history(&self, kind: &str, name: &str) -> Result<Vec<Object>> {
        let list =
            self.call(None, key(kind, name), |node, call| async move { admin(&node).history(call).await }).await?;
        Ok(list.objects)
    }

    /// Who changed or tried what, newest first; for operators.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::Forbidden`](crate::Code::Forbidden) for others.
    pub async fn audit(&self, request: AuditRequest) -> Result<AuditList> {
        self.call(None, request, |node, call| async move { admin(&node).audit(call).await }).await
    }
}

fn key(kind: &str, name: &str) -> ObjectKey {
    ObjectKey { kind: kind.into(), name: name.into() }
}
