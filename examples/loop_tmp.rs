//! tmp
use std::time::Instant;
use std::sync::{Mutex, atomic::{AtomicU64, Ordering}};
use std::collections::BTreeMap;
use boxship::*;
struct Sub { next: AtomicU64, names: Mutex<BTreeMap<u64,(&'static str, Instant)>>, sums: Mutex<BTreeMap<&'static str, Vec<u64>>> }
impl tracing::Subscriber for &'static Sub {
 fn enabled(&self, _: &tracing::Metadata<'_>) -> bool { true }
 fn new_span(&self, a: &tracing::span::Attributes<'_>) -> tracing::span::Id { let id=self.next.fetch_add(1,Ordering::Relaxed)+1; self.names.lock().unwrap().insert(id,(a.metadata().name(),Instant::now())); tracing::span::Id::from_u64(id) }
 fn record(&self,_: &tracing::span::Id,_: &tracing::span::Record<'_>){} fn record_follows_from(&self,_: &tracing::span::Id,_: &tracing::span::Id){}
 fn event(&self,_: &tracing::Event<'_>){} fn enter(&self,_: &tracing::span::Id){}
 fn exit(&self,id: &tracing::span::Id){ if let Some((n,t))=self.names.lock().unwrap().get(&id.into_u64()) { self.sums.lock().unwrap().entry(n).or_default().push(t.elapsed().as_micros() as u64);} }
}
#[tokio::main]
async fn main() -> Result<(), Error> {
    let n: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let prof = match std::env::args().nth(2).as_deref() { Some("compat") => Profile::Compat, _ => Profile::Default };
    let sub: &'static Sub = Box::leak(Box::new(Sub{next:AtomicU64::new(0),names:Default::default(),sums:Default::default()}));
    tracing::subscriber::set_global_default(sub).unwrap();
    let mut t = vec![]; let _ = Image::from_host_programs(["/tmp/tiny"]).tag("tiny:1").await?;
    for _ in 0..n { let b = Instant::now(); Container::builder().image("tiny:1").profile(prof).command(["/tmp/tiny"]).output().await?; t.push(b.elapsed()); }
    t.sort(); println!("median {:?} min {:?}", t[n/2], t[0]);
    for (k,v) in sub.sums.lock().unwrap().iter_mut() { v.sort(); println!("  {k:10} med {} min {}", v[v.len()/2], v[0]); }
    Ok(())
}
