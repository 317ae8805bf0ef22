//! Who may pass.

use crate::config::options::{
    OAUTH_ALLOWED_GROUPS, OAUTH_ALLOWED_USERS, OAUTH_ALLOWED_USERS_FILE, OAUTH_USERNAME_CLAIM,
};
use crate::config::reading::Reading;
use crate::domain::identity::ProviderKind;
use crate::domain::policy::{AllowLists, AllowedGroups, AllowedUsers};

pub(super) fn read(reading: &mut Reading, kind: Option<ProviderKind>) -> AllowLists {
    let listed = reading.allow_list(OAUTH_ALLOWED_USERS);
    let filed = read_file(reading);
    let groups = reading.allow_list(OAUTH_ALLOWED_GROUPS);
    let lists = AllowLists {
        users: users(reading, listed.as_deref(), filed.as_deref()),
        groups: groups.as_deref().map(|entries| self::groups(reading, kind, entries)),
    };
    let named: Vec<&str> = listed.iter().chain(&filed).flatten().map(String::as_str).collect();
    warn_of_everyone(reading, &lists, &named);
    warn_of_names_without_use(reading, kind, &named);
    lists
}

fn users(reading: &mut Reading, listed: Option<&[String]>, filed: Option<&[String]>) -> Option<AllowedUsers> {
    let mut sum: Option<AllowedUsers> = None;
    for (knob, entries) in [(OAUTH_ALLOWED_USERS, listed), (OAUTH_ALLOWED_USERS_FILE, filed)] {
        let Some(entries) = entries else { continue };
        match AllowedUsers::parse(entries.iter().map(String::as_str)) {
            Ok(users) => sum = Some(sum.unwrap_or_default().and(users)),
            Err(faults) => faults.into_iter().for_each(|fault| reading.fault(knob, fault.to_string())),
        }
    }
    sum
}

/// One entry a line; blank lines, comments, CRLF and a byte order mark are fine. An emptied file is an empty list.
fn read_file(reading: &mut Reading) -> Option<Vec<String>> {
    let path = reading.allow_file(OAUTH_ALLOWED_USERS_FILE)?;
    let text = reading.file_text(OAUTH_ALLOWED_USERS_FILE, &path)?;
    let mut entries = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let entry = line.split_once('#').map_or(line, |(entry, _)| entry).trim();
        if entry.contains(',') {
            reading.fault(
                OAUTH_ALLOWED_USERS_FILE,
                format!("the file {}, line {}: one entry a line, no commas", path.display(), i + 1),
            );
        } else if !entry.is_empty() {
            entries.push(entry.to_owned());
        }
    }
    if entries.is_empty() {
        reading
            .warn(format!("OAUTH_ALLOWED_USERS_FILE: the file {} names nobody, so it lets nobody in", path.display()));
    }
    Some(entries)
}

fn groups(reading: &mut Reading, kind: Option<ProviderKind>, entries: &[String]) -> AllowedGroups {
    for (i, entry) in entries.iter().enumerate() {
        let n = i + 1;
        if entry.starts_with("group:") {
            reading.fault(OAUTH_ALLOWED_GROUPS, format!("entry {n}: write the group alone, without `group:`"));
        } else if entry == "*" {
            reading.fault(
                OAUTH_ALLOWED_GROUPS,
                format!("entry {n}: `*` is not a group; OAUTH_ALLOWED_USERS=* lets everyone in"),
            );
        } else if kind == Some(ProviderKind::Github) && !is_github_group(entry) {
            reading.fault(
                OAUTH_ALLOWED_GROUPS,
                format!("entry {n} is neither an organisation `org` nor a team `org/team` of GitHub"),
            );
        }
    }
    AllowedGroups::parse(entries.iter().map(String::as_str))
}

fn is_github_group(entry: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let (org, team) = entry.split_once('/').unwrap_or((entry, "any"));
    is_name(org) && is_name(team)
}

fn warn_of_everyone(reading: &mut Reading, lists: &AllowLists, named: &[&str]) {
    if lists.users.is_none() && lists.groups.is_none() {
        reading.warn(
            "OAUTH_ALLOWED_USERS is not set: everyone whom the provider signs in may pass; \
             name users, or write `*` to say that this is meant",
        );
    } else if lists.admit_everyone() && (named.len() > 1 || lists.groups.is_some()) {
        reading.warn("OAUTH_ALLOWED_USERS holds `*`, so everyone whom the provider signs in may pass, and the other entries change nothing");
    }
}

/// Entries that are usernames, where no username is believed or none can look like that.
fn warn_of_names_without_use(reading: &mut Reading, kind: Option<ProviderKind>, named: &[&str]) {
    let count =
        named.iter().filter(|entry| !entry.contains('@') && !entry.starts_with("id:") && **entry != "*").count();
    if count == 0 {
        return;
    }
    match kind {
        Some(ProviderKind::Oidc) if !reading.is_set(OAUTH_USERNAME_CLAIM) => reading.warn(format!(
            "OAUTH_ALLOWED_USERS: {count} of its entries are usernames, which can never match without OAUTH_USERNAME_CLAIM; \
             write addresses, or `id:` and the id"
        )),
        Some(ProviderKind::Entra) => reading.warn(format!(
            "OAUTH_ALLOWED_USERS: {count} of its entries are usernames without `@`, which no Entra user has; \
             write addresses, or `id:` and the object id"
        )),
        Some(ProviderKind::Github | ProviderKind::Oidc) | None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_github_group_is_an_organisation_or_one_of_its_teams() {
        for good in ["acme", "acme/platform", "acme-inc/on_call.2"] {
            assert!(is_github_group(good), "{good}");
        }
        for bad in ["acme/", "/platform", "a/b/c", "@acme/platform", "acme platform", "https://github.com/acme"] {
            assert!(!is_github_group(bad), "{bad} was taken");
        }
    }
}
