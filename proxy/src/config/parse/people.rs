//! The allow lists.

use crate::config::options::{
    Knob, OAUTH_ALLOWED_GROUPS, OAUTH_ALLOWED_USERS, OAUTH_ALLOWED_USERS_FILE, OAUTH_USERNAME_CLAIM,
};
use crate::config::reading::Reading;
use crate::domain::identity::ProviderKind;
use crate::domain::policy::{AllowLists, AllowedGroups, AllowedUsers};

/// How many entries of one list get suggestions.
const ADVICE_MOST: usize = 10;

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
    for (knob, entries) in [(OAUTH_ALLOWED_USERS, &listed), (OAUTH_ALLOWED_USERS_FILE, &filed)] {
        warn_of_what_matches_nobody(reading, knob, entries.iter().flatten(), |entry| match kind {
            Some(kind) => odd_user(kind, entry),
            None => odd_anywhere(entry),
        });
    }
    warn_of_what_matches_nobody(reading, OAUTH_ALLOWED_GROUPS, groups.iter().flatten(), odd_anywhere);
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

/// One entry a line; blank lines, comments, CRLF and a byte order mark are allowed. An emptied file is an empty list.
fn read_file(reading: &mut Reading) -> Option<Vec<String>> {
    let path = reading.allow_file(OAUTH_ALLOWED_USERS_FILE)?;
    let text = reading.file_text(OAUTH_ALLOWED_USERS_FILE, &path)?;
    let mut entries = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let entry = without_comment(line).trim();
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

/// A line without its comment, which begins at the line's start or after white space: names and addresses may have a `#`.
fn without_comment(line: &str) -> &str {
    let mut fronts = line.match_indices('#').filter_map(|(at, _)| line.get(..at));
    fronts.find(|front| front.is_empty() || front.ends_with(char::is_whitespace)).unwrap_or(line)
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

pub(super) fn is_github_group(entry: &str) -> bool {
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
    } else if lists.admits_everyone() && (named.len() > 1 || lists.groups.is_some()) {
        reading.warn("OAUTH_ALLOWED_USERS holds `*`, so everyone whom the provider signs in may pass, and the other entries change nothing");
    }
}

/// Warns of usernames if usernames are not trusted, or none can have that form.
fn warn_of_names_without_use(reading: &mut Reading, kind: Option<ProviderKind>, named: &[&str]) {
    let Some(kind) = kind else { return };
    let vouched = reading.is_set(OAUTH_USERNAME_CLAIM);
    let odd: Vec<&str> = named.iter().filter_map(|entry| odd_username(kind, vouched, entry)).collect();
    if let Some(why) = odd.first() {
        reading.warn(format!("OAUTH_ALLOWED_USERS: {} of its entries are usernames: {why}", odd.len()));
    }
}

/// Why a username matches nobody: usernames are not trusted, or none can have that form. `vouched`: whether `OAUTH_USERNAME_CLAIM` is set.
pub(super) fn odd_username(kind: ProviderKind, vouched: bool, entry: &str) -> Option<&'static str> {
    if entry.contains('@') || entry.starts_with("id:") || entry == "*" {
        return None;
    }
    match kind {
        ProviderKind::Oidc if !vouched => {
            Some("they can never match without OAUTH_USERNAME_CLAIM; write addresses, or `id:` and the id")
        }
        ProviderKind::Entra => Some("no Entra user has one without `@`; write addresses, or `id:` and the object id"),
        ProviderKind::Github | ProviderKind::Oidc => None,
    }
}

/// Warns of likely mistakes: entries are compared literally, and no user or group has such a name.
fn warn_of_what_matches_nobody<'a>(
    reading: &mut Reading,
    knob: Knob,
    entries: impl Iterator<Item = &'a String>,
    odd: impl Fn(&str) -> Option<&'static str>,
) {
    let odd: Vec<_> = entries.enumerate().filter_map(|(i, entry)| Some((i + 1, entry, odd(entry.trim())?))).collect();
    for (n, entry, why) in odd.iter().take(ADVICE_MOST) {
        reading.warn(format!(
            "{}: entry {n} (`{}`) can match nobody: {why}",
            knob.variable,
            entry.trim().escape_debug()
        ));
    }
    if let Some(more) = odd.len().checked_sub(ADVICE_MOST).filter(|more| *more > 0) {
        reading.warn(format!("{}: {more} more of its entries can match nobody", knob.variable));
    }
}

/// Mistakes possible in any list.
pub(super) fn odd_anywhere(entry: &str) -> Option<&'static str> {
    if entry.contains('"') || entry.starts_with('\'') || entry.ends_with('\'') {
        Some("the quotes are part of it here; write it without them")
    } else if entry.contains(';') {
        Some("a semicolon separates nothing; write commas between entries, or in the file one entry a line")
    } else {
        None
    }
}

pub(super) fn odd_user(kind: ProviderKind, entry: &str) -> Option<&'static str> {
    if let Some(why) = odd_anywhere(entry) {
        return Some(why);
    }
    let (is_email, id) = (entry.contains('@'), entry.strip_prefix("id:").map(str::trim));
    if is_email && id.is_none() {
        return entry
            .contains(char::is_whitespace)
            .then_some("an address holds no blanks; write commas between entries");
    }
    match (kind, id) {
        (ProviderKind::Github, Some(id)) if !id.bytes().all(|b| b.is_ascii_digit()) => {
            Some("GitHub's ids are numbers, such as `id:583231`; for a login write it without `id:`")
        }
        (ProviderKind::Entra, Some(id)) if !super::provider::is_guid(id) => {
            Some("Entra's ids are object ids, such as `id:72f988bf-86f1-41af-91ab-2d7cd011db47`")
        }
        (ProviderKind::Github, None) if entry == "*" => None,
        (ProviderKind::Github, None) if entry.contains('/') && is_github_group(entry) => {
            Some("it is a team of an organisation; name it in OAUTH_ALLOWED_GROUPS, or in a rule behind `group:`")
        }
        (ProviderKind::Github, None)
            if !entry.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) =>
        {
            Some("a GitHub login has letters, digits, `-` and `_` only")
        }
        (ProviderKind::Github | ProviderKind::Entra | ProviderKind::Oidc, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::trial::{github, sign_in, warnings};

    #[test]
    fn entries_that_can_match_nobody_are_reported() {
        for (entry, word) in [
            ("\"ann\"", "quotes"),
            ("'ann'", "quotes"),
            ("\"ann@example.com\"", "quotes"),
            ("ann;bob", "semicolon"),
            ("acme/ops", "OAUTH_ALLOWED_GROUPS"),
            ("https://github.com/ann", "letters, digits"),
            ("id:ann", "numbers"),
            ("ann bob", "letters, digits"),
            ("[ann]", "letters, digits"),
        ] {
            let text = warnings(github(&[("OAUTH_ALLOWED_USERS", &format!("carol,{entry}"))]));
            let line = text.lines().find(|line| line.contains("OAUTH_ALLOWED_USERS: entry 2")).unwrap_or_default();
            assert!(line.contains("can match nobody") && line.contains(word), "{entry}: {text}");
        }
        for good in ["ann", "ann-b", "ann_acme", "id:583231", "o'neil@example.com", "@example.com", "*"] {
            let text = warnings(github(&[("OAUTH_ALLOWED_USERS", good)]));
            assert!(!text.contains("can match nobody"), "{good}: {text}");
        }
        let many = warnings(github(&[("OAUTH_ALLOWED_USERS", &"a;b,".repeat(30))]));
        assert_eq!(many.matches("can match nobody").count(), ADVICE_MOST + 1, "{many}");
    }

    #[test]
    fn a_comment_in_the_file_begins_at_a_lines_start_or_after_white_space() {
        for (line, entry) in [
            ("ann # on call", "ann "),
            ("ann\t#on call", "ann\t"),
            ("# ann", ""),
            ("  # ann", "  "),
            ("#", ""),
            ("ann#ops@example.com", "ann#ops@example.com"),
            ("ann#ops@example.com # ann, of ops#2", "ann#ops@example.com "),
            ("id:a#b", "id:a#b"),
            ("ann", "ann"),
            ("", ""),
        ] {
            assert_eq!(without_comment(line), entry, "{line}");
        }
    }

    #[test]
    fn a_sign_within_a_word_is_read_alike_from_the_file_and_from_the_list() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        std::fs::write(&path, "ann#ops@example.com\n@b#c.example # a comment\nid:7#8\n").unwrap();
        let users = |more: &[(&str, &str)]| sign_in(github(more)).allow.users.unwrap();
        let filed = users(&[("OAUTH_ALLOWED_USERS", "bob"), ("OAUTH_ALLOWED_USERS_FILE", path.to_str().unwrap())]);
        assert_eq!(filed, users(&[("OAUTH_ALLOWED_USERS", "bob,ann#ops@example.com,@b#c.example,id:7#8")]));
    }

    #[test]
    fn each_provider_has_its_own_ids() {
        assert_eq!(odd_user(ProviderKind::Entra, "id:72f988bf-86f1-41af-91ab-2d7cd011db47"), None);
        assert!(odd_user(ProviderKind::Entra, "id:ann").is_some());
        assert_eq!(odd_user(ProviderKind::Oidc, "id:ann"), None);
        assert_eq!(odd_user(ProviderKind::Oidc, "acme/ops"), None);
        assert!(odd_user(ProviderKind::Oidc, "ann;bob").is_some());
    }

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
