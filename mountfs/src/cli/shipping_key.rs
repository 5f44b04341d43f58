//! The key that a node seals an off-site copy with.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, bail};
use common::{OffsiteEntry, OffsiteSeal};
use offsite::connect::{key_files, new_key};
use offsite::description::{Description, SealKind};
use offsite::keys::age::Recipient;
use offsite::keys::key_file::Wrapper;
use offsite::keys::key_ring::KeyRing;
use offsite::keys::master_key::MasterKey;
use offsite::keys::node::{MAKESECRET, NodeSecret};
use offsite::keys::unlock::{Unlock, newest_key, unlock};
use offsite::store::Store;
use secrets::derive::Key;
use serde_json::json;

use super::keys::KeyArgs;
use super::read_url::node_secret;
use crate::restore::lightning_rpc::LightningRpc;

/// How long the node may take to answer. A node that starts answers late.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The secret of the node: from its `hsm_secret`, or, when that cannot be read, from the node itself.
///
/// # Errors
/// When neither has it.
pub(super) fn secret_of_node(keys: &KeyArgs, lightning_dir: &Path) -> anyhow::Result<NodeSecret> {
    let by_file = match node_secret(keys, Some(lightning_dir)) {
        Ok(Some(secret)) => return Ok(secret),
        Ok(None) => format!("there is no hsm_secret in {}", lightning_dir.display()),
        Err(error) => format!("{error:#}"),
    };
    ask_node(lightning_dir).with_context(|| {
        format!(
            "the secret of the node is needed, and {by_file}; name the file with --hsm-secret, and its passphrase with \
             --passphrase-file, or start the node"
        )
    })
}

/// Whether the secret must come from the node, which then has to answer.
pub(super) fn needs_node(keys: &KeyArgs, lightning_dir: &Path) -> bool {
    !matches!(node_secret(keys, Some(lightning_dir)), Ok(Some(_)))
}

/// Asks the node for its secret.
fn ask_node(lightning_dir: &Path) -> anyhow::Result<NodeSecret> {
    let call = |method: &str, params| {
        let rpc = LightningRpc::connect(lightning_dir).context("the node does not run")?;
        anyhow::Ok(rpc.call(method, &params, Some(TIMEOUT))?)
    };
    let secret = call("makesecret", json!({"string": MAKESECRET}))?;
    let info = call("getinfo", json!({}))?;
    let secret = from_hex(secret["secret"].as_str().unwrap_or_default()).map(Key::new);
    let node_id = from_hex(info["id"].as_str().unwrap_or_default());
    match (node_id, secret) {
        (Some(node_id), Some(secret)) => Ok(NodeSecret::new(node_id, secret)),
        _ => bail!("the node has answered something that is no secret"),
    }
}

fn from_hex<const LEN: usize>(text: &str) -> Option<[u8; LEN]> {
    let mut bytes = [0; LEN];
    if text.len() != LEN * 2 {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// The recipients of age with these names.
///
/// # Errors
/// When one is none.
pub(super) fn recipients(texts: &[String]) -> anyhow::Result<Vec<Recipient>> {
    let recipient = |text: &String| text.parse().with_context(|| format!("the recipient {text}"));
    texts.iter().map(recipient).collect()
}

/// How a copy is sealed, as `backup.lock` says.
pub(super) fn seal_of(entry: &OffsiteEntry) -> SealKind {
    match (entry.seal, entry.recipients.as_slice()) {
        (Some(OffsiteSeal::None), _) => SealKind::None,
        (None, []) => SealKind::Node,
        (None, _) => SealKind::WriteOnly,
    }
}

/// What a process keeps for a connection that is made again.
#[derive(Debug, Default)]
pub(super) struct RunKey {
    /// The key that it has made and stored for a copy that it cannot read: it does not make another one.
    made: OnceLock<MasterKey>,
    /// The secret of the node that has opened the key of the copy. The node cannot be asked while it waits for the copy.
    of_node: OnceLock<NodeSecret>,
}

impl RunKey {
    /// Whether the secret of the node is known.
    pub(super) fn has_secret(&self) -> bool {
        self.of_node.get().is_some()
    }
}

/// The keys of a process that ships to a copy.
#[derive(Debug)]
pub(super) struct ShippingKey {
    /// The key that new objects are sealed with.
    pub(super) seals: MasterKey,
    /// The keys that open the objects of the copy, as far as this node has them.
    pub(super) opens: KeyRing,
}

impl ShippingKey {
    fn alone(key: &MasterKey) -> Self {
        Self { seals: key.clone(), opens: KeyRing::from_iter([key.clone()]) }
    }
}

/// The key for a run that ships to a copy; `None` when the copy is not encrypted. A node that may only write makes a new key for each
/// process, stores it wrapped for the recipients, and forgets it at the end.
///
/// # Errors
/// When the node cannot open the copy's key, or the store refuses.
pub(super) fn key_for_shipping(
    store: &dyn Store,
    description: &Description,
    entry: &OffsiteEntry,
    (keys, lightning_dir): (&KeyArgs, &Path),
    run_key: &RunKey,
) -> anyhow::Result<Option<ShippingKey>> {
    // By what the operator asked for: a store could say that nothing is to be encrypted.
    let seal = seal_of(entry);
    if description.seal != seal {
        bail!(
            "the copy is not encrypted as backup.lock says; `backupfs offsite remove` and `add` it once more, or give another URL"
        );
    }
    match seal {
        SealKind::None => Ok(None),
        SealKind::WriteOnly => {
            if let Some(key) = run_key.made.get() {
                return Ok(Some(ShippingKey::alone(key)));
            }
            let recipients = recipients(&entry.recipients)?;
            let wrappers: Vec<_> = recipients.iter().map(Wrapper::Recipient).collect();
            let (key, file) = new_key(&wrappers)?;
            store.put_new(&file.object_name(), &file.encode())?;
            Ok(Some(ShippingKey::alone(run_key.made.get_or_init(|| key))))
        }
        SealKind::Node => {
            let files = key_files(store)?;
            let secret = match run_key.of_node.get() {
                Some(secret) => secret.clone(),
                None => secret_of_node(keys, lightning_dir)?,
            };
            let ring = unlock(&files, &Unlock::Node(secret.clone()))?;
            run_key.of_node.get_or_init(|| secret);
            let seals = newest_key(&files, &ring).context("the copy has no key that this node can open")?;
            Ok(Some(ShippingKey { seals, opens: ring }))
        }
    }
}
