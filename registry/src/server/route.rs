//! What a request is about: from the text of its target to names that are checked.

use boxship_layers::Digest;
use reqwest::Url;

use super::answer::Refusal;
use super::name::{Name, Tag, UploadId};

/// Names a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    Tag(Tag),
    Digest(Digest),
    /// Neither: there cannot be one of that name.
    Neither,
}

/// What is addressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Base,
    Token,
    Catalog,
    Tags(Name),
    Manifest(Name, Reference),
    Blob(Name, Digest),
    Uploads(Name),
    Upload(Name, UploadId),
    Referrers(Name, Digest),
}

/// The longest target that is looked at.
const MAX_PATH: usize = 4096;

/// Reads the path of a target.
pub(crate) fn route(path: &str) -> Result<Route, Refusal> {
    let nothing = || Refusal::not_found("UNSUPPORTED", "there is no such endpoint");
    if path.len() > MAX_PATH {
        return Err(nothing());
    }
    let path = decoded(path).ok_or_else(nothing)?;
    match path.as_str() {
        "/v2" | "/v2/" => return Ok(Route::Base),
        "/token" => return Ok(Route::Token),
        "/v2/_catalog" => return Ok(Route::Catalog),
        _ => {}
    }
    let rest = path.strip_prefix("/v2/").ok_or_else(nothing)?;
    let name = |text: &str| Name::parse(text).ok_or_else(|| Refusal::name_invalid(text));
    // A name is not closed off from what follows: what ends the path decides.
    if let Some(start) = rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads"))
    {
        return Ok(Route::Uploads(name(start)?));
    }
    if let Some(start) = rest.strip_suffix("/tags/list") {
        return Ok(Route::Tags(name(start)?));
    }
    let (start, last) = rest.rsplit_once('/').ok_or_else(nothing)?;
    if let Some(start) = start.strip_suffix("/blobs/uploads") {
        let id = UploadId::parse(last).ok_or_else(Refusal::upload_unknown)?;
        return Ok(Route::Upload(name(start)?, id));
    }
    let (start, kind) = start.rsplit_once('/').ok_or_else(nothing)?;
    let digest = || last.parse::<Digest>().map_err(|_| Refusal::digest_invalid(last));
    match kind {
        "manifests" => {
            let name = name(start)?;
            let reference = match last.parse::<Digest>() {
                Ok(digest) => Reference::Digest(digest),
                Err(_) => Tag::parse(last).map_or(Reference::Neither, Reference::Tag),
            };
            Ok(Route::Manifest(name, reference))
        }
        "blobs" => Ok(Route::Blob(name(start)?, digest()?)),
        "referrers" => Ok(Route::Referrers(name(start)?, digest()?)),
        _ => Err(nothing()),
    }
}

/// Percent-decoded; `None` for what is no text then.
fn decoded(path: &str) -> Option<String> {
    if !path.contains('%') {
        return Some(path.to_owned());
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%' {
            let (pair, after) = rest.split_at_checked(2)?;
            let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
            bytes.push(digit(pair[0])? << 4 | digit(pair[1])?);
            rest = after;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The parameters of a query or of a form.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: Option<&str>) -> Query {
        let Ok(mut url) = Url::parse("http://host.invalid/") else { return Query::default() };
        url.set_query(text);
        Query(url.query_pairs().into_owned().collect())
    }

    pub(super) fn get(&self, key: &'static str) -> Option<&str> {
        self.all(key).next()
    }

    pub(super) fn all<'a>(&'a self, key: &'static str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn routes() {
        let hex = "ab".repeat(32);
        let name = |n: &str| Name::parse(n).expect("a name");
        let digest: Digest = format!("sha256:{hex}").parse().expect("a digest");
        let id = "0123456789abcdef".repeat(2);
        for (path, want) in [
            ("/v2/".to_owned(), Route::Base),
            ("/v2/a/tags/list".into(), Route::Tags(name("a"))),
            ("/v2/a/tags/tags/list".into(), Route::Tags(name("a/tags"))),
            (
                "/v2/a/b/manifests/1".into(),
                Route::Manifest(name("a/b"), Reference::Tag(Tag::parse("1").expect("a tag"))),
            ),
            ("/v2/a/manifests/.x".into(), Route::Manifest(name("a"), Reference::Neither)),
            (format!("/v2/a/blobs/sha256:{hex}"), Route::Blob(name("a"), digest)),
            (format!("/v2/a/blobs/sha256%3A{hex}"), Route::Blob(name("a"), digest)),
            ("/v2/a/blobs/uploads/".into(), Route::Uploads(name("a"))),
            ("/v2/a/blobs/uploads".into(), Route::Uploads(name("a"))),
            (
                format!("/v2/a/blobs/uploads/{id}"),
                Route::Upload(name("a"), UploadId::parse(&id).expect("an id")),
            ),
            (format!("/v2/a/referrers/sha256:{hex}"), Route::Referrers(name("a"), digest)),
        ] {
            assert_eq!(route(&path).ok(), Some(want), "{path}");
        }
        for bad in [
            "",
            "/",
            "/v1/",
            "/v2/a",
            "/v2/../../etc/passwd",
            "/v2/../manifests/1",
            "/v2/%2e%2e/manifests/1",
            "/v2/a%2f..%2f..%2fetc/blobs/uploads/",
            "/v2/a/blobs/sha256:../../x",
            "/v2/a/blobs/uploads/../../x",
            "/v2/a/blobs/uploads/%00",
            "/v2//tags/list",
            "/v2/a/%zz/list",
            "/v2/a/%ff/list",
            "/v2/a/%",
            "/v2/_x/tags/list",
        ] {
            assert!(route(bad).is_err(), "{bad:?} became {:?}", route(bad));
        }
    }

    proptest! {
        #[test]
        fn any_target_is_survived(path in "(/v2/)?[a-z0-9%./:_-]{0,60}", query in ".{0,40}") {
            let _ = route(&path);
            let _ = Query::parse(Some(&query)).get("n");
        }
    }
}
