//! The sealed form: age around a tar, both as the stock tools write and read them.

use std::{
    collections::BTreeMap,
    io::{Read, Write as _},
};

use age::{Decryptor, Encryptor, Identity, Recipient, scrypt, secrecy::SecretString, x25519};
use anyhow::{Context as _, anyhow, ensure};
use secrets::{SECRET_BYTES_MAX, Secret};
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// What the `age` command takes: 256 MiB of memory and about a second for each passphrase that is tried.
const WORK_FACTOR: u8 = 18;
/// An escrow opens everything, and lies where others may copy it.
const PASSPHRASE_BYTES_MIN: usize = 16;
/// Room for the whole tar at once: growing would leave copies behind that are not wiped.
const TAR_CAPACITY: usize = 256 << 10;
/// Far more than there are.
const ENTRIES_MAX: usize = 1000;

/// The secrets by name, in plaintext, in memory.
pub(super) struct Escrow {
    /// To the second.
    pub(super) made: OffsetDateTime,
    pub(super) secrets: BTreeMap<String, Secret>,
}

/// A recipient of age.
pub(super) fn recipient(text: &str) -> anyhow::Result<Box<dyn Recipient>> {
    let recipient: x25519::Recipient =
        text.trim().parse().map_err(|why| anyhow!("{text} is no recipient of age (age1…): {why}"))?;
    Ok(Box::new(recipient))
}

/// A recipient that the passphrase opens.
pub(super) fn passphrase(key: &Secret) -> anyhow::Result<Box<dyn Recipient>> {
    ensure!(
        key.expose().len() >= PASSPHRASE_BYTES_MIN,
        "the passphrase has less than {PASSPHRASE_BYTES_MIN} bytes, and what it seals opens the whole platform: take five or more random words"
    );
    let mut recipient = scrypt::Recipient::new(as_text(key)?);
    recipient.set_work_factor(WORK_FACTOR);
    Ok(Box::new(recipient))
}

// === impl Escrow ===

impl Escrow {
    /// Seals it.
    pub(super) fn seal(&self, to: &dyn Recipient) -> anyhow::Result<Vec<u8>> {
        let tar = self.pack().context("cannot pack the secrets")?;
        let encryptor = Encryptor::with_recipients(std::iter::once(to)).context("cannot seal the escrow")?;
        let mut sealed = Vec::new();
        let mut writer = encryptor.wrap_output(&mut sealed).context("cannot seal the escrow")?;
        writer.write_all(&tar).and_then(|()| writer.finish().map(drop)).context("cannot seal the escrow")?;
        Ok(sealed)
    }

    /// Opens it, with a passphrase or an identity, as it was sealed.
    pub(super) fn open(sealed: &[u8], key: &Secret) -> anyhow::Result<Self> {
        let decryptor = Decryptor::new_buffered(sealed).context("this is no file of age, or it is damaged")?;
        let is_of_passphrase = decryptor.is_scrypt();
        let identity: Box<dyn Identity> = if is_of_passphrase {
            let mut identity = scrypt::Identity::new(as_text(key)?);
            identity.set_max_work_factor(WORK_FACTOR);
            Box::new(identity)
        } else {
            let identity: Option<x25519::Identity> = key.expose_str().ok().and_then(|text| text.trim().parse().ok());
            Box::new(identity.context(
                "the escrow is sealed to a recipient, and the key is no identity of age (AGE-SECRET-KEY-1…)",
            )?)
        };
        let what = if is_of_passphrase { "passphrase" } else { "identity" };
        let reader = decryptor.decrypt(std::iter::once(&*identity));
        Self::unpack(reader.with_context(|| format!("the escrow does not open with this {what}"))?)
            .context("the escrow is damaged, or is none")
    }

    fn pack(&self) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let mut tar = Zeroizing::new(Vec::with_capacity(TAR_CAPACITY));
        let mut builder = tar::Builder::new(&mut *tar);
        for (name, secret) in &self.secrets {
            let mut header = tar::Header::new_gnu();
            header.set_size(secret.expose().len() as u64);
            header.set_mode(0o400);
            header.set_mtime(u64::try_from(self.made.unix_timestamp()).context("the clock is before 1970")?);
            builder.append_data(&mut header, name, secret.expose())?;
        }
        builder.finish()?;
        drop(builder);
        Ok(tar)
    }

    /// Names are only compared with those of the list, and never used as paths.
    fn unpack(reader: impl Read) -> anyhow::Result<Self> {
        let mut archive = tar::Archive::new(reader);
        let (mut secrets, mut made) = (BTreeMap::new(), 0);
        for entry in archive.entries()? {
            let entry = entry?;
            ensure!(entry.header().entry_type().is_file(), "it holds something that is no plain file");
            let name = entry.path()?.to_str().context("it holds a name that is no UTF-8")?.to_owned();
            ensure!(entry.size() <= SECRET_BYTES_MAX, "{name} has more than {SECRET_BYTES_MAX} bytes");
            made = entry.header().mtime()?.max(made);
            let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(entry.size())?));
            let size = entry.size();
            entry.take(SECRET_BYTES_MAX).read_to_end(&mut bytes)?;
            ensure!(bytes.len() as u64 == size, "{name} ends early");
            ensure!(secrets.len() < ENTRIES_MAX, "it holds more than {ENTRIES_MAX} files");
            ensure!(secrets.insert(name.clone(), Secret::new(bytes.as_slice())).is_none(), "it holds {name} twice");
        }
        // Only at its end age says that nothing was cut off.
        std::io::copy(&mut archive.into_inner(), &mut std::io::sink())?;
        ensure!(!secrets.is_empty(), "it holds nothing");
        Ok(Self { made: OffsetDateTime::from_unix_timestamp(i64::try_from(made)?)?, secrets })
    }
}

fn as_text(key: &Secret) -> anyhow::Result<SecretString> {
    Ok(SecretString::from(key.expose_str().context("the passphrase is no UTF-8")?.to_owned()))
}
