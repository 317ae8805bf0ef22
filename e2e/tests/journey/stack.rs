//! The three programs, connected as in `make run`, on free ports.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http;
use crate::programs::{PATIENCE, Program, free_port, succeeds, within};

/// The tenant of ann.
const CONTOSO: &str = "c0117050-0000-4000-8000-00000000c017";

/// How many times to try another port after another program took the free one.
const ATTEMPTS: usize = 5;

#[derive(Clone, Copy)]
pub(crate) enum Provider {
    GitHub,
    Entra,
    Oidc,
}

impl Provider {
    fn settings(self, idp: &str) -> Vec<(&'static str, String)> {
        let idp = idp.to_owned();
        match self {
            Self::GitHub => vec![
                ("OAUTH_PROVIDER", "github".into()),
                ("OAUTH_GITHUB_URL", idp.clone()),
                ("OAUTH_GITHUB_API_URL", idp),
            ],
            Self::Entra => vec![
                ("OAUTH_PROVIDER", "entra".into()),
                ("OAUTH_TENANT_ID", CONTOSO.into()),
                ("OAUTH_ENTRA_AUTHORITY", idp.clone()),
                ("OAUTH_GRAPH_URL", idp),
            ],
            Self::Oidc => vec![("OAUTH_PROVIDER", "oidc".into()), ("OAUTH_ISSUER_URL", format!("{idp}/oidc"))],
        }
    }
}

/// A proxy that allows `@example.com` to access an orchestrator, and the provider that it trusts.
pub(crate) struct Stack {
    /// The origin that people open.
    pub(crate) origin: String,
    /// Its port.
    pub(crate) port: u16,
    /// The provider's origin.
    pub(crate) idp: String,
    _programs: [Program; 3],
    _folder: TempDir,
}

impl Stack {
    pub(crate) fn start(provider: Provider) -> Self {
        Self::with(provider, |_| Vec::new(), "")
    }

    /// The same, with rules, and a provider with lies on demand.
    pub(crate) fn with_rules(provider: Provider, rules: &str) -> Self {
        Self::with(provider, |_| Vec::new(), rules)
    }

    /// The same, with clusters that impersonate the user of the proxy's assertion.
    pub(crate) fn deciding_by_person() -> Self {
        let deciding = |origin: &str| {
            vec![
                ("ORCHESTRATOR_ASSERTION_JWKS", format!("{origin}/api/v1/auth/jwks")),
                ("ORCHESTRATOR_IMPERSONATE", "true".to_owned()),
                ("ORCHESTRATOR_IMPERSONATE_PREFIX", "flux:".to_owned()),
            ]
        };
        Self::with(Provider::GitHub, deciding, "")
    }

    /// Sets this lie of the provider, as in its control API; `None` ends it.
    pub(crate) fn provider_lies(&self, lie: Option<Value>) {
        let port = self.idp.rsplit_once(':').unwrap().1.parse().unwrap();
        let (path, body) = match lie {
            Some(lie) => ("/_control/lie", json!({ "lie": lie })),
            None => ("/_control/reset", json!({})),
        };
        let answer =
            http::exchange(port, "POST", path, "Content-Type: application/json\r\n", &body.to_string()).unwrap();
        assert_eq!(answer.status / 100, 2, "{}", answer.body);
    }

    /// With orchestrator settings that depend on the proxy's origin, and with rules.
    fn with(provider: Provider, more: impl Fn(&str) -> Vec<(&'static str, String)>, rules: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("sidegate.toml");
        std::fs::write(&config, rules).unwrap();
        for _ in 0..ATTEMPTS {
            // The redirect URL contains the proxy's port before the proxy listens on it.
            let (port, admin) = (free_port(), free_port());
            let origin = format!("http://localhost:{port}");
            let mut of_orchestrator = vec![("DATABASE_URL", "sqlite::memory:".to_owned())];
            of_orchestrator.extend(more(&origin));
            let orchestrator = Program::start("orchestrator", &["--listen", "127.0.0.1:0"], &of_orchestrator);
            let upstream = format!("http://{}", orchestrator.wait_for("listens on http://"));
            let callback = format!("{origin}/api/v1/auth/callback");
            let arguments = ["--listen", "127.0.0.1:0", "--redirect-url", &callback, "--allow-control"];
            let dev_idp = Program::start("dev-idp", &arguments, &[]);
            let idp = format!("http://localhost:{}", dev_idp.wait_for("dev-idp listening on http://127.0.0.1:"));
            let mut settings = vec![
                ("SIDEGATE_CONFIG", config.to_str().unwrap().to_owned()),
                ("LISTEN_ADDR", format!("127.0.0.1:{port}")),
                ("ADMIN_ADDR", format!("127.0.0.1:{admin}")),
                ("UPSTREAM_URL", upstream.clone()),
                ("LOG_FORMAT", "text".into()),
                ("OAUTH_ENABLED", "true".into()),
                ("OAUTH_CLIENT_ID", "sidegate-dev".into()),
                ("OAUTH_CLIENT_SECRET", "sidegate-dev-secret".into()),
                ("OAUTH_REDIRECT_URL", callback),
                ("OAUTH_ALLOWED_USERS", "@example.com".into()),
            ];
            settings.extend(provider.settings(&idp));
            let mut sidegate = Program::start("sidegate", &[], &settings);
            let ready_or_ended =
                within(PATIENCE, || succeeds("sidegate", &["health"], &settings) || !sidegate.running());
            assert!(ready_or_ended, "sidegate does not get ready");
            if sidegate.running() {
                return Self { origin, port, idp, _programs: [sidegate, dev_idp, orchestrator], _folder: folder };
            }
            let output = sidegate.output_so_far();
            assert!(output.contains("in use") || output.contains("already"), "sidegate ended: {output}");
        }
        panic!("no port stays free long enough");
    }
}
