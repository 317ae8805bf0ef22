//! Helm's release records: packed into a Secret.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

/// The prefix of such Secrets' names.
pub(super) const PREFIX: &str = "sh.helm.release.v1.";

/// The record of a release with this name and these manifests.
pub(super) fn secret(namespace: &str, name: &str, manifests: &[Value]) -> Value {
    // Helm writes YAML; JSON is YAML too.
    let manifest: String = manifests.iter().map(|manifest| format!("---\n# Source: demo\n{manifest}\n")).collect();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let text = json!({"name": name, "namespace": namespace, "manifest": manifest}).to_string();
    // Writing to memory does not fail.
    let packed = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()).unwrap_or_default();
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1", "metadata": {"name": name, "namespace": namespace},
        "data": {"release": BASE64.encode(BASE64.encode(packed))},
    })
}
