//! Lists: repositories, tags and referrers, page by page.

use boxship_layers::Digest;
use hyper::header::LINK;
use serde_json::json;

use super::answer::{Answer, Refusal, Reply};
use super::body::blocking;
use super::name::Name;
use super::range::number;
use super::state::{Asked, Shared};

/// Entries of one page of repositories or tags, whatever is asked for.
const MAX_PAGE: usize = 10_000;
/// Entries of one page of referrers: each may have annotations.
const MAX_REFERRERS: usize = 200;

/// How many entries, and after which.
struct Page {
    n: Option<usize>,
    last: Option<String>,
}

fn page(asked: &Asked) -> Reply<Page> {
    let n = match asked.query.get("n") {
        None => None,
        Some(text) => {
            let bad = || Refusal::bad_request("PAGINATION_NUMBER_INVALID", "n is not a number");
            Some(usize::try_from(number(text).ok_or_else(bad)?).unwrap_or(usize::MAX))
        }
    };
    Ok(Page { n, last: asked.query.get("last").filter(|l| !l.is_empty()).map(str::to_owned) })
}

/// Cuts a sorted list to a page; what a next one begins after, if there is one.
fn cut(all: Vec<String>, page: &Page, key: impl Fn(&str) -> String) -> (Vec<String>, Option<String>) {
    let max = page.n.unwrap_or(usize::MAX).min(MAX_PAGE);
    let after = page.last.as_deref().map(|last| (key(last), last.to_owned()));
    let mut rest = all.into_iter().filter(|x| after.as_ref().is_none_or(|a| (key(x), x.clone()) > *a));
    let some: Vec<String> = rest.by_ref().take(max).collect();
    // Of a page of nothing there is no next one.
    let next = rest.next().and_then(|_| some.last().cloned());
    (some, next)
}

fn linked(answer: Answer, path: &str, more: &[(&str, &str)]) -> Answer {
    let mut query = String::new();
    for (key, value) in more {
        // Names, tags, digests and numbers need no escape in a query; what a client gave might.
        let value: String = value
            .bytes()
            .map(|b| match b {
                b if b.is_ascii_alphanumeric() || b"-._~/:".contains(&b) => char::from(b).to_string(),
                b => format!("%{b:02X}"),
            })
            .collect();
        query += if query.is_empty() { "?" } else { "&" };
        query += &format!("{key}={value}");
    }
    answer.header(LINK, &format!("<{path}{query}>; rel=\"next\""))
}

pub(super) async fn catalog(state: &Shared, asked: &Asked) -> Reply {
    let page = page(asked)?;
    let (names, next, n) = blocking({
        let state = state.clone();
        move || {
            let mut all = Vec::new();
            for name in state.depot.repositories()? {
                if state.depot.has_manifests(&name)? {
                    all.push(name.to_string());
                }
            }
            let (names, next) = cut(all, &page, |_| String::new());
            Ok((names, next, page.n))
        }
    })
    .await?;
    let answer = Answer::json(&json!({"repositories": names}));
    Ok(with_next(answer, "/v2/_catalog", n, next))
}

fn with_next(answer: Answer, path: &str, n: Option<usize>, next: Option<String>) -> Answer {
    match next {
        Some(next) => {
            let n = n.unwrap_or(MAX_PAGE).min(MAX_PAGE).to_string();
            linked(answer, path, &[("n", &n), ("last", &next)])
        }
        None => answer,
    }
}

pub(super) async fn tags(state: &Shared, asked: &Asked, name: &Name) -> Reply {
    let page = page(asked)?;
    if let Some(upstream) = &state.upstream
        && let Some(all) = upstream.tags(name).await?
    {
        return Ok(tag_page(all, &page, name));
    }
    let all = blocking({
        let (state, name) = (state.clone(), name.clone());
        move || {
            if !state.depot.is_known(&name)? {
                return Err(Refusal::name_unknown(name.as_str()));
            }
            Ok(state.depot.tags(&name)?)
        }
    })
    .await?;
    Ok(tag_page(all, &page, name))
}

/// In the order of the specification: without regard to case.
fn tag_page(mut all: Vec<String>, page: &Page, name: &Name) -> Answer {
    let key = |tag: &str| tag.to_ascii_lowercase();
    all.sort_by_cached_key(|tag| (key(tag), tag.clone()));
    let (tags, next) = cut(all, page, key);
    let answer = Answer::json(&json!({"name": name.as_str(), "tags": tags}));
    with_next(answer, &format!("/v2/{name}/tags/list"), page.n, next)
}

pub(super) async fn referrers(state: &Shared, asked: &Asked, name: &Name, subject: &Digest) -> Reply {
    let kind = asked.query.get("artifactType").filter(|k| !k.is_empty()).map(str::to_owned);
    let page = page(asked)?;
    let (found, more) = blocking({
        let (state, name, subject, kind) = (state.clone(), name.clone(), *subject, kind.clone());
        move || {
            let max = page.n.unwrap_or(MAX_REFERRERS).clamp(1, MAX_REFERRERS);
            Ok(state.depot.referrers(&name, &subject, page.last.as_deref(), max, kind.as_deref())?)
        }
    })
    .await?;
    let last = found.last().and_then(|d| d["digest"].as_str()).unwrap_or_default().to_owned();
    let media = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": media, "manifests": found});
    let mut answer = Answer::json(&index).typed(media);
    let path = format!("/v2/{name}/referrers/{subject}");
    if more {
        let mut query = vec![("last", last.as_str())];
        query.extend(kind.as_deref().map(|kind| ("artifactType", kind)));
        answer = linked(answer, &path, &query);
    }
    Ok(if kind.is_some() { answer.named("oci-filters-applied", "artifactType") } else { answer })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        let all = || ["A", "b", "C", "d"].map(str::to_owned).to_vec();
        let key = |t: &str| t.to_ascii_lowercase();
        let page = |n, last: Option<&str>| Page { n, last: last.map(str::to_owned) };
        let is = |tags: &[&str], next: Option<&str>| {
            (tags.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>(), next.map(str::to_owned))
        };
        assert_eq!(cut(all(), &page(None, None), key), is(&["A", "b", "C", "d"], None));
        assert_eq!(cut(all(), &page(Some(2), None), key), is(&["A", "b"], Some("b")));
        assert_eq!(cut(all(), &page(Some(2), Some("b")), key), is(&["C", "d"], None));
        assert_eq!(cut(all(), &page(Some(9), Some("c")), key), is(&["d"], None));
        assert_eq!(cut(all(), &page(Some(0), None), key), is(&[], None));
        // A tag that is gone is still a place in the list.
        assert_eq!(cut(all(), &page(None, Some("bb")), key), is(&["C", "d"], None));
    }
}
