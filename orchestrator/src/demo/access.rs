//! Access control of a simulated cluster, for impersonated requests.

use std::sync::{Mutex, PoisonError};

use axum::http::HeaderMap;

/// Allows a user or a group to do something, in one namespace or in all.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The user's or the group's name.
    pub subject: String,
    /// The namespace; `None` means all.
    pub namespace: Option<String>,
    /// The allowed verbs: `get`, `list`, `patch`, or `*`.
    pub verbs: Vec<&'static str>,
    /// The resources, by their plural names; `*` means all.
    pub resources: Vec<&'static str>,
}

/// The bindings, and whether the account may impersonate others at all.
#[derive(Debug, Default)]
pub(super) struct Access {
    bindings: Mutex<Vec<Binding>>,
}

/// The identity that a request is made as.
pub(super) enum Caller {
    /// The orchestrator's account: it may do everything.
    Account,
    /// An impersonated user.
    Person { user: String, groups: Vec<String> },
}

impl Caller {
    /// # Errors
    /// Groups without a user are refused, as Kubernetes refuses them.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, &'static str> {
        let texts = |name: &str| -> Vec<String> {
            let values = headers.get_all(name).iter();
            values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
        };
        let groups = texts("impersonate-group");
        if let Some(user) = texts("impersonate-user").pop().filter(|user| !user.is_empty()) {
            return Ok(Self::Person { user, groups });
        }
        if groups.is_empty() {
            Ok(Self::Account)
        } else {
            Err("requested [impersonate-group] without impersonating a user")
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Account => "system:serviceaccount:demo:viewer",
            Self::Person { user, .. } => user,
        }
    }
}

impl Access {
    pub(super) fn bind(&self, binding: Binding) {
        self.bindings.lock().unwrap_or_else(PoisonError::into_inner).push(binding);
    }

    pub(super) fn unbind(&self, subject: &str) {
        self.bindings.lock().unwrap_or_else(PoisonError::into_inner).retain(|binding| binding.subject != subject);
    }

    /// Returns true if the caller may do this in a namespace, or, without one, in all of them.
    pub(super) fn allows(&self, caller: &Caller, verb: &str, resource: &str, namespace: Option<&str>) -> bool {
        let Caller::Person { user, groups } = caller else { return true };
        let bindings = self.bindings.lock().unwrap_or_else(PoisonError::into_inner);
        bindings.iter().any(|binding| {
            (binding.subject == *user || groups.contains(&binding.subject))
                && binding.namespace.as_deref().is_none_or(|within| namespace == Some(within))
                && binding.verbs.iter().any(|allowed| *allowed == "*" || *allowed == verb)
                && binding.resources.iter().any(|allowed| *allowed == "*" || *allowed == resource)
        })
    }
}
