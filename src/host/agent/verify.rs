//! Verification: did the holder of a host key sign this session?
//!
//! Pure. Knows no scope. Read next: `signer.rs`.

use ring::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents,
};
use russh::keys::signature::Verifier as _;
use russh::keys::ssh_key::{PublicKey, Signature};

use super::message::{pair_in, rsa_parts};

/// Tells whether `signature`, in wire form, is the holder of `key`'s on `data`.
///
/// RSA only with SHA-2: the SHA-1 form proves nothing any more. Keys smaller than 2048 bits are refused.
pub(super) fn is_signed(key: &[u8], data: &[u8], signature: &[u8]) -> bool {
    if let Some((exponent, modulus)) = rsa_parts(key) {
        let Some((algorithm, value)) = pair_in(signature) else {
            return false;
        };
        let parameters = match algorithm {
            b"rsa-sha2-256" => &RSA_PKCS1_2048_8192_SHA256,
            b"rsa-sha2-512" => &RSA_PKCS1_2048_8192_SHA512,
            _ => return false,
        };
        let key = RsaPublicKeyComponents {
            n: modulus,
            e: exponent,
        };
        return key.verify(parameters, data, value).is_ok();
    }
    let (Ok(key), Ok(signature)) = (PublicKey::from_bytes(key), Signature::try_from(signature))
    else {
        return false;
    };
    key.key_data().verify(data, &signature).is_ok()
}
