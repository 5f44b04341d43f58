//! [`open`]: the store of a URL.

use std::path::PathBuf;

use super::credentials::Credentials;
use super::file_store::FileStore;
use super::proxy::Proxy;
use super::s3::S3Store;
use super::sftp::SftpStore;
use super::url::StoreUrl;
use super::{Limits, Store};

/// A store that cannot be opened as asked. Nothing was connected to.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A bucket without credentials.
    #[error(
        "{0} needs credentials: give a file with access_key=… and secret_key=…, or set AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY"
    )]
    NoCredentials(String),
    /// A proxy for a store that is not reached over HTTP.
    #[error(
        "{0} cannot be reached through a proxy given here: for sftp, set ProxyCommand or ProxyJump in ~/.ssh/config"
    )]
    NoProxy(String),
    /// A file with certificates that cannot be used.
    #[error("cannot use the certificates in {path}: {reason}: ca= should name a PEM file", path = .path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An endpoint that makes no address together with the bucket.
    #[error("{url} makes no address ({reason}): check the bucket and endpoint=, or add style=path")]
    Endpoint {
        /// The URL.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Opens the store of a URL. Nothing is connected to before the first call.
///
/// Credentials are those of a bucket: `ssh` has its own, and files need none.
///
/// # Errors
/// When something is missing or does not fit the URL.
pub fn open(
    url: &StoreUrl,
    credentials: Option<Credentials>,
    proxy: Option<Proxy>,
) -> Result<Box<dyn Store>, OpenError> {
    match url {
        StoreUrl::File(_) | StoreUrl::Sftp(_) if proxy.is_some() => Err(OpenError::NoProxy(url.to_string())),
        StoreUrl::File(path) => Ok(Box::new(FileStore::new(path))),
        StoreUrl::Sftp(sftp) => Ok(Box::new(SftpStore::new(sftp.clone(), Limits::default()))),
        StoreUrl::S3(bucket) => {
            let credentials = credentials.ok_or_else(|| OpenError::NoCredentials(url.to_string()))?;
            Ok(Box::new(S3Store::new(bucket, &credentials, proxy.as_ref(), Limits::default())?))
        }
    }
}
