use std::os::unix::net::UnixStream;

use super::*;

/// Both ends of a lane, if the handshake is to succeed.
fn pair(cipher: Cipher, one: [u8; 32], other: [u8; 32]) -> Option<(Keys, Keys)> {
    let (mut near, mut far) = UnixStream::pair().unwrap();
    let answer = std::thread::spawn(move || handshake(&mut far, false, cipher, &other, b"x"));
    let keys = handshake(&mut near, true, cipher, &one, b"x");
    drop(near);
    match (keys, answer.join().unwrap()) {
        (Ok(one), Ok(other)) => Some((one, other)),
        _ => None,
    }
}

/// Many short messages, and some that take several records.
fn messages() -> Vec<Message> {
    let long = [65_500, 600_000].map(|len| Message::Trouble { text: "t".repeat(len) });
    (0..300).map(|index| Message::Operand { index }).chain(long).collect()
}

/// What a writer makes of messages and a body.
fn sent(keys: &Keys, plain: bool, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, keys.clone());
    for message in messages() {
        writer.message(&message).unwrap();
    }
    if plain {
        writer.plain(body).unwrap()
    } else {
        writer.sealed(body).unwrap()
    }
    writer.message(&Message::Finish {}).unwrap();
    writer.flush().unwrap();
    bytes
}

fn read(keys: &Keys, bytes: &[u8], plain: bool, len: usize) -> Result<Vec<u8>, ReadError> {
    let mut reader = Reader::new(bytes, keys.clone(), plain);
    for message in messages() {
        assert_eq!(reader.message()?, message);
    }
    let mut body = vec![0; len + TAG];
    if plain {
        reader.plain(&mut body[..len])?
    } else {
        reader.sealed(&mut body, len)?
    }
    body.truncate(len);
    assert_eq!(reader.message()?, Message::Finish {});
    assert!(
        matches!(reader.message(), Err(ReadError::Io(e)) if e.kind() == io::ErrorKind::UnexpectedEof)
    );
    Ok(body)
}

#[test]
fn what_is_sent_arrives_and_cannot_be_read_on_its_way() {
    for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
        let (one, other) = pair(cipher, [7; 32], [7; 32]).unwrap();
        for len in [1, 65_519, 65_520, 1 << 20] {
            let body: Vec<u8> = (0..len).map(|i: usize| (i * 31 / 7) as u8).collect();
            for plain in [false, true] {
                let bytes = sent(&one, plain, &body);
                assert!(read(&other, &bytes, plain, len).unwrap() == body);
                let shows = len > 100 && bytes.windows(100).any(|part| part == &body[..100]);
                assert_eq!(shows, plain && len > 100, "{len} {plain}");
            }
        }
    }
}

#[test]
fn whoever_does_not_know_the_secret_stays_outside() {
    let mut other = [7; 32];
    other[31] ^= 1;
    assert!(pair(Cipher::Aes256Gcm, [7; 32], other).is_none());
}

#[test]
fn nothing_that_was_changed_passes() {
    let (one, other) = pair(Cipher::Aes256Gcm, [7; 32], [7; 32]).unwrap();
    let body = [5; 1000];
    let good = sent(&one, false, &body);
    for at in (0..good.len()).step_by(997) {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        assert!(read(&other, &bytes, false, body.len()).is_err(), "changed at {at}");
    }
    for cut in (0..good.len()).step_by(9973) {
        assert!(read(&other, &good[..cut], false, body.len()).is_err(), "cut at {cut}");
    }
    // A record that is repeated, and one that is left out: each of the first is as long as the next.
    let record = 2 + usize::from(u16::from_be_bytes([good[0], good[1]]));
    let mut again = good[..record].to_vec();
    again.extend_from_slice(&good);
    assert!(matches!(read_first_two(&other, &again), Err(ReadError::Forged)));
    assert!(matches!(read_first_two(&other, &good[record..]), Err(ReadError::Forged)));
}

fn read_first_two(keys: &Keys, bytes: &[u8]) -> Result<(), ReadError> {
    let mut reader = Reader::new(bytes, keys.clone(), false);
    reader.message()?;
    reader.message().map(drop)
}

#[test]
fn a_frame_that_is_too_long_is_not_sent() {
    let (one, _) = pair(Cipher::Aes256Gcm, [7; 32], [7; 32]).unwrap();
    let mut writer = Writer::new(Vec::new(), one);
    let text = "t".repeat(FRAME_MAX);
    assert!(writer.message(&Message::Trouble { text }).is_err());
}
