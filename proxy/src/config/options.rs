//! Every option, once: the command line, the look-up in the environment and in the file, "did you mean" and the documentation all read this table.

/// One option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knob {
    /// Its variable.
    pub variable: &'static str,
    /// The heading that it stands under.
    pub section: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// What holds without it.
    pub fallback: Fallback,
    /// A value that would be right.
    pub example: &'static str,
    help: &'static str,
}

/// What an option's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One word.
    Word,
    /// `true` or `false`.
    Switch,
    /// Words with commas between them; an array in the file.
    List,
    /// Words with commas or spaces between them; an array in the file.
    Scopes,
    /// `90s`, `15m`, `24h`.
    Duration,
    /// A whole number of bytes.
    Bytes,
    /// A whole number.
    Count,
    /// A file's name.
    File,
    /// Names of files, with commas between them; an array in the file.
    Files,
    /// A URL.
    Url,
    /// An address and a port.
    Address,
    /// An address and a port, a socket file, or `systemd`.
    Listener,
    /// A secret, which never stands on a command line, where every user of the machine can read it.
    Secret,
}

/// What holds without an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// This value.
    Is(&'static str),
    /// What the words say.
    Otherwise(&'static str),
}

impl Knob {
    /// The key in the file: the variable in lower case. The file cannot name itself.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        (self.variable != SIDEGATE_CONFIG.variable).then(|| self.variable.to_ascii_lowercase())
    }

    /// The flag without its dashes in front; secrets have none.
    #[must_use]
    pub fn flag(&self) -> Option<String> {
        if self.variable == SIDEGATE_CONFIG.variable {
            return Some("config".to_owned());
        }
        // `--audit` is the file that `simulate` reads.
        if self.variable == AUDIT.variable {
            return Some("audit-lines".to_owned());
        }
        (self.kind != Kind::Secret).then(|| self.variable.to_ascii_lowercase().replace('_', "-"))
    }

    /// What it does, what it needs, and how to turn it off.
    #[must_use]
    pub fn help(&self) -> &'static str {
        self.help.trim()
    }

    /// Whether an empty value would silently let everyone in, so that it is a fault and not "unset".
    #[must_use]
    pub fn narrows_access(&self) -> bool {
        [OAUTH_ALLOWED_USERS, OAUTH_ALLOWED_USERS_FILE, OAUTH_ALLOWED_GROUPS].contains(self)
    }
}

macro_rules! options {
    ($($section:literal { $(
        $(#[doc = $help:literal])+
        $name:ident: $kind:ident, $fallback:ident $text:literal, example $example:literal;
    )+ })+) => {
        $($(
            $(#[doc = $help])+
            pub const $name: Knob = Knob {
                variable: stringify!($name),
                section: $section,
                kind: Kind::$kind,
                fallback: Fallback::$fallback($text),
                example: $example,
                help: concat!($($help),+),
            };
        )+)+

        /// All options, in the order of the documentation.
        pub const ALL: &[Knob] = &[$($($name),+),+];
    };
}

options! {
    "General" {
        /// A TOML file with settings: each key is a variable of this list in lower case, lists are arrays.
        /// Flags and variables win over it. Reread when it changes.
        SIDEGATE_CONFIG: File, Otherwise "no file", example "/etc/sidegate/sidegate.toml";
        /// Where to listen: an address and a port (0 takes any free one), `unix:/path` for a socket file, or `systemd` for the socket that
        /// systemd passes on. A change needs a restart.
        LISTEN_ADDR: Listener, Is "0.0.0.0:8080", example "0.0.0.0:8080";
        /// Where plain HTTP is answered with a redirect to the same address by https, and nothing else. Needs TLS_CERT_FILE or an https
        /// OAUTH_REDIRECT_URL. A change needs a restart.
        HTTP_REDIRECT_ADDR: Address, Otherwise "no such listener", example "0.0.0.0:8081";
        /// Where Envoy asks by gRPC whether a request may pass (`envoy.service.auth.v3.Authorization/Check`), without TLS. Whoever reaches it is
        /// believed: keep it off public networks. `:9001` is loopback only. A change needs a restart.
        EXT_AUTHZ_ADDR: Address, Otherwise "no such listener", example "127.0.0.1:9001";
        /// Where `/livez`, `/readyz` and `/metrics` are answered. They have no authentication: keep them off public networks.
        /// A change needs a restart.
        ADMIN_ADDR: Address, Is "127.0.0.1:9091", example "127.0.0.1:9091";
        /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,sidegate=debug`.
        /// A change needs a restart.
        LOG_LEVEL: Word, Is "info", example "info";
        /// How log lines look: `text` for people, `json` for machines. A change needs a restart.
        LOG_FORMAT: Word, Otherwise "text on a terminal, json otherwise", example "json";
        /// Which decisions have an audit line: `default` (sign-ins, refusals, changes) or `all` (each request that is judged).
        AUDIT: Word, Is "default", example "all";
        /// A file that audit lines are appended to, as JSON, beside the log and whatever LOG_LEVEL and LOG_FORMAT are. It is made where it is
        /// not there (mode 0600), and opened again once it was renamed, and on SIGHUP. A change needs a restart.
        AUDIT_FILE: File, Otherwise "no file", example "/var/log/sidegate/audit.log";
    }
    "Sign-in" {
        /// Whether people sign in. Off is open mode: everything is forwarded without authentication, and identity headers of
        /// clients are still dropped.
        OAUTH_ENABLED: Switch, Is "false", example "true";
        /// Who signs people in: `github`, `entra` (also `azure`) or `oidc`, any OpenID Connect provider.
        OAUTH_PROVIDER: Word, Otherwise "required where people sign in", example "github";
        /// The client id of the application that is registered at the provider.
        OAUTH_CLIENT_ID: Word, Otherwise "required where people sign in", example "Iv23liAbCdEfGhIjKlMn";
        /// The client secret of the application that is registered at the provider. Better given as a file.
        OAUTH_CLIENT_SECRET: Secret, Otherwise "required where people sign in", example "OAUTH_CLIENT_SECRET_FILE=/run/secrets/oauth-client-secret";
        /// A file that holds the client secret; one line break at its end is dropped. Reread when it changes.
        OAUTH_CLIENT_SECRET_FILE: File, Otherwise "OAUTH_CLIENT_SECRET", example "/run/secrets/oauth-client-secret";
        /// The public URL of `/api/v1/auth/callback`, exactly as registered at the provider. Its scheme and host are the public
        /// origin, where people use the application.
        OAUTH_REDIRECT_URL: Url, Otherwise "required where people sign in", example "https://app.example.com/api/v1/auth/callback";
        /// What the provider is asked for. What a rule needs beyond it is added (`read:org`, `User.Read`), and the log says so.
        OAUTH_SCOPES: Scopes, Otherwise "github: read:user,user:email; entra and oidc: openid,profile,email", example "openid,profile,email";
        /// With `oidc`: the claim that is the username. It must be unique and not its owner's to edit.
        OAUTH_USERNAME_CLAIM: Word, Otherwise "usernames are for display only and take no part in the policy", example "preferred_username";
        /// Who may pass: `ann@example.com` is a vouched email, `@example.com` everyone with a vouched email there, `id:583231` a
        /// stable id, any other word a username, `*` everyone. Lists add up.
        OAUTH_ALLOWED_USERS: List, Otherwise "everyone whom the provider signs in", example "ann@example.com,@example.org";
        /// A file of further users who may pass, one a line; empty lines and `#` comments are skipped. Reread when it changes; an
        /// emptied file lets nobody in.
        OAUTH_ALLOWED_USERS_FILE: File, Otherwise "no file", example "/etc/sidegate/users.txt";
        /// Groups whose members may pass: GitHub `org` or `org/team`, an Entra group id or app role, an OpenID Connect group.
        OAUTH_ALLOWED_GROUPS: List, Otherwise "no groups", example "acme/platform,acme/sre";
        /// With `entra`: the tenants that may sign in, by id or domain; or `common` (any tenant and personal accounts),
        /// `organizations` (any tenant), `consumers` (personal accounts).
        OAUTH_TENANT_ID: List, Is "common", example "72f988bf-86f1-41af-91ab-2d7cd011db47";
        /// With `oidc`: the issuer, whose `/.well-known/openid-configuration` tells the rest. Must be `https`, except on a loopback
        /// host.
        OAUTH_ISSUER_URL: Url, Otherwise "required with oidc", example "https://accounts.example.com";
        /// With `github`: where people sign in. For GitHub Enterprise Server, its address. Must be `https`, except on a loopback host.
        OAUTH_GITHUB_URL: Url, Is "https://github.com", example "https://github.example.com";
        /// With `github`: the API. For GitHub Enterprise Server, its address with `/api/v3`. Must be `https`, except on a loopback
        /// host.
        OAUTH_GITHUB_API_URL: Url, Is "https://api.github.com", example "https://github.example.com/api/v3";
        /// With `entra`: where people sign in. For a sovereign cloud, its authority. Must be `https`, except on a loopback host.
        OAUTH_ENTRA_AUTHORITY: Url, Is "https://login.microsoftonline.com", example "https://login.microsoftonline.us";
        /// With `entra`: Microsoft Graph. For a sovereign cloud, its Graph. Must be `https`, except on a loopback host.
        OAUTH_GRAPH_URL: Url, Is "https://graph.microsoft.com", example "https://graph.microsoft.us";
        /// Further roots for the connection to the provider, in PEM, beside those of the system. Reread when it changes.
        OAUTH_CA_FILE: File, Otherwise "the system's roots only", example "/etc/sidegate/provider-ca.pem";
        /// With `oidc` and `entra`: what access tokens of the provider must name as their audience to be accepted in `Authorization: Bearer`.
        /// With the client id among them, its ID tokens are accepted too. Further issuers stand in `[[tokens]]`.
        OAUTH_BEARER_AUDIENCES: List, Otherwise "no tokens of the provider are accepted", example "https://app.example.com";
        /// With `github`: whether tokens that GitHub issued to this application are accepted in `Authorization: Bearer`. GitHub is asked
        /// about each once a minute.
        OAUTH_BEARER_GITHUB: Switch, Is "false", example "true";
        /// The HTTP proxy on the way to the provider, `http://user:password@host:port` or `https://…`; `none`: there is none, whatever the
        /// environment says. Without it HTTPS_PROXY and NO_PROXY count. A provider on a loopback host is always called directly. Better given as
        /// a file where it holds a password.
        OAUTH_PROXY: Secret, Otherwise "`HTTPS_PROXY`, but for what `NO_PROXY` names", example "http://proxy.example.com:3128";
        /// A file that holds OAUTH_PROXY; one line break at its end is dropped. Reread when it changes.
        OAUTH_PROXY_FILE: File, Otherwise "OAUTH_PROXY", example "/run/secrets/oauth-proxy";
    }
    "Sessions" {
        /// Where sessions are kept: `memory`, which needs nothing, and ends them at a restart; `redis`, shared by all replicas, which
        /// needs SESSION_REDIS_URL and SESSION_SECRET; `jwt`, in the browser's cookie, signed, which needs SESSION_SECRET.
        SESSION_STORE: Word, Is "memory", example "redis";
        /// What the sessions in memory may take together, in bytes, from 1048576; beyond it the longest unused goes first
        /// (with `redis` it is read again when needed). A change needs a restart.
        SESSION_MEMORY_BYTES: Bytes, Is "134217728", example "134217728";
        /// How long a session lasts from its sign-in, whatever happens; up to 400 days, which is as long as browsers keep a cookie.
        SESSION_TTL: Duration, Is "24h", example "24h";
        /// How long a session lasts without a request; 0 turns this limit off.
        SESSION_IDLE_TTL: Duration, Is "0", example "30m";
        /// How often the provider is asked again who somebody is and what groups they are in, where it gave no refresh token and as
        /// long as the access token lasts; 0 turns it off. With a refresh token that happens shortly before the access token ends.
        SESSION_RECHECK: Duration, Is "15m", example "15m";
        /// At least 32 random bytes in base64 or hex, which sign and seal. A list rotates: the first signs and seals, all verify and open.
        /// Better given as a file.
        SESSION_SECRET: Secret, Otherwise "random at start", example "the output of `openssl rand -base64 32`";
        /// A file that holds SESSION_SECRET; one line break at its end is dropped. Reread when it changes.
        SESSION_SECRET_FILE: File, Otherwise "SESSION_SECRET", example "/run/secrets/session-secret";
        /// With `redis`: where Redis or Valkey is: `redis://user:password@host:port/db`,
        /// `redis-sentinel://user:password@host:port,host:port/master-name/db` or `redis-cluster://user:password@host:port,host:port`;
        /// `rediss…` for TLS. Better given as a file where it holds a password.
        SESSION_REDIS_URL: Secret, Otherwise "required with redis", example "redis://redis:6379/0";
        /// A file that holds SESSION_REDIS_URL; one line break at its end is dropped. Reread when it changes.
        SESSION_REDIS_URL_FILE: File, Otherwise "SESSION_REDIS_URL", example "/run/secrets/redis-url";
        /// With `redis`: what all keys and channels in Redis begin with.
        SESSION_REDIS_PREFIX: Word, Is "sidegate:", example "sidegate:";
        /// With `redis`: the password of the sentinels, where they have one.
        SESSION_REDIS_SENTINEL_PASSWORD: Secret, Otherwise "no password", example "SESSION_REDIS_SENTINEL_PASSWORD_FILE=/run/secrets/sentinel-password";
        /// A file that holds SESSION_REDIS_SENTINEL_PASSWORD; one line break at its end is dropped. Reread when it changes.
        SESSION_REDIS_SENTINEL_PASSWORD_FILE: File, Otherwise "SESSION_REDIS_SENTINEL_PASSWORD", example "/run/secrets/sentinel-password";
        /// With `redis`: further roots for `rediss…`, in PEM, beside those of the system. Reread when it changes.
        SESSION_REDIS_CA_FILE: File, Otherwise "the system's roots only", example "/etc/sidegate/redis-ca.pem";
        /// With `redis`: how long a call to the store may take, connecting included; beyond it the store counts as away.
        SESSION_STORE_TIMEOUT: Duration, Is "250ms", example "250ms";
        /// With `redis`: how long a session in memory counts while news of ended sessions does not come through, or the store is away.
        SESSION_CACHE_TTL: Duration, Is "10s", example "10s";
        /// The name of the session cookie. A name that begins with `__Host-` keeps sibling hosts from setting it, and needs https.
        COOKIE_NAME: Word, Is "session_token", example "session_token";
        /// The domain that the session cookie is sent to, with all hosts below it. Leave it unset unless several hosts share a sign-in.
        COOKIE_DOMAIN: Word, Otherwise "the public host only", example "example.com";
        /// Whether browsers send the session cookie over https only.
        COOKIE_SECURE: Switch, Otherwise "true where OAUTH_REDIRECT_URL is https", example "true";
    }
    "Upstream" {
        /// Where requests go: `http://host:port`, `https://host:port`, `h2c://host:port` (HTTP/2 without TLS), `h2://host:port`
        /// (HTTP/2 over TLS) or `unix:/path`.
        UPSTREAM_URL: Url, Is "http://127.0.0.1:8081", example "http://127.0.0.1:8081";
        /// Further roots for an `https` upstream, in PEM, beside those of the system. Reread when it changes.
        UPSTREAM_CA_FILE: File, Otherwise "the system's roots only", example "/etc/sidegate/upstream-ca.pem";
        /// Whether the upstream reads paths without regard to case, as servers on Windows do: every rule (`[[routes]]`) that leads
        /// there then matches without case too.
        UPSTREAM_IGNORE_CASE: Switch, Is "false", example "true";
        /// Whether the identity assertion that this upstream is sent names the person's groups. What else it is told of people `[identity]`
        /// of the file may choose.
        ASSERTION_GROUPS: Switch, Is "true", example "false";
        /// EC P-256 private keys in PEM that sign the identity assertion: the first signs, all are published. A list of files rotates.
        /// Reread when they change.
        ASSERTION_KEY_FILE: Files, Otherwise "from SESSION_SECRET where that is set, else random at start", example "/run/secrets/assertion-key.pem";
    }
    "Connections" {
        /// The certificate chain in PEM, leaf first. With TLS_KEY_FILE, TLS ends here. Of a list of files a client is shown the first
        /// certificate for the name that it asks for, else the first. Reread when they change.
        TLS_CERT_FILE: Files, Otherwise "no TLS", example "/etc/sidegate/tls.crt";
        /// The certificate's private key in PEM; as many files, in the same order, as TLS_CERT_FILE names. Reread when they change.
        TLS_KEY_FILE: Files, Otherwise "no TLS", example "/etc/sidegate/tls.key";
        /// The authorities in PEM whose certificates clients are asked for where TLS ends here: rules may name them (`cert:CN=laptop-7`).
        /// Reread when it changes.
        TLS_CLIENT_CA_FILE: File, Otherwise "clients are asked for none", example "/etc/sidegate/clients-ca.pem";
        /// With TLS_CLIENT_CA_FILE: `required` (a client without a good certificate gets no connection) or `optional` (without one it is
        /// let in as far as rules ask for none; a bad one gets no connection).
        TLS_CLIENT_AUTH: Word, Otherwise "required", example "optional";
        /// Networks and addresses of proxies in front, whose `X-Forwarded-*` headers are believed; `unix:` is whoever connects by a
        /// socket file. Nobody else's are.
        TRUSTED_PROXIES: List, Otherwise "nobody", example "10.0.0.0/8,192.0.2.7";
        /// Networks and addresses of load balancers whose connections begin with the PROXY protocol, version 1 or 2: each of them then
        /// must. The address that it names counts as the connection's. From others it is refused.
        PROXY_PROTOCOL_FROM: List, Otherwise "nobody", example "10.0.0.0/8";
        /// The largest request head in bytes, from 8192 to 1048576; a larger one is answered 431.
        LIMIT_HEADER_BYTES: Bytes, Is "65536", example "65536";
        /// Connections at a time, or as many as open files and LIMIT_MEMORY allow; further ones wait in the kernel's queue.
        LIMIT_CONNECTIONS: Count, Is "10000", example "10000";
        /// What buffers, heads and streams of clients may take together, in bytes, from 16777216; near it the slowest are closed and new
        /// connections wait, those signed in go on. 0 turns it off.
        LIMIT_MEMORY: Bytes, Otherwise "three quarters of the cgroup's limit, else none", example "201326592";
        /// How long a client may take for a complete request head: on a new connection from accept, TLS handshake included.
        TIMEOUT_HEADER: Duration, Is "10s", example "10s";
        /// How long a connection with nothing in flight stays open.
        TIMEOUT_IDLE: Duration, Is "75s", example "75s";
        /// How long connecting to the upstream may take, TLS included; beyond: 502.
        TIMEOUT_CONNECT: Duration, Is "5s", example "5s";
        /// How long the upstream may take to its first byte, from the last byte of the request; beyond: 504.
        TIMEOUT_FIRST_BYTE: Duration, Is "60s", example "60s";
        /// How long a body may move no byte. Upgrades and event streams are excepted.
        TIMEOUT_BODY: Duration, Is "60s", example "60s";
        /// On SIGTERM, how long to go on accepting while not ready, so that load balancers notice; 0 turns it off.
        SHUTDOWN_DELAY: Duration, Is "0s", example "5s";
        /// On SIGTERM, how long requests in flight may take to end; 0 ends them at once.
        SHUTDOWN_TIMEOUT: Duration, Is "30s", example "30s";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_explained_and_named_once() {
        let mut names: Vec<&str> = ALL.iter().map(|knob| knob.variable).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for knob in ALL {
            assert!(knob.help().ends_with('.') && !knob.help().contains("  "), "{}", knob.variable);
        }
    }

    #[test]
    fn every_secret_has_a_twin_that_names_a_file_and_no_flag() {
        for knob in ALL.iter().filter(|knob| knob.kind == Kind::Secret) {
            let twin = format!("{}_FILE", knob.variable);
            assert!(ALL.iter().any(|other| other.variable == twin && other.kind == Kind::File), "{twin}");
            assert_eq!(knob.flag(), None);
        }
    }
}
