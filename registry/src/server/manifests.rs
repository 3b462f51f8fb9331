//! Manifests: read, put and deleted, by tag and by digest.

use boxship_layers::Digest;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION};

use super::answer::{Answer, Refusal, Reply};
use super::blobs::DIGEST;
use super::body::{Inbox, blocking};
use super::manifest::{MAX_MANIFEST, Manifest};
use super::name::Name;
use super::route::Reference;
use super::state::{Asked, Shared};

pub(super) async fn get(state: &Shared, asked: &Asked, name: &Name, reference: &Reference) -> Reply {
    let kept = match &state.upstream {
        Some(upstream) => upstream.manifest(state, name, reference).await?,
        None => find(state, name, reference).await?.ok_or_else(Refusal::manifest_unknown)?,
    };
    let tag = format!("\"{}\"", kept.digest);
    let unchanged = asked.text(&IF_NONE_MATCH).is_some_and(|known| known.split(',').any(|t| t.trim() == tag));
    let status = if unchanged { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let answer = Answer::new(status).named(DIGEST, &kept.digest.to_string()).header(ETAG, &tag);
    if unchanged {
        return Ok(answer);
    }
    let answer = answer.typed(&kept.kind).length(kept.bytes.len() as u64);
    Ok(if asked.is_head() { answer } else { answer.small(kept.bytes.into()) })
}

pub(super) async fn find(
    state: &Shared,
    name: &Name,
    reference: &Reference,
) -> Reply<Option<super::depot::Kept>> {
    let (state, name, reference) = (state.clone(), name.clone(), reference.clone());
    blocking(move || Ok(state.depot.manifest(&name, &reference)?)).await
}

pub(super) async fn put(
    state: &Shared,
    asked: &Asked,
    name: &Name,
    reference: &Reference,
    inbox: Inbox,
) -> Reply {
    let (tag, pinned) = match reference {
        Reference::Tag(tag) => (Some(tag.clone()), None),
        Reference::Digest(digest) => (None, Some(*digest)),
        Reference::Neither => return Err(Refusal::manifest_invalid("that is neither a tag nor a digest")),
    };
    let kind = asked.text(&CONTENT_TYPE).map(str::to_owned);
    let bytes = inbox.whole(MAX_MANIFEST).await?;
    let found = Digest::of(&bytes);
    if let Some(pinned) = pinned.filter(|pinned| *pinned != found) {
        return Err(Refusal::digest_mismatch(&pinned, &found));
    }
    let manifest = Manifest::parse(&bytes, kind.as_deref())?;
    let subject = manifest.subject;
    blocking({
        let (state, name) = (state.clone(), name.clone());
        move || state.depot.add_manifest(&name, tag.as_ref(), &bytes, &manifest, false)
    })
    .await?;
    let answer = Answer::new(StatusCode::CREATED)
        .header(LOCATION, &format!("/v2/{name}/manifests/{found}"))
        .named(DIGEST, &found.to_string());
    Ok(match subject {
        Some(subject) => answer.named("oci-subject", &subject.to_string()),
        None => answer,
    })
}

pub(super) async fn delete(state: &Shared, name: &Name, reference: &Reference) -> Reply {
    let (state, name, reference) = (state.clone(), name.clone(), reference.clone());
    blocking(move || {
        if state.depot.remove_manifest(&name, &reference)? {
            Ok(Answer::new(StatusCode::ACCEPTED))
        } else {
            Err(Refusal::manifest_unknown())
        }
    })
    .await
}
