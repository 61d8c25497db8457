//! Vault is initialized once, unsealed after each of its restarts, and gives a root token when there is work.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use ::vault::Vault;
use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use bootstrap::say;
use http::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::Arguments;

const SHARE_FILE: &str = "vault-unseal-key";
/// In the strict profile: a token that people made.
const TOKEN_FILE: &str = "vault-token";

/// Initializes and unseals, except in the strict profile. Returns the first root token when Vault was initialized just now.
pub(super) async fn ensure_unsealed(vault: &Vault, arguments: &Arguments) -> anyhow::Result<Option<String>> {
    let status = vault.get("", "sys/seal-status").await?;
    let is = |name: &str| status.get(name).and_then(Value::as_bool).unwrap_or(false);
    let share = arguments.certs.join(SHARE_FILE);
    if arguments.unseal_by_people {
        if !is("initialized") || is("sealed") {
            bail!("Vault is sealed or not initialized; in the strict profile people do that: vault operator unseal");
        }
        return Ok(None);
    }
    if !is("initialized") {
        let token = initialize(vault, &share).await?;
        unseal(vault, &share).await?;
        return Ok(Some(token));
    }
    if is("sealed") {
        unseal(vault, &share).await?;
    }
    Ok(None)
}

async fn initialize(vault: &Vault, share: &Path) -> anyhow::Result<String> {
    if share.exists() {
        // It belongs to a Vault whose volume is gone; a backup of that volume still needs it.
        let old = share.with_extension(OffsetDateTime::now_utc().unix_timestamp().to_string());
        fs::rename(share, &old).with_context(|| format!("cannot rename {}", share.display()))?;
    }
    let shares = json!({ "secret_shares": 1, "secret_threshold": 1 });
    let initialized = vault.call(Method::PUT, "", "sys/init", Some(&shares)).await?;
    let text = |pointer: &str| initialized.pointer(pointer).and_then(Value::as_str);
    let (Some(key), Some(token)) = (text("/keys_base64/0"), text("/root_token")) else {
        bail!("Vault was initialized, but its answer holds no share")
    };
    secrets::replace_file(share, key.as_bytes(), 0o400, None).context("the unseal share")?;
    say("Vault is initialized");
    Ok(token.to_owned())
}

async fn unseal(vault: &Vault, share: &Path) -> anyhow::Result<()> {
    let status = vault.post("", "sys/unseal", &json!({ "key": read_share(share)? })).await?;
    if status.get("sealed").and_then(Value::as_bool) != Some(false) {
        bail!("Vault is still sealed; does {} belong to this Vault?", share.display());
    }
    say("Vault is unsealed");
    Ok(())
}

/// A root token, made with the unseal share (`sys/generate-root`); in the strict profile the one that people made.
pub(super) async fn root_token(vault: &Vault, arguments: &Arguments) -> anyhow::Result<String> {
    if arguments.unseal_by_people {
        let file = arguments.certs.join(TOKEN_FILE);
        let token = fs::read_to_string(&file)
            .with_context(|| format!("the strict profile needs a token with the policy root in {}", file.display()))?;
        return Ok(token.trim().to_owned());
    }
    let share = read_share(&arguments.certs.join(SHARE_FILE))?;
    let path = "sys/generate-root/attempt";
    // An unfinished attempt would block this one.
    vault.call(Method::DELETE, "", path, None).await?;
    let attempt = vault.post("", path, &json!({})).await?;
    let text = |answer: &Value, name: &str| answer.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
    let (Some(nonce), Some(otp)) = (text(&attempt, "nonce"), text(&attempt, "otp")) else {
        bail!("Vault's answer to {path} holds no nonce or one-time password")
    };
    let done = vault.post("", "sys/generate-root/update", &json!({ "key": share, "nonce": nonce })).await?;
    let encoded = text(&done, "encoded_token").context("Vault's answer holds no token")?;
    decode_root_token(&encoded, &otp).context("the root token cannot be decoded")
}

/// Vault returns the token XORed with the one-time password.
fn decode_root_token(encoded: &str, otp: &str) -> anyhow::Result<String> {
    let masked = STANDARD_NO_PAD.decode(encoded.trim_end_matches('='))?;
    let token: Vec<u8> = masked.iter().zip(otp.as_bytes()).map(|(byte, pad)| byte ^ pad).collect();
    Ok(String::from_utf8(token)?)
}

fn read_share(share: &Path) -> anyhow::Result<String> {
    let missing = || {
        format!(
            "Vault is initialized, but its unseal share {} cannot be read; bring it back from escrow",
            share.display()
        )
    };
    let mode = fs::metadata(share).with_context(missing)?.permissions().mode();
    if mode & 0o077 != 0 {
        bail!("{} can be read by others; run: chmod 400 {}", share.display(), share.display());
    }
    Ok(fs::read_to_string(share).with_context(missing)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_token_is_decoded_with_its_one_time_password() {
        let (token, otp) = ("hvs.abc", "0123456");
        let masked: Vec<u8> = token.bytes().zip(otp.bytes()).map(|(a, b)| a ^ b).collect();
        assert_eq!(decode_root_token(&STANDARD_NO_PAD.encode(masked), otp).unwrap(), token);
    }

    #[test]
    fn a_share_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let share = folder.path().join(SHARE_FILE);
        assert!(read_share(&share).unwrap_err().to_string().contains("escrow"));
        secrets::replace_file(&share, b"c2hhcmU=", 0o400, None).unwrap();
        assert_eq!(read_share(&share).unwrap(), "c2hhcmU=");
        fs::set_permissions(&share, fs::Permissions::from_mode(0o440)).unwrap();
        assert!(read_share(&share).unwrap_err().to_string().contains("chmod 400"));
    }
}
