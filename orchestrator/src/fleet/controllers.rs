//! Flux's own controllers in a cluster: their status and versions.

use serde::Deserialize;
use serde_json::Value;

use crate::clock;
use crate::kube::{Client, Fault, segment};

use super::kstatus::{self, ObjectFields};
use super::model::{Controller, bounded};

/// The label of Flux's own components.
const PART_OF: &str = "app.kubernetes.io/part-of=flux";
/// Their usual namespace.
const USUALLY: &str = "flux-system";
/// How many are shown.
const MOST: usize = 50;

/// Flux's controllers, by name: of all namespaces, or if that is forbidden, of the usual one.
///
/// # Errors
/// Why they cannot be read.
pub(super) async fn read(client: &Client) -> Result<Vec<Controller>, Fault> {
    let list = match deployments(client, "").await {
        Err(Fault::Forbidden(_)) => deployments(client, &format!("/namespaces/{USUALLY}")).await?,
        answered => answered?,
    };
    let mut controllers: Vec<Controller> = list.items.iter().take(MOST).map(controller).collect();
    controllers.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Ok(controllers)
}

async fn deployments(client: &Client, within: &str) -> Result<List, Fault> {
    client.ask(&format!("/apis/apps/v1{within}/deployments?limit={MOST}&labelSelector={}", segment(PART_OF))).await
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<Value>,
}

fn controller(object: &Value) -> Controller {
    let fields = ObjectFields(object);
    let image = fields
        .list("/spec/template/spec/containers")
        .next()
        .map(|container| container.text("/image"))
        .unwrap_or_default();
    let (status, message) = kstatus::judge("apps", "Deployment", object, clock::now());
    Controller {
        namespace: bounded(fields.text("/metadata/namespace")).to_owned(),
        name: bounded(fields.text("/metadata/name")).to_owned(),
        version: version(image).map(|version| bounded(version).to_owned()),
        flux_version: Some(bounded(fields.text("/metadata/labels/app.kubernetes.io~1version")).to_owned())
            .filter(|version| !version.is_empty()),
        status,
        message,
    }
}

/// The tag of an image: `ghcr.io/fluxcd/source-controller:v1.7.2@sha256:…` is `v1.7.2`.
fn version(image: &str) -> Option<&str> {
    let named = image.split('@').next()?;
    let (_, tag) = named.rsplit_once(':')?;
    (!tag.is_empty() && !tag.contains('/')).then_some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_images_tag() {
        for (image, tag) in [
            ("ghcr.io/fluxcd/source-controller:v1.7.2", Some("v1.7.2")),
            ("ghcr.io/fluxcd/source-controller:v1.7.2@sha256:ab", Some("v1.7.2")),
            ("registry:5000/source-controller", None),
            ("registry:5000/source-controller@sha256:ab", None),
            ("source-controller", None),
            ("", None),
        ] {
            assert_eq!(version(image), tag, "{image}");
        }
    }
}
