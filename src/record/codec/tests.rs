use super::*;

const ALL: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

/// The codecs whose features are on.
fn built() -> impl Iterator<Item = Codec> {
    ALL.into_iter().filter(|codec| codec.check_built_in().is_ok())
}

fn packed(compression: impl Into<Compression>, records: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    compress(compression.into(), records, &mut out).unwrap();
    out
}

/// Bytes that no codec makes smaller.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn every_codec_returns_what_it_was_given() {
    for codec in built() {
        for content in [b"".to_vec(), b"x".to_vec(), vec![b'z'; 300_000], noise(200_000)] {
            let section = packed(codec, &content);
            assert!(decompress(codec, &section, content.len()).unwrap() == content, "{codec} {}", content.len());
        }
    }
}

#[test]
fn every_level_within_its_range_works() {
    let content = "a line that repeats itself, ".repeat(500).into_bytes();
    for (codec, levels) in
        [(Codec::Gzip, vec![-1, 1, 9]), (Codec::Lz4, vec![1, 9, 17]), (Codec::Zstd, vec![-131_072, -5, 1, 19, 22])]
    {
        for level in levels.into_iter().filter(|_| built().any(|c| c == codec)) {
            let compression = Compression::from(codec).level(level).unwrap();
            assert_eq!(decompress(codec, &packed(compression, &content), 1 << 20).unwrap(), content, "{codec} {level}");
        }
    }
    for wrong in [Compression::gzip().level(0), Compression::zstd().level(23), Compression::snappy().level(1)] {
        assert_eq!(wrong.unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
}

#[test]
fn one_byte_over_the_limit_is_refused() {
    for codec in built() {
        let section = packed(codec, &[b'z'; 100_000]);
        let error = decompress(codec, &section, 99_999).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{codec}: {error}");
    }
}

#[test]
fn a_section_cut_short_anywhere_is_refused() {
    let content: Vec<u8> = "cut here, or there. ".repeat(40).into_bytes();
    for codec in built() {
        let section = packed(codec, &content);
        for end in 0..section.len() {
            // Snappy's chunks and zstd's frames have no end mark: nothing at all is for the record count to
            // find.
            let read = decompress(codec, &section[..end], 1 << 20);
            assert!(read.is_err() || read.unwrap().is_empty(), "{codec} cut at {end}");
        }
    }
}

#[test]
fn a_codec_that_is_not_built_in_says_so() {
    let error = feature_off(Codec::Zstd);
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("cargo feature \"zstd\""), "{error}");
    for codec in ALL {
        let is_refused = |result: Result<()>| result.is_err_and(|e| e.kind() == ErrorKind::Unsupported);
        let is_off = is_refused(codec.check_built_in());
        assert_eq!(is_refused(compress(codec.into(), b"x", &mut Vec::new())), is_off, "{codec}");
        assert_eq!(is_refused(decompress(codec, b"", 0).map(drop)), is_off, "{codec}");
    }
}

#[cfg(feature = "gzip")]
#[test]
fn gzip_reads_several_members() {
    let mut section = packed(Codec::Gzip, b"first ");
    section.extend(packed(Codec::Gzip, b"2nd"));
    assert_eq!(decompress(Codec::Gzip, &section, 100).unwrap(), b"first 2nd");
}

#[cfg(feature = "zstd")]
#[test]
fn zstd_reads_several_frames_and_passes_over_skippable_ones() {
    let mut section = packed(Codec::Zstd, b"first ");
    section.extend([0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 0xaa, 0xbb]);
    section.extend(packed(Codec::Zstd, &[b'2'; 200_000]));
    let content = decompress(Codec::Zstd, &section, 1 << 20).unwrap();
    assert_eq!((content.len(), &content[..7]), (200_006, &b"first 2"[..]));
}

#[cfg(feature = "zstd")]
#[test]
fn zstd_reads_frames_without_a_content_size() {
    use std::io::Write;
    let content = "streamed, so the size is not known beforehand ".repeat(10_000).into_bytes();
    let mut encoder = ::zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
    for part in content.chunks(10_000) {
        encoder.write_all(part).unwrap();
    }
    let section = encoder.finish().unwrap();
    assert!(decompress(Codec::Zstd, &section, 1 << 20).unwrap() == content);
    assert_eq!(decompress(Codec::Zstd, &section, content.len() - 1).unwrap_err().kind(), ErrorKind::TooLarge);
}

#[cfg(feature = "snappy")]
#[test]
fn snappy_reads_chunks_of_any_size_and_a_bare_block() {
    let content = noise(100_000);
    let block = snap::raw::Encoder::new().compress_vec(&content).unwrap();
    assert!(decompress(Codec::Snappy, &block, 100_000).unwrap() == content);

    let mut section = packed(Codec::Snappy, b"")[..16].to_vec();
    section.extend(i32::try_from(block.len()).unwrap().to_be_bytes());
    section.extend(&block);
    assert!(decompress(Codec::Snappy, &section, 100_000).unwrap() == content);

    section.extend((-1_i32).to_be_bytes());
    assert_eq!(decompress(Codec::Snappy, &section, 100_000).unwrap_err().kind(), ErrorKind::Corrupt);
    let lie = [0xff, 0xff, 0xff, 0xff, 0x07, 0x00];
    assert_eq!(decompress(Codec::Snappy, &lie, usize::MAX).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[cfg(feature = "lz4")]
mod lz4_frames {
    use super::*;

    fn refused(section: &[u8], why: &str) {
        let error = decompress(Codec::Lz4, section, 1 << 20).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(why), "{error}");
    }

    #[test]
    fn the_written_header_is_the_one_that_java_writes() {
        assert_eq!(packed(Codec::Lz4, b"x")[..7], [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]);
    }

    #[test]
    fn linked_blocks_a_second_frame_and_a_wrong_checksum_are_refused() {
        let frame = packed(Codec::Lz4, b"some content");
        refused(&[&frame[..], &frame[..]].concat(), "one frame");
        let mut linked = frame.clone();
        linked[4] = 0x40;
        refused(&linked, "refer to each other");
        let mut header = frame.clone();
        header[6] ^= 1;
        refused(&header, "descriptor does not match");
        refused(&frame[..frame.len() - 4], "needs 4 bytes");
    }

    #[test]
    fn content_size_both_checksums_and_large_blocks_are_read_and_checked() {
        let content = b"hello hello hello hello hello";
        // Written by lz4 1.9.4 with -BI -BX --content-size; and the same block under a descriptor of 4 MiB.
        let all_flags =
            "04224d18 7c40 1d00000000000000 8e 0f000000 6e68656c6c6f2006005068656c6c6f 98f6dc6d 00000000 79b1fff9";
        let large_blocks = "04224d18 6070 73 0f000000 6e68656c6c6f2006005068656c6c6f 00000000";
        for golden in [all_flags, large_blocks] {
            let section = crate::testing::from_hex(golden);
            assert_eq!(decompress(Codec::Lz4, &section, 100).unwrap(), content);
        }
        let golden = crate::testing::from_hex(all_flags);
        let flipped = |at: usize| {
            let mut section = golden.clone();
            section[at] ^= 1;
            section
        };
        refused(&flipped(6), "descriptor does not match");
        refused(&flipped(20), "block does not match");
        refused(&flipped(golden.len() - 1), "content does not match");
        refused(&golden[..golden.len() - 4], "missing or left");
    }
}
