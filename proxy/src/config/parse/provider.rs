//! The identity provider, and our registration there.

use url::Url;

use super::tokens::Section;
use crate::adapters::providers::{ClientRegistration, ProviderSettings, Tenants, WayOut, uses_a_proxy};
use crate::config::options::{
    Knob, OAUTH_ALLOWED_GROUPS, OAUTH_CLIENT_ID, OAUTH_CLIENT_SECRET, OAUTH_CLIENT_SECRET_FILE, OAUTH_ENTRA_AUTHORITY,
    OAUTH_GITHUB_API_URL, OAUTH_GITHUB_URL, OAUTH_GRAPH_URL, OAUTH_ISSUER_URL, OAUTH_PROVIDER, OAUTH_PROXY,
    OAUTH_PROXY_FILE, OAUTH_REDIRECT_URL, OAUTH_SCOPES, OAUTH_TENANT_ID, OAUTH_USERNAME_CLAIM,
};
use crate::config::reading::Reading;
use crate::config::words;
use crate::domain::identity::ProviderKind;
use crate::domain::paths::CALLBACK;
use crate::domain::policy::AllowedGroups;
use crate::domain::secret::Secret;

const REQUIRED: &str = "OAUTH_ENABLED is true";

pub(super) fn kind(reading: &mut Reading) -> Option<ProviderKind> {
    let text = reading.required(OAUTH_PROVIDER, REQUIRED)?;
    match text.to_ascii_lowercase().as_str() {
        "github" => Some(ProviderKind::Github),
        "entra" | "azure" => Some(ProviderKind::Entra),
        "oidc" => Some(ProviderKind::Oidc),
        _ => {
            reading.fault(OAUTH_PROVIDER, "must be `github`, `entra` or `oidc`");
            None
        }
    }
}

pub(super) fn redirect_url(reading: &mut Reading) -> Option<Url> {
    reading.required(OAUTH_REDIRECT_URL, REQUIRED)?;
    let url = reading.parsed(OAUTH_REDIRECT_URL, |text| {
        let url = words::web_url(text)?;
        // The text too: the parser would read `/x/../api` as the same path, but the provider compares it literally.
        if url.path() != CALLBACK
            || text.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map(|(_, path)| path)
                != CALLBACK.strip_prefix('/')
        {
            return Err(format!("its path must be exactly {CALLBACK}"));
        }
        Ok(url)
    })?;
    if url.scheme() == "http" && !url.host().is_some_and(|host| words::is_loopback(&host)) {
        reading.warn("OAUTH_REDIRECT_URL is http: codes and the session cookie travel in the clear, for anybody on the way to take");
    }
    Some(url)
}

/// Scheme and host, with path `/`.
pub(super) fn origin_of(redirect_url: &Url) -> Url {
    let mut origin = redirect_url.clone();
    origin.set_path("/");
    origin
}

/// What lists and rules need from the provider beside the identity.
pub(super) struct Asked {
    /// The groups that they refer to; `None`: none.
    pub(super) groups: Option<AllowedGroups>,
    /// The claims that they refer to.
    pub(super) claims: Vec<String>,
    /// Whether an upstream receives the ID token.
    pub(super) id_token: bool,
}

pub(super) fn read(
    reading: &mut Reading,
    kind: Option<ProviderKind>,
    redirect_url: Option<Url>,
    asked: Asked,
) -> Option<ProviderSettings> {
    let Asked { groups, claims, id_token: keeps_id_token } = asked;
    let groups = groups.as_ref();
    let id = client_id(reading);
    let secret = client_secret(reading);
    let kind = kind?;
    judge_what_is_anothers(reading, kind);
    let scopes = scopes(reading, kind, groups.is_some());
    let client = (|| {
        Some(ClientRegistration {
            id: id?,
            secret: secret?,
            redirect_url: redirect_url?,
            scopes: scopes?,
            keeps_id_token,
        })
    })();
    match kind {
        ProviderKind::Github => github(reading, client, groups),
        ProviderKind::Entra => entra(reading, client, groups.is_some(), claims),
        ProviderKind::Oidc => oidc(reading, client, groups.is_some(), claims),
    }
}

/// The proxy for the provider and for the issuers of `sections`: `OAUTH_PROXY`, else the environment's.
pub(super) fn way_out(
    reading: &mut Reading,
    provider: Option<&ProviderSettings>,
    sections: &[Section],
) -> Option<WayOut> {
    let of_provider = |exceptions: &str| provider.is_none_or(|provider| uses_a_proxy(provider, exceptions));
    let note = |way: &WayOut, name: &str| format!("the provider is reached through the proxy {} ({name})", way.shown());
    if reading.is_set(OAUTH_PROXY) || reading.is_set(OAUTH_PROXY_FILE) {
        let knob = if reading.is_set(OAUTH_PROXY_FILE) { OAUTH_PROXY_FILE } else { OAUTH_PROXY };
        let secret = reading.trimmed_secret(OAUTH_PROXY, OAUTH_PROXY_FILE)?;
        let text = Some(secret.expose()).filter(|text| *text != "none")?;
        // This setting is for the provider only, so exceptions for other programs do not apply.
        let way = WayOut::new(text, "").map_err(|problem| reading.fault(knob, problem)).ok()?;
        if of_provider("") {
            reading.note(note(&way, knob.variable));
        }
        return Some(way);
    }
    let (proxy, exceptions) = reading.environment_proxy()?;
    match WayOut::new(&proxy, &exceptions) {
        Ok(way) => {
            if of_provider(&exceptions) {
                reading.note(note(&way, "HTTPS_PROXY"));
            }
            // Discovery may name endpoints on hosts that the exceptions do not cover.
            Some(way)
        }
        Err(problem) => {
            if of_provider(&exceptions) || sections.iter().any(|section| section.uses_a_proxy(&exceptions)) {
                let problem = format!("is not set, and HTTPS_PROXY {problem}; `none` calls the provider directly");
                reading.fault(OAUTH_PROXY, problem);
            } else if provider.is_some_and(names_other_hosts) && !exceptions.split(',').any(|part| part.trim() == "*") {
                reading.warn(format!(
                    "HTTPS_PROXY {problem}; NO_PROXY excepts the provider's host, so the provider is called directly, and so is \
                     every other host that its discovery document names"
                ));
            }
            None
        }
    }
}

/// Whether the provider's discovery document may name endpoints on hosts other than its own.
const fn names_other_hosts(provider: &ProviderSettings) -> bool {
    matches!(provider, ProviderSettings::Entra { .. } | ProviderSettings::Oidc { .. })
}

fn client_id(reading: &mut Reading) -> Option<String> {
    reading.required(OAUTH_CLIENT_ID, REQUIRED)?;
    reading.parsed(OAUTH_CLIENT_ID, |text| {
        let odd = |c: char| c.is_whitespace() || c.is_control();
        if text.contains(odd) { Err("must not hold white space".to_owned()) } else { Ok(text.to_owned()) }
    })
}

fn client_secret(reading: &mut Reading) -> Option<Secret> {
    if !reading.is_set(OAUTH_CLIENT_SECRET) && !reading.is_set(OAUTH_CLIENT_SECRET_FILE) {
        reading.fault(OAUTH_CLIENT_SECRET, format!("is not set, but {REQUIRED}"));
    }
    let secret = reading.secret(OAUTH_CLIENT_SECRET, OAUTH_CLIENT_SECRET_FILE)?;
    if secret.expose().contains(char::is_control) {
        reading.fault(OAUTH_CLIENT_SECRET, "holds a line break or another control character: it must be one line");
    }
    Some(secret)
}

fn github(
    reading: &mut Reading,
    client: Option<ClientRegistration>,
    groups: Option<&AllowedGroups>,
) -> Option<ProviderSettings> {
    // With one alone, tokens of one GitHub would be sent to the other.
    for (alone, missing) in [(OAUTH_GITHUB_URL, OAUTH_GITHUB_API_URL), (OAUTH_GITHUB_API_URL, OAUTH_GITHUB_URL)] {
        if reading.differs(alone) && !reading.differs(missing) {
            reading.fault(
                missing,
                format!("is of github.com, but {} is not: both must be of the same GitHub", alone.variable),
            );
        }
    }
    let web = reading.parsed(OAUTH_GITHUB_URL, words::provider_url);
    let api = reading.parsed(OAUTH_GITHUB_API_URL, words::provider_url);
    let mut groups: Vec<String> = groups.map(|groups| groups.iter().map(str::to_owned).collect()).unwrap_or_default();
    groups.sort_unstable();
    Some(ProviderSettings::Github { client: client?, web: web?, api: api?, groups })
}

fn entra(
    reading: &mut Reading,
    client: Option<ClientRegistration>,
    wants_groups: bool,
    claims: Vec<String>,
) -> Option<ProviderSettings> {
    for (alone, missing) in [(OAUTH_ENTRA_AUTHORITY, OAUTH_GRAPH_URL), (OAUTH_GRAPH_URL, OAUTH_ENTRA_AUTHORITY)] {
        if reading.differs(alone) && !reading.differs(missing) {
            reading.warn(format!(
                "{} is another cloud's, but {} is not: are both of the same cloud?",
                alone.variable, missing.variable
            ));
        }
    }
    let authority = reading.parsed(OAUTH_ENTRA_AUTHORITY, words::provider_url);
    let graph = reading.parsed(OAUTH_GRAPH_URL, words::provider_url);
    let tenants = tenants(reading);
    if matches!(tenants, Some(Tenants::Common | Tenants::Organizations)) {
        reading.warn(
            "OAUTH_TENANT_ID names no tenant: every organisation's users can sign in, only a user principal name counts as an email, \
             and app roles, group names and claims that administrators can choose do not count; name your tenant's id unless \
             strangers are meant to come",
        );
    }
    Some(ProviderSettings::Entra {
        client: client?,
        authority: authority?,
        graph: graph?,
        tenants: tenants?,
        wants_groups,
        claims,
    })
}

fn oidc(
    reading: &mut Reading,
    client: Option<ClientRegistration>,
    wants_groups: bool,
    claims: Vec<String>,
) -> Option<ProviderSettings> {
    let username_claim = reading.text(OAUTH_USERNAME_CLAIM);
    reading.required(OAUTH_ISSUER_URL, "OAUTH_PROVIDER is oidc")?;
    let issuer = reading.parsed(OAUTH_ISSUER_URL, |text| {
        let url = words::provider_url(text)?;
        if url.path().contains("/.well-known/") {
            return Err("must be the issuer itself, without `/.well-known/…`".to_owned());
        }
        Ok(url)
    });
    Some(ProviderSettings::Oidc { client: client?, issuer: issuer?, username_claim, wants_groups, claims })
}

/// Settings of another provider: an error if they were meant to limit access or identify users, else a warning.
fn judge_what_is_anothers(reading: &mut Reading, kind: ProviderKind) {
    if kind != ProviderKind::Oidc && reading.is_set(OAUTH_USERNAME_CLAIM) {
        reading.fault(
            OAUTH_USERNAME_CLAIM,
            "is for OAUTH_PROVIDER=oidc only: GitHub's and Entra's usernames are fixed; remove it",
        );
    }
    if kind != ProviderKind::Entra
        && reading.is_set(OAUTH_TENANT_ID)
        && !matches!(parse_tenants(&reading.list(OAUTH_TENANT_ID)), Ok(Tenants::Common))
    {
        reading.fault(OAUTH_TENANT_ID, "is for OAUTH_PROVIDER=entra only, and would narrow nothing here: remove it");
    }
    let theirs: [(Knob, ProviderKind); 5] = [
        (OAUTH_ISSUER_URL, ProviderKind::Oidc),
        (OAUTH_GITHUB_URL, ProviderKind::Github),
        (OAUTH_GITHUB_API_URL, ProviderKind::Github),
        (OAUTH_ENTRA_AUTHORITY, ProviderKind::Entra),
        (OAUTH_GRAPH_URL, ProviderKind::Entra),
    ];
    for (knob, owner) in theirs {
        if owner != kind && reading.differs(knob) {
            reading.warn(format!("{} is for OAUTH_PROVIDER={} only, and is not used", knob.variable, owner.as_str()));
        }
    }
}

fn tenants(reading: &mut Reading) -> Option<Tenants> {
    let list = reading.list(OAUTH_TENANT_ID);
    parse_tenants(&list).map_err(|problem| reading.fault(OAUTH_TENANT_ID, problem)).ok()
}

fn parse_tenants(list: &[String]) -> Result<Tenants, String> {
    let list: Vec<String> = list.iter().map(|tenant| tenant.to_ascii_lowercase()).collect();
    match list.as_slice() {
        [one] if one == "common" => return Ok(Tenants::Common),
        [one] if one == "organizations" => return Ok(Tenants::Organizations),
        [one] if one == "consumers" => return Ok(Tenants::Consumers),
        [] => return Err("names no tenant".to_owned()),
        [..] => {}
    }
    if list.iter().any(|tenant| matches!(tenant.as_str(), "common" | "organizations" | "consumers")) {
        return Err(
            "mixes common, organizations or consumers with others: name one of them, or tenants only".to_owned()
        );
    }
    match list.iter().position(|tenant| !is_guid(tenant) && !is_domain(tenant)) {
        Some(i) => Err(format!("entry {} is neither a tenant's id nor a domain", i + 1)),
        None => Ok(Tenants::Named(list)),
    }
}

pub(super) fn is_guid(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    lengths.eq([8, 4, 4, 4, 12]) && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    text.contains('.') && text.split('.').all(is_label)
}

/// The scopes, including those that rules need.
fn scopes(reading: &mut Reading, kind: ProviderKind, wants_groups: bool) -> Option<Vec<String>> {
    let mut scopes = reading.list(OAUTH_SCOPES);
    if scopes.is_empty() {
        let usual: &[&str] = match kind {
            ProviderKind::Github => &["read:user", "user:email"],
            ProviderKind::Entra | ProviderKind::Oidc => &["openid", "profile", "email"],
        };
        scopes = usual.iter().map(|scope| (*scope).to_owned()).collect();
    }
    // RFC 6749 §3.3
    if scopes.iter().any(|scope| !scope.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')) {
        reading.fault(OAUTH_SCOPES, "holds a character that no scope has");
        return None;
    }
    let mut need = |scope: &str, covered_by: &[&str], why: &str| {
        if !scopes.iter().any(|have| have.eq_ignore_ascii_case(scope) || covered_by.contains(&have.as_str())) {
            scopes.push(scope.to_owned());
            reading.note(format!("OAUTH_SCOPES: `{scope}` is asked for too, {why}"));
        }
    };
    match kind {
        ProviderKind::Github => {
            need("user:email", &["user"], "to read the verified email");
            if wants_groups {
                need(
                    "read:org",
                    &["write:org", "admin:org"],
                    &format!("because {} or a rule names organisations", OAUTH_ALLOWED_GROUPS.variable),
                );
            }
        }
        ProviderKind::Entra => {
            need("openid", &[], "without which there is no ID token");
            need("User.Read", &["https://graph.microsoft.com/User.Read"], "to read what the ID token lacks from Graph");
        }
        ProviderKind::Oidc => need("openid", &[], "without which there is no ID token"),
    }
    let mut seen = std::collections::HashSet::new();
    scopes.retain(|scope| seen.insert(scope.clone()));
    Some(scopes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::settings::Mode;

    fn tenants_of(text: &str) -> Result<Tenants, String> {
        parse_tenants(&text.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_way_out_is_our_own_proxy_or_everybodys() {
        use crate::config::trial::{faults, github, sign_in, warnings};

        let shown = |more: &[(&str, &str)]| sign_in(github(more)).way_out.map(|way| way.shown().to_owned());
        let everybodys = ("HTTPS_PROXY", "http://ann:hush@all:3128");
        assert_eq!(shown(&[]), None);
        assert_eq!(shown(&[everybodys]).as_deref(), Some("all:3128"));
        assert_eq!(shown(&[("https_proxy", "low:1")]).as_deref(), Some("low:1"));
        assert_eq!(shown(&[everybodys, ("https_proxy", "low:1")]).as_deref(), Some("all:3128"));
        assert_eq!(shown(&[("HTTPS_PROXY", " "), ("https_proxy", "low:1")]).as_deref(), Some("low:1"));
        assert_eq!(shown(&[everybodys, ("OAUTH_PROXY", "https://own")]).as_deref(), Some("own:443"));
        assert_eq!(shown(&[everybodys, ("OAUTH_PROXY", "none")]), None);
        assert_eq!(shown(&[everybodys, ("OAUTH_PROXY", "")]).as_deref(), Some("all:3128"), "empty is unset");
        for (blank_at_the_ends, way) in [(" http://own:8080 ", Some("own:8080")), ("none ", None)] {
            assert_eq!(shown(&[everybodys, ("OAUTH_PROXY", blank_at_the_ends)]).as_deref(), way);
            let said = warnings(github(&[("OAUTH_PROXY", blank_at_the_ends)]));
            assert!(!said.contains("white space"), "it does not count: {said}");
        }
        let said = warnings(github(&[("OAUTH_CLIENT_SECRET", " s")]));
        assert!(said.contains("OAUTH_CLIENT_SECRET: white space at the ends"), "{said}");
        let fault = faults(github(&[("HTTPS_PROXY", "socks5://ann:hush@all:1080")]));
        assert!(fault.contains("OAUTH_PROXY") && fault.contains("HTTPS_PROXY") && fault.contains("`none`"), "{fault}");
        assert!(!fault.contains("hush"), "{fault}");
        let here = [
            ("HTTPS_PROXY", "socks5://all:1080"),
            ("OAUTH_GITHUB_URL", "http://localhost:9400"),
            ("OAUTH_GITHUB_API_URL", "http://localhost:9400/api/v3"),
        ];
        assert_eq!(shown(&here), None, "who calls nobody beyond this machine needs no proxy");
    }

    #[test]
    fn a_proxy_that_no_call_goes_through_is_neither_named_nor_a_fault() {
        use crate::config::trial::{env, faults, github};

        let outcome = |proxy: &str, exceptions: &str| github(&[("HTTPS_PROXY", proxy), ("NO_PROXY", exceptions)]);
        let notes = |exceptions: &str| {
            outcome("http://all:3128", exceptions).unwrap_or_else(|faults| panic!("{faults}")).notes.join("; ")
        };
        for past in ["*", "example.org, *", "github.com", ".github.com,other.test"] {
            // `api.github.com` is below `github.com`.
            assert!(!notes(past).contains("the proxy all:3128"), "{past}");
            let past_it = outcome("socks5://all:1080", past).unwrap_or_else(|faults| panic!("{faults}"));
            assert!(!past_it.warnings.join("; ").contains("HTTPS_PROXY"), "no document names other hosts: {past}");
        }
        for through in ["", "api.github.com", "hub.com,10.0.0.0/8"] {
            assert!(notes(through).contains("the provider is reached through the proxy all:3128"), "{through}");
            assert!(faults(outcome("socks5://all:1080", through)).contains("HTTPS_PROXY must be"), "{through}");
        }
        // An issuer of bearer tokens is called the same way.
        let tokens = tempfile::NamedTempFile::new().unwrap();
        let section = "[[tokens]]\nname = \"ci\"\nissuer = \"https://ci.example.com\"\naudiences = [\"a\"]\nallowed_users = [\"x\"]\n";
        std::fs::write(tokens.path(), section).unwrap();
        let here = [
            ("SIDEGATE_CONFIG", tokens.path().to_str().unwrap()),
            ("OAUTH_GITHUB_URL", "http://localhost:9400"),
            ("OAUTH_GITHUB_API_URL", "http://localhost:9400/api/v3"),
        ];
        let with = |proxy: &str, exceptions: &str| {
            env(&[crate::config::trial::GITHUB, &here, &[("HTTPS_PROXY", proxy), ("NO_PROXY", exceptions)]])
        };
        let loaded = with("http://all:3128", "").unwrap_or_else(|faults| panic!("{faults}"));
        assert!(!loaded.notes.join("; ").contains("the provider is reached"), "{:?}", loaded.notes);
        let Mode::SignIn(settings) = loaded.settings.mode else { panic!("open mode") };
        let ways: Vec<_> = settings.bearer.unwrap().issuers.into_iter().map(|issuer| issuer.way_out).collect();
        assert!(ways.iter().all(Option::is_some) && !ways.is_empty(), "the issuer is called past the proxy");
        assert!(faults(with("socks5://all:1080", "")).contains("HTTPS_PROXY must be"));
        let oidc =
            [("OAUTH_PROVIDER", "oidc"), ("OAUTH_ISSUER_URL", "https://id.example.com"), ("OAUTH_CLIENT_ID", "app")];
        for (exceptions, warns) in [("example.com", true), ("*", false)] {
            let past = [("HTTPS_PROXY", "socks5://all:1080"), ("NO_PROXY", exceptions)];
            let loaded = env(&[crate::config::trial::GITHUB, &oidc, &past]).unwrap_or_else(|faults| panic!("{faults}"));
            assert_eq!(loaded.warnings.join("; ").contains("every other host that its discovery document"), warns);
        }
        assert!(with("socks5://all:1080", "example.com").is_ok());
    }

    #[test]
    fn what_does_not_count_of_a_tenant_that_is_not_named_is_said() {
        use crate::config::trial::{github, warnings};

        for (tenants, warns) in
            [("common", true), ("organizations", true), ("consumers", false), ("contoso.com", false)]
        {
            let said = warnings(github(&[("OAUTH_PROVIDER", "entra"), ("OAUTH_TENANT_ID", tenants)]));
            let text = "app roles, group names and claims that administrators can choose do not count";
            assert_eq!(said.contains(text), warns, "{tenants}: {said}");
        }
    }

    #[test]
    fn tenants_are_one_of_three_words_or_a_list() {
        assert_eq!(tenants_of("Common"), Ok(Tenants::Common));
        assert_eq!(tenants_of("organizations"), Ok(Tenants::Organizations));
        assert_eq!(tenants_of("consumers"), Ok(Tenants::Consumers));
        assert_eq!(
            tenants_of("72F988BF-86F1-41AF-91AB-2D7CD011DB47,contoso.onmicrosoft.com"),
            Ok(Tenants::Named(vec!["72f988bf-86f1-41af-91ab-2d7cd011db47".into(), "contoso.onmicrosoft.com".into()]))
        );
        for bad in [
            "common,contoso.com",
            "contoso",
            "72f988bf",
            "a..b",
            "contoso.com/",
            "{72f988bf-86f1-41af-91ab-2d7cd011db47}",
        ] {
            assert!(tenants_of(bad).is_err(), "{bad} was taken");
        }
    }
}
