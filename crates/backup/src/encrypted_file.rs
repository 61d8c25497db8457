//! An encrypted file: zstd, then age. Plaintext is never on disk: it streams in and, decrypted, streams out.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use age::stream::{StreamReader, StreamWriter};
use sha256::{Measured, Measuring};
use tokio_util::sync::CancellationToken;

use crate::{
    keys::{DecryptionKey, Recipient},
    progress::{Counted, Progress},
};

/// Bytes handed on at once.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Faster than a disk, with most of the compression of higher levels.
const COMPRESSION_LEVEL: i32 = 3;

type Cipher = StreamWriter<Measuring<BufWriter<Counted<File>>>>;
type Decipher = StreamReader<BufReader<Counted<File>>>;

/// Compresses and encrypts into one file.
pub struct EncryptedWriter {
    compressed: Measuring<zstd::Encoder<'static, Cipher>>,
    stop: CancellationToken,
}

/// Decrypts and decompresses one file, measuring the plaintext.
pub struct DecryptedReader {
    plain: Measuring<zstd::Decoder<'static, BufReader<Decipher>>>,
}

// === impl EncryptedWriter ===

impl EncryptedWriter {
    /// Begins a new file that only its owner can read. Writing fails once `stop` is cancelled.
    pub fn create(
        path: &Path,
        recipient: &Recipient,
        stop: CancellationToken,
        progress: &Progress,
    ) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let encryptor =
            age::Encryptor::with_recipients(std::iter::once(recipient.as_age())).map_err(io::Error::other)?;
        let cipher = encryptor.wrap_output(Measuring::new(BufWriter::new(progress.count(file))))?;
        Ok(Self { compressed: Measuring::new(zstd::Encoder::new(cipher, COMPRESSION_LEVEL)?), stop })
    }

    /// Ends the file and syncs it to disk; answers its encrypted and its plain measure.
    pub fn finish(self) -> io::Result<(Measured, Measured)> {
        let (plain, encoder) = self.compressed.finish();
        let (encrypted, buffered) = encoder.finish()?.finish()?.finish();
        let file = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.into_inner().sync_all()?;
        Ok((encrypted, plain))
    }
}

impl Write for EncryptedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            // Not `Interrupted`: writers retry on that kind.
            return Err(io::Error::other("stopped"));
        }
        self.compressed.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.compressed.flush()
    }
}

// === impl DecryptedReader ===

impl DecryptedReader {
    /// Opens an encrypted file.
    pub fn open(path: &Path, key: &DecryptionKey, progress: &Progress) -> io::Result<Self> {
        let file = BufReader::with_capacity(CHUNK_BYTES, progress.count(File::open(path)?));
        let decryptor = age::Decryptor::new_buffered(file).map_err(io::Error::other)?;
        let cipher = decryptor.decrypt(std::iter::once(key.as_age())).map_err(io::Error::other)?;
        Ok(Self { plain: Measuring::new(zstd::Decoder::new(cipher)?) })
    }

    /// Reads the rest, so that the authentication of the last chunk is checked, and answers the measure of the whole.
    pub fn finish(mut self) -> io::Result<Measured> {
        io::copy(&mut self.plain, &mut io::sink())?;
        Ok(self.plain.finish().0)
    }
}

impl Read for DecryptedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.plain.read(buffer)
    }
}

/// Digest and length of a file as it is stored.
pub fn measure_file(path: &Path, progress: &Progress) -> io::Result<Measured> {
    let mut file = Measuring::new(progress.count(File::open(path)?));
    io::copy(&mut file, &mut io::sink())?;
    Ok(file.finish().0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::keys::tests::generate;

    fn encrypt(path: &Path, key: &DecryptionKey, bytes: &[u8]) -> (Measured, Measured) {
        let mut writer =
            EncryptedWriter::create(path, &key.recipient(), CancellationToken::new(), &Progress::default()).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    fn open(path: &Path, key: &DecryptionKey) -> io::Result<DecryptedReader> {
        DecryptedReader::open(path, key, &Progress::default())
    }

    #[test]
    fn nothing_of_the_plaintext_is_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("encrypted");
        let (key, _) = generate();
        let canary = b"canary-4f1c canary-4f1c canary-4f1c";
        let progress = Progress::default();
        let (encrypted, plain) = encrypt(&path, &key, canary);
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(11).any(|window| window == &canary[..11]));
        assert_eq!(measure_file(&path, &progress).unwrap(), encrypted);
        assert_eq!(progress.reached().bytes_done, encrypted.size);
        assert_eq!(open(&path, &key).unwrap().finish().unwrap(), plain);
    }

    #[test]
    fn another_key_decrypts_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("encrypted");
        encrypt(&path, &generate().0, b"x");
        assert!(open(&path, &generate().0).is_err());
    }

    #[test]
    fn a_stopped_writer_refuses_more() {
        let directory = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let recipient = generate().0.recipient();
        let mut writer = EncryptedWriter::create(
            &directory.path().join("encrypted"),
            &recipient,
            stop.clone(),
            &Progress::default(),
        )
        .unwrap();
        writer.write_all(b"x").unwrap();
        stop.cancel();
        assert!(writer.write_all(b"x").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damage_is_never_decrypted(bytes in vec(any::<u8>(), 0..5000), at in any::<prop::sample::Index>(), bit in 0..8_u8, cut in any::<prop::sample::Index>()) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("encrypted");
            let (key, _) = generate();
            let (_, plain) = encrypt(&path, &key, &bytes);
            prop_assert_eq!(open(&path, &key).unwrap().finish().unwrap(), plain);
            let whole = fs::read(&path).unwrap();
            let mut flipped = whole.clone();
            flipped[at.index(whole.len())] ^= 1 << bit;
            fs::write(&path, &flipped).unwrap();
            prop_assert!(open(&path, &key).and_then(DecryptedReader::finish).is_err());
            fs::write(&path, &whole[..cut.index(whole.len())]).unwrap();
            prop_assert!(open(&path, &key).and_then(DecryptedReader::finish).is_err());
        }
    }
}
