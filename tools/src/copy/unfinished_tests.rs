//! Tests of copies that an earlier run began.

use super::*;

fn open(dir: &Path, source: &File) -> io::Result<(File, Unfinished)> {
    let identity = Identity::of(&source.metadata().unwrap());
    let name = OsStr::new("target");
    Unfinished::open(File::open(dir).unwrap(), name, Header { identity, summer: Summer::here() })
}

fn source(dir: &Path) -> File {
    let source = File::options().create(true).truncate(false).write(true).open(dir.join("a"));
    let source = source.unwrap();
    source.set_len(100_000).unwrap();
    source
}

fn note(begun: &Unfinished, range: std::ops::Range<u64>, bytes: &[u8]) {
    begun.note(&PieceSum { sum: begun.summer().sum(range.start, bytes), range });
}

#[test]
fn only_what_holds_is_gone_on_from() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let (data, begun) = open(dir.path(), &source).unwrap();
    data.write_all_at(&[1; 30_000], 0).unwrap();
    note(&begun, 0..10_000, &[1; 10_000]);
    note(&begun, 10_000..20_000, &[2; 10_000]); // claims what is not there
    note(&begun, 40_000..50_000, &[3; 10_000]); // nor is this
    note(&begun, 20_000..30_000, &[1; 10_000]);
    drop((data, begun));
    let (data, again) = open(dir.path(), &source).unwrap();
    let held = again.claims().verify(&data, Path::new("x"), None, &Progress::default()).unwrap();
    let held: Vec<_> = held.into_iter().map(|piece| piece.range).collect();
    assert_eq!(held, [0..10_000, 20_000..30_000]);
}

#[test]
fn two_runs_do_not_write_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let first = open(dir.path(), &source).unwrap();
    assert_eq!(open(dir.path(), &source).unwrap_err().raw_os_error(), Some(libc::EBUSY));
    drop(first);
    open(dir.path(), &source).unwrap();
}

#[test]
fn others_join_with_what_holds_of_their_range() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let (data, begun) = open(dir.path(), &source).unwrap();
    data.write_all_at(&[1; 40_000], 0).unwrap();
    for start in [0, 10_000, 20_000, 30_000] {
        note(&begun, start..start + 10_000, &[1; 10_000]);
    }
    let state = Identity::anywhere(&source.metadata().unwrap());
    let directory = File::open(dir.path()).unwrap();
    let join = |state, range| Claims::join(&directory, OsStr::new("target"), state, &range);
    // Not before it is shared, and not before it has its length.
    assert_eq!(join(state, 0..1).unwrap_err().raw_os_error(), Some(libc::EBUSY));
    begun.share(&data).unwrap();
    assert!(join(state, 0..1).is_err());
    data.set_len(state.len()).unwrap();
    let (joined_data, joined) = join(state, 5_000..30_000).unwrap();
    let held = joined.verify(&joined_data, Path::new("x"), None, &Progress::default()).unwrap();
    let held: Vec<_> = held.into_iter().map(|piece| piece.range).collect();
    assert_eq!(held, [10_000..20_000, 20_000..30_000]);
    // What they write, they tell, and it is read as if one had written it.
    let piece =
        PieceSum { range: 30_000..50_000, sum: joined.header().summer.sum(30_000, &[1; 20_000]) };
    joined_data.write_all_at(&[1; 20_000], 30_000).unwrap();
    begun.append(&joined.header().record(&piece));
    begun.append(b"half a record");
    // Nobody begins while one of them may write.
    drop((data, begun));
    assert_eq!(open(dir.path(), &source).unwrap_err().raw_os_error(), Some(libc::EBUSY));
    drop(joined_data);
    let (data, again) = open(dir.path(), &source).unwrap();
    let held = again.claims().verify(&data, Path::new("x"), None, &Progress::default()).unwrap();
    assert_eq!(held.iter().map(|piece| piece.range.end).max(), Some(50_000));
    again.share(&data).unwrap();
    source.write_all_at(b"x", 5).unwrap();
    let now = Identity::anywhere(&source.metadata().unwrap());
    let error = join(now, 0..1).unwrap_err().to_string();
    assert!(error.contains("another state"), "{error}");
}

#[test]
fn a_source_that_changed_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let (data, begun) = open(dir.path(), &source).unwrap();
    data.write_all_at(&[1; 10_000], 0).unwrap();
    note(&begun, 0..10_000, &[1; 10_000]);
    drop((data, begun));
    // The same length and time, but written to.
    let then = source.metadata().unwrap().modified().unwrap();
    source.write_all_at(b"x", 5).unwrap();
    source.set_modified(then).unwrap();
    let (data, again) = open(dir.path(), &source).unwrap();
    assert_eq!(data.metadata().unwrap().len(), 0);
    assert!(
        again
            .claims()
            .verify(&data, Path::new("x"), None, &Progress::default())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn what_is_not_ones_own_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "old").unwrap();
    for name in [".target.hugecp-part", ".target.hugecp-journal"] {
        let trap = dir.path().join(name);
        let _ = std::fs::remove_file(&trap);
        std::os::unix::fs::symlink(&victim, &trap).unwrap();
        assert!(open(dir.path(), &source).is_err());
        std::fs::remove_file(&trap).unwrap();
        std::fs::hard_link(&victim, &trap).unwrap();
        let error = open(dir.path(), &source).unwrap_err().to_string();
        assert!(error.contains("move it away"), "{error}");
        std::fs::remove_file(&trap).unwrap();
    }
    assert_eq!(std::fs::read(&victim).unwrap(), b"old");
}

#[test]
fn hidden_names_fit_and_differ() {
    let long = "n".repeat(255);
    let other = "n".repeat(254);
    for name in ["a", &long, &other] {
        assert!(hidden(OsStr::new(name), "journal").as_bytes().len() <= 143);
    }
    assert_ne!(hidden(OsStr::new(&long), "part"), hidden(OsStr::new(&other), "part"));
}
