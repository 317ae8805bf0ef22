//! The records in which Helm keeps what it installed: packed into a Secret.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

/// How the names of such Secrets begin.
pub(super) const PREFIX: &str = "sh.helm.release.v1.";

/// The record of an installation by this name, with these manifests.
pub(super) fn secret(namespace: &str, name: &str, manifests: &[Value]) -> Value {
    // Helm writes YAML; JSON is YAML too.
    let manifest: String = manifests.iter().map(|manifest| format!("---\n# Source: demo\n{manifest}\n")).collect();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let text = json!({"name": name, "namespace": namespace, "manifest": manifest}).to_string();
    // Memory takes all that is written to it.
    let packed = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()).unwrap_or_default();
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1", "metadata": {"name": name, "namespace": namespace},
        "data": {"release": BASE64.encode(BASE64.encode(packed))},
    })
}
