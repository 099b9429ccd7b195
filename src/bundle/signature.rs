//! Signatures in minisign's format over the bytes of a model's manifest.
//!
//! The manifest names every file by its SHA-256, so one signature holds for the
//! model. Anybody can check it without this program:
//!
//! ```text
//! minisign -Vm blobs/sha256/MANIFEST -x blobs/sha256/SIGNATURE -p site.pub
//! ```
//!
//! Source: minisign, "Signature format"; only prehashed signatures (`ED`) are
//! made or accepted.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minisign::{PublicKey, SecretKey, SecretKeyBox, SignatureBox};

use super::BundleError;

/// Largest key or signature file that is read.
const TEXT_MAX: u64 = 16 << 10;

/// Where a secret key says how it is protected; two zero bytes are for not at all.
const KDF_ALGORITHM: std::ops::Range<usize> = 2..4;

/// Base64 text of a signature's 64 bytes.
const GLOBAL_SIGNATURE_DIGITS: usize = 88;

/// A secret key, ready to sign.
pub struct Signer {
    key: SecretKey,
    public: PublicKey,
}

impl Signer {
    /// Reads a key as `minisign -G` writes it. `password` is asked for when the key
    /// is protected by one.
    ///
    /// # Errors
    /// [`BundleError::Signature`].
    pub fn open(
        path: &Path,
        password: impl FnOnce() -> Result<String, BundleError>,
    ) -> Result<Self, BundleError> {
        let text = read_text(path)?;
        let none = |why: String| {
            let path = path.display();
            BundleError::Signature(format!("{path} is no secret key of minisign: {why}"))
        };
        let encoded = text.lines().nth(1).unwrap_or_default().trim();
        let bytes = STANDARD.decode(encoded).map_err(|e| none(e.to_string()))?;
        let key = match bytes.get(KDF_ALGORITHM) {
            // `minisign -G -W` leaves the checksum out, without which the library
            // takes such a key for damaged; signing checks it against itself.
            Some([0, 0]) => SecretKey::from_bytes(&bytes).map_err(|e| none(e.to_string()))?,
            _ => SecretKeyBox::from_string(&text)
                .map_err(|e| none(e.to_string()))?
                .into_secret_key(Some(password()?))
                .map_err(|e| unusable(path, &e))?,
        };
        let public = PublicKey::from_secret_key(&key).map_err(|e| unusable(path, &e))?;
        Ok(Self { key, public })
    }

    /// The text of a signature file over `bytes`.
    pub(super) fn sign(&self, bytes: &[u8], comment: &str) -> Result<String, BundleError> {
        minisign::sign(
            Some(&self.public),
            &self.key,
            Cursor::new(bytes),
            Some(comment),
            Some("signature from a gptoss secret key"),
        )
        .map(|signature| signature.into_string())
        .map_err(|e| BundleError::Signature(format!("signing failed: {e}")))
    }

    /// The key's number, as minisign prints it.
    pub fn key_id(&self) -> String {
        key_id(self.public.keynum())
    }
}

fn unusable(path: &Path, error: &minisign::PError) -> BundleError {
    BundleError::Signature(format!(
        "the secret key {} cannot be used: {error}",
        path.display()
    ))
}

/// minisign prints the eight bytes as a little-endian number.
fn key_id(number: &[u8]) -> String {
    number.iter().rev().map(|b| format!("{b:02X}")).collect()
}

/// A public key that somebody with a right to it has put in place.
struct Trusted {
    path: PathBuf,
    key: PublicKey,
}

/// The keys whose signatures count.
#[derive(Default)]
pub struct TrustedKeys {
    keys: Vec<Trusted>,
}

/// A signature that was checked against the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedBy {
    /// The key's number, as minisign prints it.
    pub key_id: String,
    /// The file of the key.
    pub key_file: PathBuf,
    /// What the signer says about it, signed as well.
    pub comment: String,
}

impl TrustedKeys {
    /// Every `*.pub` of a folder; none where there is no such folder.
    ///
    /// # Errors
    /// [`BundleError::Signature`] for a key that is none: a site that put it there
    /// wants it to count.
    pub fn from_folder(folder: &Path) -> Result<Self, BundleError> {
        let mut keys = Self::default();
        let entries = match fs::read_dir(folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(keys),
            entries => entries.map_err(BundleError::io("read", folder))?,
        };
        let mut paths = Vec::new();
        for entry in entries {
            paths.push(entry.map_err(BundleError::io("read", folder))?.path());
        }
        paths.retain(|path| path.extension().is_some_and(|e| e == "pub"));
        paths.sort();
        for path in paths {
            keys.add(&path)?;
        }
        Ok(keys)
    }

    /// Adds a key's file.
    ///
    /// # Errors
    /// [`BundleError::Signature`].
    pub fn add(&mut self, path: &Path) -> Result<(), BundleError> {
        let text = read_text(path)?;
        let encoded = text
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty() && !line.starts_with("untrusted comment:"))
            .unwrap_or_default();
        let key = PublicKey::from_base64(encoded).map_err(|e| {
            BundleError::Signature(format!(
                "{} is no public key of minisign: {e}",
                path.display()
            ))
        })?;
        self.keys.push(Trusted {
            path: path.to_owned(),
            key,
        });
        Ok(())
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Checks the signature in a file over `bytes`. None when there is no such file,
    /// or no key here made it.
    ///
    /// # Errors
    /// [`BundleError::Signature`] for one that is not right.
    pub fn signed_in(
        &self,
        signature: &Path,
        bytes: &[u8],
    ) -> Result<Option<SignedBy>, BundleError> {
        match signature.exists() {
            true => self.check(bytes, &read_text(signature)?),
            false => Ok(None),
        }
    }

    /// Checks a signature over `bytes`. None when no key here made it.
    ///
    /// # Errors
    /// [`BundleError::Signature`] for text that is no signature, and for one that
    /// names a trusted key and is not right.
    pub(super) fn check(&self, bytes: &[u8], text: &str) -> Result<Option<SignedBy>, BundleError> {
        let signature = parse(text)?;
        let by_number = |t: &&Trusted| t.key.keynum() == signature.keynum();
        let Some(trusted) = self.keys.iter().find(by_number) else {
            return Ok(None);
        };
        minisign::verify(
            &trusted.key,
            &signature,
            Cursor::new(bytes),
            true,
            false,
            false,
        )
        .map_err(|e| {
            BundleError::Signature(format!(
                "the signature is not right ({e}): it names the key {} and does not fit \
                     what it is over",
                trusted.path.display()
            ))
        })?;
        Ok(Some(SignedBy {
            key_id: key_id(signature.keynum()),
            key_file: trusted.path.clone(),
            comment: signature.trusted_comment().unwrap_or_default(),
        }))
    }
}

/// The number of the key that made a signature.
pub(super) fn signer_of(text: &str) -> Result<String, BundleError> {
    Ok(key_id(parse(text)?.keynum()))
}

fn parse(text: &str) -> Result<SignatureBox, BundleError> {
    let bad = |why: &str| BundleError::Signature(format!("the signature is none: {why}"));
    // The library takes the last line's length for granted.
    let last = text.lines().nth(3).unwrap_or_default().trim();
    if last.len() != GLOBAL_SIGNATURE_DIGITS || !last.ends_with("==") {
        return Err(bad("its last line is not 64 bytes"));
    }
    SignatureBox::from_string(text).map_err(|e| bad(&e.to_string()))
}

fn read_text(path: &Path) -> Result<String, BundleError> {
    let size = fs::metadata(path)
        .map_err(BundleError::io("read", path))?
        .len();
    if size > TEXT_MAX {
        return Err(BundleError::Signature(format!(
            "{} is too long for a key",
            path.display()
        )));
    }
    fs::read_to_string(path).map_err(BundleError::io("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisign::KeyPair;
    use proptest::prelude::*;

    fn key_pair(dir: &Path) -> (PathBuf, PathBuf) {
        let KeyPair { pk, sk } = KeyPair::generate_unencrypted_keypair().unwrap();
        let (secret, public) = (dir.join("site.key"), dir.join("site.pub"));
        fs::write(&secret, sk.to_box(None).unwrap().into_string()).unwrap();
        fs::write(&public, pk.to_box().unwrap().into_string()).unwrap();
        (secret, public)
    }

    fn no_password() -> Result<String, BundleError> {
        panic!("the key has none")
    }

    #[test]
    fn a_trusted_keys_signature_counts_and_others_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, public) = key_pair(dir.path());
        let signer = Signer::open(&secret, no_password).unwrap();
        let text = signer.sign(b"manifest", "model:m@r").unwrap();
        assert_eq!(signer_of(&text).unwrap(), signer.key_id());

        let mut keys = TrustedKeys::default();
        assert_eq!(keys.check(b"manifest", &text).unwrap(), None);
        keys.add(&public).unwrap();
        let signed = keys.check(b"manifest", &text).unwrap().unwrap();
        assert_eq!(signed.key_id, signer.key_id());
        assert_eq!(signed.comment, "model:m@r");

        let error = keys.check(b"Manifest", &text).unwrap_err().to_string();
        assert!(error.contains("not right"), "{error}");
        let altered = text.replace("model:m@r", "model:m@s");
        assert!(
            keys.check(b"manifest", &altered).is_err(),
            "the comment is signed"
        );
    }

    #[test]
    fn a_folder_of_keys() {
        let dir = tempfile::tempdir().unwrap();
        key_pair(dir.path());
        let keys = TrustedKeys::from_folder(dir.path()).unwrap();
        assert_eq!(keys.keys.len(), 1, "only *.pub");
        assert!(
            TrustedKeys::from_folder(&dir.path().join("absent"))
                .unwrap()
                .is_empty()
        );
        fs::write(dir.path().join("x.pub"), "hello").unwrap();
        assert!(TrustedKeys::from_folder(dir.path()).is_err());
    }

    #[test]
    fn a_protected_key_wants_its_password() {
        let dir = tempfile::tempdir().unwrap();
        let pair = KeyPair::generate_encrypted_keypair(Some("right".into())).unwrap();
        let path = dir.path().join("k");
        fs::write(&path, pair.sk.to_box(None).unwrap().into_string()).unwrap();
        assert!(Signer::open(&path, || Ok("wrong".into())).is_err());
        let signer = Signer::open(&path, || Ok("right".into())).unwrap();
        signer.sign(b"x", "c").unwrap();
    }

    proptest! {
        /// A stranger's text is refused or judged, never more.
        #[test]
        fn broken_signatures_are_refused(
            cut in any::<prop::sample::Index>(),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<char>()), 0..4),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let (secret, public) = key_pair(dir.path());
            let text = Signer::open(&secret, no_password).unwrap().sign(b"m", "c").unwrap();
            let mut keys = TrustedKeys::default();
            keys.add(&public).unwrap();
            let mut broken: Vec<char> = text.chars().take(cut.index(text.len() + 1)).collect();
            for (place, value) in &flips {
                if !broken.is_empty() {
                    let at = place.index(broken.len());
                    broken[at] = *value;
                }
            }
            let broken: String = broken.into_iter().collect();
            if let Ok(Some(_)) = keys.check(b"m", &broken) {
                // Only what is not signed may have changed: the first line, the end.
                let signed = |text: &str| text.lines().skip(1).map(str::trim).collect::<Vec<_>>().join("\n");
                prop_assert_eq!(signed(&broken), signed(&text));
            }
        }
    }
}
