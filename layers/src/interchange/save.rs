//! Writing archives of images: one tar that is an OCI layout and Docker's form at once, or the layout as a
//! directory.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use oci_spec::image::{Descriptor, MediaType};
use serde_json::{Value, json};
use tar::EntryType;

use crate::archive::write::{Item, Writer};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{descriptor, descriptors, parse_index, parse_manifest};
use crate::output::{NewDirectory, NewFile};
use crate::store::{Progress, Store};
use crate::watch::Watch;

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Where the files of a layout go.
trait Sink {
    fn put(&mut self, name: &str, size: u64, data: &mut dyn Read) -> io::Result<()>;
}

impl<W: Write> Sink for Writer<W> {
    fn put(&mut self, name: &str, size: u64, data: &mut dyn Read) -> io::Result<()> {
        let item = Item { size, ..Item::new(name.as_bytes(), EntryType::Regular, 0o644) };
        Writer::put(self, &item, data)
    }
}

impl Sink for NewDirectory {
    fn put(&mut self, name: &str, _: u64, data: &mut dyn Read) -> io::Result<()> {
        let mut file = self.file(name)?;
        io::copy(data, &mut file)?;
        file.sync_all()
    }
}

impl Store {
    /// Writes images as one tar that `docker load`, `podman load`, `skopeo` and [`load`](Store::load) read.
    /// The same images give the same bytes. One that was loaded with all platforms is written with all of them.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Cancelled`]; [`Error::Io`].
    pub fn save(
        &self,
        names: &[String],
        out: impl Write,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<()> {
        let mut writer = Writer::new(out);
        self.save_to(names, &mut writer, true, observe)?;
        writer.finish().and_then(|mut out| out.flush()).map_err(Error::io("write", "the archive"))
    }

    /// [`save`](Store::save) to a new file, which is on the disk, with its name, when this returns. There is none
    /// before, and none after an error.
    ///
    /// # Errors
    /// As [`save`](Store::save); [`Error::Io`] with `AlreadyExists` for a file that is there.
    pub fn save_file(
        &self,
        names: &[String],
        path: &Path,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<()> {
        let mut file = NewFile::create(path)?;
        self.save(names, &mut file, observe)?;
        file.publish()
    }

    /// Writes images as an OCI layout into a new or empty directory, whose parent exists. It is on the disk, with
    /// its name, when this returns. A new one is not there before, and after an error it is as it was.
    ///
    /// # Errors
    /// As [`save`](Store::save), and [`Error::Invalid`] for a directory that holds something.
    pub fn save_directory(
        &self,
        names: &[String],
        dir: &Path,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<()> {
        let mut layout = NewDirectory::create(dir)?;
        layout.make("blobs")?;
        layout.make("blobs/sha256")?;
        self.save_to(names, &mut layout, false, observe)?;
        layout.publish(&["blobs/sha256", "blobs"])
    }

    fn save_to(
        &self,
        names: &[String],
        sink: &mut dyn Sink,
        docker: bool,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<()> {
        let _hold = self.hold_content()?;
        let (mut index, mut list, mut blobs, mut plain) =
            (Vec::new(), Vec::new(), BTreeSet::new(), BTreeSet::new());
        for name in names {
            let image = self.image(name)?;
            let bytes = image.manifest()?;
            let manifest = parse_manifest(&bytes)?;
            let media = manifest.media_type().clone().unwrap_or(MediaType::ImageManifest);
            let mut d = descriptor(media, bytes.len() as u64, image.digest())?;
            if let Some(whole) = self.whole_index(&image)? {
                let bytes = self.read_document(&whole)?;
                let media = parse_index(&bytes)?.media_type().clone().unwrap_or(MediaType::ImageIndex);
                d = descriptor(media, bytes.len() as u64, &whole)?;
                let mut parts = Vec::new();
                self.index_parts(&whole, &mut parts)?;
                blobs.extend(parts.into_iter().map(|(digest, _)| digest));
            }
            name_it(&mut d, image.name());
            index.push(d);
            blobs.insert(*image.digest());
            blobs.extend(descriptors(&manifest)?.into_iter().map(|(digest, _)| digest));
            if docker {
                list.push(self.docker_entry(&image, &manifest, &mut plain)?);
            }
        }
        let fail = || Error::io_or_own("write", "the archive");
        let mut watch = Watch::new(observe);
        sink.put("oci-layout", LAYOUT.len() as u64, &mut &LAYOUT[..]).map_err(fail())?;
        for digest in &blobs {
            let path = self.blob_path(digest);
            let file = File::open(&path).map_err(Error::io("open", &path))?;
            let size = file.metadata().map_err(Error::io("read", &path))?.len();
            let name = format!("blobs/sha256/{}", digest.hex());
            sink.put(&name, size, &mut watch.reader(file)).map_err(fail())?;
            watch.tell(Progress::Read { bytes: watch.bytes() })?;
        }
        for (blob, diff_id) in &plain {
            // Twice: its size comes first.
            let mut counting = |_: Progress| watch.tell(Progress::Read { bytes: watch.bytes() }).is_ok();
            let mut counted = Watch::new(&mut counting);
            let (_, size) = Digest::of_reader(counted.reader(self.layer_archive(blob)?)).map_err(fail())?;
            let archive = self.layer_archive(blob)?;
            let name = format!("{}.tar", diff_id.hex());
            sink.put(&name, size, &mut watch.reader(archive)).map_err(fail())?;
        }
        let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": index});
        let mut documents = vec![("index.json", index)];
        if docker {
            documents.push(("manifest.json", Value::from(list)));
        }
        for (name, value) in documents {
            let text = value.to_string();
            sink.put(name, text.len() as u64, &mut text.as_bytes()).map_err(fail())?;
        }
        Ok(())
    }

    /// Docker's form of an image. Older Dockers cannot read zstd, so such a layer is also there as it was
    /// before it was compressed.
    fn docker_entry(
        &self,
        image: &crate::image::Image,
        manifest: &oci_spec::image::ImageManifest,
        plain: &mut BTreeSet<(Digest, Digest)>,
    ) -> Result<Value> {
        let mut layers = Vec::new();
        for (d, diff_id) in manifest.layers().iter().zip(image.layers()) {
            let digest: Digest = d.digest().to_string().parse()?;
            let zstd = d.media_type().to_string().ends_with("zstd");
            if zstd {
                plain.insert((digest, *diff_id));
                layers.push(format!("{}.tar", diff_id.hex()));
            } else {
                layers.push(format!("blobs/sha256/{}", digest.hex()));
            }
        }
        let config: Digest = manifest.config().digest().to_string().parse()?;
        let tags: Vec<&str> = image.name().into_iter().collect();
        Ok(json!({"Config": format!("blobs/sha256/{}", config.hex()), "RepoTags": tags, "Layers": layers}))
    }
}

/// The standard annotation has the tag; containerd's and `BuildKit`'s the whole name.
fn name_it(d: &mut Descriptor, name: Option<&str>) {
    let Some(name) = name else { return };
    let tag = name.rsplit_once(':').map_or(name, |(_, tag)| tag);
    d.set_annotations(Some(
        [
            ("io.containerd.image.name".to_owned(), name.to_owned()),
            ("org.opencontainers.image.ref.name".to_owned(), tag.to_owned()),
        ]
        .into(),
    ));
}
