//! TripleDES and AES in CBC mode with PKCS#7 padding (NIST SP 800-38A; RFC 5652, section 6.3).

use ::cbc::cipher::block_padding::Pkcs7;
use ::cbc::cipher::{
    BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt as _, BlockModeEncrypt as _, KeyInit, KeyIvInit as _,
};
use ::cbc::{Decryptor, Encryptor};
use aes::{Aes128, Aes256};
use des::TdesEde3;

use super::{Cipher, Key};

/// Bytes of the iv: one block of the cipher.
const fn iv_bytes(cipher: Cipher) -> usize {
    match cipher {
        Cipher::TripleDes => 8,
        Cipher::Aes128 | Cipher::Aes256 => 16,
        Cipher::None | Cipher::Base64 => 0,
    }
}

/// Encrypts under as many bytes of `iv` as the cipher takes: `iv | ciphertext`, with room for the MAC.
pub(super) fn encrypt(key: &Key, iv: &[u8; 16], plain: &[u8]) -> Vec<u8> {
    let iv = iv.get(..iv_bytes(key.cipher())).unwrap_or_default();
    match key.cipher() {
        Cipher::TripleDes => encrypt_as::<TdesEde3>(key.cipher_key(), iv, plain),
        Cipher::Aes128 => encrypt_as::<Aes128>(key.cipher_key(), iv, plain),
        Cipher::Aes256 => encrypt_as::<Aes256>(key.cipher_key(), iv, plain),
        Cipher::None | Cipher::Base64 => unreachable!("a key has a keyed cipher"),
    }
}

/// Decrypts `iv | ciphertext`; `None` when it is no whole number of blocks or not padded.
pub(super) fn decrypt(key: &Key, sealed: &[u8]) -> Option<Vec<u8>> {
    let (iv, body) = sealed.split_at_checked(iv_bytes(key.cipher()))?;
    match key.cipher() {
        Cipher::TripleDes => decrypt_as::<TdesEde3>(key.cipher_key(), iv, body),
        Cipher::Aes128 => decrypt_as::<Aes128>(key.cipher_key(), iv, body),
        Cipher::Aes256 => decrypt_as::<Aes256>(key.cipher_key(), iv, body),
        Cipher::None | Cipher::Base64 => unreachable!("a key has a keyed cipher"),
    }
}

fn encrypt_as<C: BlockCipherEncrypt + KeyInit>(key: &[u8], iv: &[u8], plain: &[u8]) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "the keyring derives keys and ivs of the cipher's own lengths")]
    let mode = Encryptor::<C>::new_from_slices(key, iv).expect("key and iv fit the cipher");
    let mut out = Vec::with_capacity(iv.len() * 2 + plain.len() + super::MAC_BYTES);
    out.extend_from_slice(iv);
    let start = out.len();
    // PKCS#7 always pads, up to one whole block.
    let padded = (plain.len() / iv.len() + 1) * iv.len();
    out.resize(start + padded, 0);
    if let Some(body) = out.get_mut(start..) {
        #[expect(clippy::expect_used, reason = "the buffer was just sized for the padding")]
        mode.encrypt_padded_b2b::<Pkcs7>(plain, body).expect("room for the padding");
    }
    out
}

fn decrypt_as<C: BlockCipherDecrypt + KeyInit>(key: &[u8], iv: &[u8], body: &[u8]) -> Option<Vec<u8>> {
    Decryptor::<C>::new_from_slices(key, iv).ok()?.decrypt_padded_vec::<Pkcs7>(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
    }

    /// NIST SP 800-38A, F.2.1 (CBC-AES128) and F.2.5 (CBC-AES256), first two blocks; our padding adds a block.
    #[test]
    fn aes_gives_the_published_vectors() {
        let iv = hex("000102030405060708090a0b0c0d0e0f");
        let plain = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        let key = hex("2b7e151628aed2a6abf7158809cf4f3c");
        let sealed = encrypt_as::<Aes128>(&key, &iv, &plain);
        assert_eq!(sealed[16..48], hex("7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2"));
        assert_eq!(decrypt_as::<Aes128>(&key, &iv, &sealed[16..]), Some(plain.clone()));

        let key = hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let sealed = encrypt_as::<Aes256>(&key, &iv, &plain);
        assert_eq!(sealed[16..48], hex("f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d"));
        assert_eq!(decrypt_as::<Aes256>(&key, &iv, &sealed[16..]), Some(plain));
    }

    /// NIST SP 800-67, Appendix B.1, with the misspelling of the publication. It is in ECB mode, which is CBC of each
    /// block alone with a zero iv.
    #[test]
    fn triple_des_gives_the_published_vector() {
        let key = hex("0123456789abcdef23456789abcdef01456789abcdef0123");
        let blocks =
            [("The qufc", "a826fd8ce53b855f"), ("k brown ", "cce21c8112256fe6"), ("fox jump", "68d5c05dd9b6b900")];
        for (plain, published) in blocks {
            let sealed = encrypt_as::<TdesEde3>(&key, &[0; 8], plain.as_bytes());
            assert_eq!(sealed[8..16], hex(published));
            assert_eq!(decrypt_as::<TdesEde3>(&key, &[0; 8], &sealed[8..]).as_deref(), Some(plain.as_bytes()));
        }
    }
}
