//! The parts of Microsoft Graph that a sign-in needs: the user, and the groups that do not fit in a token.

use serde::Deserialize;
use url::Url;

use super::http::{CallError, CallFault, Http, below, followed};
use super::quote::quote;
use crate::domain::secret::Secret;

/// More pages than any real list of groups has.
const MOST_PAGES: usize = 100;

/// Graph, at its address in this cloud.
pub(super) struct Graph {
    base: Url,
}

/// `GET /me`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Me {
    pub(super) id: String,
    #[serde(default)]
    pub(super) display_name: Option<String>,
    #[serde(default)]
    pub(super) mail: Option<String>,
    pub(super) user_principal_name: String,
}

#[derive(Deserialize)]
struct Page {
    value: Vec<Member>,
    #[serde(rename = "@odata.nextLink", default)]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Member {
    #[serde(rename = "@odata.type", default)]
    kind: Option<String>,
    id: String,
}

impl Graph {
    pub(super) fn new(base: Url) -> Self {
        Self { base }
    }

    /// The user whose token it is.
    pub(super) async fn me(&self, http: &Http, token: &Secret) -> Result<Me, CallError> {
        let mut url = below(&self.base, "v1.0/me");
        url.set_query(Some("$select=id,displayName,mail,userPrincipalName"));
        http.get_as(&url, token, &[]).await?.json()
    }

    /// The ids of all groups, including indirect ones. Returns all pages or an error: a partial list is not used.
    pub(super) async fn groups(&self, http: &Http, token: &Secret) -> Result<Vec<String>, CallError> {
        let mut groups = Vec::new();
        let mut url = below(&self.base, "v1.0/me/transitiveMemberOf");
        url.set_query(Some("$select=id&$top=999"));
        for _ in 0..MOST_PAGES {
            let page: Page = http.get_as(&url, token, &[]).await?.json()?;
            let of_groups = page.value.into_iter().filter(|member| {
                // The list also has directory roles and administrative units.
                member.kind.as_deref() == Some("#microsoft.graph.group")
            });
            groups.extend(of_groups.map(|member| member.id));
            let Some(next) = page.next else { return Ok(groups) };
            url = followed(&self.base, Url::parse(&next).ok())?;
        }
        Err(CallFault::Endless(MOST_PAGES).at(&self.base))
    }
}

impl Me {
    /// Whether this is a personal account.
    pub(super) fn is_personal(&self) -> bool {
        self.id.len() == 16
    }

    /// Whether this is the account in the token. Graph's id of a personal account is the last 16 digits of its object id.
    pub(super) fn is(&self, object_id: &str) -> bool {
        let digits: String = object_id.chars().filter(|c| *c != '-').collect();
        let short = digits.get(16..).unwrap_or_default();
        self.id.eq_ignore_ascii_case(object_id) || (self.is_personal() && self.id.eq_ignore_ascii_case(short))
    }
}

/// The reason of a failed call, with advice.
pub(super) fn reason(error: &CallError) -> String {
    let advice = if error.is_forbidden() { "; grant the application the delegated permission User.Read" } else { "" };
    quote(&format!("Graph: {error}{advice}"))
}
