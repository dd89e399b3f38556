//! RSA private keys, brought from the forms key files have into the one `ring` signs with.
//!
//! Signs nothing itself. OpenSSH's form leaves out two numbers that the usual forms hold; they are computed here, on the
//! operator's own machine and once per key. Read next: `signer.rs`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rsa::{KeyPair, KeyPairComponents, PublicKeyComponents};
use russh::keys::ssh_key::private::RsaKeypair;

use super::message::{frame, trim};

/// Reads OpenSSH's form.
pub(super) fn from_openssh(pair: &RsaKeypair) -> Option<KeyPair> {
    let (public, private) = (pair.public(), pair.private());
    let (d, p, q) = (private.d(), private.p(), private.q());
    let part = |number: &[u8]| trim(number).to_vec();
    let (d, p, q) = (part(d.as_bytes()), part(p.as_bytes()), part(q.as_bytes()));
    let components = KeyPairComponents {
        public_key: PublicKeyComponents {
            n: part(public.n().as_bytes()),
            e: part(public.e().as_bytes()),
        },
        dP: remainder(&d, &less_one(&p)),
        dQ: remainder(&d, &less_one(&q)),
        qInv: part(private.iqmp().as_bytes()),
        d,
        p,
        q,
    };
    KeyPair::from_components(&components).ok()
}

/// Reads the older forms, `BEGIN RSA PRIVATE KEY` and `BEGIN PRIVATE KEY`.
pub(super) fn from_pem(text: &str) -> Option<KeyPair> {
    let body = |label: &str| {
        let begin = format!("-----BEGIN {label}-----");
        let (_, rest) = text.split_once(&begin)?;
        let (body, _) = rest.split_once("-----END")?;
        let body: String = body.split_ascii_whitespace().collect();
        STANDARD.decode(body).ok()
    };
    if let Some(der) = body("RSA PRIVATE KEY") {
        return KeyPair::from_der(&der).ok();
    }
    KeyPair::from_pkcs8(&body("PRIVATE KEY")?).ok()
}

/// Returns the public key in wire form.
pub(super) fn blob(key: &KeyPair) -> Vec<u8> {
    let public: PublicKeyComponents<Vec<u8>> = key.public().into();
    let mut blob = frame(b"ssh-rsa");
    for number in [public.e, public.n] {
        // A set top bit would mean a negative number.
        let mut number = trim(&number).to_vec();
        if number.first().is_some_and(|byte| *byte >= 0x80) {
            number.insert(0, 0);
        }
        blob.extend(frame(&number));
    }
    blob
}

/// Returns an odd number less one.
fn less_one(odd: &[u8]) -> Vec<u8> {
    let mut number = odd.to_vec();
    if let Some(last) = number.last_mut() {
        *last &= !1;
    }
    number
}

/// Returns `number` modulo `modulus`, both big-endian, bit by bit; empty for a modulus of zero.
fn remainder(number: &[u8], modulus: &[u8]) -> Vec<u8> {
    let modulus = trim(modulus);
    if modulus.is_empty() {
        return Vec::new();
    }
    // One byte more than the modulus, for the bit that is shifted out before the subtraction.
    let mut rest = vec![0; modulus.len() + 1];
    let mut wide = vec![0];
    wide.extend(modulus);
    for byte in number {
        for bit in (0..8).rev() {
            let mut carry = (byte >> bit) & 1;
            for digit in rest.iter_mut().rev() {
                let next = *digit >> 7;
                *digit = (*digit << 1) | carry;
                carry = next;
            }
            if rest >= wide {
                let mut borrow = false;
                for (digit, less) in rest.iter_mut().zip(&wide).rev() {
                    let (first, under) = digit.overflowing_sub(*less);
                    let (second, under_again) = first.overflowing_sub(borrow.into());
                    *digit = second;
                    borrow = under || under_again;
                }
            }
        }
    }
    trim(&rest).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn the_remainder_is_the_remainder(number: u128, modulus in 1_u64..) {
            let found = remainder(&number.to_be_bytes(), &modulus.to_be_bytes());
            let expect = number % u128::from(modulus);
            proptest::prop_assert_eq!(found, trim(&expect.to_be_bytes()).to_vec());
        }
    }
}
