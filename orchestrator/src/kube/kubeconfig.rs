//! Reads kubeconfigs from users: what is accepted, and what is refused with the reason.

use std::net::IpAddr;
use std::path::Path;

use kube::config::{AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, KubeconfigError};

use crate::files;
use crate::secret::Secret;

/// The longest kubeconfig, in bytes.
pub const KUBECONFIG_MOST: usize = 256 * 1024;

/// Where Kubernetes mounts the files of a pod's service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The longest of them, in bytes.
const ACCOUNT_FILE_MOST: u64 = 1024 * 1024;

/// How a cluster is reached.
#[derive(Clone, Debug)]
pub enum Connection {
    /// By a kubeconfig.
    Kubeconfig {
        /// Its text.
        kubeconfig: Secret,
        /// The context to use; without one, the kubeconfig's current one.
        context: Option<String>,
    },
    /// By the service account of the pod that this program runs in.
    InCluster,
}

/// Why a kubeconfig is refused. Of its content only names of contexts are repeated.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KubeconfigFault {
    /// It is too long.
    #[error("the kubeconfig is longer than {} KiB: leave out the clusters that are not meant", KUBECONFIG_MOST / 1024)]
    TooLong,
    /// It is not YAML, or has the wrong form.
    #[error("this is not a kubeconfig: line {line} is not YAML of the form that `kubectl config view --raw` prints")]
    Unreadable {
        /// The line of the error.
        line: u64,
    },
    /// No context is chosen.
    #[error("the kubeconfig has no current-context: name the context to use ({known})")]
    NoContext {
        /// The existing contexts.
        known: String,
    },
    /// There is no such context.
    #[error("the kubeconfig has no context of this name; it has: {known}")]
    UnknownContext {
        /// The existing contexts.
        known: String,
    },
    /// The context refers to a missing entry.
    #[error("the context names a {what} that the kubeconfig does not have")]
    Dangling {
        /// `cluster` or `user`.
        what: &'static str,
    },
    /// There is no usable server address.
    #[error("the cluster's server is not an address like https://cluster.example.com:6443")]
    BadServer,
    /// The address does not use TLS.
    #[error("the cluster's server has no https: credentials would travel in clear (only a loopback address may)")]
    PlainHttp,
    /// Verification of the server's certificate is turned off.
    #[error(
        "insecure-skip-tls-verify is set, so that anybody could pose as the cluster: take it out and put the cluster's \
         certificate into certificate-authority-data"
    )]
    SkipsVerification,
    /// The user's credentials come from a program.
    #[error(
        "the user signs in by a program ({what}), which is not run here: make a service account and use its token \
         (kubectl create token)"
    )]
    RunsProgram {
        /// `exec` or `auth-provider`.
        what: &'static str,
    },
    /// A field names a file.
    #[error("{what} names a file, which is not here: use {instead} (kubectl config view --raw --flatten)")]
    NamesFile {
        /// The field.
        what: &'static str,
        /// The field for the content itself.
        instead: &'static str,
    },
    /// A proxy is named.
    #[error("proxy-url is not supported: the cluster has to be reachable from here")]
    NamesProxy,
    /// A certificate or key is malformed.
    #[error("{what} is not base64 of PEM")]
    BadPem {
        /// The field.
        what: &'static str,
    },
    /// A certificate and a key that do not match.
    #[error("client-certificate-data and client-key-data do not belong together, or one of them is not base64 of PEM")]
    BadPair,
    /// A value that cannot be sent in a header.
    #[error(
        "{what} holds a line break, or another character that cannot be sent: write it on one line, without quotes inside"
    )]
    BadValue {
        /// The field.
        what: &'static str,
    },
    /// The Kubernetes client refuses it for another reason.
    #[error("the kubeconfig cannot be used: its cluster, user or context is incomplete")]
    Unusable,
    /// There is no service account here.
    #[error("this program does not run in a Kubernetes pod with a service account: {missing}")]
    NotInCluster {
        /// What is missing.
        missing: String,
    },
}

/// A checked connection.
#[cfg_attr(test, derive(Debug))]
pub(super) struct Checked {
    pub(super) config: kube::Config,
    pub(super) server: String,
    pub(super) context: Option<String>,
}

/// Checks a connection and returns the configuration for a client.
///
/// # Errors
/// The first reason to refuse it.
pub(super) async fn read(connection: &Connection) -> Result<Checked, KubeconfigFault> {
    match connection {
        Connection::Kubeconfig { kubeconfig, context } => checked(kubeconfig, context.as_deref()).await,
        Connection::InCluster => {
            account(Path::new(ACCOUNT))?;
            let missing = "the variables KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT do not name an address, or ca.crt \
                           holds no certificate";
            let config = kube::Config::incluster_env()
                .map_err(|_| KubeconfigFault::NotInCluster { missing: missing.to_owned() })?;
            let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
            Ok(Checked { config, server, context: None })
        }
    }
}

/// Checks that all files of a service account are there, and that the token can be sent.
fn account(folder: &Path) -> Result<(), KubeconfigFault> {
    for name in ["token", "ca.crt", "namespace"] {
        let path = folder.join(name);
        let text = files::read_text(&path, ACCOUNT_FILE_MOST).map_err(|error| KubeconfigFault::NotInCluster {
            missing: format!("{} cannot be read ({error})", path.display()),
        })?;
        if text.trim().is_empty() {
            return Err(KubeconfigFault::NotInCluster { missing: format!("{} is empty", path.display()) });
        }
        if name == "token" && !can_be_sent(&text) {
            return Err(KubeconfigFault::BadValue { what: "the service account's token" });
        }
    }
    Ok(())
}

/// Returns true if a text can be the value of a header field unchanged.
fn can_be_sent(text: &str) -> bool {
    text.trim() == text && text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

/// The parts of a user that become header fields. The library holds some of them as secrets, and fails on bad ones much later.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Users {
    users: Vec<UserEntry>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct UserEntry {
    name: String,
    user: Option<UserFields>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct UserFields {
    token: Option<String>,
    username: Option<String>,
    #[serde(rename = "as")]
    acts_as: Option<String>,
    #[serde(rename = "as-groups")]
    groups: Option<Vec<String>>,
}

fn refuse_values(text: &str, user: &str) -> Result<(), KubeconfigFault> {
    // The library has already parsed it.
    let users: Users = serde_saphyr::from_str(text).map_err(|_| KubeconfigFault::Unusable)?;
    let Some(fields) = users.users.into_iter().find(|entry| entry.name == user).and_then(|entry| entry.user) else {
        return Ok(());
    };
    let groups = fields.groups.unwrap_or_default();
    let values = [(&fields.token, "token"), (&fields.username, "username"), (&fields.acts_as, "as")];
    let single = values.into_iter().filter_map(|(value, what)| Some((value.as_ref()?, what)));
    let all = single.chain(groups.iter().map(|group| (group, "as-groups")));
    for (value, what) in all {
        if !can_be_sent(value) {
            return Err(KubeconfigFault::BadValue { what });
        }
    }
    Ok(())
}

async fn checked(kubeconfig: &Secret, context: Option<&str>) -> Result<Checked, KubeconfigFault> {
    let text = kubeconfig.expose();
    if text.len() > KUBECONFIG_MOST {
        return Err(KubeconfigFault::TooLong);
    }
    let parsed = Kubeconfig::from_yaml(text).map_err(|error| unreadable(&error))?;
    let (name, chosen) = choose(&parsed, context)?;
    let cluster = find_cluster(&parsed, chosen)?;
    refuse_cluster(cluster)?;
    if let Some(user) = chosen.user.as_deref() {
        refuse_user(find_user(&parsed, user)?)?;
        refuse_values(text, user)?;
    }
    let server = cluster.server.clone().unwrap_or_default().trim_end_matches('/').to_owned();
    let options = KubeConfigOptions { context: Some(name.clone()), ..KubeConfigOptions::default() };
    let mut config = kube::Config::from_custom_kubeconfig(parsed, &options).await.map_err(|error| unusable(&error))?;
    // HTTPS_PROXY of the environment may have been taken over: only the kubeconfig counts.
    config.proxy_url = None;
    Ok(Checked { config, server, context: Some(name) })
}

// The parser's own message quotes the text around the error, which may be a credential.
fn unreadable(error: &KubeconfigError) -> KubeconfigFault {
    let location = if let KubeconfigError::Parse(error) = error { error.location() } else { None };
    KubeconfigFault::Unreadable { line: location.map_or(1, |location| location.line()) }
}

fn unusable(error: &KubeconfigError) -> KubeconfigFault {
    use KubeconfigError as E;
    if matches!(error, E::LoadCertificateAuthority(_) | E::ParseCertificates(_)) {
        return KubeconfigFault::BadPem { what: "certificate-authority-data" };
    }
    if matches!(error, E::LoadClientCertificate(_)) {
        return KubeconfigFault::BadPem { what: "client-certificate-data" };
    }
    if matches!(error, E::LoadClientKey(_)) {
        return KubeconfigFault::BadPem { what: "client-key-data" };
    }
    if matches!(error, E::ParseClusterUrl(_) | E::MissingClusterUrl) {
        return KubeconfigFault::BadServer;
    }
    KubeconfigFault::Unusable
}

fn choose<'a>(parsed: &'a Kubeconfig, wanted: Option<&str>) -> Result<(String, &'a Context), KubeconfigFault> {
    let known = || {
        let names: Vec<&str> = parsed.contexts.iter().take(20).map(|context| context.name.as_str()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    let name = wanted
        .or(parsed.current_context.as_deref())
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .ok_or_else(|| KubeconfigFault::NoContext { known: known() })?;
    let named = parsed.contexts.iter().find(|context| context.name == name);
    let chosen = named.and_then(|named| named.context.as_ref());
    chosen.map(|chosen| (name.to_owned(), chosen)).ok_or_else(|| KubeconfigFault::UnknownContext { known: known() })
}

fn find_cluster<'a>(parsed: &'a Kubeconfig, context: &Context) -> Result<&'a Cluster, KubeconfigFault> {
    let named = parsed.clusters.iter().find(|cluster| cluster.name == context.cluster);
    named.and_then(|named| named.cluster.as_ref()).ok_or(KubeconfigFault::Dangling { what: "cluster" })
}

fn find_user<'a>(parsed: &'a Kubeconfig, name: &str) -> Result<&'a AuthInfo, KubeconfigFault> {
    let named = parsed.auth_infos.iter().find(|user| user.name == name);
    named.and_then(|named| named.auth_info.as_ref()).ok_or(KubeconfigFault::Dangling { what: "user" })
}

fn refuse_cluster(cluster: &Cluster) -> Result<(), KubeconfigFault> {
    let server = cluster.server.as_deref().unwrap_or_default();
    let url = url::Url::parse(server).map_err(|_| KubeconfigFault::BadServer)?;
    if !is_read_alike(server, &url) {
        return Err(KubeconfigFault::BadServer);
    }
    let host = url.host().ok_or(KubeconfigFault::BadServer)?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(KubeconfigFault::BadServer);
    }
    let loopback = match host {
        url::Host::Domain(name) => name == "localhost",
        url::Host::Ipv4(ip) => ip.is_loopback(),
        url::Host::Ipv6(ip) => IpAddr::V6(ip).to_canonical().is_loopback(),
    };
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        "http" => return Err(KubeconfigFault::PlainHttp),
        _ => return Err(KubeconfigFault::BadServer),
    }
    if cluster.insecure_skip_tls_verify == Some(true) {
        return Err(KubeconfigFault::SkipsVerification);
    }
    if set(cluster.certificate_authority.as_deref()) {
        let (what, instead) = ("certificate-authority", "certificate-authority-data");
        return Err(KubeconfigFault::NamesFile { what, instead });
    }
    if set(cluster.proxy_url.as_deref()) {
        return Err(KubeconfigFault::NamesProxy);
    }
    Ok(())
}

/// Returns true if the client, which parses URLs by other rules (RFC 3986), sees the same host: it takes `https:0x7f` for a host
/// called `https`.
fn is_read_alike(server: &str, url: &url::Url) -> bool {
    let Ok(uri) = server.parse::<http::Uri>() else { return false };
    let default = if url.scheme() == "https" { 443 } else { 80 };
    uri.scheme_str() == Some(url.scheme())
        && uri.host().zip(url.host_str()).is_some_and(|(one, other)| one.eq_ignore_ascii_case(other))
        && uri.port_u16().unwrap_or(default) == url.port_or_known_default().unwrap_or(default)
}

fn refuse_user(user: &AuthInfo) -> Result<(), KubeconfigFault> {
    if user.exec.is_some() {
        return Err(KubeconfigFault::RunsProgram { what: "exec" });
    }
    if user.auth_provider.is_some() {
        return Err(KubeconfigFault::RunsProgram { what: "auth-provider" });
    }
    let files = [
        (&user.token_file, "tokenFile", "token"),
        (&user.client_certificate, "client-certificate", "client-certificate-data"),
        (&user.client_key, "client-key", "client-key-data"),
    ];
    match files.into_iter().find(|(path, ..)| set(path.as_deref())) {
        Some((_, what, instead)) => Err(KubeconfigFault::NamesFile { what, instead }),
        None => Ok(()),
    }
}

fn set(value: Option<&str>) -> bool {
    value.is_some_and(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "hidden-token-0123456789";

    fn kubeconfig(cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: one\nclusters:\n- name: c\n  cluster:\n    {cluster}\n\
             users:\n- name: u\n  user:\n    {user}\ncontexts:\n- name: one\n  context: {{cluster: c, user: u}}\n\
             - name: lost\n  context: {{cluster: gone}}\n"
        )
    }

    async fn read_text(text: &str, context: Option<&str>) -> Result<Checked, KubeconfigFault> {
        let context = context.map(str::to_owned);
        read(&Connection::Kubeconfig { kubeconfig: Secret::new(text.to_owned()), context }).await
    }

    async fn refusal(cluster: &str, user: &str) -> KubeconfigFault {
        let fault = read_text(&kubeconfig(cluster, user), None).await.expect_err("was taken");
        assert!(!fault.to_string().contains("hidden"), "{fault}");
        fault
    }

    #[tokio::test]
    async fn a_server_with_a_token_is_taken() {
        let text = kubeconfig("server: https://cluster.example.com:6443/", &format!("token: {TOKEN}"));
        let checked = read_text(&text, None).await.expect("was refused");
        assert_eq!(checked.server, "https://cluster.example.com:6443");
        assert_eq!(checked.context.as_deref(), Some("one"));
        assert!(checked.config.proxy_url.is_none());
    }

    #[tokio::test]
    async fn what_runs_a_program_or_names_a_file_is_refused() {
        let server = "server: https://cluster.example.com:6443";
        for (user, expected) in [
            ("exec: {apiVersion: client.authentication.k8s.io/v1, command: hidden}", "exec"),
            ("auth-provider: {name: gcp}", "auth-provider"),
            ("tokenFile: /hidden", "tokenFile"),
            ("client-certificate: /hidden", "client-certificate "),
            ("client-key: /hidden", "client-key "),
        ] {
            let fault = refusal(server, user).await.to_string();
            assert!(fault.contains(expected), "{user}: {fault}");
        }
        let fault = refusal(&format!("{server}\n    certificate-authority: /hidden"), "token: hidden").await;
        assert!(matches!(fault, KubeconfigFault::NamesFile { what: "certificate-authority", .. }), "{fault}");
    }

    #[tokio::test]
    async fn a_value_that_cannot_be_sent_is_named_and_not_quoted() {
        let server = "server: https://cluster.example.com:6443";
        for (user, what) in [
            ("token: \"hidden\\n\"", "token"),
            ("token: \"hid\\nden\"", "token"),
            ("token: |\n      hidden", "token"),
            ("token: \"hidden\\0\"", "token"),
            ("token: hidd\u{e9}n", "token"),
            ("{username: \"hidden\\r\", password: x}", "username"),
            ("{token: t, as: \"hidden\\n\"}", "as"),
            ("{token: t, as: a, as-groups: [\"hidden\\n\"]}", "as-groups"),
        ] {
            let fault = refusal(server, user).await;
            assert_eq!(fault, KubeconfigFault::BadValue { what }, "{user}");
            assert!(!fault.to_string().contains("hidden"), "{fault}");
        }
    }

    #[test]
    fn each_missing_file_of_a_service_account_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [("token", "t"), ("ca.crt", "c"), ("namespace", "n")] {
            let fault = account(folder.path()).unwrap_err().to_string();
            assert!(fault.contains(name), "{fault}");
            std::fs::write(folder.path().join(name), "").unwrap();
            assert!(account(folder.path()).unwrap_err().to_string().contains("is empty"));
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        assert_eq!(account(folder.path()), Ok(()));
        std::fs::write(folder.path().join("token"), "hidden\n").unwrap();
        assert!(matches!(account(folder.path()), Err(KubeconfigFault::BadValue { .. })));
        std::fs::remove_file(folder.path().join("token")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.path().join("token")).unwrap();
        assert!(account(folder.path()).unwrap_err().to_string().contains("it is a device"));
    }

    #[tokio::test]
    async fn a_connection_that_others_could_listen_to_or_take_over_is_refused() {
        for (cluster, expected) in [
            ("server: http://cluster.example.com", KubeconfigFault::PlainHttp),
            ("server: http://192.0.2.7:8080", KubeconfigFault::PlainHttp),
            ("server: file:///hidden", KubeconfigFault::BadServer),
            ("server: https://ann:hidden@cluster.example.com", KubeconfigFault::BadServer),
            ("server: 'cluster.example.com:6443'", KubeconfigFault::BadServer),
            ("server: 'https:0Xh'", KubeconfigFault::BadServer),
            ("server: 'https:cluster.example.com'", KubeconfigFault::BadServer),
            ("server: 'https:///cluster.example.com'", KubeconfigFault::BadServer),
            ("server: 'https:\\cluster.example.com'", KubeconfigFault::BadServer),
            ("server: 'http://0x7f.1'", KubeconfigFault::BadServer),
            ("server: 'http://2130706433'", KubeconfigFault::BadServer),
            ("server: 'http://127.1'", KubeconfigFault::BadServer),
            ("certificate-authority-data: aGlkZGVu", KubeconfigFault::BadServer),
            (
                "server: https://cluster.example.com\n    insecure-skip-tls-verify: true",
                KubeconfigFault::SkipsVerification,
            ),
            (
                "server: https://cluster.example.com\n    proxy-url: http://hidden.example.com",
                KubeconfigFault::NamesProxy,
            ),
            (
                "server: https://cluster.example.com\n    certificate-authority-data: '!hidden'",
                KubeconfigFault::BadPem { what: "certificate-authority-data" },
            ),
        ] {
            assert_eq!(refusal(cluster, "token: hidden").await, expected, "{cluster}");
        }
        for loopback in ["http://127.0.0.1:8001", "http://localhost:8001", "http://[::1]:8001"] {
            let text = kubeconfig(&format!("server: '{loopback}'"), "token: t");
            assert!(read_text(&text, None).await.is_ok(), "{loopback}");
        }
    }

    #[tokio::test]
    async fn the_context_has_to_be_one_that_leads_somewhere() {
        let text = kubeconfig("server: https://cluster.example.com", "token: hidden");
        let unknown = read_text(&text, Some("two")).await.err();
        assert_eq!(unknown, Some(KubeconfigFault::UnknownContext { known: "one, lost".into() }));
        let dangling = read_text(&text, Some("lost")).await.err();
        assert_eq!(dangling, Some(KubeconfigFault::Dangling { what: "cluster" }));
        let none = read_text(&text.replace("current-context: one", ""), None).await.err();
        assert_eq!(none, Some(KubeconfigFault::NoContext { known: "one, lost".into() }));
    }

    #[tokio::test]
    async fn what_is_no_kubeconfig_is_refused_without_being_quoted() {
        for text in ["", "hidden: [", "- hidden", "clusters: hidden", "users:\n- hidden", "\u{0}hidden"] {
            let fault = read_text(text, None).await.expect_err(text).to_string();
            assert!(!fault.contains("hidden"), "{fault}");
        }
        let long = format!("# {}", "x".repeat(KUBECONFIG_MOST));
        assert_eq!(read_text(&long, None).await.err(), Some(KubeconfigFault::TooLong));
    }
}
