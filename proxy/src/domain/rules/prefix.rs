//! A path in front of which a prefix is removed for an upstream.

use std::borrow::Cow;

/// The target, a path with or without a query, without `prefix`, which ends without a slash; `None` if it does not begin with the prefix as
/// whole segments.
#[must_use]
pub fn without_prefix<'t>(target: &'t str, prefix: &str, ignores_case: bool) -> Option<Cow<'t, str>> {
    let front = target.get(..prefix.len())?;
    if !(front == prefix || ignores_case && front.eq_ignore_ascii_case(prefix)) {
        return None;
    }
    let rest = target.get(front.len()..)?;
    match rest.as_bytes().first() {
        Some(b'/') => Some(Cow::Borrowed(rest)),
        Some(b'?') | None => Some(Cow::Owned(format!("/{rest}"))),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_removed_as_whole_segments() {
        for (target, ignores_case, rest) in [
            ("/app", false, Some("/")),
            ("/app/", false, Some("/")),
            ("/app?q=1", false, Some("/?q=1")),
            ("/app/x?y=/app/z", false, Some("/x?y=/app/z")),
            ("/app/app/x", false, Some("/app/x")),
            ("/app//x", false, Some("//x")),
            ("/apple", false, None),
            ("/App/x", false, None),
            ("/App/x", true, Some("/x")),
            ("/ap\u{e4}/x", false, None),
            ("/", false, None),
        ] {
            assert_eq!(without_prefix(target, "/app", ignores_case).as_deref(), rest, "{target}");
        }
    }
}
