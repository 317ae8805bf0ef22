//! The demo users, their tenants and groups: the only file to read, or to extend.

/// The tenant of ann, bob, carol, zoe and, as a guest, gus.
pub const CONTOSO: &str = "c0117050-0000-4000-8000-00000000c017";
/// The tenant of eve and mallory.
pub const FABRIKAM: &str = "fab21ca0-0000-4000-8000-00000000fab2";
/// The tenant of every personal Microsoft account, the same one as at Microsoft.
pub const CONSUMERS: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";
/// The domain that may stand for [`CONTOSO`] in an authority.
pub const CONTOSO_DOMAIN: &str = "contoso.onmicrosoft.example";
/// The domain that may stand for [`FABRIKAM`] in an authority.
pub const FABRIKAM_DOMAIN: &str = "fabrikam.onmicrosoft.example";

/// An Entra group of ann, and the last one in carol's long list.
pub const PLATFORM_GROUP: &str = "9a7f0000-0000-4000-8000-000000000001";
/// An Entra group of ann and bob.
pub const STAFF_GROUP: &str = "57aff000-0000-4000-8000-000000000002";
/// An app role of ann.
pub const ADMIN_ROLE: &str = "Sidegate.Admin";
/// How many groups, organisations and teams carol has: three pages of 100.
pub const CAROLS_GROUPS: usize = 231;

/// A user who can sign in. A missing account means that the user cannot sign in at that provider.
#[derive(Clone, Debug)]
pub struct User {
    /// The user's name in tests, in the page's `data-user` and in the cookie.
    pub id: String,
    /// The display name, at every provider.
    pub name: String,
    /// What is special about the user, for the page.
    pub remark: String,
    /// The account at GitHub.
    pub github: Option<GitHubAccount>,
    /// The account at Entra.
    pub entra: Option<EntraAccount>,
    /// The account at the OpenID Connect provider.
    pub oidc: Option<OidcAccount>,
}

/// An account at GitHub.
#[derive(Clone, Debug)]
pub struct GitHubAccount {
    /// The number that stays the same when the login changes.
    pub id: u64,
    /// The user name.
    pub login: String,
    /// The address in the public profile (`/user`), if any.
    pub public_email: Option<String>,
    /// The list of `/user/emails`.
    pub emails: Vec<Email>,
    /// Organisations.
    pub memberships: Vec<Membership>,
    /// Teams.
    pub teams: Vec<Team>,
}

/// One address of a GitHub account.
#[derive(Clone, Debug)]
pub struct Email {
    /// The address.
    pub address: String,
    /// Whether it is the primary one.
    pub primary: bool,
    /// Whether its owner has proven it.
    pub verified: bool,
}

/// A membership in a GitHub organisation.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The organisation's login.
    pub org: String,
    /// False while the invitation is pending.
    pub active: bool,
}

/// A team of a GitHub organisation.
#[derive(Clone, Debug)]
pub struct Team {
    /// The organisation's login.
    pub org: String,
    /// The team's slug.
    pub slug: String,
}

/// An account at Entra.
#[derive(Clone, Debug)]
pub struct EntraAccount {
    /// The tenant.
    pub tid: String,
    /// The object id.
    pub oid: String,
    /// The user principal name.
    pub upn: String,
    /// The mail address, which an administrator of the tenant can set to anything.
    pub mail: Option<String>,
    /// The `xms_edov` claim, if the application requests it: whether the tenant has proven the domain of the address.
    pub edov: Option<bool>,
    /// Ids of groups.
    pub groups: Vec<String>,
    /// App roles.
    pub roles: Vec<String>,
}

/// An account at the OpenID Connect provider.
#[derive(Clone, Debug)]
pub struct OidcAccount {
    /// The subject.
    pub sub: String,
    /// The address.
    pub email: Option<String>,
    /// The `email_verified` claim, where there is one.
    pub email_verified: Option<bool>,
    /// The `preferred_username` claim.
    pub username: Option<String>,
    /// The `groups` claim.
    pub groups: Vec<String>,
    /// Whether the ID token has `sub` only and all other claims come from UserInfo.
    pub at_userinfo_only: bool,
}

impl User {
    /// An ordinary user with an account everywhere: `{id}@example.com`, verified; tenant contoso; no groups. Change what matters to
    /// the test.
    pub fn new(id: &str) -> Self {
        let number = id.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let number = 100_000 + number % 900_000;
        let email = format!("{id}@example.com");
        Self {
            id: id.to_owned(),
            name: id.to_owned(),
            remark: String::new(),
            github: Some(GitHubAccount {
                id: number,
                login: id.to_owned(),
                public_email: None,
                emails: vec![Email { address: email.clone(), primary: true, verified: true }],
                memberships: Vec::new(),
                teams: Vec::new(),
            }),
            entra: Some(EntraAccount {
                tid: CONTOSO.to_owned(),
                oid: format!("0b1ec700-0000-4000-8000-{number:012}"),
                upn: format!("{id}@contoso.example"),
                mail: Some(email.clone()),
                edov: None,
                groups: Vec::new(),
                roles: Vec::new(),
            }),
            oidc: Some(OidcAccount {
                sub: format!("oidc-{id}"),
                email: Some(email),
                email_verified: Some(true),
                username: Some(id.to_owned()),
                groups: Vec::new(),
                at_userinfo_only: false,
            }),
        }
    }
}

/// All demo users, in the order of the page.
pub fn demo() -> Vec<User> {
    vec![ann(), bob(), carol(), eve(), zoe(), gus(), pat(), mallory()]
}

fn ann() -> User {
    let mut user = User::new("ann");
    "Ann Example".clone_into(&mut user.name);
    "member of acme and of acme/platform".clone_into(&mut user.remark);
    if let Some(github) = &mut user.github {
        github.id = 1001;
        github.emails = three_addresses("ann@example.com", "ann@home.example");
        github.memberships = vec![active("acme")];
        github.teams = vec![team("acme", "platform")];
    }
    if let Some(entra) = &mut user.entra {
        object_id(1001).clone_into(&mut entra.oid);
        entra.groups = vec![PLATFORM_GROUP.to_owned(), STAFF_GROUP.to_owned()];
        entra.roles = vec![ADMIN_ROLE.to_owned()];
    }
    if let Some(oidc) = &mut user.oidc {
        oidc.groups = vec!["acme".to_owned(), "acme/platform".to_owned()];
    }
    user
}

fn bob() -> User {
    let mut user = User::new("bob");
    "Bob Example".clone_into(&mut user.name);
    "invited to acme, has not accepted; his claims come from UserInfo only".clone_into(&mut user.remark);
    if let Some(github) = &mut user.github {
        github.id = 1002;
        github.public_email = Some("bob@example.com".to_owned());
        github.emails = three_addresses("bob@example.com", "bob@home.example");
        github.memberships = vec![Membership { org: "acme".to_owned(), active: false }];
    }
    if let Some(entra) = &mut user.entra {
        object_id(1002).clone_into(&mut entra.oid);
        entra.edov = Some(true);
        entra.groups = vec![STAFF_GROUP.to_owned()];
    }
    if let Some(oidc) = &mut user.oidc {
        oidc.groups = vec!["staff".to_owned()];
        oidc.at_userinfo_only = true;
    }
    user
}

fn carol() -> User {
    let mut user = User::new("carol");
    "Carol Example".clone_into(&mut user.name);
    "more groups than fit in a token or on a page".clone_into(&mut user.remark);
    let others = 1..CAROLS_GROUPS;
    if let Some(github) = &mut user.github {
        github.id = 1003;
        github.emails = three_addresses("carol@example.com", "carol@home.example");
        github.memberships = others.clone().map(|n| active(&format!("org-{n:03}"))).collect();
        github.memberships.push(active("acme"));
        github.teams = others.clone().map(|n| team("acme", &format!("team-{n:03}"))).collect();
        github.teams.push(team("acme", "platform"));
    }
    if let Some(entra) = &mut user.entra {
        object_id(1003).clone_into(&mut entra.oid);
        entra.groups = others.clone().map(|n| format!("6a09b000-0000-4000-8000-{n:012}")).collect();
        entra.groups.push(PLATFORM_GROUP.to_owned());
    }
    if let Some(oidc) = &mut user.oidc {
        oidc.groups = others.map(|n| format!("group-{n:03}")).collect();
        oidc.groups.push("acme/platform".to_owned());
    }
    user
}

fn eve() -> User {
    let mut user = User::new("eve");
    "Eve Evil".clone_into(&mut user.name);
    "has proven no address; member of nothing".clone_into(&mut user.remark);
    let address = "eve@evil.example";
    if let Some(github) = &mut user.github {
        github.id = 1004;
        github.emails = vec![Email { address: address.to_owned(), primary: true, verified: false }];
    }
    if let Some(entra) = &mut user.entra {
        object_id(1004).clone_into(&mut entra.oid);
        FABRIKAM.clone_into(&mut entra.tid);
        "eve@fabrikam.example".clone_into(&mut entra.upn);
        entra.mail = Some(address.to_owned());
        entra.edov = Some(false);
    }
    if let Some(oidc) = &mut user.oidc {
        oidc.email = Some(address.to_owned());
        oidc.email_verified = Some(false);
    }
    user
}

fn zoe() -> User {
    let mut user = User::new("zoe");
    "Zoë <b>, 100%".clone_into(&mut user.name);
    "a name that needs encoding".clone_into(&mut user.remark);
    if let Some(github) = &mut user.github {
        github.id = 1005;
        github.emails = three_addresses("zoe@example.com", "zoë@home.example");
        github.memberships = vec![active("acme")];
    }
    if let Some(entra) = &mut user.entra {
        object_id(1005).clone_into(&mut entra.oid);
        "zoë@contoso.example".clone_into(&mut entra.upn);
        entra.roles = vec!["Zürich, 100%".to_owned()];
    }
    if let Some(oidc) = &mut user.oidc {
        oidc.username = Some("zoë, 100%".to_owned());
        oidc.groups = vec!["Zürich, 100%".to_owned(), "<b>staff</b>".to_owned()];
    }
    user
}

fn gus() -> User {
    let mut user = User::new("gus");
    "Gus Guest".clone_into(&mut user.name);
    "a guest of contoso".clone_into(&mut user.remark);
    user.github = None;
    user.oidc = None;
    if let Some(entra) = &mut user.entra {
        object_id(1006).clone_into(&mut entra.oid);
        "gus_partner.example#EXT#@contoso.onmicrosoft.example".clone_into(&mut entra.upn);
        entra.mail = Some("gus@partner.example".to_owned());
    }
    user
}

fn pat() -> User {
    let mut user = User::new("pat");
    "Pat Personal".clone_into(&mut user.name);
    "a personal Microsoft account".clone_into(&mut user.remark);
    user.github = None;
    user.oidc = None;
    if let Some(entra) = &mut user.entra {
        CONSUMERS.clone_into(&mut entra.tid);
        "00000000-0000-0000-9a7b-000000001007".clone_into(&mut entra.oid);
        "pat@outlook.example".clone_into(&mut entra.upn);
        entra.mail = Some("pat@outlook.example".to_owned());
    }
    user
}

/// The nOAuth attack: an administrator sets a victim's address as the mail of an account in the attacker's own tenant.
fn mallory() -> User {
    let mut user = User::new("mallory");
    "Mallory Evil".clone_into(&mut user.name);
    "fabrikam's administrator wrote Ann's address into this account".clone_into(&mut user.remark);
    user.github = None;
    user.oidc = None;
    if let Some(entra) = &mut user.entra {
        object_id(1008).clone_into(&mut entra.oid);
        FABRIKAM.clone_into(&mut entra.tid);
        "mallory@fabrikam.example".clone_into(&mut entra.upn);
        entra.mail = Some("ann@example.com".to_owned());
    }
    user
}

fn object_id(number: u64) -> String {
    format!("0b1ec700-0000-4000-8000-{number:012}")
}

fn three_addresses(primary: &str, secondary: &str) -> Vec<Email> {
    // The primary one is not first: GitHub promises no order.
    vec![
        Email { address: secondary.to_owned(), primary: false, verified: true },
        Email { address: primary.to_owned(), primary: true, verified: true },
        Email { address: format!("unverified-{primary}"), primary: false, verified: false },
    ]
}

fn active(org: &str) -> Membership {
    Membership { org: org.to_owned(), active: true }
}

fn team(org: &str, slug: &str) -> Team {
    Team { org: org.to_owned(), slug: slug.to_owned() }
}
