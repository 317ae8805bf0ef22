//! Creates a provider from its settings.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::entra::{self, Entra};
use super::github::Github;
use super::http::{Http, is_safe};
use super::oidc::{self, Oidc};
use super::way_out::{WayOut, goes_through_a_proxy};
use super::{ConnectError, ProviderSettings};
use crate::ports::IdentityProvider;

/// Creates the provider without any call: the first `refresh` makes one.
///
/// Connections trust the system's roots and `extra_roots` (`OAUTH_CA_FILE`), and use the proxy `way_out` (`OAUTH_PROXY`).
///
/// # Errors
/// [`ConnectError`], if an address or the roots cannot be used.
pub fn connect(
    settings: &ProviderSettings,
    extra_roots: &[CertificateDer<'static>],
    way_out: Option<WayOut>,
) -> Result<Arc<dyn IdentityProvider>, ConnectError> {
    // If another caller was first, it installed the same one.
    let _installed = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let addresses = settings.addresses();
    if let Some(address) = addresses.iter().find(|address| !is_safe(address)) {
        return Err(ConnectError::Address(address.origin().ascii_serialization()));
    }
    let http = Http::new(extra_roots, addresses.iter().any(|address| address.scheme() == "https"), way_out)?;
    Ok(match settings.clone() {
        ProviderSettings::Github { client, web, api, groups } => Arc::new(Github::new(http, client, web, api, &groups)),
        ProviderSettings::Entra { client, authority, graph, tenants, wants_groups, claims } => Arc::new(Entra::new(
            http,
            client,
            tenants,
            authority,
            graph,
            entra::Wanted { groups: wants_groups, claims },
        )),
        ProviderSettings::Oidc { client, issuer, username_claim, wants_groups, claims } => {
            let wanted = oidc::Wanted { username: username_claim, groups: wants_groups, claims };
            Arc::new(Oidc::new(http, client, issuer, wanted))
        }
    })
}

/// Whether some call to the provider would go through a proxy that is bypassed for the hosts in `exceptions` (as in `NO_PROXY`).
#[must_use]
pub fn uses_a_proxy(settings: &ProviderSettings, exceptions: &str) -> bool {
    settings.addresses().into_iter().any(|address| goes_through_a_proxy(address, exceptions))
}
