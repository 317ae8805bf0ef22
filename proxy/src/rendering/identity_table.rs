//! Configured identity headers: which fields an upstream gets, and the value of each.

use http::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::ready_fields::{ITEM, TEXT, encode, value};
use crate::domain::identity::Identity;
use crate::domain::secret::Secret;

/// The fields that an upstream gets, in the operator's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentityTable {
    /// The fields.
    pub fields: Vec<ChosenField>,
}

/// One configured field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenField {
    /// Its name.
    pub name: HeaderName,
    /// The source of its value.
    pub value: ChosenValue,
    /// Prefix of the value; of each value if there are several.
    pub prefix: String,
    /// Which groups it names; `None`: all.
    pub only: Option<Vec<GroupPattern>>,
    /// How several values are written.
    pub several: Several,
}

/// The part of an identity that a field carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChosenValue {
    /// The username where the policy may use it, else the vouched email, else the id.
    User,
    /// The username, where the policy may use it.
    Username,
    /// The vouched email.
    Email,
    /// The name for display.
    Name,
    /// The provider's stable id.
    Id,
    /// The name of the provider.
    Provider,
    /// The groups.
    Groups,
    /// The values of a claim.
    Claim(String),
    /// The signed assertion.
    Assertion,
    /// The provider's ID token.
    IdToken,
}

/// How several values of one field are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Several {
    /// In one field, separated by this character.
    Joined(char),
    /// In one field for each value.
    Repeated,
}

/// Selects groups; `*` stands for any text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPattern(pub String);

impl GroupPattern {
    fn matches(&self, group: &str) -> bool {
        let mut pieces = self.0.split('*');
        let Some(mut rest) = pieces.next().and_then(|first| group.strip_prefix(first)) else { return false };
        let Some(last) = pieces.next_back() else { return rest.is_empty() };
        for piece in pieces {
            let Some(at) = rest.find(piece) else { return false };
            rest = rest.get(at + piece.len()..).unwrap_or_default();
        }
        rest.ends_with(last)
    }
}

impl ChosenField {
    fn names(&self, group: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|pattern| pattern.matches(group)))
    }

    /// The field's values, each with its prefix; empty values are left out.
    fn values(&self, who: &Identity, provider: &str, assertion: Option<&HeaderValue>) -> Vec<HeaderValue> {
        let one = |text: &str| vec![text.to_owned()];
        let texts = match &self.value {
            ChosenValue::Assertion => return assertion.cloned().into_iter().collect(),
            // Opened for each request, and not kept with the others: see `id_token_fields`.
            ChosenValue::IdToken => return Vec::new(),
            ChosenValue::User => one(who.principal()),
            ChosenValue::Username => one(who.username.vouched().unwrap_or_default()),
            ChosenValue::Email => one(who.email_str()),
            ChosenValue::Name => one(&who.name),
            ChosenValue::Id => one(&who.id),
            ChosenValue::Provider => one(provider),
            ChosenValue::Groups => who.groups.iter().filter(|group| self.names(group)).cloned().collect(),
            ChosenValue::Claim(name) => who.claims.texts(name).to_vec(),
        };
        let is_list = matches!(self.value, ChosenValue::Groups | ChosenValue::Claim(_));
        let texts = texts.iter().filter(|text| !text.is_empty());
        let encoded = texts.map(|text| match self.several {
            _ if !is_list => format!("{}{}", self.prefix, encode(text, TEXT)),
            // A recipient may join fields of one name by a comma (RFC 9110 §5.3).
            Several::Repeated => format!("{}{}", self.prefix, encode(text, ITEM)),
            Several::Joined(sign) => {
                let plain = encode(text, TEXT).replace(sign, &format!("%{:02X}", u32::from(sign)));
                format!("{}{plain}", self.prefix)
            }
        });
        match self.several {
            Several::Joined(sign) if is_list => {
                let joined = encoded.collect::<Vec<_>>().join(&sign.to_string());
                if joined.is_empty() { Vec::new() } else { vec![value(&joined)] }
            }
            Several::Joined(_) | Several::Repeated => encoded.map(|text| value(&text)).collect(),
        }
    }
}

impl IdentityTable {
    /// The header fields for an identity that `provider` vouches for.
    #[must_use]
    pub fn header_fields(
        &self,
        who: &Identity,
        provider: &str,
        assertion: Option<&HeaderValue>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let fields_of = |field: &ChosenField| {
            let values = field.values(who, provider, assertion);
            values.into_iter().map(|value| (field.name.clone(), value)).collect::<Vec<_>>()
        };
        self.fields.iter().flat_map(fields_of).collect()
    }

    /// Whether a field carries the assertion.
    #[must_use]
    pub fn has_assertion(&self) -> bool {
        self.fields.iter().any(|field| field.value == ChosenValue::Assertion)
    }

    /// Whether a field carries the provider's ID token.
    #[must_use]
    pub fn has_id_token(&self) -> bool {
        self.fields.iter().any(|field| field.value == ChosenValue::IdToken)
    }

    /// The fields that carry the ID token; none if it is no valid header value. Marked sensitive: HTTP/2 does not index them (HPACK).
    pub fn id_token_fields(&self, token: &Secret) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let fields = self.fields.iter().filter(|field| field.value == ChosenValue::IdToken);
        fields.filter_map(|field| {
            let text = Zeroizing::new([field.prefix.as_str(), token.expose()].concat());
            let mut value = HeaderValue::from_str(&text).ok()?;
            value.set_sensitive(true);
            Some((field.name.clone(), value))
        })
    }

    /// The groups that the assertion may name: those of the table's group fields, or all if it has no such field.
    #[must_use]
    pub fn groups(&self, who: &Identity) -> Vec<String> {
        let fields: Vec<&ChosenField> = self.fields.iter().filter(|field| field.value == ChosenValue::Groups).collect();
        let may = |group: &&String| fields.is_empty() || fields.iter().any(|field| field.names(group));
        who.groups.iter().filter(may).cloned().collect()
    }

    /// The names of the claims that the table uses.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().filter_map(|field| match &field.value {
            ChosenValue::Claim(name) => Some(name.as_str()),
            ChosenValue::User
            | ChosenValue::Username
            | ChosenValue::Email
            | ChosenValue::Name
            | ChosenValue::Id
            | ChosenValue::Provider
            | ChosenValue::Groups
            | ChosenValue::Assertion
            | ChosenValue::IdToken => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::claims::Claims;
    use crate::domain::identity::{Email, ProviderKind, Username};

    fn ann() -> Identity {
        let mut claims = Claims::default();
        claims.set("department", vec!["R&D, Bonn".into(), "ops".into()]);
        Identity {
            provider: ProviderKind::Oidc,
            id: "7".into(),
            email: Some(Email::parse("ann@example.com").unwrap()),
            name: String::new(),
            username: Username::Displayed("ann".into()),
            groups: vec!["acme/sre".into(), "acme/a|b,c".into(), "other".into()],
            claims,
        }
    }

    fn field(value: ChosenValue) -> ChosenField {
        let name = HeaderName::from_static("x-it");
        ChosenField { name, value, prefix: String::new(), only: None, several: Several::Joined(',') }
    }

    fn values_of(field: ChosenField) -> Vec<String> {
        let table = IdentityTable { fields: vec![field] };
        let assertion = HeaderValue::from_static("a.b.c");
        let fields = table.header_fields(&ann(), "corp", Some(&assertion));
        fields.iter().map(|(_, value)| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn each_value_is_sent_and_nothing_empty() {
        for (value, text) in [
            (ChosenValue::User, "ann@example.com"),
            (ChosenValue::Email, "ann@example.com"),
            (ChosenValue::Id, "7"),
            (ChosenValue::Provider, "corp"),
            (ChosenValue::Assertion, "a.b.c"),
            (ChosenValue::Groups, "acme/sre,acme/a|b%2Cc,other"),
            (ChosenValue::Claim("department".into()), "R&D%2C Bonn,ops"),
        ] {
            assert_eq!(values_of(field(value)), [text]);
        }
        // A name that its owner may edit identifies no one here.
        for nothing in [ChosenValue::Username, ChosenValue::Name, ChosenValue::Claim("x".into())] {
            assert!(values_of(ChosenField { prefix: "p:".into(), ..field(nothing) }).is_empty());
        }
    }

    #[test]
    fn an_id_token_is_sent_separately_as_it_is() {
        let bearer = ChosenField { prefix: "Bearer ".into(), ..field(ChosenValue::IdToken) };
        let table = IdentityTable { fields: vec![field(ChosenValue::User), field(ChosenValue::IdToken), bearer] };
        assert!(table.has_id_token());
        assert_eq!(table.header_fields(&ann(), "corp", None).len(), 1, "not with what is kept ready");
        let fields: Vec<(HeaderName, HeaderValue)> = table.id_token_fields(&Secret::new("a.b%2C.c")).collect();
        let texts: Vec<&str> = fields.iter().map(|(_, value)| value.to_str().unwrap()).collect();
        assert_eq!(texts, ["a.b%2C.c", "Bearer a.b%2C.c"]);
        assert!(fields.iter().all(|(_, value)| value.is_sensitive()));
        assert_eq!(table.id_token_fields(&Secret::new("a\nb")).count(), 0);
        assert!(!IdentityTable { fields: vec![field(ChosenValue::Assertion)] }.has_id_token());
    }

    #[test]
    fn several_are_joined_or_repeated_each_with_its_prefix() {
        let groups = || ChosenField { prefix: "corp:".into(), ..field(ChosenValue::Groups) };
        let bars = ChosenField { several: Several::Joined('|'), ..groups() };
        assert_eq!(values_of(bars), ["corp:acme/sre|corp:acme/a%7Cb,c|corp:other"]);
        let each = ChosenField { several: Several::Repeated, ..groups() };
        assert_eq!(values_of(each), ["corp:acme/sre", "corp:acme/a|b%2Cc", "corp:other"]);
    }

    #[test]
    fn only_limits_the_field_and_the_assertion() {
        let only = |patterns: &[&str]| ChosenField {
            only: Some(patterns.iter().map(|text| GroupPattern((*text).to_owned())).collect()),
            several: Several::Repeated,
            ..field(ChosenValue::Groups)
        };
        assert_eq!(values_of(only(&["acme/s*"])), ["acme/sre"]);
        assert_eq!(values_of(only(&["other", "*,c"])), ["acme/a|b%2Cc", "other"]);
        assert!(values_of(only(&["acme", "*x*", "acme/*/z", "acme/sre*e"])).is_empty());
        assert_eq!(values_of(only(&["*"])).len(), 3);
        let table = |fields| IdentityTable { fields };
        assert_eq!(table(vec![only(&["acme/s*"]), only(&["other"])]).groups(&ann()), ["acme/sre", "other"]);
        assert_eq!(table(vec![field(ChosenValue::User)]).groups(&ann()).len(), 3);
    }
}
