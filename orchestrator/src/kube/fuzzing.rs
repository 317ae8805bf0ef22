//! The fuzz target of this module: a kubeconfig from an untrusted source.

use std::sync::LazyLock;

use tokio::runtime::Runtime;

use super::client::Access;
use super::kubeconfig::{Connection, read};
use crate::secret::Secret;

static RUNTIME: LazyLock<Option<Runtime>> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().ok());

/// Parses any bytes as a kubeconfig.
///
/// # Panics
/// If one is accepted that names a file, a program, a proxy, or a server without TLS, or if a client for an accepted one cannot be
/// created for a reason that should have been refused.
pub fn kubeconfigs(bytes: &[u8]) {
    let (Some(runtime), Ok(text)) = (RUNTIME.as_ref(), std::str::from_utf8(bytes)) else { return };
    runtime.block_on(async {
        for context in [None, Some("one".to_owned())] {
            let connection = Connection::Kubeconfig { kubeconfig: Secret::new(text.to_owned()), context };
            let Ok(checked) = read(&connection).await else { continue };
            let config = &checked.config;
            let clear = config.cluster_url.scheme_str() != Some("https");
            let host = config.cluster_url.host().unwrap_or_default();
            let here = host == "localhost" || host.starts_with("127.") || host.starts_with('[');
            assert!(!clear || here, "credentials would travel in clear to {host}");
            assert!(!config.accept_invalid_certs, "the server's certificate is not checked");
            assert!(config.proxy_url.is_none(), "a proxy is asked");
            let user = &config.auth_info;
            assert!(user.exec.is_none() && user.auth_provider.is_none(), "a program is run");
            let files = [&user.token_file, &user.client_certificate, &user.client_key];
            assert!(files.iter().all(|file| file.as_deref().is_none_or(str::is_empty)), "a file is read");
            // This sends nothing, but converts every value to the form in which it is sent.
            let _ = Access::new(&connection).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn every_seed_is_taken_also_cut_and_with_a_byte_changed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/kubeconfigs");
        let mut seeds = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let seed = std::fs::read(file.unwrap().path()).unwrap();
            seeds += 1;
            super::kubeconfigs(&seed);
            for at in (0..seed.len()).step_by(7) {
                super::kubeconfigs(&seed[..at]);
                let mut changed = seed.clone();
                changed[at] = b"\n\0:-{[\"'&*|>!%@`#"[at % 17];
                super::kubeconfigs(&changed);
            }
        }
        assert!(seeds > 0, "there are no seeds");
    }
}
