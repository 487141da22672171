//! Archives in the form of `xar`: a header, a compressed table of contents in XML, and a heap.
//!
//! The table is vouched for by SHA-1: readers that are still about refuse any other. Where a package is signed,
//! the signatures are over that digest; room for them is kept in the heap behind it, so that the table says where
//! they are and how long before they are made.

use std::io::{self, Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{Compression, write::ZlibEncoder};
use sha1::{Digest as _, Sha1};

use super::sign::{self, Signer};
use crate::{PackageError, deb::hex, service::xml};

/// A member of an archive: its name and its bytes, which are stored as they are.
type Named<'a> = (&'a str, &'a [u8]);

/// Bytes of a SHA-1, which come first in the heap.
const DIGEST_BYTES: usize = 20;
/// Both signatures: their elements and their styles, in their order in the heap.
const SIGNATURES: [(&str, &str); 2] = [("signature", "RSA"), ("x-signature", "CMS")];

/// Writes files, and one folder with files.
pub(crate) fn write(
    files: &[Named<'_>],
    folder: &str,
    inside: &[Named<'_>],
    built_at_s: u64,
    signer: Option<&dyn Signer>,
) -> Result<Vec<u8>, PackageError> {
    let mut heap = vec![0; DIGEST_BYTES];
    let mut signatures = String::new();
    if let Some(signer) = signer {
        let lengths = [signer.signature_bytes(), sign::message_bytes(signer)?];
        for ((element, style), bytes) in SIGNATURES.into_iter().zip(lengths) {
            signatures.push_str(&signature(element, style, (heap.len(), bytes), signer.certificates()));
            heap.resize(heap.len() + bytes, 0);
        }
    }
    let mut id = 0;
    let mut list = String::new();
    for file in files {
        list.push_str(&entry(file, &mut id, &mut heap));
    }
    id += 1;
    let mut nested = format!(
        "<file id=\"{id}\"><name>{}</name><type>directory</type><mode>0755</mode><uid>0</uid><gid>0</gid>",
        xml(folder)
    );
    for file in inside {
        nested.push_str(&entry(file, &mut id, &mut heap));
    }
    list.push_str(&nested);
    list.push_str("</file>");
    // Apple's epoch for this one value is text in the table; the file times are left out.
    let table = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<xar><toc><checksum style=\"sha1\"><offset>0</offset>\
         <size>{DIGEST_BYTES}</size></checksum><creation-time>{built_at_s}</creation-time>{signatures}{list}</toc>\
         </xar>\n"
    );
    let packed = packed(&table).map_err(PackageError::form("macOS"))?;
    let digest: [u8; DIGEST_BYTES] = Sha1::digest(&packed).into();
    heap[..DIGEST_BYTES].copy_from_slice(&digest);
    if let Some(signer) = signer {
        let signed = sign::sign(signer, &digest)?;
        let both = [signed.rsa, signed.message].concat();
        let room = heap.get_mut(DIGEST_BYTES..DIGEST_BYTES + both.len());
        room.expect("room for both is kept above").copy_from_slice(&both);
    }

    let mut archive = b"xar!".to_vec();
    archive.extend(28_u16.to_be_bytes());
    archive.extend(1_u16.to_be_bytes());
    archive.extend((packed.len() as u64).to_be_bytes());
    archive.extend((table.len() as u64).to_be_bytes());
    archive.extend(1_u32.to_be_bytes());
    archive.extend(packed);
    archive.extend(heap);
    Ok(archive)
}

fn packed(table: &str) -> io::Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(table.as_bytes())?;
    encoder.finish()
}

/// Where a signature is, how long, and by whom.
fn signature(element: &str, style: &str, (offset, size): (usize, usize), certificates: &[Vec<u8>]) -> String {
    let listed: String = certificates
        .iter()
        .map(|certificate| format!("<X509Certificate>{}</X509Certificate>", STANDARD.encode(certificate)))
        .collect();
    format!(
        "<{element} style=\"{style}\"><offset>{offset}</offset><size>{size}</size>\
         <KeyInfo xmlns=\"http://www.w3.org/2000/09/xmldsig#\"><X509Data>{listed}</X509Data></KeyInfo></{element}>"
    )
}

fn entry((name, bytes): &Named<'_>, id: &mut u32, heap: &mut Vec<u8>) -> String {
    *id += 1;
    let (offset, size, sum) = (heap.len(), bytes.len(), hex(&Sha1::digest(bytes)));
    heap.extend_from_slice(bytes);
    format!(
        "<file id=\"{id}\"><name>{}</name><type>file</type><mode>0644</mode><uid>0</uid><gid>0</gid><data>\
         <length>{size}</length><offset>{offset}</offset><size>{size}</size>\
         <encoding style=\"application/octet-stream\"/><extracted-checksum style=\"sha1\">{sum}\
         </extracted-checksum><archived-checksum style=\"sha1\">{sum}</archived-checksum></data></file>",
        xml(name)
    )
}
